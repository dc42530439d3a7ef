"""DECIDE: how much of a merge pays."""

from __future__ import annotations

import math
from collections.abc import Mapping


def choose_scale(losses: Mapping[float, float], min_gain: float = 0.0) -> float:
    """The scale of the lowest calibration loss, or 0 where no merge pays.

    Args:
        losses: calibration loss in nats per token by scale; 0, plain removal, is among them. Losses are compared at 6
            decimals, one that is not finite never wins, and ties go to the smaller scale.
        min_gain: share of the loss of plain removal by which a merge has to lower it.
    """
    rounded = {scale: round(loss, 6) for scale, loss in losses.items() if math.isfinite(loss)}
    plain = rounded.get(0.0, math.inf)
    limit = plain if math.isinf(plain) else plain * (1.0 - min_gain)
    paying = [scale for scale in sorted(rounded) if rounded[scale] < plain and rounded[scale] <= limit]
    return min(paying, key=lambda scale: rounded[scale], default=0.0)
