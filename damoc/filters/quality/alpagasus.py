"""The rows that a judge rates best."""

from __future__ import annotations

import numpy as np

from damoc.filters.ordering import best_scored, rounded
from damoc.filters.registry import RowSelection, Signals, register_filter


@register_filter(
    "alpagasus",
    kind="quality",
    signals=("judge",),
    source="Chen et al., AlpaGasus, ICLR 2024, arXiv 2307.08701",
)
def alpagasus(signals: Signals, budget: int, seed: int, *, threshold: float = 4.5) -> RowSelection:
    """Keeps the rows that a language model, asked to judge each answer, rates highest.

    Rows at or above the threshold come first and then the next best, so the budget is hit exactly; the reasons and
    facts say which rows are below it. Ties go to the lowest index, which favours neither long answers nor short ones.
    The paper keeps all rows at or above 4.5 and knows no budget. O(N log N).

    Args:
        signals: ``judge`` float (N,), rating from 0 to 5 (the expected value over the rating's tokens).
        budget: rows to keep.
        seed: not used.
        threshold: rating from which a row is good enough.

    Returns:
        Rows, best first, scored by their rating.
    """
    rating = rounded(signals["judge"])
    passed = rating >= np.round(threshold, 9)
    return best_scored(
        rating, budget, lambda row: f"rating {rating[row]:.2f}", passed, f"is below the threshold {threshold:g}"
    )
