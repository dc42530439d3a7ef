"""Datasets read from real files: every format, every kind of bad row, splits, leaks, limits, fingerprint."""

from __future__ import annotations

import csv
import gzip
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from damoc.config import DatasetConfig
from damoc.data.dataset import Dataset, load_dataset
from damoc.data.example import Example
from damoc.data.presets import PRESETS
from damoc.data.values import as_list, as_text, lookup
from damoc.errors import DamocError

SHARED = Path(os.environ.get("DAMOC_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))


def rows_of(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"id": f"r{n}", "instruction": "Name the colour.", "input": f"object {n}", "output": f"colour {n % 7}"}
        for n in range(start, start + count)
    ]


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def load(source: Path | str, seed: int = 17, **settings: Any) -> Dataset:
    return load_dataset(DatasetConfig.model_validate({"source": str(source), **settings}), seed)


def problems_of(source: Path | str, **settings: Any) -> list[tuple[str, str]]:
    with pytest.raises(DamocError) as caught:
        load(source, **settings)
    assert caught.value.exit_code == 2
    assert all(problem.what and problem.where and problem.fix for problem in caught.value.problems)
    return [(problem.where, problem.what) for problem in caught.value.problems]


def all_rows(dataset: Dataset) -> list[Example]:
    return [row for rows in dataset.splits.values() for row in rows]


def write_as(kind: str, folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path = folder / f"data{kind}"
    if kind == ".jsonl":
        return write_jsonl(path, rows)
    if kind == ".jsonl.gz":
        with gzip.open(path, "wt", encoding="utf-8") as handle:
            handle.writelines(json.dumps(row) + "\n" for row in rows)
    elif kind == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif kind == ".parquet":
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)
    else:
        with path.open("w", encoding="utf-8", newline="") as handle:
            writer = csv.DictWriter(handle, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("kind", [".jsonl", ".jsonl.gz", ".json", ".parquet", ".csv"])
def test_every_format_gives_the_same_dataset(tmp_path: Path, kind: str) -> None:
    rows = [*rows_of(60), {"id": "x", "instruction": "a,b", "input": 'line\nbreak "q" \u2028 é', "output": "ß"}]
    dataset = load(write_as(kind, tmp_path, rows))
    expected = load(write_jsonl(tmp_path / "expected" / "data.jsonl", rows))
    assert dataset.fingerprint == expected.fingerprint
    assert sum(map(len, dataset.splits.values())) == 61
    assert dataset.report["rows read"] == 61
    assert {row.meta["source"] for row in all_rows(dataset)} == {f"data{kind}"}


def test_fingerprint_forgets_order_and_names_but_not_content(tmp_path: Path) -> None:
    rows = rows_of(50)
    shuffled = [{**row, "id": f"other-{row['id']}"} for row in random.Random(1).sample(rows, len(rows))]
    first = load(write_jsonl(tmp_path / "a.jsonl", rows))
    second = load(write_jsonl(tmp_path / "b.jsonl", shuffled))
    changed = load(write_jsonl(tmp_path / "c.jsonl", [{**rows[0], "output": "another"}, *rows[1:]]))
    assert first.fingerprint == second.fingerprint != changed.fingerprint


def test_save_writes_the_same_bytes_and_reads_back(tmp_path: Path) -> None:
    rows = [{**row, "licence": "MIT"} for row in rows_of(60)]
    dataset = load(write_jsonl(tmp_path / "data.jsonl", rows))
    dataset.save(tmp_path / "one")
    load(tmp_path / "data.jsonl").save(tmp_path / "two")
    for name in ("train.jsonl", "valid.jsonl", "test.jsonl", "dataset.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
        assert str(tmp_path) not in (tmp_path / "one" / name).read_text(encoding="utf-8")
    about = json.loads((tmp_path / "one" / "dataset.json").read_text(encoding="utf-8"))
    assert about["source"] == "data.jsonl"
    assert about["licences"] == ["MIT"]
    assert about["fingerprint"] == dataset.fingerprint
    assert about["rows"] == {name: len(members) for name, members in dataset.splits.items()}
    again = load(tmp_path / "one")
    assert again.fingerprint == dataset.fingerprint
    assert again.report["files left out"] == 1
    assert again.licences == ("MIT",)


def test_columns_are_named_dotted_and_converted(tmp_path: Path) -> None:
    rows = [{"qa": {"q": n, "parts": ["one", "two", n]}, "a.b": n % 2 == 0, "doc": {"id": n // 4}} for n in range(80)]
    fields = {"instruction": "qa.q", "input": "qa.parts", "output": "a.b", "group": "doc.id"}
    dataset = load(write_jsonl(tmp_path / "d.jsonl", rows), fields=fields)
    row = next(row for row in all_rows(dataset) if row.instruction == "6")
    assert (row.input, row.output, row.group) == ("one\ntwo\n6", "true", "1")
    assert row.id == row.content_hash()


def test_values() -> None:
    assert lookup({"a.b": 1, "a": {"b": 2, "c": {"d": 3}}}, "a.b") == 1
    assert lookup({"a": {"c": {"d": 3}}}, "a.c.d") == 3
    assert lookup({"a": 5}, "a.b") is None
    assert [as_text(v) for v in (None, float("nan"), 3, 2.5, True, " x ", [1, "b"])] == [
        "",
        "",
        "3",
        "2.5",
        "true",
        "x",
        "1\nb",
    ]
    assert as_list('["yes", "no"]') == as_list(["yes", "no"]) == ("yes", "no")
    assert as_list(None) == as_list("") == ()
    for wrong in ({"a": 1}, b"x", [["a"]], "\ud800"):
        with pytest.raises(ValueError):
            as_text(wrong)
    for wrong_list in ("yes", "[yes", 3):
        with pytest.raises(ValueError):
            as_list(wrong_list)


def test_instruction_choices_and_first_line(tmp_path: Path) -> None:
    rows = [{"input": f"text {n}", "output": ("yes" if n % 2 else "no") + "\nbecause"} for n in range(60)]
    source = write_jsonl(tmp_path / "d.jsonl", rows)
    dataset = load(source, instruction="Decide.", choices=["yes", "no"], first_line_only=True)
    assert {row.output for row in all_rows(dataset)} == {"yes", "no"}
    assert {row.choices for row in all_rows(dataset)} == {("yes", "no")}
    assert {row.instruction for row in all_rows(dataset)} == {"Decide."}
    (where, what), *_ = problems_of(source, choices=["yes", "no"])
    assert where == f"{source}:1 field 'output'"
    assert "none of the choices" in what


def test_rows_bring_their_own_choices_also_in_csv(tmp_path: Path) -> None:
    rows = [{"input": f"t{n}", "output": "b", "choices": json.dumps(["a", "b"])} for n in range(60)]
    assert {row.choices for row in all_rows(load(write_as(".csv", tmp_path, rows)))} == {("a", "b")}


def test_every_bad_row_is_named_by_file_line_and_field(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    lines = [json.dumps(row).encode() for row in rows_of(30)]
    lines[2] = b'{"id": "broken", '
    lines[4] = b"[1, 2]"
    lines[6] = b'{"id": "e", "instruction": "i", "input": "", "output": "  "}'
    lines[8] = b'{"id": "f", "output": "o"}'
    lines[10] = b'{"instruction": {"deep": 1}, "output": "o"}'
    lines[12] = b'{"instruction": "caf\xe9", "output": "o"}'
    lines[14] = b""
    lines[16] = b'{"id": "r0", "instruction": "another", "output": "o"}'
    lines[18] = b'{"instruction": "\\ud800", "output": "o"}'
    lines[20] = b"[" * 100_000
    path.write_bytes(b"\n".join(lines))
    found = dict(problems_of(path))
    assert "not valid JSON" in found[f"{path}:3"]
    assert "not an object" in found[f"{path}:5"]
    assert "answer is missing or empty" in found[f"{path}:7 field 'output'"]
    assert "both empty" in found[f"{path}:9 field 'input'"]
    assert "not text" in found[f"{path}:11 field 'instruction'"]
    assert found[f"{path}:13"] == "not UTF-8 (byte 21 of the line)"
    assert f"already stands at {path}:1" in found[f"{path}:17"]
    assert "half a character" in found[f"{path}:19 field 'instruction'"]
    assert "not readable as JSON" in found[f"{path}:21"]
    assert len(found) == 9


def test_the_first_twenty_problems_then_a_count(tmp_path: Path) -> None:
    rows = [{"instruction": f"i{n}", "output": "" if n < 50 else "o"} for n in range(60)]
    found = problems_of(write_jsonl(tmp_path / "d.jsonl", rows))
    assert len(found) == 21
    assert found[-1][1] == "and 30 more problems"


def test_a_wrong_output_column_is_one_problem_that_lists_the_columns(tmp_path: Path) -> None:
    path = write_as(".csv", tmp_path, [{"question": "q", "answer": "a"}, {"question": "r", "answer": "b"}])
    with pytest.raises(DamocError) as caught:
        load(path)
    (problem,) = caught.value.problems
    assert problem.where == str(path)
    assert "answer, question" in problem.fix


BROKEN = [
    ("d.jsonl.gz", gzip.compress(b'{"output": "o", "input": "i"}\n' * 500)[:-20], "not a whole gzip file"),
    ("d.jsonl.gz", b"plain text", "not a whole gzip file"),
    ("d.parquet", b"PAR1 nothing PAR1", "not a whole Parquet file"),
    ("d.json", b'[{"output": 1},]', "not valid JSON"),
    ("d.json", b'{"output": "o"}', "not a list"),
    ("d.json", b'["text"]', "not an object"),
    ("d.csv", b"", "no header"),
    ("d.csv", b"input,input\na,b\n", "twice"),
    ("d.csv", b"input,output\na,b,c\n", "3 cells"),
    ("d.csv", b'input,output\n"a"b,c\n', "not valid CSV"),
    ("d.csv", b"input,output\nok,\xff\n", "not UTF-8 (byte 4 of the line)"),
    ("d.jsonl", "{}".encode("utf-16"), "not UTF-8"),
    ("d.jsonl", b"", "no rows"),
    ("d.xlsx", b"PK", "does not read files of this kind"),
]


@pytest.mark.parametrize(("name", "content", "what"), BROKEN)
def test_broken_files(tmp_path: Path, name: str, content: bytes, what: str) -> None:
    (tmp_path / name).write_bytes(content)
    found = problems_of(tmp_path / name)
    assert any(what in said for _, said in found), found


def test_csv_problems_name_the_line_where_the_row_begins(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text('input,output\n"two\nlines",fine\n\nthird,\n', encoding="utf-8")
    assert problems_of(path)[0][0] == f"{path}:5 field 'output'"


def test_byte_order_marks_and_windows_lines_are_read(tmp_path: Path) -> None:
    lines = "\r\n".join(json.dumps(row) for row in rows_of(40))
    (tmp_path / "d.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    assert load(tmp_path / "d.jsonl").report["rows read"] == 40


def test_repeated_rows_are_dropped_other_answers_stay(tmp_path: Path) -> None:
    rows = rows_of(40)
    doubles = [{**rows[3], "id": "copy"}, {**rows[3], "id": "another", "output": "another answer"}]
    dataset = load(write_jsonl(tmp_path / "d.jsonl", [*rows, *doubles]))
    ids = {row.id for row in all_rows(dataset)}
    assert dataset.report["duplicates dropped"] == 1
    assert "copy" not in ids
    assert {"r3", "another"} <= ids


def test_a_folder_names_its_splits(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train-00000-of-00002.jsonl", rows_of(10))
    write_jsonl(tmp_path / "train-00001-of-00002.jsonl", rows_of(10, 10))
    write_jsonl(tmp_path / "dev.jsonl", rows_of(3, 20))
    write_jsonl(tmp_path / "test.jsonl", rows_of(4, 30))
    write_jsonl(tmp_path / "notes.jsonl", rows_of(4, 40))
    (tmp_path / "README.md").write_text("no data")
    dataset = load(tmp_path)
    assert {name: [row.id for row in rows] for name, rows in dataset.splits.items()} == {
        "train": [f"r{n}" for n in range(20)],
        "valid": ["r20", "r21", "r22"],
        "test": ["r30", "r31", "r32", "r33"],
    }
    assert dataset.report["files left out"] == 1
    assert dataset.source == tmp_path.name


def test_a_folder_of_plain_files_is_one_dataset(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "b.jsonl", rows_of(30, 30))
    write_as(".csv", tmp_path, rows_of(30))
    assert load(tmp_path).fingerprint == load(write_jsonl(tmp_path / "x" / "all.jsonl", rows_of(60))).fingerprint


def test_a_folder_without_a_test_split_is_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", rows_of(10))
    write_jsonl(tmp_path / "valid.jsonl", rows_of(10, 10))
    assert "no test" in problems_of(tmp_path)[0][1]


def test_valid_is_taken_from_train_when_it_is_not_given(tmp_path: Path) -> None:
    splits = {
        "train": str(write_jsonl(tmp_path / "tr.jsonl", rows_of(200))),
        "test": str(write_jsonl(tmp_path / "te.jsonl", rows_of(20, 500))),
    }
    dataset = load_dataset(DatasetConfig.model_validate({"splits": splits}), 17)
    assert len(dataset.splits["test"]) == 20
    assert 8 <= len(dataset.splits["valid"]) <= 35
    assert len(dataset.splits["valid"]) + len(dataset.splits["train"]) == 200
    assert dataset.source == "tr.jsonl, te.jsonl"


@pytest.mark.parametrize("shared", ["prompt", "group"])
def test_leaks_are_an_error_or_dropped(tmp_path: Path, shared: str) -> None:
    train, test = rows_of(20), rows_of(5, 50)
    if shared == "prompt":
        train[7] = {**test[0], "id": "leak", "input": test[0]["input"].upper(), "output": "other"}
    else:
        train[7] |= {"id": "leak", "group": "document 1"}
        test[0] |= {"group": "document 1"}
    write_jsonl(tmp_path / "train.jsonl", train)
    write_jsonl(tmp_path / "valid.jsonl", rows_of(5, 30))
    write_jsonl(tmp_path / "test.jsonl", test)
    ((where, what),) = problems_of(tmp_path)
    assert where == f"{tmp_path}/train.jsonl:8"
    assert "'leak'" in what
    dataset = load(tmp_path, on_leak="drop")
    assert dataset.report["leaks dropped"] == 1
    assert "leak" not in {row.id for row in dataset.splits["train"]}


def test_the_same_row_in_two_splits_is_a_leak_even_without_ids(tmp_path: Path) -> None:
    bare = [{"input": f"t{n}", "output": "o"} for n in range(30)]
    write_jsonl(tmp_path / "train.jsonl", bare[:20])
    write_jsonl(tmp_path / "valid.jsonl", bare[20:26])
    write_jsonl(tmp_path / "test.jsonl", [*bare[25:], bare[0]])
    assert len(problems_of(tmp_path)) == 1
    dataset = load(tmp_path, on_leak="drop")
    assert [len(dataset.splits[name]) for name in ("train", "valid", "test")] == [19, 5, 6]
    assert len({row.id for row in all_rows(dataset)}) == 30


def test_limits_keep_a_stable_choice_in_the_original_order(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", rows_of(100))
    write_jsonl(tmp_path / "valid.jsonl", rows_of(10, 200))
    write_jsonl(tmp_path / "test.jsonl", rows_of(10, 300))
    chosen = [row.id for row in load(tmp_path, limit={"train": 30}).splits["train"]]
    fewer = [row.id for row in load(tmp_path, limit={"train": 10}).splits["train"]]
    assert len(chosen) == 30
    assert chosen == sorted(chosen, key=lambda name: int(name[1:]))
    assert set(fewer) < set(chosen)
    write_jsonl(tmp_path / "train.jsonl", reversed(rows_of(100)))
    dataset = load(tmp_path, limit={"train": 30})
    assert [row.id for row in dataset.splits["train"]] == chosen[::-1]
    assert dataset.report["rows over the limit"] == 70
    assert {row.id for row in load(tmp_path, seed=18, limit={"train": 30}).splits["train"]} != set(chosen)


def test_the_split_depends_on_neither_seed_nor_order(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "d.jsonl", rows_of(80))
    first = load(path)
    other = load(write_jsonl(tmp_path / "e.jsonl", reversed(rows_of(80))), seed=99)
    assert first.fingerprint == other.fingerprint


def test_one_group_cannot_fill_two_splits(tmp_path: Path) -> None:
    rows = [{**row, "group": "the only one"} for row in rows_of(30)]
    assert "no rows are left for" in problems_of(write_jsonl(tmp_path / "d.jsonl", rows))[0][1]


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    assert "no such file" in problems_of(tmp_path / "missing.jsonl")[0][1]
    assert "no data files" in problems_of(tmp_path)[0][1]
    assert "no mined dataset" in problems_of("mined:nothing")[0][1]
    assert "names no hub dataset" in problems_of("hf:just-a-name")[0][1]


def test_a_preset_names_its_own_columns(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "d.jsonl", rows_of(5))
    assert "own columns" in problems_of(path, preset="dolly", fields={"output": "answer"})[0][1]


def test_an_unreachable_hub_says_what_to_do() -> None:
    program = (
        "from damoc.config import DatasetConfig\nfrom damoc.data.dataset import load_dataset\n"
        "from damoc.errors import DamocError\n"
        "try:\n    load_dataset(DatasetConfig(preset='squad'), 0)\n"
        "except DamocError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": "/nonexistent/hub"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert "hf:rajpurkar/squad: the dataset hub cannot be reached" in done.stdout
    assert "set dataset.source to their folder" in done.stdout


HUB_ROWS: dict[str, list[dict[str, Any]]] = {
    "pubmedqa": [
        {
            "pubid": 1000 + n,
            "question": f"Does treatment {n} help?",
            "context": {"contexts": ["We asked.", "We saw."], "labels": ["BACKGROUND", "RESULTS"], "meshes": ["Adult"]},
            "long_answer": "It seems so.",
            "final_decision": ("yes", "no", "maybe")[n % 3],
        }
        for n in range(60)
    ],
    "billsum": [{"title": f"Act {n}", "text": "SECTION 1.", "summary": f"Does\n {n}."} for n in range(60)],
    "dolly": [
        {"instruction": f"Do {n}", "context": "" if n % 2 else f"ground {n // 8}", "response": "Done", "category": "qa"}
        for n in range(60)
    ],
    "pubmedqa_long": [
        {
            "pubid": 1000 + n,
            "question": f"Does treatment {n} help?",
            "context": {"contexts": ["We asked.", "We saw."], "labels": []},
            "long_answer": f"It seems so in {n} cases.",
        }
        for n in range(60)
    ],
    "nq_open": [{"question": f"what is {n}", "answer": [f"thing {n}", "it", "it"]} for n in range(60)],
    "web_questions": [{"url": "u", "question": f"what is {n}", "answers": [f"thing {n}"]} for n in range(60)],
    "squad_v2": [
        {
            "id": f"q{n}",
            "title": f"Article {n // 5}",
            "context": f"Passage {n // 2}.",
            "question": f"What is {n}?",
            "answers": {"text": [f"thing {n}"] if n % 2 else [], "answer_start": [0] if n % 2 else []},
        }
        for n in range(60)
    ],
    "squad": [
        {
            "id": f"q{n}",
            "title": f"Article {n // 5}",
            "context": f"Passage {n // 2}.",
            "question": f"What is {n}?",
            "answers": {"text": [f"thing {n}", "other"], "answer_start": [0, 0]},
        }
        for n in range(60)
    ],
}


def test_presets_read_the_hubs_layout(tmp_path: Path) -> None:
    found = {}
    for name, rows in HUB_ROWS.items():
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{name}.parquet")
        found[name] = load(tmp_path / f"{name}.parquet", preset=name)
        assert found[name].report["rows read"] == 60
        assert len(found[name].licences) == 1
    row = next(row for row in all_rows(found["pubmedqa"]) if row.id == "1004")
    assert row.input == "Abstract:\nBackground: We asked.\nResults: We saw.\n\nQuestion: Does treatment 4 help?"
    assert (row.output, row.choices) == ("no", ("yes", "no", "maybe"))
    row = next(row for row in all_rows(found["billsum"]) if row.output == "Does 7.")
    assert (row.instruction, row.input) == ("Summarise the bill.", "Title: Act 7\n\nSECTION 1.")
    row = next(row for row in all_rows(found["dolly"]) if row.instruction == "Do 8")
    assert (row.input, row.output) == ("ground 1", "Done")
    assert row.group
    row = next(row for row in all_rows(found["squad"]) if row.id == "q9")
    assert (row.input, row.output, row.group) == ("Passage: Passage 4.\n\nQuestion: What is 9?", "thing 9", "Article 1")
    assert row.aliases == ("other",)
    answers = {row.id: row.output for row in all_rows(found["squad_v2"])}
    assert (answers["q9"], answers["q10"]) == ("thing 9", "unanswerable")
    row = next(row for row in all_rows(found["nq_open"]) if row.input == "what is 7")
    assert (row.output, row.aliases) == ("thing 7", ("it",))
    row = next(row for row in all_rows(found["pubmedqa_long"]) if row.id == "1004")
    assert (row.input, row.output) == (
        "Abstract:\nWe asked.\nWe saw.\n\nQuestion: Does treatment 4 help?",
        "It seems so in 4 cases.",
    )


def test_a_preset_without_a_place_on_the_hub_asks_for_one() -> None:
    with pytest.raises(DamocError, match="'finqa' knows no place") as caught:
        load_dataset(DatasetConfig(preset="finqa"), 0)
    assert caught.value.problems[0].where == "field dataset.source"


def test_squads_validation_split_serves_as_test(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", HUB_ROWS["squad"][:45])
    write_jsonl(tmp_path / "validation.jsonl", HUB_ROWS["squad"][45:])
    dataset = load(tmp_path, preset="squad")
    assert len(dataset.splits["test"]) == 15
    assert not {row.group for row in dataset.splits["valid"]} & {row.group for row in dataset.splits["train"]}


def test_a_preset_says_which_columns_are_missing(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "d.jsonl", [{"question": "q", "answer": "a"}])
    (where, what), *_ = problems_of(path, preset="pubmedqa")
    assert where == f"{path}:1"
    assert "lacks context, final_decision" in what


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_read_the_local_copies(name: str) -> None:
    folders = {"squad": "squad_mini", "squad_v2": "squad_mini", "pubmedqa_long": "pubmedqa"}
    folder = SHARED / folders.get(name, name)
    if not folder.is_dir():
        pytest.skip(f"no local copy in {folder}")
    index = json.loads((SHARED / "index.json").read_text(encoding="utf-8"))
    expected = next(item["rows"] for item in index if item["name"] == folder.name)
    dataset = load(folder, preset=name)
    assert {split: len(rows) for split, rows in dataset.splits.items()} == expected
    assert all(row.instruction and row.output for row in all_rows(dataset))
    if name == "pubmedqa":
        assert {row.output for row in all_rows(dataset)} == {"yes", "no", "maybe"}
    one_file = load(folder / "train.jsonl.gz", preset=name)
    assert sum(map(len, one_file.splits.values())) == expected["train"]
