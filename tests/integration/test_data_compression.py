"""The data stage on real rows with real models: every filter with the signals that it measures, and every repair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import ROOT, small_config
from damoc.config import load_config
from damoc.filters import filters
from damoc.stages.compress_data import compress, filter_rows
from damoc.stages.context import Context
from damoc.stages.prepare_data import prepare
from damoc.store import StepResult

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One workspace, so that signals are measured once for all filters."""
    return tmp_path_factory.mktemp("data-stage")


def context(folder: Path, **compression: Any) -> Context:
    """The small selection with other settings of the data stage."""
    path = small_config(folder)
    raw = yaml.safe_load(path.read_text())
    raw["dataset"] |= {
        "fields": {"group": "none"},
        "splits": {"valid": 0.2, "test": 0.2},
        "limit": {"train": 60, "valid": 6, "test": 6},
    }
    for section, values in compression.items():
        raw["data_compression"].setdefault(section, {}).update(values)
    path.write_text(yaml.safe_dump(raw))
    return Context(load_config(path), "", "", "")


def read(result: StepResult, name: str) -> Any:
    text = (result.path() / name).read_text()
    return [json.loads(line) for line in text.splitlines()] if name.endswith(".jsonl") else json.loads(text)


@pytest.mark.parametrize("method", sorted(filters()))
def test_every_filter_measures_what_it_needs_and_says_why_for_every_row(folder: Path, method: str) -> None:
    chosen = context(folder, filter={"method": method})
    prepared = prepare(chosen)
    result = filter_rows(chosen, prepared)
    rows, record = read(result, "train.jsonl"), read(result, "choice.json")
    everyone = [row["id"] for row in read(prepared, "train.jsonl")]
    assert [row["id"] for row in rows] == record["rows"]
    assert len(rows) == max(24, round(0.3 * len(everyone)))
    assert set(record["why"]) == set(everyone)
    kept = {row for row, why in record["why"].items() if why.startswith("kept: ")}
    assert kept == set(record["rows"])
    assert set(record["signal_hashes"]) >= set(filters()[method].needs(filters()[method].defaults()))


def test_a_changed_option_is_another_step_and_an_unchanged_one_is_found_done(folder: Path) -> None:
    narrow = context(folder, filter={"method": "perplexity_band", "options": {"centre": 0.2}})
    wide = context(folder, filter={"method": "perplexity_band", "options": {"centre": 0.8}})
    prepared = prepare(narrow)
    first, other = filter_rows(narrow, prepared), filter_rows(wide, prepared)
    assert first.content != other.content
    assert filter_rows(narrow, prepared).reused


def test_each_text_is_condensed_repaired_or_put_back_and_the_evidence_says_which(folder: Path) -> None:
    harsh = {
        "rates": {"input": 0.4},
        "repair": {"rewriter": {"model": str(ROOT / "zoo/tiny-llama-cloud")}, "rounds": 1},
    }
    chosen = context(folder, filter={"method": "random"}, condense=harsh)
    prepared = prepare(chosen)
    filtered, result = compress(chosen, prepared)
    before = {row["id"]: row for row in read(filtered, "train.jsonl")}
    after = {row["id"]: row for row in read(result, "train.jsonl")}
    texts = [entry for entry in read(result, "condense.json")["texts"] if entry["part"] == "input"]
    outcomes = {entry["outcome"] for entry in texts}
    assert "restored" in outcomes
    for entry in texts:
        changed = before[entry["id"]]["input"] != after[entry["id"]]["input"]
        assert changed == (entry["outcome"] in ("condensed", "restored", "rewritten"))
        assert (
            entry["outcome"] == "untouched"
            or entry["f1"] >= chosen.config.data_compression.condense.gate.thresholds.input
        )
    assert all(entry["rewrites"] == 1 for entry in texts if entry["outcome"] in ("restored", "original"))
    journey = read(result, "journey.jsonl")
    assert {step["id"] for step in journey} == {row["id"] for row in read(prepared, "train.jsonl")}
    assert all(step["why"] for step in journey)
    assert sum(result.summary["outcomes"].values()) == len(read(prepared, "train.jsonl"))


def test_iterative_compression_with_a_four_bit_compressor(folder: Path) -> None:
    chosen = context(
        folder, filter={"method": "random"}, condense={"context": "kept", "segment_tokens": 16, "four_bit": True}
    )
    _, result = compress(chosen, prepare(chosen))
    assert result.summary["condense"]["texts tried"] > 0
    assert result.summary["condense"]["share of their words kept"] < 1
