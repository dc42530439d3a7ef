"""Random choice in proportion to strata."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from damoc.filters.choice import allocate
from damoc.filters.ordering import reasons
from damoc.filters.registry import RowSelection, Signals, register_filter


@register_filter("stratified_random", kind="baseline")
def stratified_random(signals: Signals, budget: int, seed: int) -> RowSelection:
    """Uniform choice within each closed label, or within quartiles of length where answers are free.

    The budget is shared in proportion to the strata, by largest remainder, and dealt out so that prefixes keep the
    proportions as well. O(N log N).

    Args:
        signals: ``label`` int (N,), -1 for free-form answers, and ``words`` int (N,).
        budget: rows to keep.
        seed: of the draws.
    """
    names, strata = _strata(signals)
    draw = np.random.default_rng(seed)
    shares = allocate(np.bincount(strata), budget)
    dealt = []
    for stratum, share in enumerate(shares.tolist()):
        rows = draw.permutation(np.flatnonzero(strata == stratum))[:share]
        dealt += [((place + 0.5) / share, stratum, row) for place, row in enumerate(rows.tolist())]
    ids = tuple(row for _, _, row in sorted(dealt))
    why = reasons(
        len(strata),
        ids,
        lambda row, place: f"kept: drawn from {names[strata[row]]}",
        lambda row: f"cut: not drawn from {names[strata[row]]}",
    )
    return RowSelection(ids, why=why, facts={"strata": dict(zip(names, shares.tolist(), strict=True))})


def _strata(signals: Signals) -> tuple[list[str], NDArray[np.int64]]:
    """Names of the strata, none of them empty, and the stratum of each row."""
    labels = signals["label"]
    if (labels >= 0).all():
        known, strata = np.unique(labels, return_inverse=True)
        return [f"label {label}" for label in known.tolist()], strata
    edges = np.quantile(signals["words"], (0.25, 0.5, 0.75))
    known, strata = np.unique(np.searchsorted(edges, signals["words"], side="left"), return_inverse=True)
    return [f"length quartile {quartile + 1}" for quartile in known.tolist()], strata
