from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from damoc.config import SelectionConfig, SplitFractions, SplitSources, load_config, parse_config
from damoc.errors import DamocError, Problem

COMMIT = "0123456789abcdef0123456789abcdef01234567"
VALID: dict[str, Any] = {
    "name": "cloud",
    "dataset": {"source": "mined:cloud-qa"},
    "candidates": [{"id": "a", "model": "owner/a"}, {"id": "b", "model": "owner/b"}],
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """The valid config with one value set, at a path with dots."""
    raw = copy.deepcopy(VALID)
    *parents, key = path.split(".")
    place: Any = raw
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
    place[int(key) if isinstance(place, list) else key] = value
    return raw


def parsed(raw: Any, root: Path = Path("/nowhere")) -> SelectionConfig:
    return parse_config(raw, "selection.yaml", root)


def problems(raw: Any) -> list[Problem]:
    with pytest.raises(DamocError) as caught:
        parsed(raw)
    return list(caught.value.problems)


def test_a_short_config_is_filled_with_defaults():
    config = parsed(VALID)
    assert config.data_compression.filter.method == "k_center_greedy"
    assert config.dataset.splits == SplitFractions(valid=0.1, test=0.15)
    assert config.candidate("b").model == "owner/b"


@pytest.mark.parametrize(
    ("path", "place", "fix"),
    [
        ("candidats", "candidats", "did you mean 'candidates'?"),
        ("tuning.learning_rat", "tuning.learning_rat", "did you mean 'learning_rate'?"),
        ("candidates.1.modle", "candidates.1.modle", "did you mean 'model'?"),
        ("model_compression.merge.densty", "model_compression.merge.densty", "did you mean 'density'?"),
        ("dataset.splits.tset", "dataset.splits.tset", "did you mean 'test'?"),
        ("dataset.fields.zzz", "dataset.fields.zzz", "known keys here: aliases, choices, group, id, input"),
    ],
)
def test_an_unknown_key_is_named_with_the_closest_known_one(path, place, fix):
    (problem,) = problems(changed(path, 0.1))
    assert problem.what == f"unknown key {path.rsplit('.', 1)[-1]!r}"
    assert problem.where == f"selection.yaml field {place}"
    assert fix in problem.fix


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("candidates", VALID["candidates"][:1], "needs at least two candidates, found 1"),
        ("candidates", [], "needs at least two candidates, found 0"),
        ("candidates", VALID["candidates"] + VALID["candidates"][:1], "candidate ids must differ, repeated: a"),
        ("candidates.0.id", "a b", "use letters, digits"),
        ("candidates.0.id", "../up", "use letters, digits"),
        ("candidates.0.id", "", "use letters, digits"),
        ("candidates.0.id", "a\n", "use letters, digits"),
        ("name", "x" * 64, "use letters, digits"),
        ("candidates.0.trust_remote_code", True, "pin 'revision' to a 40-digit commit"),
        ("seed", -1, "greater than or equal to 0 (given: -1)"),
        ("seed", "one", "(given: 'one')"),
        ("dataset", {}, "no data named"),
        ("dataset", {"splits": {"valid": 0.1}}, "no data named"),
        ("dataset.splits", {"valid": 0.6, "test": 0.4}, "their sum must be below 1"),
        ("dataset.splits", {"train": "a.jsonl"}, "this key is required"),
        ("dataset.splits", 3, "valid dictionary"),
        ("tuning.learning_rate", float("inf"), "finite number"),
        ("tuning.epochs", float("nan"), "finite number"),
        ("model_compression.merge.scales", [0.1, float("nan")], "finite number"),
        ("model_compression.ratio", 1.0, "less than 1"),
        ("tuning.dtype", "float16", "'float32' or 'bfloat16'"),
        ("dataset.preset", "squad3", "'squad'"),
    ],
)
def test_a_bad_value_is_one_problem_that_names_its_field(path, value, says):
    (problem,) = problems(changed(path, value))
    field = problem.where.removeprefix("selection.yaml field ")
    assert field.startswith(path) or path.startswith(field)
    assert says in problem.what
    assert problem.fix


