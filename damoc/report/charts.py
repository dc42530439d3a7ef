"""Inline SVG of the HTML report: colours come from its style sheet, so that light, dark and print all work."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from damoc.report import text
from damoc.report.table import movement, ranked
from damoc.selection.record import CandidateRecord, SelectionRecord

SLOPE_ROW = 34

_WIDTH, _HEIGHT = 340, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 38, 8, 8, 22
_MAX_POINTS = 160


@dataclass(frozen=True)
class Scale:
    """A linear axis.

    Args:
        low: value at its start.
        high: value at its end.
        start: position of ``low``.
        end: position of ``high``.
        ticks: values to mark.
    """

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...] = ()

    def __call__(self, value: float) -> float:
        """Position of a value; values beyond the axis stop at its ends."""
        span = self.high - self.low or 1.0
        share = min(max((value - self.low) / span, 0.0), 1.0)
        return self.start + share * (self.end - self.start)


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
        parts.append(_tag("rect", class_="band", x=f"{x:.2f}%", y=0, width=f"{width:.2f}%", height=24))
    if candidate.interval:
        low, high = (f"{scale(end):.2f}%" for end in candidate.interval)
        parts.append(_tag("line", class_="whisker", x1=low, x2=high, y1=12, y2=12))
        parts += [_tag("line", class_="whisker", x1=end, x2=end, y1=8, y2=16) for end in (low, high)]
    parts.append(_tag("circle", class_="dot", cx=f"{scale(value):.2f}%", cy=12, r=4.5))
    spread = (
        f", interval {text.score(candidate.interval[0])} to {text.score(candidate.interval[1])}"
        if candidate.interval
        else ""
    )
    return _svg(f"{candidate.candidate_id}: {text.score(value)}{spread}", parts, "whiskers", width="100%", height=24)


def bar(share: float, label: str) -> Markup:
    """A horizontal bar of a share between 0 and 1."""
    width = f"{100 * min(max(share, 0.0), 1.0):.2f}%"
    parts = [
        _tag("rect", class_="track", x=0, y=0, width="100%", height=8, rx=4),
        _tag("rect", class_="fill", x=0, y=0, width=width, height=8, rx=4),
    ]
    return _svg(label, parts, "bar", width="100%", height=8)


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
            parts.append(_tag("line", class_=f"slope {kind}", x1=6, x2="100%", y1=y1, y2=y2))
            parts.append(_tag("circle", class_=f"end {kind}", cx="100%", cy=y2, r=4.5))
        parts.append(_tag("circle", class_=f"end {kind}", cx=6, cy=y1, r=4.5))
    changes = [f"{item.candidate_id} {item.zero_shot_rank} to {item.rank or 'failed'}" for item in before]
    height = max(len(before), len(after)) * SLOPE_ROW
    return Slope(
        [SlopeEnd(item.candidate_id, str(item.zero_shot_rank), _kind(record, item), "") for item in before],
        [SlopeEnd(item.candidate_id, str(item.rank), _kind(record, item), movement(item)) for item in after],
        _svg(f"Rank before and after: {'; '.join(changes)}", parts, "slopes", width="100%", height=height),
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
        _tag("circle", class_="valid", cx=_n(steps(x)), cy=_n(losses(y)), r=3.6) for x, y in valid if math.isfinite(y)
    ]
    return _svg(curve_summary(candidate), parts, "panel", viewBox=f"0 0 {_WIDTH} {_HEIGHT}")


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
        _vertical(min(losses, default=0.0), max(losses, default=1.0)),
        Scale(0, max(steps, default=1.0), _LEFT, _WIDTH - _RIGHT),
    )


def importance(candidate: CandidateRecord) -> Markup:
    """Importance of each layer as a bar; removed layers in another colour."""
    values = [value if value is not None and math.isfinite(value) else 0.0 for value in candidate.importance]
    kept = set(candidate.kept_layers)
    heights = _vertical(min(0.0, *values), max(0.0, *values))
    pitch = (_WIDTH - _LEFT - _RIGHT) / len(values)
    parts = _grid(heights)
    every = math.ceil(len(values) / 12)
    for index, value in enumerate(values):
        x, top, foot = _LEFT + index * pitch, heights(max(value, 0.0)), heights(min(value, 0.0))
        state = "kept" if index in kept else "removed"
        label = _tag("title", f"layer {index}, {state}: {value:.4f}")
        parts.append(
            _tag(
                "rect",
                label,
                class_=state,
                x=_n(x + pitch * 0.12),
                y=_n(top),
                width=_n(pitch * 0.76),
                height=_n(max(foot - top, 1.0)),
                rx=1.2,
            )
        )
        if index % every == 0:
            parts.append(_label(str(index), x + pitch / 2, _HEIGHT - 7, "middle"))
    removed = [str(index) for index in range(len(values)) if index not in kept]
    summary = f"Layer importance of {candidate.candidate_id}; removed layers: {', '.join(removed) or 'none'}"
    return _svg(summary, parts, "panel", viewBox=f"0 0 {_WIDTH} {_HEIGHT}")


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
            stretches[-1].append(f"{_n(steps(x))},{_n(losses(y))}")
        else:
            stretches.append([])
    return [_tag("polyline", class_=kind, points=" ".join(stretch)) for stretch in stretches if stretch]


def _grid(heights: Scale) -> list[Markup]:
    parts = []
    for value in heights.ticks:
        y = heights(value)
        parts.append(_tag("line", class_="grid", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=_n(y), y2=_n(y)))
        parts.append(_label(f"{value:.3g}", _LEFT - 6, y + 3.5, "end"))
    return parts


def _axes(heights: Scale, widths: Scale, name: str) -> list[Markup]:
    middle = round(widths.high / 2)
    return [
        *_grid(heights),
        _label("0", widths.start, _HEIGHT - 7, "middle"),
        _label(f"{name} {middle:,}", widths(middle), _HEIGHT - 7, "middle"),
        _label(f"{widths.high:,.0f}", widths.end, _HEIGHT - 7, "end"),
    ]


def _vertical(low: float, high: float) -> Scale:
    """The axis of a panel: round ends around the values, two to four round steps apart."""
    span = high - low or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 4))
    for factor in (1, 2, 2.5, 5, 10, 20):
        step = power * factor
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first <= 4:
            break
    last = max(last, first + 1)
    ticks = tuple(index * step for index in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], _HEIGHT - _BOTTOM, _TOP, ticks)


def _label(content: str, x: float, y: float, anchor: str) -> Markup:
    return _tag("text", escape(content), x=_n(x), y=_n(y), text_anchor=anchor)


def _n(value: float) -> str:
    return f"{value:.1f}"


def _svg(label: str, parts: Iterable[Markup], kind: str, **attributes: object) -> Markup:
    content = Markup("").join(parts)
    return _tag("svg", content, role="img", class_=kind, aria_label=label, **attributes)


def _tag(name: str, content: str | Markup = "", **attributes: object) -> Markup:
    """An element; contents and attributes are escaped unless they are markup already."""
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items()
    )
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, content)
