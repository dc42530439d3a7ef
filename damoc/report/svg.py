"""Elements and axes of inline SVG: what the charts of the report are made of."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup, escape

from damoc.redaction import redact
from damoc.report import text

WIDTH = 340
LEFT, RIGHT = 38, 8


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


def round_scale(low: float, high: float, start: float, end: float, whole: bool = False) -> Scale:
    """An axis with round ends around the values and one to four round steps.

    Args:
        low: smallest value.
        high: largest value.
        start: position of its start.
        end: position of its end.
        whole: whether the ticks are whole numbers, as those of counts.
    """
    step = _round_step(low, high, whole)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    ticks = tuple(index * step for index in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], start, end, ticks)


def tight_scale(low: float, high: float, start: float, end: float) -> Scale:
    """An axis from the smallest to the largest value, marked at the round values between them."""
    if not high > low:
        margin = abs(low) / 2 or 0.5
        low, high = low - margin, low + margin
    step = _round_step(low, high)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return Scale(low, high, start, end, tuple(index * step for index in range(first, last + 1)))


def grid(heights: Scale) -> list[Markup]:
    """A line and its number for each tick of a vertical axis."""
    parts = []
    for value, words in zip(heights.ticks, text.ticks(heights.ticks), strict=True):
        y = heights(value)
        parts.append(tag("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=number(y), y2=number(y)))
        parts.append(label_at(words, LEFT - 6, y + 3.5, "end"))
    return parts


def label_at(content: str, x: float, y: float, anchor: str, **attributes: object) -> Markup:
    """A text; ``anchor`` is ``start``, ``middle`` or ``end``."""
    return tag("text", content, x=number(x), y=number(y), text_anchor=anchor, **attributes)


def number(value: float) -> str:
    """A coordinate."""
    return f"{value:.1f}"


def svg(name: str, parts: Iterable[Markup], kind: str, **attributes: object) -> Markup:
    """A picture whose name says what it shows."""
    return tag("svg", Markup("").join(parts), role="img", class_=kind, aria_label=name, **attributes)


def tag(name: str, content: str = "", **attributes: object) -> Markup:
    """An element; contents and attributes are masked and escaped unless they are markup already."""
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _safe(value)) for key, value in attributes.items()
    )
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, _safe(content))


def _safe(value: object) -> Markup:
    return value if isinstance(value, Markup) else escape(redact(str(value)))


def _round_step(low: float, high: float, whole: bool = False) -> float:
    """The smallest of 1, 2, 2.5 and 5 times a power of ten that takes at most four steps."""
    span = high - low or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 4))
    steps = [power * factor for factor in (1, 2, 2.5, 5, 10, 20) if not whole or (power * factor) % 1 == 0]
    fitting = (step for step in steps if math.ceil(high / step - 1e-9) - math.floor(low / step + 1e-9) <= 4)
    return next(fitting, max([*steps, 1.0]))