def test_all_problems_are_found_at_once_each_with_its_field():
    raw = changed("tuning.rank", 0)
    del raw["name"]
    raw["evaluation"] = {"metrik": "accuracy", "confidence": 2}
    raw["dataset"]["splits"] = {"valid": 2, "test": 0}
    raw["candidates"][1] = {"id": "b b"}
    found = {problem.where.removeprefix("selection.yaml field ") for problem in problems(raw)}
    assert found == {
        "name",
        "tuning.rank",
        "evaluation.metrik",
        "evaluation.confidence",
        "dataset.splits.valid",
        "dataset.splits.test",
        "candidates.1.id",
        "candidates.1.model",
    }


def test_code_of_a_pinned_revision_may_be_trusted():
    raw = changed("candidates.0", {"id": "a", "model": "owner/a", "revision": COMMIT, "trust_remote_code": True})
    assert parsed(raw).candidate("a").trust_remote_code


@pytest.mark.parametrize("raw", [None, [], "text", 3])
def test_a_config_that_is_no_mapping_is_refused(raw):
    (problem,) = problems(raw)
    assert problem.what == "a config is a mapping of sections"


def test_splits_are_shares_or_sources():
    shares = parsed(changed("dataset.splits", {"valid": 0.2})).dataset.splits
    assert shares == SplitFractions(valid=0.2, test=0.15)
    sources = parsed(changed("dataset.splits", {"train": "s3://b/a.jsonl", "test": "hf:o/n"})).dataset.splits
    assert sources == SplitSources(train="s3://b/a.jsonl", test="hf:o/n")


def test_scales_always_hold_zero_in_order_and_once():
    scales = parsed(changed("model_compression.merge.scales", [0.5, 0.1, 0.5])).model_compression.merge.scales
    assert scales == [0.0, 0.1, 0.5]


def test_relative_paths_start_at_the_folder_of_the_config(tmp_path, monkeypatch):
    (tmp_path / "models" / "here").mkdir(parents=True)
    raw = {
        **VALID,
        "workspace": "work",
        "dataset": {
            "source": "data/rows.jsonl",
            "splits": {"train": "a.jsonl", "valid": "../b.jsonl", "test": "mined:x"},
        },
        "data_compression": {"signals": {"encoder": "./no-encoder"}, "condense": {"compressor": "models/here"}},
        "candidates": [
            {"id": "here", "model": "models/here"},
            {"id": "hub", "model": "owner/name"},
            {"id": "dotted", "model": "./absent"},
            {"id": "home", "model": "~/absent"},
        ],
    }
    path = tmp_path / "selection.yaml"
    path.write_text(yaml.safe_dump(raw))
    monkeypatch.chdir("/")
    config = load_config(path)
    assert config.workspace == str(tmp_path / "work")
    assert config.dataset.source == str(tmp_path / "data" / "rows.jsonl")
    assert config.dataset.splits == SplitSources(
        train=str(tmp_path / "a.jsonl"), valid=str(tmp_path.parent / "b.jsonl"), test="mined:x"
    )
    assert config.data_compression.signals.encoder == str(tmp_path / "no-encoder")
    assert config.data_compression.condense.compressor == str(tmp_path / "models" / "here")
    assert config.data_compression.condense.gate.encoder == "packaged:minilm"
    models = [candidate.model for candidate in config.candidates]
    home = str(Path("~/absent").expanduser())
    assert models == [str(tmp_path / "models" / "here"), "owner/name", str(tmp_path / "absent"), home]


@pytest.mark.parametrize("workspace", ["s3://bucket/prefix", "/absolute/folder"])
def test_absolute_places_stay_as_they_are(workspace):
    assert parsed(changed("workspace", workspace)).workspace == workspace


