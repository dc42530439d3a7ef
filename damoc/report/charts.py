"""Inline SVG of the HTML report: colours come from its style sheet, so that light, dark and print all work."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from damoc.report import text
from damoc.report.svg import LEFT, RIGHT, WIDTH, Scale, grid, label_at, number, round_scale, svg, tag
from damoc.report.table import movement, ranked
from damoc.selection.record import CandidateRecord, SelectionRecord

SLOPE_ROW = 34

_HEIGHT, _TOP, _BOTTOM = 150, 8, 22
_MAX_POINTS = 160


@dataclass(frozen=True)
class SlopeEnd:
    """A label of the slope chart.

    Args:
        candidate_id: whose.
        rank: shown rank.
        kind: ``winner``, ``up``, ``down``, ``same``, ``failed`` or ``new``.
        movement: as in the ranking table.
    """

    candidate_id: str
    rank: str
    kind: str
    movement: str


@dataclass(frozen=True)
class Slope:
    """The slope chart: labels by zero-shot rank, lines, labels by proxy rank."""

    left: list[SlopeEnd]
    right: list[SlopeEnd]
    svg: Markup


def score_scale(record: SelectionRecord) -> Scale | None:
    """The axis that all whiskers share, in percent of the width; None when nothing was scored."""
    values = [
        value
        for candidate in record.candidates
        for value in (candidate.metrics.get(record.metric), *(candidate.interval or ()))
        if value is not None and math.isfinite(value)
    ]
    if not values:
        return None
    low, high = min(values), max(values)
    return Scale(low, high, 3, 97) if high > low else Scale(low - 0.5, high + 0.5, 3, 97)


def whisker(record: SelectionRecord, candidate: CandidateRecord, scale: Scale) -> Markup:
    """Dot and whisker of a score over the interval of the best one."""
    value = candidate.metrics.get(record.metric)
    if value is None or not math.isfinite(value):
        return Markup("")
    parts = []
    best = ranked(record)[0].interval
    if best:
        x, width = scale(best[0]), max(scale(best[1]) - scale(best[0]), 0.5)
        parts.append(tag("rect", class_="band", x=f"{x:.2f}%", y=0, width=f"{width:.2f}%", height=24))
    if candidate.interval:
        low, high = (f"{scale(end):.2f}%" for end in candidate.interval)
        parts.append(tag("line", class_="whisker", x1=low, x2=high, y1=12, y2=12))
        parts += [tag("line", class_="whisker", x1=end, x2=end, y1=8, y2=16) for end in (low, high)]
    parts.append(tag("circle", class_="dot", cx=f"{scale(value):.2f}%", cy=12, r=4.5))
    spread = (
        f", interval {text.score(candidate.interval[0])} to {text.score(candidate.interval[1])}"
        if candidate.interval
        else ""
    )
    return svg(f"{candidate.candidate_id}: {text.score(value)}{spread}", parts, "whiskers", width="100%", height=24)


def bar(share: float, label: str) -> Markup:
    """A horizontal bar of a share between 0 and 1."""
    width = f"{100 * min(max(share, 0.0), 1.0):.2f}%"
    parts = [
        tag("rect", class_="track", x=0, y=0, width="100%", height=8, rx=4),
        tag("rect", class_="fill", x=0, y=0, width=width, height=8, rx=4),
    ]
    return svg(label, parts, "bar", width="100%", height=8)


def slope(record: SelectionRecord) -> Slope | None:
    """Zero-shot ranks beside proxy ranks; None when no zero-shot rank was measured."""
    before = sorted(
        (item for item in record.candidates if item.zero_shot_rank), key=lambda item: item.zero_shot_rank or 0
    )
    after = [item for item in ranked(record) if item.rank is not None]
    if not before:
        return None
    rights = {item.candidate_id: index for index, item in enumerate(after)}
    parts = []
    for index, item in sorted(enumerate(before), key=lambda pair: pair[1].candidate_id == record.winner):
        kind = _kind(record, item)
        y1 = (index + 0.5) * SLOPE_ROW
        if item.candidate_id in rights:
            y2 = (rights[item.candidate_id] + 0.5) * SLOPE_ROW
            parts.append(tag("line", class_=f"slope {kind}", x1=6, x2="100%", y1=y1, y2=y2))
            parts.append(tag("circle", class_=f"end {kind}", cx="100%", cy=y2, r=4.5))
        parts.append(tag("circle", class_=f"end {kind}", cx=6, cy=y1, r=4.5))
    changes = [f"{item.candidate_id} {item.zero_shot_rank} to {item.rank or 'failed'}" for item in before]
    height = max(len(before), len(after)) * SLOPE_ROW
    return Slope(
        [SlopeEnd(item.candidate_id, str(item.zero_shot_rank), _kind(record, item), "") for item in before],
        [SlopeEnd(item.candidate_id, str(item.rank), _kind(record, item), movement(item)) for item in after],
        svg(f"Rank before and after: {'; '.join(changes)}", parts, "slopes", width="100%", height=height),
    )


def curve(candidate: CandidateRecord, others: Sequence[CandidateRecord], losses: Scale, steps: Scale) -> Markup:
    """Training loss of a candidate as a line before those of the others, validation loss as dots."""
    parts = _axes(losses, steps, "step")
    for other in others:
        if other.candidate_id != candidate.candidate_id:
            parts += _lines(_series(other.history, "train_loss"), losses, steps, "line other")
    parts += _lines(_series(candidate.history, "train_loss"), losses, steps, "line")
    valid = _series(candidate.history, "valid_loss")
    parts += [
        tag("circle", class_="valid", cx=number(steps(x)), cy=number(losses(y)), r=3.6)
        for x, y in valid
        if math.isfinite(y)
    ]
    return svg(curve_summary(candidate), parts, "panel", viewBox=f"0 0 {WIDTH} {_HEIGHT}")


def curve_summary(candidate: CandidateRecord) -> str:
    """Where the losses ended, in words."""
    train = _series(candidate.history, "train_loss")
    valid = _series(candidate.history, "valid_loss")
    if not train:
        return "no training step was logged"
    words = f"train loss {text.score(train[0][1])} → {text.score(train[-1][1])} in {train[-1][0]:,.0f} steps"
    return f"{words}, last valid loss {text.score(valid[-1][1])}" if valid else words


def curve_scales(candidates: Sequence[CandidateRecord]) -> tuple[Scale, Scale]:
    """Loss and step axes that all curves share; a diverged candidate does not stretch them."""
    sound = [item for item in candidates if item.rank is not None] or list(candidates)
    losses = [
        y
        for item in sound
        for name in ("train_loss", "valid_loss")
        for _, y in _series(item.history, name)
        if math.isfinite(y)
    ]
    steps = [x for item in candidates for x, _ in _series(item.history, "train_loss")]
    return (
        round_scale(min(losses, default=0.0), max(losses, default=1.0), _HEIGHT - _BOTTOM, _TOP),
        Scale(0, max(steps, default=1.0), LEFT, WIDTH - RIGHT),
    )


def _kind(record: SelectionRecord, candidate: CandidateRecord) -> str:
    if candidate.rank is None:
        return "failed"
    if candidate.candidate_id == record.winner:
        return "winner"
    if candidate.zero_shot_rank is None:
        return "new"
    places = candidate.zero_shot_rank - candidate.rank
    return "up" if places > 0 else "down" if places < 0 else "same"


def _series(history: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    return [
        (float(point.get("step", index + 1)), float(point[name]))
        for index, point in enumerate(history)
        if point.get(name) is not None
    ]


def _lines(points: Sequence[tuple[float, float]], losses: Scale, steps: Scale, kind: str) -> list[Markup]:
    """A polyline for each stretch of finite losses."""
    stride = math.ceil(len(points) / _MAX_POINTS) or 1
    thinned = [point for index, point in enumerate(points) if index % stride == 0 or index == len(points) - 1]
    stretches: list[list[str]] = [[]]
    for x, y in thinned:
        if math.isfinite(y):
            stretches[-1].append(f"{number(steps(x))},{number(losses(y))}")
        else:
            stretches.append([])
    return [tag("polyline", class_=kind, points=" ".join(stretch)) for stretch in stretches if stretch]


def _axes(heights: Scale, widths: Scale, name: str) -> list[Markup]:
    middle = round(widths.high / 2)
    return [
        *grid(heights),
        label_at("0", widths.start, _HEIGHT - 7, "middle"),
        label_at(f"{name} {middle:,}", widths(middle), _HEIGHT - 7, "middle"),
        label_at(f"{widths.high:,.0f}", widths.end, _HEIGHT - 7, "end"),
    ]
