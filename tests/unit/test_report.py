"""The HTML report, its plots and the rows that it shares with the terminal."""

from __future__ import annotations

import hashlib
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from html_reader import Reader
from records import make_record, without_winner

from damoc.report import ranking_rows, render, save_plots, text
from damoc.selection.record import DataEvidence, Distribution, LayerEvidence, Sample, SelectionRecord

HOSTILE = "\"><script>alert('x')</script><img src=http://evil.example/x onerror=y>${{7*7}}&"


@pytest.mark.parametrize("higher", [True, False])
def test_one_document_that_loads_nothing(higher: bool) -> None:
    reader = Reader(render(make_record(higher)))
    assert not reader.open
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in reader.tags:
        assert tag not in ("script", "iframe", "object", "embed", "img", "base", "form")
        assert "src" not in attributes and not any(name.startswith("on") for name in attributes)
        target = attributes.get("href") or "#"
        assert target == "data:," if tag == "link" else target.startswith("#")
        if tag == "a":
            assert target[1:] in ids
    style = (Path(text.__file__).parent / "style.css.j2").read_text()
    assert "url(" not in style and "@import" not in style


@pytest.mark.parametrize(
    "record", [make_record(), make_record(False), without_winner(make_record())], ids=["higher", "lower", "none"]
)
def test_same_record_same_bytes(record: SelectionRecord) -> None:
    again = SelectionRecord.from_json(json.loads(json.dumps(record.to_json())))
    assert render(record) == render(record) == render(again)


def test_another_process_renders_the_same() -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests'); import records; from damoc.report import render; "
        "print(render(records.make_record()), end='')"
    )
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, check=True, timeout=120)
    assert run.stdout.decode() == render(make_record())


def test_hostile_strings_are_text() -> None:
    plain = make_record()
    first, second, *rest = plain.candidates
    record = replace(
        plain,
        name=HOSTILE,
        selection_id=HOSTILE,
        metric=HOSTILE,
        why=HOSTILE,
        winner=HOSTILE,
        candidates=[
            replace(
                first,
                candidate_id=HOSTILE,
                model=HOSTILE,
                licence=HOSTILE,
                revision=HOSTILE,
                costs={HOSTILE: first.costs["fine_tune"]},
            ),
            replace(
                second,
                merge={HOSTILE: HOSTILE},
                layer_evidence=replace(second.layer_evidence, policy=HOSTILE),
                few_shot={HOSTILE: 0.5},
            ),
            *(replace(item, status="error", reason=HOSTILE, rank=None) for item in rest),
        ],
        dataset={HOSTILE: HOSTILE, "licences": [HOSTILE]},
        data_compression={HOSTILE: {HOSTILE: HOSTILE}},
        data_evidence=DataEvidence(
            {HOSTILE: 3},
            [Distribution(HOSTILE, [0.0, 1.0], {HOSTILE: [3]}, 0.5), Distribution(HOSTILE, [math.nan], {HOSTILE: []})],
            [Sample(HOSTILE, HOSTILE, [(HOSTILE, True), (HOSTILE, False)], HOSTILE, HOSTILE, HOSTILE)],
        ),
        funnel=[replace(step, name=HOSTILE) for step in plain.funnel],
        config={HOSTILE: HOSTILE},
        evaluation={"task": HOSTILE, "rows": 3, "shots": 2},
        evidence={HOSTILE: HOSTILE},
        versions={HOSTILE: HOSTILE},
        registration={key: HOSTILE for key in plain.registration},
    )
    html = render(record)
    reader = Reader(html)
    assert "<script" not in html and "<img" not in html
    assert not reader.open
    assert HOSTILE in reader.candidates()
    assert reader.text.count(HOSTILE) > 20


def test_jinja_in_a_record_is_not_run() -> None:
    assert "{{ 7*7 }}" in render(make_record(why="{{ 7*7 }} {% raw %}"))


def test_passwords_are_masked() -> None:
    plain = make_record()
    uri = "postgresql://damoc:hunter2@db.internal/mlflow"
    html = render(
        replace(
            plain,
            why=f"see {uri}",
            config={"tracking": {"uri": uri}},
            registration={**plain.registration, "tracking_uri": uri},
            dataset={**plain.dataset, "source": uri},
        )
    )
    assert "hunter2" not in html
    assert html.count("postgresql://damoc:***@db.internal/mlflow") == 4


