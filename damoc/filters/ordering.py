"""Orders, ties and reasons, the same for every filter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DECIMALS = 9


def best_first(scores: NDArray[Any]) -> NDArray[np.int64]:
    """Row numbers, the largest score first; ties (to nine decimals) go to the lower number, NaN comes last.

    Args:
        scores: float (N,).
    """
    values = np.round(np.asarray(scores, dtype=np.float64), _DECIMALS)
    return np.lexsort((np.arange(len(values)), np.where(np.isnan(values), np.inf, -values)))


def ranks(scores: NDArray[Any]) -> NDArray[np.float64]:
    """Rank of each row in [0, 1], 0 for the smallest score; equal scores share their mean rank, NaN stays NaN.

    Args:
        scores: float (N,).
    """
    from scipy.stats import rankdata

    values = np.round(np.asarray(scores, dtype=np.float64), _DECIMALS)
    known = ~np.isnan(values)
    placed = np.full(len(values), np.nan)
    if known.any():
        placed[known] = (rankdata(values[known]) - 1) / max(1, int(known.sum()) - 1)
    return placed


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
