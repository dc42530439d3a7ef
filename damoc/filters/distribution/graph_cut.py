"""Graph cut: rows like all others, but unlike each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from damoc.filters.distribution.fixed_point import FixedPoint, unit_fixed_point
from damoc.filters.distribution.look_ahead import LinearGreedy
from damoc.filters.ordering import reasons
from damoc.filters.registry import RowSelection, Signals, register_filter


@register_filter(
    "graph_cut",
    kind="distribution",
    signals=("embedding",),
    source="Iyer and Bilmes, NeurIPS 2013; Guo, Zhao and Bai, DeepCore, DEXA 2022, arXiv 2204.08499",
)
def graph_cut(
    signals: Signals, budget: int, seed: int, *, coverage_weight: Annotated[float, Field(gt=0)] = 1.0
) -> RowSelection:
    r"""Chooses rows that are similar to everything and dissimilar to each other.

    Greedy on :math:`f(S) = \lambda \sum_v \sum_{x \in S} s(v, x) - \sum_{x, y \in S} s(x, y)` with
    :math:`s = (1 + \cos) / 2`, exact and without the table of similarities: a gain is linear in the embedding (see
    :class:`damoc.filters.distribution.look_ahead.LinearGreedy`). :math:`\lambda` is DeepCore's ``lam`` and apricot's
    ``alpha``; submodlib weighs the second sum and wants its inverse. The objective is monotone while no gain is
    negative, which ends near :math:`\lambda N / 2` choices; later choices lose least. Ties go to the lowest index.
    O(budget * N * dimensions) time at worst, in matrix products, O(N * dimensions) memory.

    Args:
        signals: ``embedding`` float32 (N, dimensions), of any length but compared at unit length.
        budget: rows to keep.
        seed: not used.
        coverage_weight: :math:`\lambda`.

    Returns:
        Rows in the order of their choice, with their gains. ``facts``: ``exact``, ``objective``, and
        ``negative_gains``, how many choices lowered the objective.
    """
    points = unit_fixed_point(signals["embedding"], graph_cut_terms(len(signals["embedding"]), coverage_weight))
    ids, gains = graph_cut_order(points, budget, coverage_weight)
    negative = int(np.count_nonzero(np.round(gains, 9) < 0))
    facts = {"exact": True, "objective": float(sum(gains)), "negative_gains": negative}
    why = reasons(
        len(points.rows),
        ids,
        lambda row, place: f"kept: choice {place}, gain {gains[place - 1]:.4g}",
        lambda row: "cut: less like all rows or more like the kept ones",
    )
    return RowSelection(tuple(ids), why=why, trace=tuple(gains), facts=facts)


def graph_cut_terms(count: int, coverage_weight: float) -> float:
    """How many products of rows a gain sums at most, counted in halves."""
    return 4 * (1 + coverage_weight) * count


def graph_cut_order(points: FixedPoint, budget: int, coverage_weight: float) -> tuple[list[int], Sequence[float]]:
    """Row numbers in the order of their choice and the gain of each.

    Args:
        points: unit rows on a grid for sums of :func:`graph_cut_terms`.
        budget: in [0, N].
        coverage_weight: as in :func:`graph_cut`.
    """
    count = len(points.rows)
    direction = np.rint(coverage_weight * points.rows.sum(axis=0)) / 2
    ids, scores = LinearGreedy(points.rows, direction).choose(budget)
    constant = (coverage_weight * count - 1) / 2 - np.arange(len(ids))
    return ids, (np.array(scores) * points.unit**2 + constant).tolist()