def test_rows_are_in_rank_order_and_failures_say_why() -> None:
    record = make_record()
    shuffled = replace(record, candidates=[*reversed(record.candidates)])
    rows = ranking_rows(shuffled)
    assert [row.rank for row in rows] == ["1", "2", "3", "4", "5", "6", "–", "–"]
    reader = Reader(render(shuffled))
    assert reader.candidates() == [row.candidate_id for row in rows]
    assert [row.status for row in rows[-2:]] == ["incompatible", "diverged"]
    for row in rows[-2:]:
        assert row.failed and row.reason and row.reason in reader.text


def test_rows_say_what_the_record_says() -> None:
    first, second, *_, started = ranking_rows(make_record())
    assert (first.score, first.interval, first.p_best, first.among_best) == (
        "0.8420",
        "0.8280 to 0.8550",
        "71.0%",
        "yes",
    )
    assert (first.zero_shot_rank, first.movement, second.movement) == ("3", "▲2", "▼1")
    assert (first.layers, first.original, first.proxy, first.trainable) == ("22/28", "1.72 B", "1.36 B", "12.6 M")
    assert (first.seconds, first.memory, first.winner, second.winner) == ("11 min 31 s", "4.00 GiB", True, False)
    assert (started.score, started.layers, started.zero_shot_rank, started.movement) == ("–", "–", "", "")


def test_the_report_shows_the_rows_of_the_terminal() -> None:
    record = make_record(False)
    shown = " ".join(Reader(render(record)).text.split())
    for row in ranking_rows(record):
        for value in (row.candidate_id, row.zero_shot, row.original, row.proxy, row.seconds, row.memory, row.status):
            assert value in shown
        if not row.failed:
            assert f"{row.score}{row.interval}" in shown and row.p_best in shown


def test_lower_is_better() -> None:
    shown = Reader(render(make_record(False))).text
    assert "lower is better" in shown and "← better" in shown
    assert "higher is better" in Reader(render(make_record(True))).text


def test_no_winner() -> None:
    record = without_winner(make_record())
    shown = Reader(render(record)).text
    assert "No model could be chosen" in shown and record.why in shown
    assert all(shown.count(item.reason) == 2 for item in record.candidates[1:])
    assert "load_model" not in shown and "Fine-tune" not in shown


def test_the_verdict_on_the_merge_is_honest() -> None:
    html = render(make_record())
    assert html.count("Sparse merge accepted at scale 0.05") == 3
    assert html.count("Sparse merge not accepted: plain removal was better") == 4


def test_no_merge_was_tried() -> None:
    plain = make_record()
    merge = {"method": "none", "scale": 0.0, "accepted": False, "losses": {"0.0": 2.4}}
    html = render(replace(plain, candidates=[replace(item, merge=merge) for item in plain.candidates]))
    assert "plain removal was better" not in html
    assert html.count("no merge was tried") == 7


def test_how_to_load_the_model() -> None:
    shown = Reader(render(make_record())).text
    assert "mlflow.pyfunc.load_model('models:/damoc-support-tickets-2026q2@champion')" in shown
    assert "mlflow.set_tracking_uri('http://mlflow.example.internal:5000')" in shown


