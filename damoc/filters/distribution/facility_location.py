"""Facility location: every row is to be like one of the chosen."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from damoc.filters.distribution.coverage import (
    DenseGreedy,
    LazyGreedy,
    SparseGreedy,
    first_choices,
    represented,
    useful_pairs,
    worst_product,
)
from damoc.filters.distribution.fixed_point import FLOAT32_BITS, unit_fixed_point
from damoc.filters.distribution.neighbours import nearest_pairs
from damoc.filters.ordering import reasons
from damoc.filters.registry import RowSelection, Signals, register_filter

TABLE_ROWS = 6_000
"""Up to so many rows all similarities fit into memory."""
EXACT_ROWS = 12_000
"""Above so many rows the first choices see a sample and similarities have eleven bits a number."""
NEIGHBOUR_ROWS = 150_000
"""Above so many rows only the nearest neighbours count."""
WITNESSES = 4_096
_NEIGHBOURS = 128
_PAIRS = 20_000_000


@register_filter(
    "facility_location",
    kind="distribution",
    signals=("embedding",),
    source="Mirchandani and Francis 1990; Lin and Bilmes, ACL 2011; lazy greedy: Minoux 1978",
)
def facility_location(
    signals: Signals,
    budget: int,
    seed: int,
    *,
    neighbours: Annotated[int, Field(ge=2)] | None = None,
) -> RowSelection:
    r"""Chooses rows such that every row is like its most similar chosen row.

    Greedy on :math:`f(S) = \sum_v \max_{x \in S} s(v, x)` with :math:`s = (1 + \cos) / 2`, at least :math:`1 - 1/e` of
    the optimum (monotone submodular). Ties go to the lowest index. Similarities are products of rows on a grid, so that
    sums are exact (see :mod:`damoc.filters.distribution.fixed_point`). O(N * N * dimensions) time in matrix products,
    the table of similarities up to 6,000 rows and about 20 million of its entries above. How near the choice is to
    plain greedy:

    - up to 12,000 rows it is the same;
    - above, the first dozens of choices are greedy on a sample of 4,096 rows, all others are exact, and the grid is
      that of float32 products (cosines within about 2e-4): measured loss of the objective below 0.002 % at 10,000
      rows (benchmarks/submodular.py);
    - with ``neighbours``, which is 128 above 150,000 rows, a row counts for its nearest neighbours only (faiss):
      measured loss 0.07 % with 32 of them, 0.03 % with 64, 0.01 % with 128 (10,000 rows, benchmarks/submodular.py;
      the search is exhaustive up to 20,000). ``facts`` has the objective on all similarities.

    Args:
        signals: ``embedding`` float32 (N, dimensions), of any length but compared at unit length.
        budget: rows to keep.
        seed: of the sample of rows.
        neighbours: similarities kept a row; None keeps all up to 150,000 rows.

    Returns:
        Rows in the order of their choice; ``trace`` has the gains. ``facts``: ``exact``, ``objective`` (the mean
        similarity of rows to their representatives) and, unless approximated by neighbours, ``of_optimum``, a share of
        the best possible objective that this choice certainly reaches.
    """
    points = signals["embedding"]
    count = len(points)
    if neighbours is None and count > NEIGHBOUR_ROWS:
        neighbours = _NEIGHBOURS
    exact = neighbours is None and count <= EXACT_ROWS
    grid = unit_fixed_point(points, 4 * count) if exact else unit_fixed_point(points, 1, FLOAT32_BITS)
    ids: list[int] = []
    if neighbours is not None:
        greedy: LazyGreedy = SparseGreedy(nearest_pairs(grid, neighbours), np.full(count, worst_product(grid)))
    elif count <= TABLE_ROWS:
        greedy = DenseGreedy(grid.rows @ grid.rows.T, worst_product(grid))
    else:
        sample = slice(None) if exact else np.sort(np.random.default_rng(seed).permutation(count)[:WITNESSES])
        rows = grid.rows if exact else grid.rows.astype(np.float32)
        ids = first_choices(rows, rows[sample], worst_product(grid), budget, _PAIRS)
        best, _ = represented(grid, ids)
        greedy = SparseGreedy(useful_pairs(rows, best), best, ids)
    later, later_gains = greedy.choose(budget - len(ids))
    ids += later
    if neighbours is None:
        gains = represented(grid, ids[: budget - len(later)])[1] + later_gains
    else:
        gains = represented(grid, ids)[1]
    to_similarity = grid.unit**2 / 2
    objective = sum(gains) * to_similarity
    facts: dict[str, Any] = {"exact": exact, "objective": objective / count}
    if neighbours is None:
        missed = float(np.sort(np.maximum(greedy.gains, 0.0))[-budget:].sum()) * to_similarity
        facts["of_optimum"] = max(1 - 1 / math.e if exact else 0.0, objective / (objective + missed))
    else:
        facts["neighbours"] = neighbours
    why = reasons(
        count,
        ids,
        lambda row, place: f"kept: choice {place}, represents others best",
        lambda row: "cut: represented by a kept row",
    )
    return RowSelection(tuple(ids), why=why, trace=tuple(gain * to_similarity for gain in gains), facts=facts)
