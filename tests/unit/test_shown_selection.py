"""A finished selection as tables for other programs and as a table in a terminal."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from records import make_record, without_winner
from rich.console import Console

from damoc.exports import export_selection
from damoc.launch import Selection
from damoc.report import ranking_rows
from damoc.selection.record import SelectionRecord
from damoc.terminal.selection import print_selection


def _selection(folder: Path, record: SelectionRecord) -> Selection:
    folder.mkdir(exist_ok=True)
    (folder / "report.html").write_text("<p>report</p>", encoding="utf-8")
    return Selection(record.selection_id, str(folder), record, "")


def _export(folder: Path, record: SelectionRecord) -> dict[str, list[dict[str, str]]]:
    export_selection(_selection(folder / "selection", record), folder / "out")
    tables = {}
    for path in (folder / "out").glob("*.csv"):
        with path.open(encoding="utf-8", newline="") as handle:
            tables[path.stem] = list(csv.DictReader(handle))
    return tables


def _printed(record: SelectionRecord, width: int, folder: Path) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    print_selection(console, _selection(folder, record))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_tables_hold_the_numbers_of_the_record(tmp_path: Path) -> None:
    record = make_record()
    tables = _export(tmp_path, record)
    assert set(tables) == {"ranking", "scores", "layers", "losses", "curves", "funnel"}
    first = record.candidates[0]
    layers = [row for row in tables["layers"] if row["candidate"] == first.candidate_id]
    assert [float(row["importance"]) for row in layers] == list(first.importance)
    states = [row["state"] for row in layers]
    assert states.count("removed") == len(first.importance) - len(first.kept_layers)
    assert [int(row["layer"]) for row in layers if row["state"] == "given back"] == first.layer_evidence.given_back
    merged = {row["layer"]: row["merged_into"] for row in layers if row["merged_into"]}
    assert merged == {str(low): anchor for anchor, lower in first.layer_evidence.anchors.items() for low in lower}
    losses = [row for row in tables["losses"] if row["candidate"] == first.candidate_id]
    assert [(row["rows"], row["state"]) for row in losses] == [
        ("calibration", "original"),
        ("calibration", "pruned"),
        ("calibration", "merged"),
        ("validation", "untuned"),
        ("validation", "tuned"),
    ]
    for row in losses:
        loss = first.losses[row["rows"]][row["state"]]
        assert (float(row["loss"]), float(row["perplexity"])) == (loss, pytest.approx(math.exp(loss), abs=1e-6))
    scores = {
        (row["measured"], row["metric"]): (row["score"], row["low"], row["high"])
        for row in tables["scores"]
        if row["candidate"] == first.candidate_id
    }
    low, high = first.intervals["accuracy"]
    assert scores["proxy", "accuracy"] == (str(first.metrics["accuracy"]), str(low), str(high))
    assert scores["few_shot", "accuracy"][1:] == ("0.31", "0.37")
    assert scores["control", "accuracy"][0] == str(first.control["metrics"]["accuracy"])
    assert scores["zero_shot", "rouge_l"][1:] == ("", "")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["evaluation"] == {"task": "choice", "rows": 3_610, "shots": 3}
    assert metrics["losses"][first.candidate_id] == first.losses
    assert metrics["control"] == {first.candidate_id: first.control}
    assert metrics["few_shot"][first.candidate_id] == first.few_shot
    assert record.candidates[7].candidate_id not in metrics["losses"]


def test_tables_of_an_empty_selection_have_their_heads(tmp_path: Path) -> None:
    bare = [replace(item, importance=(), losses={}, metrics={}, zero_shot={}, few_shot={}, history=()) for item in
            without_winner(make_record()).candidates]  # fmt: skip
    export_selection(_selection(tmp_path, make_record(candidates=bare, winner=None)), tmp_path / "out")
    for name, head in (("layers", "candidate,layer,importance,"), ("losses", "candidate,rows,state,loss,perplexity")):
        assert (tmp_path / "out" / f"{name}.csv").read_text(encoding="utf-8").startswith(head)


@pytest.mark.parametrize("width", [50, 80, 100, 200])
def test_the_table_is_never_wider_than_the_terminal_or_100_columns(tmp_path: Path, width: int) -> None:
    record = make_record()
    shown = _printed(record, width, tmp_path)
    table = shown[shown.index(" #") : shown.index(f"{record.candidates[6].candidate_id}: diverged")].splitlines()
    assert max(len(line.rstrip()) for line in table) <= min(width, 100)
    for row in ranking_rows(record):
        assert any(row.candidate_id[:5] in line and (row.failed or row.score in line) for line in table)


def test_the_interval_and_the_scores_before_tuning_stand_beside_the_score(tmp_path: Path) -> None:
    record = make_record()
    short = [replace(item, candidate_id=f"model-{place}") for place, item in enumerate(record.candidates)]
    shown = _printed(replace(record, candidates=short, winner="model-0"), 100, tmp_path)
    head = next(line for line in shown.splitlines() if "candidate" in line).split()
    assert head == ["#", "candidate", "proxy", "interval", "P(best)", "zero-shot", "#", "3-shot", "cost"]
    first = next(line for line in shown.splitlines() if "model-0" in line).split()
    zero, few = (scores["accuracy"] for scores in (record.candidates[0].zero_shot, record.candidates[0].few_shot))
    assert first[:8] == ["1", "model-0", "0.8420", "0.8280–0.8550", "71.0%", f"{zero:.4f}", "3", f"{few:.4f}"]


def test_what_was_not_measured_has_no_column(tmp_path: Path) -> None:
    plain = make_record()
    record = replace(plain, candidates=[replace(item, few_shot={}) for item in plain.candidates])
    assert "3-shot" not in _printed(record, 200, tmp_path)
