"""Greedy maximization of facility location without the table of all similarities.

The gain of a row is the sum, over the rows that it represents better than any chosen one, of how much better. The first
choices change almost every row's representative, so all gains are brought up to date after each, by products of the
rows that changed with all others. Soon a row beats the representatives of few others only. From then on only these
pairs matter, for ever, because representatives only get better: one pass over half of the table finds them, and what
is left is lazy greedy (Minoux 1978) on a sparse table.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from damoc.filters.distribution.fixed_point import FixedPoint, Floats

if TYPE_CHECKING:
    from scipy.sparse import csc_array

Places = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[Any]]
_TILE = 1024
_BLOCK = 128
_PROBES = 64


def first_choices(rows: NDArray[Any], witnesses: NDArray[Any], worst: float, budget: int, pairs: float) -> list[int]:
    """The first choices, until few enough pairs matter.

    Args:
        rows: float32 or float64 (N, dimensions) of whole numbers, such that products are exact.
        witnesses: same type, (M, dimensions), the rows that are to be represented: all of them, or a sample.
        worst: product that stands for no representative.
        budget: choices at most.
        pairs: as few have to matter.

    Returns:
        Row numbers in the order of their choice, at least one.
    """
    best = np.full(len(witnesses), worst, dtype=rows.dtype)
    gains: Floats = rows.astype(np.float64) @ witnesses.sum(axis=0, dtype=np.float64) - len(witnesses) * worst
    probes = np.unique(np.linspace(0, len(witnesses) - 1, _PROBES).astype(int))
    ids: list[int] = []
    while len(ids) < budget:
        row = int(np.argmax(gains))
        ids.append(row)
        products = witnesses @ rows[row]
        changed = np.flatnonzero(products > best)
        former, best = best, np.maximum(best, products)
        density = np.mean(witnesses[probes] @ rows.T > best[probes, None])
        if density * len(rows) ** 2 < pairs:
            break
        for start in range(0, len(changed), _BLOCK):
            block = changed[start : start + _BLOCK]
            table = witnesses[block] @ rows.T
            np.clip(table, former[block, None], best[block, None], out=table)
            gains -= table.sum(axis=0, dtype=np.float64) - former[block].sum(dtype=np.float64)
        gains[ids] = -np.inf
    return ids


def useful_pairs(rows: NDArray[Any], best: Floats) -> csc_array:
    """Pairs whose product exceeds the best one of the first row so far.

    Args:
        rows: float32 or float64 (N, dimensions), such that products are exact.
        best: float64 (N,).

    Returns:
        Sparse (N, N) of products: a column holds what one row could improve.
    """
    from scipy.sparse import coo_array, csc_array

    parts: list[Places] = []
    limits = best.astype(rows.dtype)

    def keep(products: NDArray[Any], useful: NDArray[np.bool_]) -> Places:
        places = np.flatnonzero(useful)
        above, across = np.divmod(places.astype(np.int32), np.int32(products.shape[1]))
        return above, across, products.ravel()[places]

    for first in range(0, len(rows), _TILE):
        for second in range(first, len(rows), _TILE):
            products = rows[first : first + _TILE] @ rows[second : second + _TILE].T
            above, across, values = keep(products, products > limits[first : first + _TILE, None])
            parts.append((above + np.int32(first), across + np.int32(second), values))
            if second > first:
                above, across, values = keep(products, products > limits[None, second : second + _TILE])
                parts.append((across + np.int32(second), above + np.int32(first), values))
    above, across, values = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    parts.clear()
    return csc_array(coo_array((values, (above, across)), shape=(len(rows), len(rows))))


class LazyGreedy(ABC):
    """Lazy greedy: rows with the best old gains are evaluated again until the best gain is a fresh one.

    Args:
        gains: float64 (N,), now or at an earlier time.
        best: float64 (N,), product of each row with its representative.
        chosen: row numbers that are chosen already.
    """

    at_once = 1
    """Old gains that are brought up to date together."""

    def __init__(self, gains: Floats, best: Floats, chosen: Sequence[int]) -> None:
        self.best = best
        self.gains = gains
        self.gains[list(chosen)] = -np.inf
        self.evaluated = np.zeros(len(best), dtype=np.int64)

    def choose(self, budget: int) -> tuple[list[int], list[float]]:
        """Row numbers in the order of their choice and their gains; ties go to the lowest index."""
        ids: list[int] = []
        gains: list[float] = []
        while len(ids) < budget:
            row = int(np.argmax(self.gains))
            if self.evaluated[row] <= len(ids):
                stale = self._leaders(row, len(ids))
                self.gains[stale] = self.fresh_gains(stale)
                self.evaluated[stale] = len(ids) + 1
                continue
            ids.append(row)
            gains.append(float(self.gains[row]))
            self.represent(row)
            self.gains[row] = -np.inf
        return ids, gains

    def _leaders(self, first: int, chosen: int) -> NDArray[np.int64]:
        """The row of the best gain and others of the best old gains, all of them out of date."""
        if self.at_once == 1 or len(self.gains) <= self.at_once:
            return np.array([first])
        top = np.argpartition(self.gains, -self.at_once)[-self.at_once :]
        old = (self.evaluated[top] <= chosen) & (self.gains[top] > -np.inf)
        return np.append(top[old], first)

    @abstractmethod
    def fresh_gains(self, rows: NDArray[np.int64]) -> Floats:
        """What each of some rows would add now: float64 (rows,)."""

    @abstractmethod
    def represent(self, row: int) -> None:
        """Lets a row represent all that it represents better."""


class DenseGreedy(LazyGreedy):
    """Lazy greedy on the table of all products.

    Args:
        table: float64 (N, N), symmetric.
        worst: product that stands for no representative.
    """

    at_once = 16

    def __init__(self, table: Floats, worst: float) -> None:
        self.table = table
        gains: Floats = table.sum(axis=0) - len(table) * worst
        super().__init__(gains, np.full(len(table), worst), ())

    def fresh_gains(self, rows: NDArray[np.int64]) -> Floats:
        """Sums over whole rows of the table."""
        excess = self.table[rows]
        excess -= self.best
        sums: Floats = np.maximum(excess, 0.0, out=excess).sum(axis=1)
        return sums

    def represent(self, row: int) -> None:
        """Maximum with a whole row of the table."""
        np.maximum(self.best, self.table[row], out=self.best)


class SparseGreedy(LazyGreedy):
    """Lazy greedy on the columns of a sparse table.

    Args:
        columns: sparse (N, N) of products.
        best: float64 (N,), product of each row with its representative.
        chosen: row numbers that are chosen already.
    """

    def __init__(self, columns: csc_array, best: Floats, chosen: Sequence[int] = ()) -> None:
        self.starts = columns.indptr
        self.members = columns.indices
        self.products = columns.data
        super().__init__(column_excess(columns, best), best, chosen)

    def fresh_gains(self, rows: NDArray[np.int64]) -> Floats:
        """Sums over the rows in each column."""
        return np.array([self._gain(row) for row in rows.tolist()])

    def _gain(self, row: int) -> float:
        part = slice(self.starts[row], self.starts[row + 1])
        excess = self.products[part] - self.best[self.members[part]]
        return float(np.maximum(excess, 0.0, out=excess).sum())

    def represent(self, row: int) -> None:
        """Maximum over the rows in a column."""
        part = slice(self.starts[row], self.starts[row + 1])
        members = self.members[part]
        self.best[members] = np.maximum(self.best[members], self.products[part])


def column_excess(columns: csc_array, best: Floats) -> Floats:
    """Sum over each column of what exceeds the best products: float64 (N,)."""
    sums: Floats = np.zeros(len(best))
    for first in range(0, len(best), _TILE):
        starts = columns.indptr[first : first + _TILE + 1]
        part = slice(starts[0], starts[-1])
        excess = columns.data[part] - best[columns.indices[part]]
        edges = np.concatenate([[0.0], np.cumsum(np.maximum(excess, 0.0))])
        sums[first : first + _TILE] = np.diff(edges[starts - starts[0]])
    return sums


def worst_product(points: FixedPoint) -> float:
    """The product of unit rows at which their similarity is 0."""
    return -(points.unit**-2)


def represented(points: FixedPoint, ids: Sequence[int]) -> tuple[Floats, list[float]]:
    """Product of each row with its best chosen one, and what each choice added to the sum of them."""
    best: Floats = np.full(len(points.rows), worst_product(points))
    totals = [float(best.sum())]
    for start in range(0, len(ids), _BLOCK):
        for products in points.rows[list(ids[start : start + _BLOCK])] @ points.rows.T:
            np.maximum(best, products, out=best)
            totals.append(float(best.sum()))
    return best, np.diff(totals).tolist()
