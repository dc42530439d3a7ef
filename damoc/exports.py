"""Copies of results where other programs (DVC, spreadsheets) look for them."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from damoc.launch import Selection
from damoc.store import MARKER, StepResult, disk_error
from damoc.tracking import storage


def export_step(result: StepResult, out: Path) -> None:
    """Copies a step's outputs into a folder, without the store's marker."""
    try:
        shutil.copytree(result.path(), out, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MARKER))
    except OSError as error:
        raise disk_error(error, str(out)) from error


def export_selection(selection: Selection, out: Path) -> None:
    """Writes ``metrics.json``, ``ranking.csv``, ``curves.csv``, ``funnel.csv`` and ``report.html`` into a folder."""
    record = selection.record
    metrics = {
        "winner": record.winner,
        "rows": dict(record.dataset["rows"]),
        "proxy": {item.candidate_id: dict(item.metrics) for item in record.candidates if item.metrics},
        "zero_shot": {item.candidate_id: dict(item.zero_shot) for item in record.candidates if item.zero_shot},
    }
    ranking = [
        {
            "candidate": item.candidate_id,
            "rank": item.rank,
            record.metric: item.metrics.get(record.metric),
            "low": item.interval[0] if item.interval else None,
            "high": item.interval[1] if item.interval else None,
            "zero_shot": item.zero_shot.get(record.metric),
            "zero_shot_rank": item.zero_shot_rank,
            "status": item.status,
        }
        for item in record.candidates
    ]
    curves = [
        {"candidate": item.candidate_id, "step": point["step"], "train_loss": point["train_loss"]}
        for item in record.candidates
        for point in item.history
    ]
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "metrics.json").write_text(json.dumps(metrics, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        _write_csv(out / "ranking.csv", ranking)
        _write_csv(out / "curves.csv", curves)
        _write_csv(out / "funnel.csv", [asdict(step) for step in record.funnel])
        (out / "report.html").write_bytes(storage.read_bytes(selection.report))
    except OSError as error:
        raise disk_error(error, str(out)) from error


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    names: Iterable[str] = rows[0] if rows else ()
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, list(names), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
