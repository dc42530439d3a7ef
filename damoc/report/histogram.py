"""Histograms of scores as inline SVG: groups stacked, the limit as a dashed line."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

from markupsafe import Markup

from damoc.report import text
from damoc.report.svg import LEFT, RIGHT, WIDTH, Scale, grid, label_at, number, round_scale, tag, tight_scale
from damoc.selection.record import Distribution

STYLES = 4

_HEIGHT, _TOP, _BOTTOM = 166, 22, 26
_LEAST_WIDTH, _LEAST_HEIGHT = 3.0, 1.0


def drawable(distribution: Distribution) -> bool:
    """Whether its bounds are finite and ascend, and each of its groups has a count for every bin."""
    edges = distribution.edges
    return (
        len(edges) > 1
        and all(math.isfinite(edge) for edge in edges)
        and all(low <= high for low, high in pairwise(edges))
        and all(len(counts) == len(edges) - 1 for counts in distribution.series.values())
    )


def stacking(distribution: Distribution) -> list[str]:
    """The groups from the foot of the bars upwards: in the order of the record, what was cut last."""
    return sorted(distribution.series, key=lambda name: name == "cut")


def histogram(distribution: Distribution) -> Markup:
    """Bars of counts with an axis of the score; each bar has its bounds and counts as a title.

    Args:
        distribution: one that is :func:`drawable`.
    """
    edges = distribution.edges
    names = stacking(distribution)
    bins = list(zip(*(distribution.series[name] for name in names), strict=True)) or [()] * (len(edges) - 1)
    widths = tight_scale(edges[0], edges[-1], LEFT, WIDTH - RIGHT)
    heights = round_scale(0, max(1, *(sum(counts) for counts in bins)), _HEIGHT - _BOTTOM, _TOP, whole=True)
    parts = [tag("title", summary(distribution)), *grid(heights)]
    for (low, high), counts in zip(pairwise(edges), bins, strict=True):
        if any(counts):
            parts.append(_bar(names, low, high, counts, widths, heights))
    for value, words in zip(widths.ticks, text.ticks(widths.ticks), strict=True):
        parts.append(label_at(words, widths(value), _HEIGHT - 7, "middle"))
    parts += _limit(distribution.limit, widths)
    return tag("svg", Markup("").join(parts), role="img", class_="panel histogram", viewBox=f"0 0 {WIDTH} {_HEIGHT}")


def summary(distribution: Distribution) -> str:
    """What the histogram shows, in words."""
    groups = ", ".join(f"{name} {total:,}" for name, total in totals(distribution)) or "nothing was scored"
    low, high = (text.fact(float(edge)) for edge in (distribution.edges[0], distribution.edges[-1]))
    limit = "" if distribution.limit is None else f", limit {text.fact(float(distribution.limit))}"
    return f"{distribution.name}: {groups}; scores from {low} to {high}{limit}"


def totals(distribution: Distribution) -> Iterator[tuple[str, int]]:
    """Groups with their counts over all bins, from the foot of the bars upwards."""
    for name in stacking(distribution):
        yield name, sum(distribution.series[name])


def _bar(names: list[str], low: float, high: float, counts: tuple[int, ...], widths: Scale, heights: Scale) -> Markup:
    """The groups of one bin; drawn from the top down, so that a group of few rows stays in sight."""
    left, right = widths(low), widths(high)
    width = max(0.94 * (right - left) - 0.5, _LEAST_WIDTH)
    foot = 0
    blocks = []
    for place, count in enumerate(counts):
        if count:
            top = heights(foot + count)
            height = max(heights(foot) - top, _LEAST_HEIGHT)
            blocks.append(
                tag(
                    "rect",
                    class_=f"group g{place % STYLES}",
                    x=number((left + right - width) / 2),
                    y=number(heights(foot) - height),
                    width=number(width),
                    height=number(height),
                )
            )
        foot += count
    numbers = ", ".join(f"{name} {count:,}" for name, count in zip(names, counts, strict=True))
    name = tag("title", f"{text.fact(float(low))} to {text.fact(float(high))}: {numbers}")
    return tag("g", Markup("").join([name, *reversed(blocks)]))


def _limit(limit: float | None, widths: Scale) -> list[Markup]:
    """A labelled line; beyond the axis only an arrow points to it."""
    if limit is None or not math.isfinite(limit):
        return []
    words = f"limit {text.fact(float(limit))}"
    if limit < widths.low:
        return [label_at(f"← {words}", widths.start, _TOP - 9, "start", class_="limit-label")]
    if limit > widths.high:
        return [label_at(f"{words} →", widths.end, _TOP - 9, "end", class_="limit-label")]
    x = widths(limit)
    right_half = x > (widths.start + widths.end) / 2
    return [
        tag("line", class_="limit", x1=number(x), x2=number(x), y1=_TOP - 16, y2=_HEIGHT - _BOTTOM),
        label_at(
            words, x + (-5 if right_half else 5), _TOP - 9, "end" if right_half else "start", class_="limit-label"
        ),
    ]
