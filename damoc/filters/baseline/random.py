"""Uniform random choice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from damoc.filters.registry import RowChoice, register_filter


@register_filter("random", kind="baseline")
def random(signals: Mapping[str, NDArray[Any]], budget: int, rng: np.random.Generator) -> RowChoice:
    """Uniform choice without replacement; a smaller budget chooses a prefix."""
    return RowChoice(tuple(int(row) for row in rng.permutation(len(signals["rows"]))[:budget]))
