"""Perplexity of a candidate on its way to the proxy: before and after pruning, merging and tuning."""

from __future__ import annotations

import math
from dataclasses import dataclass

from markupsafe import Markup

from damoc.report import text
from damoc.report.svg import Scale, svg, tag
from damoc.report.table import ranked
from damoc.selection.record import CandidateRecord, SelectionRecord

STATES = (
    ("calibration", "original", "Original"),
    ("calibration", "pruned", "Pruned"),
    ("calibration", "merged", "Merged"),
    ("validation", "untuned", "Untuned proxy"),
    ("validation", "tuned", "Tuned proxy"),
)
"""Rows, state, and how the report calls it, in the order of the work."""

_LANES = {"calibration": 10, "validation": 26}
_HEIGHT, _R = 36, 4.5


@dataclass(frozen=True)
class PerplexityRow:
    """A candidate's perplexities.

    Args:
        candidate: whose.
        cells: label and value, in the order of :data:`STATES`.
        chart: the same as marks on the shared axis.
    """

    candidate: CandidateRecord
    cells: list[tuple[str, str]]
    chart: Markup


@dataclass(frozen=True)
class Perplexities:
    """The table, and the ends of the axis that its charts share."""

    rows: list[PerplexityRow]
    low: str
    high: str


def perplexity(loss: float | None) -> float | None:
    """Perplexity of a mean loss in nats per token; None where there is none, infinite beyond floats."""
    if loss is None:
        return None
    return math.exp(loss) if loss < 700 else math.inf


def perplexities(record: SelectionRecord) -> Perplexities | None:
    """The table of all candidates with a loss, best first; None when there is none."""
    candidates = [item for item in ranked(record) if any(item.losses.values())]
    known = [loss for item in candidates for own in item.losses.values() for loss in own.values() if _fits(loss)]
    if not known:
        return None
    low, high = min(known), max(known)
    scale = Scale(low, high, 4, 96) if high > low else Scale(low - 0.5, high + 0.5, 4, 96)
    rows = [PerplexityRow(item, [_cell(item, *state) for state in STATES], _chart(item, scale)) for item in candidates]
    return Perplexities(rows, text.perplexity(perplexity(scale.low)), text.perplexity(perplexity(scale.high)))


def _cell(candidate: CandidateRecord, rows: str, state: str, name: str) -> tuple[str, str]:
    loss = candidate.losses.get(rows, {}).get(state)
    label = f"{name}, {rows} rows"
    if loss is not None or rows not in candidate.losses:
        return label, text.perplexity(perplexity(loss))
    if state == "pruned" and len(candidate.kept_layers) == len(candidate.importance):
        return label, "nothing removed"
    return label, "not merged" if state == "merged" else text.ABSENT


def _chart(candidate: CandidateRecord, scale: Scale) -> Markup:
    """Marks of five shapes on two lanes, those of the same rows joined; equal distances are equal factors."""
    parts, words = [], []
    for lane, y in _LANES.items():
        own = candidate.losses.get(lane, {})
        points = [(state, scale(own[state])) for rows, state, _ in STATES if rows == lane and _fits(own.get(state))]
        parts += [
            tag("line", class_=f"way {lane}", x1=f"{start:.2f}%", x2=f"{end:.2f}%", y1=y, y2=y)
            for (_, start), (_, end) in zip(points, points[1:], strict=False)
        ]
        parts += [_mark(state, x, y) for state, x in points]
        words += [f"{state} {text.perplexity(perplexity(own[state]))} on {lane} rows" for state, _ in points]
    name = f"Perplexity of {candidate.candidate_id}: {', '.join(words)}"
    return svg(name, parts, "ways", width="100%", height=_HEIGHT)


def _mark(state: str, x: float, y: float) -> Markup:
    """A shape a state; square ones are drawn in a nested picture, whose corner may stand at a share of the width."""
    if state in ("original", "untuned", "tuned"):
        return tag("circle", class_=f"mark-{state}", cx=f"{x:.2f}%", cy=y, r=_R)
    shape = f"M0 {-_R - 1}L{_R + 1} 0L0 {_R + 1}L{-_R - 1} 0z" if state == "pruned" else f"M{-_R} {-_R}h{2 * _R}v{2 * _R}h{-2 * _R}z"
    return tag("svg", tag("path", class_=f"mark-{state}", d=shape), x=f"{x:.2f}%", y=y, width=1, height=1)


def _fits(loss: float | None) -> bool:
    return loss is not None and math.isfinite(perplexity(loss) or math.nan)