def test_a_bare_record() -> None:
    plain = make_record()
    bare = [
        replace(
            item,
            importance=(),
            kept_layers=(),
            layer_evidence=LayerEvidence(),
            losses={},
            intervals={},
            zero_shot_intervals={},
            few_shot={},
            few_shot_intervals={},
            merge={},
            parameters={},
            history=(),
            costs={},
            zero_shot={},
            zero_shot_rank=None,
            interval=None,
            p_best=None,
            metrics={},
            rank=None,
            status="error",
            reason="",
        )  # fmt: skip
        for item in plain.candidates
    ]
    record = replace(
        plain, candidates=bare, winner=None, funnel=[], data_compression={}, costs={}, evidence={}, versions={},
        dataset={}, registration={}, config={}, data_evidence=DataEvidence(), evaluation={},
    )  # fmt: skip
    reader = Reader(render(record))
    assert len(reader.candidates()) == 8
    assert "no reason was recorded" in reader.text


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    plain = make_record()
    broken = [
        replace(
            item,
            metrics={plain.metric: math.nan},
            interval=(math.nan, math.inf),
            importance=[math.nan] * len(item.importance),
            history=[{"step": 1, "train_loss": math.nan, "valid_loss": math.inf}],
            merge={"scale": 0.0, "accepted": False, "losses": {"0.0": math.nan, "0.1": None}},
            layer_evidence=replace(
                item.layer_evidence, distances=[[math.nan] * len(row) for row in item.layer_evidence.distances]
            ),
            losses={"calibration": {"original": math.nan, "pruned": 900.0}, "validation": {"tuned": math.inf}},
            intervals={plain.metric: [math.nan, math.inf]},
        )
        for item in plain.candidates
    ]
    scores = DataEvidence(distributions=[Distribution("score", [0.0, 1.0], {"kept": [1]}, math.nan)])
    record = replace(plain, candidates=broken, data_evidence=scores)
    svgs = "".join(re.findall(r"<svg.*?</svg>", render(record), re.S))
    assert not re.search(r'(?:x|y|x1|x2|y1|y2|cx|cy|width|height|points)="[^"]*(?:nan|inf)', svgs)
    assert len(save_plots(record, tmp_path)) == 6


def test_whiskers_stand_where_the_numbers_are() -> None:
    html = render(make_record())
    dots = [float(x) for x in re.findall(r'class="dot" cx="([\d.]+)%"', html)]
    assert len(dots) == 6 and dots == sorted(dots, reverse=True)
    low, high, score = 0.737 - 0.014, 0.842 + 0.013, 0.842
    assert dots[0] == pytest.approx(3 + 94 * (score - low) / (high - low), abs=0.01)


def test_plots_are_the_same_each_time(tmp_path: Path) -> None:
    digests = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        files = save_plots(make_record(), tmp_path / name)
        assert [file.name for file in files] == [
            "ranking.png",
            "heatmap.png",
            "importance.png",
            "perplexity.png",
            "curves.png",
            "funnel.png",
            "distributions.png",
        ]
        digests.append([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
    assert digests[0] == digests[1]


def test_plots_take_hostile_names_and_skip_what_was_not_measured(tmp_path: Path) -> None:
    plain = make_record()
    named = [replace(item, candidate_id=f"_$\\frac{{{item.candidate_id}$") for item in plain.candidates]
    scores = DataEvidence(distributions=[Distribution("_$\\bad{$", [0.0, 1.0], {"_$\\frac{$": [1]}, 0.5)])
    assert len(save_plots(replace(plain, candidates=named, metric="$\\bad{$", data_evidence=scores), tmp_path)) == 7
    assert save_plots(replace(plain, candidates=[], funnel=[], data_evidence=DataEvidence()), tmp_path) == []


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (text.magnitude(999), "999"),
        (text.magnitude(999_499), "999 k"),
        (text.magnitude(999_900), "1.00 M"),
        (text.magnitude(12_582_912), "12.6 M"),
        (text.magnitude(70_553_706_496), "70.6 B"),
        (text.duration(59.94), "59.9 s"),
        (text.duration(59.96), "1 min 00 s"),
        (text.duration(3599.6), "1 h 00 min"),
        (text.duration(7_384), "2 h 03 min"),
        (text.memory(1023.4), "1023 MiB"),
        (text.memory(1536), "1.50 GiB"),
        (text.score(math.nan), "not finite"),
        (text.score(-0.5), "-0.5000"),
        (text.fact([1, None, True]), "1, –, yes"),
        (text.ticks([0.0, 0.25, 0.5]), ["0.00", "0.25", "0.50"]),
        (text.ticks([0.0, 5_000.0, 10_000.0]), ["0", "5 k", "10 k"]),
        (text.ticks([-1_500_000.0, 0.0, 1_500_000.0]), ["-1.5 M", "0", "1.5 M"]),
        (text.ticks([10_000.0, 10_001.0]), ["10,000", "10,001"]),
        (text.ticks([0.0, 2.5e-7]), ["0", "2.5e-07"]),
        (text.ticks([]), []),
        (text.shorten("abcdefghij", 5), "ab…ij"),
    ],
)
def test_formats(shown: str | list[str], expected: str | list[str]) -> None:
    assert shown == expected
