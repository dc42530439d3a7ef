"""Uniform random choice."""

from __future__ import annotations

import numpy as np

from damoc.filters.ordering import reasons
from damoc.filters.registry import RowSelection, Signals, register_filter


@register_filter("random", kind="baseline")
def random(signals: Signals, budget: int, seed: int) -> RowSelection:
    """Uniform choice without replacement; a smaller budget chooses a prefix.

    O(N). The baseline that every other filter has to beat.

    Args:
        signals: ``rows`` (N,).
        budget: rows to keep.
        seed: of the draw.
    """
    count = len(signals["rows"])
    ids = tuple(np.random.default_rng(seed).permutation(count)[:budget].tolist())
    return RowSelection(ids, why=reasons(count, ids, lambda row, place: "kept: drawn", lambda row: "cut: not drawn"))
