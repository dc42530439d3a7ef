"""Dataset quantization: a sample of every bin of a graph cut order."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from damoc.filters.choice import allocate
from damoc.filters.distribution.fixed_point import FixedPoint, unit_fixed_point
from damoc.filters.distribution.graph_cut import graph_cut_order, graph_cut_terms
from damoc.filters.ordering import reasons
from damoc.filters.registry import RowSelection, Signals, register_filter


@register_filter(
    "dq",
    kind="distribution",
    signals=("embedding",),
    source="Zhou et al., Dataset Quantization, ICCV 2023, arXiv 2308.10524",
)
def dataset_quantization(
    signals: Signals,
    budget: int,
    seed: int,
    *,
    bins: Annotated[int, Field(ge=1)] = 10,
    coverage_weight: Annotated[float, Field(gt=0)] = 1.0,
) -> RowSelection:
    """Carves the rows into bins by repeated graph cut on what is left, then draws uniformly from every bin.

    The first bins hold representative rows, the last ones the tail, and the sample spans them all. Bins differ by at
    most one row in size, so that every row can be drawn; the budget is shared in proportion to their sizes, by largest
    remainder. O(N * N * dimensions) time in matrix products, O(N * dimensions) memory, exact.

    Args:
        signals: ``embedding`` float32 (N, dimensions), of any length but compared at unit length.
        budget: rows to keep.
        seed: of the draws.
        bins: of about N / bins rows; at most N.
        coverage_weight: of the graph cut, see :func:`damoc.filters.distribution.graph_cut.graph_cut`.

    Returns:
        Rows dealt out from the bins in turn. ``facts``: ``bin_sizes`` and ``drawn`` from each.
    """
    count = len(signals["embedding"])
    points = unit_fixed_point(signals["embedding"], graph_cut_terms(count, coverage_weight))
    parts = quantize(points, min(bins, count), coverage_weight)
    sizes = np.array([len(part) for part in parts])
    shares = allocate(sizes, budget)
    draw = np.random.default_rng(seed)
    drawn = [draw.permutation(part)[:share].tolist() for part, share in zip(parts, shares.tolist(), strict=True)]
    dealt = [
        ((place + 0.5) / len(rows), number, row) for number, rows in enumerate(drawn) for place, row in enumerate(rows)
    ]
    ids = tuple(row for _, _, row in sorted(dealt))
    bin_of = {row: number for number, part in enumerate(parts, 1) for row in part.tolist()}
    why = reasons(
        count,
        ids,
        lambda row, place: f"kept: drawn from bin {bin_of[row]} of {len(parts)}",
        lambda row: f"cut: not drawn from bin {bin_of[row]} of {len(parts)}",
    )
    facts = {"exact": True, "bin_sizes": sizes.tolist(), "drawn": shares.tolist()}
    return RowSelection(ids, why=why, facts=facts)


def quantize(points: FixedPoint, bins: int, coverage_weight: float = 1.0) -> list[NDArray[np.int64]]:
    """Bins of row numbers, each the graph cut of the rows that the bins before it leave; the last is what is left.

    Args:
        points: unit rows on a grid for sums of :func:`graph_cut_terms`.
        bins: in [1, N].
        coverage_weight: of the graph cut.
    """
    rest = np.arange(len(points.rows))
    parts = []
    for size in (len(part) for part in np.array_split(rest, bins)[:-1]):
        left = FixedPoint(points.rows[rest], points.unit)
        ids, _ = graph_cut_order(left, size, coverage_weight)
        parts.append(rest[ids])
        rest = np.delete(rest, ids)
    return [*parts, rest]
