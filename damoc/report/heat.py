"""Colour levels of heat maps: light to dark in nine steps of one hue, so that grey shows the same order."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from damoc.report import text

LEVELS = 9


@dataclass(frozen=True)
class HeatScale:
    """Which of :data:`LEVELS` a value has.

    Args:
        low: value where the first level starts.
        high: value where the last level ends.
        logarithmic: whether the levels are equal factors, for values above 0; otherwise they are equal steps.
    """

    low: float
    high: float
    logarithmic: bool = False

    @classmethod
    def around(cls, values: Iterable[float], logarithmic: bool = False) -> HeatScale:
        """The scale from the smallest to the largest of the values that it can show."""
        known = [value for value in values if math.isfinite(value) and (value > 0 or not logarithmic)]
        low, high = (min(known), max(known)) if known else (1.0, 1.0)
        return cls(low, high if high > low else low * 2 or 1.0, logarithmic)

    def level(self, value: float) -> int | None:
        """0 to 8; None for what is not finite."""
        if not math.isfinite(value):
            return None
        if self.logarithmic and value <= 0:
            return 0
        low, high, at = (math.log(x) if self.logarithmic else x for x in (self.low, self.high, value))
        return min(max(int(LEVELS * (at - low) / (high - low)), 0), LEVELS - 1)

    def bounds(self) -> list[str]:
        """What stands at the ends of the colour key."""
        return [text.fact(float(f"{value:.3g}")) for value in (self.low, self.high)]
