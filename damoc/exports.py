"""Copies of results where other programs (DVC, spreadsheets) look for them."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from damoc.launch import Selection
from damoc.report.layer_states import layer_states
from damoc.report.perplexity import STATES, perplexity
from damoc.selection.record import CandidateRecord, SelectionRecord
from damoc.store import MARKER, StepResult, disk_error
from damoc.tracking import storage

_Row = dict[str, Any]
_SCORES = ("candidate", "measured", "metric", "score", "low", "high")
_LAYERS = ("candidate", "layer", "importance", "state", "protected", "removal", "merged_into")
_LOSSES = ("candidate", "rows", "state", "loss", "perplexity")


def export_step(result: StepResult, out: Path) -> None:
    """Copies a step's outputs into a folder, without the store's marker."""
    try:
        shutil.copytree(result.path(), out, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MARKER))
    except OSError as error:
        raise disk_error(error, str(out)) from error


def export_selection(selection: Selection, out: Path) -> None:
    """Writes a selection into a folder: ``report.html``, ``metrics.json`` and tables as CSV.

    The tables: ``ranking``; ``scores`` (every metric of every candidate, untouched and tuned, with its interval);
    ``layers`` (importance, and what became of each layer); ``losses`` (nats per answer token and perplexity, by rows
    and state); ``curves``; ``funnel``.
    """
    record = selection.record
    try:
        out.mkdir(parents=True, exist_ok=True)
        metrics = json.dumps(_metrics(record), indent=1, sort_keys=True)
        (out / "metrics.json").write_text(metrics + "\n", encoding="utf-8")
        _write_csv(out / "ranking.csv", _ranking(record))
        _write_csv(out / "scores.csv", _rows(record, _scores), _SCORES)
        _write_csv(out / "layers.csv", _rows(record, _layers), _LAYERS)
        _write_csv(out / "losses.csv", _rows(record, _losses), _LOSSES)
        _write_csv(out / "curves.csv", _rows(record, _curve))
        _write_csv(out / "funnel.csv", [asdict(step) for step in record.funnel])
        (out / "report.html").write_bytes(storage.read_bytes(selection.report))
    except OSError as error:
        raise disk_error(error, str(out)) from error


def _metrics(record: SelectionRecord) -> dict[str, Any]:
    scored = [(item.candidate_id, item) for item in record.candidates]
    losses = {name: {rows: dict(own) for rows, own in item.losses.items()} for name, item in scored}
    return {
        "winner": record.winner,
        "rows": dict(record.dataset["rows"]),
        "evaluation": {name: record.evaluation.get(name) for name in ("task", "rows", "shots")},
        "proxy": {name: dict(item.metrics) for name, item in scored if item.metrics},
        "zero_shot": {name: dict(item.zero_shot) for name, item in scored if item.zero_shot},
        "few_shot": {name: dict(item.few_shot) for name, item in scored if item.few_shot},
        "control": {name: dict(item.control) for name, item in scored if item.control},
        "losses": {name: own for name, own in losses.items() if own},
    }


def _ranking(record: SelectionRecord) -> list[_Row]:
    return [
        {
            "candidate": item.candidate_id,
            "rank": item.rank,
            record.metric: item.metrics.get(record.metric),
            "low": item.interval[0] if item.interval else None,
            "high": item.interval[1] if item.interval else None,
            "zero_shot": item.zero_shot.get(record.metric),
            "zero_shot_rank": item.zero_shot_rank,
            "few_shot": item.few_shot.get(record.metric),
            "status": item.status,
        }
        for item in record.candidates
    ]


def _rows(record: SelectionRecord, of: Callable[[CandidateRecord], Iterator[_Row]]) -> list[_Row]:
    return [{"candidate": item.candidate_id, **row} for item in record.candidates for row in of(item)]


def _scores(candidate: CandidateRecord) -> Iterator[_Row]:
    for measured, scores, intervals in (
        ("zero_shot", candidate.zero_shot, candidate.zero_shot_intervals),
        ("few_shot", candidate.few_shot, candidate.few_shot_intervals),
        ("proxy", candidate.metrics, candidate.intervals),
        ("control", candidate.control.get("metrics", {}), {}),
    ):
        for metric, score in sorted(scores.items()):
            low, high = intervals.get(metric, (None, None))
            yield {"measured": measured, "metric": metric, "score": score, "low": low, "high": high}


def _layers(candidate: CandidateRecord) -> Iterator[_Row]:
    for layer in layer_states(candidate):
        yield {
            "layer": layer.index,
            "importance": layer.importance,
            "state": layer.state,
            "protected": layer.protected,
            "removal": layer.place,
            "merged_into": layer.anchor,
        }


def _losses(candidate: CandidateRecord) -> Iterator[_Row]:
    for rows, states in STATES.items():
        losses = candidate.losses.get(rows, {})
        for state in states:
            if state in losses:
                loss = losses[state]
                yield {"rows": rows, "state": state, "loss": loss, "perplexity": round(perplexity(loss), 6)}


def _curve(candidate: CandidateRecord) -> Iterator[_Row]:
    for point in candidate.history:
        yield {"step": point["step"], "train_loss": point["train_loss"]}


def _write_csv(path: Path, rows: Sequence[_Row], names: Iterable[str] = ()) -> None:
    """Writes a table; without ``names``, those of its first row."""
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, list(names or (rows[0] if rows else ())), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