def test_a_config_read_again_from_its_own_json_is_the_same(tmp_path):
    for raw in (VALID, changed("dataset.splits", {"train": "a.jsonl", "test": "b.jsonl"})):
        config = parsed(raw, tmp_path)
        assert parsed(config.model_dump(mode="json"), Path("/elsewhere")) == config


def failure(path: Path) -> Problem:
    with pytest.raises(DamocError) as caught:
        load_config(path)
    (problem,) = caught.value.problems
    return problem


def test_a_missing_file_is_named(tmp_path):
    problem = failure(tmp_path / "none.yaml")
    assert (problem.what, problem.where) == ("the config file does not exist", str(tmp_path / "none.yaml"))


def test_a_folder_is_no_config(tmp_path):
    assert failure(tmp_path).what.startswith("the config cannot be read")


def test_bad_yaml_is_reported_with_line_and_column(tmp_path):
    path = tmp_path / "selection.yaml"
    path.write_text("name: cloud\ndataset:\n  source: [a, b\nseed: 3\n")
    problem = failure(path)
    assert problem.what.startswith("not valid YAML")
    assert problem.where == f"{path}:4:5"


def test_characters_that_yaml_forbids_are_one_clear_error(tmp_path):
    path = tmp_path / "selection.yaml"
    path.write_bytes(b"name: a\x00b\n")
    assert failure(path).what.startswith("not valid YAML")


def test_a_file_that_is_not_utf_8_is_named_with_the_byte(tmp_path):
    path = tmp_path / "selection.yaml"
    path.write_bytes("name: caf\xe9".encode("latin-1"))
    assert failure(path).what == "not UTF-8 (byte 9)"


def test_a_byte_order_mark_is_no_problem(tmp_path):
    path = tmp_path / "selection.yaml"
    path.write_text(yaml.safe_dump(VALID), encoding="utf-8-sig")
    assert load_config(path).name == "cloud"


def test_yaml_cannot_make_python_objects(tmp_path):
    path = tmp_path / "selection.yaml"
    path.write_text(f"name: !!python/object/apply:os.mkdir [{tmp_path}/made]\n")
    assert failure(path).what.startswith("not valid YAML")
    assert not (tmp_path / "made").exists()


yaml_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=6,
)
sections = st.sampled_from(
    sorted(SelectionConfig.model_fields) + ["dataset.splits", "candidates.0", "tuning.rank", "x"]
)


@given(sections, yaml_values)
def test_whatever_stands_in_a_section_it_is_accepted_or_refused_with_a_place_and_a_mend(path, value):
    try:
        parsed(changed(path, value))
    except DamocError as error:
        assert all(problem.where.startswith("selection.yaml field ") and problem.fix for problem in error.problems)


def test_the_schema_describes_every_section():
    schema = SelectionConfig.model_json_schema()
    assert set(schema["properties"]) == set(SelectionConfig.model_fields)
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(
    ("compression", "ids"),
    [
        ({}, ("a",)),
        ({"control": "all"}, ("a", "b")),
        ({"control": "none"}, ()),
        ({"control": ["b"]}, ("b",)),
        ({"max_memory": {"cpu": "1GiB"}}, ()),
        ({"max_memory": {"cpu": "1GiB"}, "control": ["a"]}, ("a",)),
    ],
)
def test_controls_are_the_first_candidate_unless_it_is_said_not_to_fit(compression, ids):
    raw = {
        "name": "n",
        "dataset": {"source": "rows.jsonl"},
        "model_compression": compression,
        "candidates": [{"id": "a", "model": "./a"}, {"id": "b", "model": "./b"}],
    }
    assert SelectionConfig.model_validate(raw).controls() == ids
    with pytest.raises(ValueError, match="names 'c', which is no candidate"):
        SelectionConfig.model_validate({**raw, "model_compression": {"control": ["c"]}})
