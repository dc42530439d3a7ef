"""The rows whose gradients point where the validation rows' gradients point."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from damoc.errors import DamocError
from damoc.filters.ordering import best_scored
from damoc.filters.registry import RowSelection, Signals, register_filter

_BLOCK = 4096


@register_filter(
    "less",
    kind="quality",
    signals=("gradient", "target_gradient", "target_group"),
    source="Xia et al., LESS, ICML 2024, arXiv 2402.04333, definition 3.1",
)
def less(signals: Signals, budget: int, seed: int) -> RowSelection:
    """Keeps the rows whose training step would lower the loss on the validation rows of the task most.

    score(z) = max over groups j of the mean over z' in j of sum_i w_i cos(gradient_i(z), gradient_i(z')), over
    checkpoints i of weight w_i. The signals hold unit gradients times sqrt(w_i), the checkpoints side by side, so the
    sum is one inner product, and the mean over a group is the inner product with its mean gradient:
    O(N * D * groups) instead of O(N * D * M).

    Args:
        signals: ``gradient`` float (N, D), Adam directions of the rows; ``target_gradient`` float (M, D), gradients of
            the validation rows; ``target_group`` int (M,), their subtasks. Validation rows with NaN are left out.
        budget: rows to keep.
        seed: not used.

    Returns:
        Rows, most influential first, scored by their influence in [-1, 1].

    Raises:
        DamocError: there is no validation row.
    """
    targets = _group_means(signals["target_gradient"], signals["target_group"])
    gradient = signals["gradient"]
    blocks = [gradient[start : start + _BLOCK].astype(np.float64) for start in range(0, len(gradient), _BLOCK)]
    influence = np.concatenate([(block @ targets.T).max(axis=1) for block in blocks])
    known = ~np.isnan(influence)
    return best_scored(influence, budget, lambda row: f"influence {influence[row]:.4f}", known, "")


def _group_means(gradients: NDArray[np.floating], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean gradient of each group: float64 (groups, D)."""
    measured = np.isfinite(gradients).all(axis=1)
    if not measured.any():
        raise DamocError(
            "the filter less needs validation rows to aim at, and there are none with a gradient",
            "field dataset.splits",
            "set dataset.splits.valid above 0, or choose another data_compression.filter.method",
        )
    means = [
        gradients[measured & (groups == group)].mean(axis=0, dtype=np.float64) for group in np.unique(groups[measured])
    ]
    return np.stack(means)
