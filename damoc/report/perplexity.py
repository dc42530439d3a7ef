"""Perplexity of a candidate on its way to the proxy: before and after pruning, merging and tuning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from damoc.report import text
from damoc.report.svg import Scale, svg, tag
from damoc.report.table import ranked
from damoc.selection.record import CandidateRecord, SelectionRecord

STATES = {
    "calibration": {"original": "Original", "pruned": "Pruned", "merged": "Merged", "tuned": "Tuned"},
    "validation": {"untuned": "Untuned proxy", "tuned": "Tuned proxy"},
}
"""By rows, the states in the order of the work, and what the report calls them."""

_HEIGHT, _MIDDLE, _R = 24, 12, 4.5


@dataclass(frozen=True)
class PerplexityGroup:
    """What one set of rows says of all candidates.

    Args:
        rows: ``calibration`` or ``validation``.
        heads: name of each state that some candidate was measured in.
        low: factor at the left end of the axis that the charts share.
        high: factor at its right end.
        cells: by candidate id, the perplexity in each state, as it is written.
        charts: by candidate id, the factors to the first state; empty where it was not measured.
    """

    rows: str
    heads: list[str]
    low: str
    high: str
    cells: dict[str, list[str]]
    charts: dict[str, Markup]


@dataclass(frozen=True)
class Perplexities:
    """The candidates with a loss, best first, what is known of them, and the name of each state that has a mark."""

    candidates: list[CandidateRecord]
    groups: list[PerplexityGroup]
    marks: dict[str, str]


def perplexity(loss: float) -> float:
    """Perplexity of a mean loss in nats per token; infinite where floats end."""
    return math.exp(loss) if loss < 700 else math.inf


def perplexities(record: SelectionRecord) -> Perplexities | None:
    """The table of all candidates with a loss; None when there is none."""
    candidates = [item for item in ranked(record) if any(item.losses.values())]
    groups = [_group(candidates, rows) for rows in STATES if any(item.losses.get(rows) for item in candidates)]
    measured = {state for item in candidates for losses in item.losses.values() for state in losses}
    names = {state: name.lower() for own in STATES.values() for state, name in own.items()}
    marks = {state: names[state] for state in sorted(names, key="tuned".__eq__) if state in measured}
    return Perplexities(candidates, groups, marks) if groups else None


def factors(candidate: CandidateRecord, rows: str) -> list[tuple[str, float]]:
    """States that a candidate was measured in, with the logarithm of the perplexity over that of the first of all.

    Args:
        candidate: the candidate.
        rows: a key of :data:`STATES`; without a finite loss in its first state there are none.
    """
    losses = candidate.losses.get(rows, {})
    start = losses.get(next(iter(STATES[rows])), math.nan)
    found = [(state, losses[state] - start) for state in STATES[rows] if state in losses]
    return [(state, factor) for state, factor in found if math.isfinite(factor)]


def times(factor: float) -> str:
    """A factor, from its logarithm: ``×1.27``."""
    return f"×{math.exp(min(factor, 700.0)):.3g}"


def _group(candidates: Sequence[CandidateRecord], rows: str) -> PerplexityGroup:
    shown = [state for state in STATES[rows] if any(state in item.losses.get(rows, {}) for item in candidates)]
    points = {item.candidate_id: factors(item, rows) for item in candidates}
    reached = [0.0, *(factor for own in points.values() for _, factor in own)]
    scale = Scale(min(reached), max(reached), 6, 94)
    return PerplexityGroup(
        rows=rows,
        heads=[STATES[rows][state] for state in shown],
        low=times(scale.low),
        high=times(scale.high),
        cells={item.candidate_id: [_cell(item, rows, state) for state in shown] for item in candidates},
        charts={item.candidate_id: _chart(item, rows, points[item.candidate_id], scale) for item in candidates},
    )


def _cell(candidate: CandidateRecord, rows: str, state: str) -> str:
    losses = candidate.losses.get(rows, {})
    if state in losses or not losses:
        return text.perplexity(perplexity(losses[state])) if losses else text.ABSENT
    if state == "pruned" and len(candidate.kept_layers) == len(candidate.importance):
        return "nothing removed"
    return "not merged" if state == "merged" else text.ABSENT


def _chart(candidate: CandidateRecord, rows: str, points: Sequence[tuple[str, float]], scale: Scale) -> Markup:
    """Joined marks, a shape a state; equal distances are equal factors, and a line stands at the factor 1."""
    if not points:
        return Markup("")
    one = f"{scale(0.0):.2f}%"
    parts = [tag("line", class_="one", x1=one, x2=one, y1=0, y2=_HEIGHT)]
    for (_, start), (_, end) in pairwise(points):
        x1, x2 = (f"{scale(factor):.2f}%" for factor in (start, end))
        parts.append(tag("line", class_="way", x1=x1, x2=x2, y1=_MIDDLE, y2=_MIDDLE))
    parts += [_mark(state, f"{scale(factor):.2f}%") for state, factor in points]
    words = ", ".join(f"{state} {times(factor)}" for state, factor in points)
    return svg(
        f"Perplexity of {candidate.candidate_id} on {rows} rows: {words}", parts, "ways", width="100%", height=_HEIGHT
    )


def _mark(state: str, x: str) -> Markup:
    """A shape a state; a path is drawn in a nested picture, whose corner may stand at a share of the width."""
    if state not in ("pruned", "merged"):
        return tag("circle", class_=f"mark-{state}", cx=x, cy=_MIDDLE, r=_R)
    outline = f"M0 {-_R - 1}l{_R + 1} {_R + 1}l{-_R - 1} {_R + 1}l{-_R - 1} {-_R - 1}z"
    shape = outline if state == "pruned" else f"M{-_R} {-_R}h{2 * _R}v{2 * _R}h{-2 * _R}z"
    return tag("svg", tag("path", class_=f"mark-{state}", d=shape), x=x, y=_MIDDLE, width=1, height=1)
