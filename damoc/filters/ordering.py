"""Orders, ties and reasons, the same for every filter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from damoc.filters.registry import RowSelection

_DECIMALS = 9
UNSCORED = "could not be scored"


def rounded(scores: NDArray[Any]) -> NDArray[np.float64]:
    """Scores as every filter compares them: float64, nine decimals."""
    values: NDArray[np.float64] = np.asarray(scores, dtype=np.float64).round(_DECIMALS)
    return values


def best_first(scores: NDArray[Any]) -> NDArray[np.int64]:
    """Row numbers, the largest score first; ties (to nine decimals) go to the lower number, NaN comes last.

    Args:
        scores: float (N,).
    """
    values = rounded(scores)
    order: NDArray[np.int64] = np.lexsort((np.arange(len(values)), np.where(np.isnan(values), np.inf, -values)))
    return order


def ranks(scores: NDArray[Any], strata: NDArray[Any] | None = None) -> NDArray[np.float64]:
    """Share of the rows that score lower, in (0, 1): equal scores, the row's own among them, count half; NaN stays NaN.

    Args:
        scores: float (N,).
        strata: int (N,), which rows are compared with each other; None compares all.
    """
    from scipy.stats import rankdata

    values = rounded(scores)
    strata = np.zeros(len(values), dtype=np.int64) if strata is None else strata
    shares = np.full(len(values), np.nan)
    for stratum in np.unique(strata):
        rows = np.flatnonzero((strata == stratum) & ~np.isnan(values))
        shares[rows] = (rankdata(values[rows]) - 0.5) / max(1, len(rows))
    return shares


def fifths(sizes: NDArray[Any]) -> NDArray[np.int64]:
    """Which fifth of all rows each belongs to by size, 0 the smallest; equal sizes stay together.

    Args:
        sizes: int or float (N,).
    """
    return np.floor(5 * ranks(sizes)).astype(np.int64)


def reasons(
    count: int, ids: Sequence[int], kept: Callable[[int, int], str], cut: Callable[[int], str]
) -> tuple[str, ...]:
    """Why each of ``count`` rows was kept or cut.

    Args:
        count: rows there are.
        ids: kept rows in the order of their choice.
        kept: (row, place in that order counted from 1) to a few words.
        cut: row to a few words.
    """
    place = {row: number for number, row in enumerate(ids, 1)}
    return tuple(kept(row, place[row]) if row in place else cut(row) for row in range(count))


def best_scored(
    scores: NDArray[Any], budget: int, says: Callable[[int], str], passed: NDArray[np.bool_], fails: str
) -> RowSelection:
    """The rows of the largest scores, each with its reason.

    Args:
        scores: float (N,), larger is better, NaN where a row could not be scored; no row that passes scores below one
            that does not.
        budget: rows to keep.
        says: row to its score in words, such as ``IFD 0.731``.
        passed: bool (N,), which rows are good enough; others are kept only to fill the budget.
        fails: what a row that does not pass is, such as ``is not below 1``.
    """
    ids = tuple(best_first(scores)[:budget].tolist())
    known = ~np.isnan(np.asarray(scores, dtype=np.float64))

    def verdict(row: int) -> str:
        return f"{says(row)} {fails}" if known[row] else UNSCORED

    why = reasons(
        len(scores),
        ids,
        lambda row, place: f"kept: {says(row)}" if passed[row] else f"kept: fills the budget, {verdict(row)}",
        lambda row: f"cut: {says(row)}, not among the best {budget}" if passed[row] else f"cut: {verdict(row)}",
    )
    return RowSelection(ids, rounded(scores), why, facts=shortfall(ids, known, passed))


def shortfall(ids: Sequence[int], known: NDArray[np.bool_], passed: NDArray[np.bool_]) -> dict[str, int]:
    """How many rows could not be scored, how many were good enough, and how many were kept although they were not."""
    return {
        "rows not scored": int((~known).sum()),
        "rows good enough": int(passed.sum()),
        "rows that fill the budget": int((~passed[list(ids)]).sum()),
    }
