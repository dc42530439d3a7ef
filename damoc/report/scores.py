"""Every score of every candidate with its interval: untouched, after worked examples, tuned, and tuned whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from damoc.report import text
from damoc.report.table import few_shot_name, ranked
from damoc.selection.record import CandidateRecord, SelectionRecord

CONTROL = "tuned whole"
"""Column of the candidates that were tuned without pruning as well."""


@dataclass(frozen=True)
class ScoreCell:
    """A score as it is written, and its interval or, of a control, its difference to the proxy; may be empty."""

    score: str
    interval: str


@dataclass(frozen=True)
class MetricScores:
    """One metric of all candidates.

    Args:
        name: of the metric.
        note: which way is better, and whether it ranks.
        rows: candidate with its cells, one for each of :func:`conditions`.
    """

    name: str
    note: str
    rows: list[tuple[CandidateRecord, list[ScoreCell]]]


def conditions(record: SelectionRecord) -> list[str]:
    """How the candidates were measured, as column heads."""
    shown = [few_shot_name(record)] if any(item.few_shot for item in record.candidates) else []
    whole = [CONTROL] if any(item.control for item in record.candidates) else []
    return ["zero-shot", *shown, "tuned proxy", *whole]


def metric_scores(record: SelectionRecord) -> list[MetricScores]:
    """All metrics, the ranking one first, each with the candidates that were scored by anything, best first."""
    candidates = [item for item in ranked(record) if item.metrics or item.zero_shot or item.few_shot]
    names = {name for item in candidates for own in (item.metrics, item.zero_shot, item.few_shot) for name in own}
    columns = conditions(record)
    return [
        MetricScores(name, _note(record, name), [(item, _cells(record, item, name, columns)) for item in candidates])
        for name in sorted(names, key=lambda name: (name != record.metric, name))
    ]


def task_words(record: SelectionRecord) -> str:
    """``160 held-out rows of the task generation``, as far as the record says it."""
    rows, task = record.evaluation.get("rows"), record.evaluation.get("task")
    return (f"{rows:,} held-out rows" if rows else "held-out rows") + (f" of the task {task}" if task else "")


def control_failures(record: SelectionRecord) -> dict[str, str]:
    """Why candidates have no score of the whole model that they were to have, by id."""
    return {item.candidate_id: item.control["failure"] for item in record.candidates if "failure" in item.control}


def _note(record: SelectionRecord, name: str) -> str:
    directions = {**record.evaluation.get("higher_is_better", {}), record.metric: record.higher_is_better}
    way = {True: "higher is better", False: "lower is better", None: ""}[directions.get(name)]
    return ", ".join(part for part in (way, "ranks the candidates" if name == record.metric else "") if part)


def _cells(record: SelectionRecord, candidate: CandidateRecord, name: str, columns: Sequence[str]) -> list[ScoreCell]:
    cells = [_cell(candidate.zero_shot, candidate.zero_shot_intervals, name)]
    if few_shot_name(record) in columns:
        cells.append(_cell(candidate.few_shot, candidate.few_shot_intervals, name))
    cells.append(_cell(candidate.metrics, candidate.intervals, name))
    if CONTROL in columns:
        cells.append(_control(record, candidate, name))
    return cells


def _control(record: SelectionRecord, candidate: CandidateRecord, name: str) -> ScoreCell:
    score = text.score(candidate.control.get("metrics", {}).get(name))
    if "failure" in candidate.control:
        return ScoreCell("failed", "")
    if name != record.metric or not candidate.control:
        return ScoreCell(score, "")
    gap, low, high = candidate.control["difference"]
    return ScoreCell(score, f"{gap:+.4f}, {low:+.4f} to {high:+.4f}")


def _cell(scores: Mapping[str, float], intervals: Mapping[str, Sequence[float]], name: str) -> ScoreCell:
    interval = intervals.get(name)
    return ScoreCell(
        text.score(scores.get(name)), f"{text.score(interval[0])} to {text.score(interval[1])}" if interval else ""
    )
