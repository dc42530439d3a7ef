"""How numbers and facts are written, in the report and in the terminal alike."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

ABSENT = "–"


def score(value: float | None) -> str:
    """A metric or a loss with four decimals."""
    if value is None:
        return ABSENT
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"


def perplexity(value: float) -> str:
    """A perplexity: two decimals, fewer where it is large."""
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.2f}" if value < 999.5 else f"{value:,.0f}" if value < 999_999.5 else f"{value:.2e}"


def percent(value: float | None) -> str:
    """A share with one decimal."""
    return ABSENT if value is None else f"{value:.1%}"


def magnitude(value: float | None) -> str:
    """A count of parameters with three digits: ``1.24 B``."""
    if value is None:
        return ABSENT
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size * 0.9995:
            scaled = value / size
            return f"{scaled:.{max(0, 2 - int(math.log10(max(scaled, 1.0))))}f} {unit}"
    return f"{value:.0f}"


def ticks(values: Sequence[float]) -> list[str]:
    """The numbers along an axis: as many decimals as tell them apart, thousands and millions drawn together."""
    largest = max((abs(value) for value in values), default=0.0)
    finest = min((abs(b - a) for a, b in pairwise(values) if b != a), default=largest or 1.0)
    if largest >= 10_000 and finest >= largest / 100:
        return [_drawn_together(value) for value in values]
    if largest < 0.001:
        return [f"{value:.3g}" for value in values]
    decimals = next((count for count in range(9) if math.isclose(round(finest, count), finest, rel_tol=0.01)), 9)
    return [f"{value:,.{decimals}f}" for value in values]


def _drawn_together(value: float) -> str:
    unit, size = ("M", 1e6) if abs(value) >= 999_500 else ("k", 1e3) if abs(value) >= 999.5 else ("", 1.0)
    return f"{value / size:,.4g} {unit}".rstrip()


def duration(seconds: float | None) -> str:
    """A wall time: ``8.2 s``, ``3 min 20 s``, ``1 h 02 min``."""
    if seconds is None:
        return ABSENT
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def memory(mebibytes: float | None) -> str:
    """A size in memory: ``812 MiB``, ``1.93 GiB``."""
    if mebibytes is None:
        return ABSENT
    return f"{mebibytes:.0f} MiB" if mebibytes < 1024 else f"{mebibytes / 1024:.2f} GiB"


def fact(value: Any) -> str:
    """Any JSON value as a reader wants it."""
    if value is None or value == "":
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {fact(item)}" for key, item in value.items()) or ABSENT
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(fact(item) for item in value) or ABSENT
    return str(value)


def facts(value: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and values of a mapping, one level deep."""
    for key, item in value.items():
        yield str(key).replace("_", " ").replace("dvc", "DVC"), fact(item)


def shorten(text: str, limit: int) -> str:
    """The text with its middle left out where it is too long for a plot."""
    if len(text) <= limit:
        return text
    head = (limit - 1) // 2
    return f"{text[:head]}…{text[len(text) - (limit - 1 - head) :]}"
