"""``--set a.b=value``."""

from __future__ import annotations

from pathlib import Path

import pytest

from damoc.errors import DamocError
from damoc.overrides import override


def test_values_are_yaml_and_sections_are_made() -> None:
    raw = {"seed": 1, "tuning": {"rank": 4}, "candidates": [{"id": "a"}, {"id": "b"}]}
    changed = override(
        raw, ["tuning.rank=8", "evaluation.metric=accuracy", "candidates.1.id=c", "dataset.limit={test: 3}"]
    )
    assert changed == {
        "seed": 1,
        "tuning": {"rank": 8},
        "evaluation": {"metric": "accuracy"},
        "candidates": [{"id": "a"}, {"id": "c"}],
        "dataset": {"limit": {"test": 3}},
    }
    assert raw["tuning"] == {"rank": 4}


def test_a_path_that_exists_here_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.jsonl").touch()
    monkeypatch.chdir(tmp_path)
    assert override({}, ["dataset.source=rows.jsonl"]) == {"dataset": {"source": str(tmp_path / "rows.jsonl")}}
    assert override({}, ["dataset.source=other.jsonl"]) == {"dataset": {"source": "other.jsonl"}}


@pytest.mark.parametrize("setting", ["seed", "=3", "a..b=1", "candidates.7.id=x", "candidates.first.id=x"])
def test_what_is_not_a_setting_is_refused(setting: str) -> None:
    with pytest.raises(DamocError) as caught:
        override({"candidates": [{"id": "a"}]}, [setting])
    assert setting in str(caught.value)
