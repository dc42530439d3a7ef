"""Farthest-first traversal of the embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from damoc.filters.registry import RowSelection, Signals, register_filter


@register_filter(
    "k_center_greedy",
    kind="distribution",
    signals=("embedding",),
    source="Gonzalez 1985; Sener and Savarese, ICLR 2018, arXiv 1708.00489",
)
def k_center_greedy(signals: Signals, budget: int, seed: int) -> RowSelection:
    """Covers the embeddings so that the row farthest from its nearest chosen row is as near as greed can make it.

    Starts at the medoid (the row nearest to the mean), so that the choice depends on no seed; ties go to the lowest
    index. The covering radius is at most twice the optimum. O(budget * N * dimensions) time; distances are float64,
    rounded to nine decimals, so that another processor's summing order does not flip a choice.

    Args:
        signals: ``embedding`` float32 (N, dimensions).
        budget: rows to keep.
        seed: not used.

    Returns:
        Rows in the order of their choice, with the covering radius after each.
    """
    points = np.ascontiguousarray(signals["embedding"], dtype=np.float64)
    squares = np.einsum("ij,ij->i", points, points)

    def squared_distance(centre: NDArray[Any]) -> NDArray[Any]:
        gaps: NDArray[Any] = squares - 2.0 * (points @ centre) + float(centre @ centre)
        return np.clip(gaps, 0.0, None).round(9)

    chosen = [int(np.argmin(squared_distance(points.mean(axis=0))))]
    nearest = squared_distance(points[chosen[0]])
    nearest[chosen[0]] = -1.0
    radii = [float(np.sqrt(max(0.0, nearest.max())))]
    while len(chosen) < budget:
        row = int(np.argmax(nearest))
        chosen.append(row)
        nearest = np.minimum(nearest, squared_distance(points[row]))
        nearest[row] = -1.0
        radii.append(float(np.sqrt(max(0.0, nearest.max()))))
    return RowSelection(tuple(chosen), trace=tuple(radii))
