"""Farthest-first traversal of the embeddings."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import Field

from damoc.filters.distribution.fixed_point import FixedPoint, Floats, fixed_point
from damoc.filters.distribution.look_ahead import FarthestFirst
from damoc.filters.ordering import best_first, reasons
from damoc.filters.registry import RowSelection, Signals, register_filter

_TERMS = 8


@register_filter(
    "k_center_greedy",
    kind="distribution",
    signals=("embedding",),
    source="Gonzalez 1985; Sener and Savarese, ICLR 2018, arXiv 1708.00489",
)
def k_center_greedy(
    signals: Signals, budget: int, seed: int, *, outlier_quantile: Annotated[float, Field(ge=0, lt=1)] = 0.0
) -> RowSelection:
    """Covers the embeddings so that the row farthest from its nearest chosen row is as near as greed can make it.

    Starts at the medoid (the row nearest to the mean), so that the choice depends on no seed; ties go to the lowest
    index. The covering radius is at most twice the optimum. O(budget * N * dimensions) time in matrix products. Squared
    distances are exact (see :mod:`damoc.filters.distribution.fixed_point`): no summing order flips a choice.

    Args:
        signals: ``embedding`` float32 (N, dimensions).
        budget: rows to keep.
        seed: not used.
        outlier_quantile: share of the rows, those farthest from the mean, that are neither chosen nor covered; they
            fill a budget that the others cannot, the nearest first.

    Returns:
        Rows in the order of their choice, with the covering radius after each.
    """
    points = fixed_point(signals["embedding"], _TERMS)
    count = len(points.rows)
    from_mean = _squared_distances_to_mean(points)
    inner = np.sort(best_first(-from_mean)[: count - min(count - 1, int(outlier_quantile * count))])
    traversed = min(budget, len(inner))
    first = int(np.argmin(from_mean[inner]))
    traversal = FarthestFirst(points.rows if len(inner) == count else points.rows[inner], first)
    others, squares = traversal.choose(traversed - 1)
    ids = inner[[first, *others]].tolist()
    left = max(0.0, float(traversal.scores.max()))
    radii = (np.sqrt([*squares, left]) * points.unit).tolist()
    outliers = np.setdiff1d(np.arange(count), inner)
    fill = outliers[best_first(-from_mean[outliers])][: budget - traversed].tolist()
    facts: dict[str, Any] = {"exact": True, "radius": radii[-1]}
    if len(outliers):
        facts |= {"outliers": len(outliers), "outliers_kept": len(fill)}
    dropped = set(outliers.tolist())
    why = reasons(
        count,
        [*ids, *fill],
        lambda row, place: f"kept: choice {place}, {'to fill up' if row in dropped else 'far from those before'}",
        lambda row: "cut: outlier" if row in dropped else f"cut: within {radii[-1]:.4g} of a kept row",
    )
    return RowSelection((*ids, *fill), why=why, trace=(*radii, *radii[-1:] * len(fill)), facts=facts)


def _squared_distances_to_mean(points: FixedPoint) -> Floats:
    mean = points.rows.sum(axis=0) / len(points.rows)
    squares: Floats = points.squares - 2 * (points.rows @ mean) + mean @ mean
    return np.round(squares * points.unit**2, 9)
