"""Kernel herding: the mean of the chosen rows follows the mean of all."""

from __future__ import annotations

import numpy as np

from damoc.filters.distribution.fixed_point import unit_fixed_point
from damoc.filters.ordering import reasons
from damoc.filters.registry import RowSelection, Signals, register_filter


@register_filter("herding", kind="distribution", signals=("embedding",), source="Welling, ICML 2009")
def herding(signals: Signals, budget: int, seed: int) -> RowSelection:
    r"""Chooses rows whose mean stays as near to the mean of all rows as each choice allows.

    The row that minimizes :math:`|(t + 1) \mu - \sum_{y \in S} y - x|` is next, where :math:`\mu` is the mean and
    :math:`t = |S|`. Ties (to nine decimals) go to the lowest index. O(budget * N * dimensions) time.

    Args:
        signals: ``embedding`` float32 (N, dimensions), of any length but compared at unit length.
        budget: rows to keep.
        seed: not used.

    Returns:
        Rows in the order of their choice, with the distance between both means after each.
    """
    points = unit_fixed_point(signals["embedding"], 4 * len(signals["embedding"]))
    rows = points.rows * points.unit
    half_squares = points.squares * points.unit**2 / 2
    mean = rows.mean(axis=0)
    debt = np.zeros_like(mean)
    left = np.zeros(len(rows))
    ids: list[int] = []
    gaps: list[float] = []
    for place in range(1, budget + 1):
        debt += mean
        row = int(np.argmax(np.round(rows @ debt - half_squares + left, 9)))
        debt -= rows[row]
        left[row] = -np.inf
        ids.append(row)
        gaps.append(float(np.linalg.norm(debt)) / place)
    why = reasons(
        len(rows),
        ids,
        lambda row, place: f"kept: choice {place}, pulls the mean to that of all rows",
        lambda row: "cut: others pull the mean better",
    )
    return RowSelection(tuple(ids), why=why, trace=tuple(gaps), facts={"exact": True, "mean_gap": gaps[-1]})
