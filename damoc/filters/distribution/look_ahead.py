"""Exact greedy choice that looks ahead among the leaders and updates all other rows once a batch of choices.

A plain greedy loop multiplies every row with each choice, which reads all embeddings from memory for one choice. Here
the rows with the best scores are followed through their own small table of products, choice after choice, for as long
as none of the others can have overtaken them; then one matrix product brings the others up to date. The choices are
those of the plain loop.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from damoc.filters.distribution.fixed_point import Floats

LEADERS = 512
_BLOCK = 128


class LookAhead(ABC):
    """A greedy loop over rows whose scores change by products with what is chosen.

    Args:
        rows: float64 (N, dimensions).
        scores: float64 (N,), of every row before the first choice; the best row is chosen, ties go to the lowest index.
    """

    def __init__(self, rows: Floats, scores: Floats) -> None:
        self.rows = rows
        self.scores = scores

    def choose(self, budget: int) -> tuple[list[int], list[float]]:
        """Row numbers in the order of their choice, and the score of each when it was chosen.

        Args:
            budget: in [0, rows not chosen yet].
        """
        ids: list[int] = []
        values: list[float] = []
        while len(ids) < budget:
            batch, scores = self._batch(budget - len(ids))
            self.synchronize(batch)
            self.scores[batch] = -np.inf
            ids += batch
            values += scores
        return ids, values

    def _batch(self, limit: int) -> tuple[list[int], list[float]]:
        active = leaders(self.scores, LEADERS)
        others = self.scores.copy()
        others[active] = -np.inf
        rival = int(np.argmax(others))
        followed = self.rows if len(active) == len(self.rows) else self.rows[active]
        fresh = self.scores[active]
        batch: list[int] = []
        values: list[float] = []
        while len(batch) < limit:
            place = int(np.argmax(fresh))
            row, score, ceiling = int(active[place]), float(fresh[place]), self.ceiling(float(others[rival]))
            if score < ceiling or (score == ceiling and row > rival):
                break
            batch.append(row)
            values.append(score)
            fresh = self.refreshed(fresh, active, row, followed @ self.rows[row])
            fresh[place] = -np.inf
        return batch, values

    @abstractmethod
    def refreshed(self, scores: Floats, active: NDArray[np.int64], row: int, products: Floats) -> Floats:
        """Scores of the active rows after one more choice, given their products with it."""

    @abstractmethod
    def ceiling(self, best: float) -> float:
        """What no row outside the active ones can exceed now, given their best score at the last synchronization."""

    @abstractmethod
    def synchronize(self, batch: Sequence[int]) -> None:
        """Brings the scores of all rows up to date after a batch of choices."""


class FarthestFirst(LookAhead):
    """The score of a row is its squared distance to the nearest chosen one.

    Args:
        rows: float64 (N, dimensions).
        first: the row that is chosen already.
    """

    def __init__(self, rows: Floats, first: int) -> None:
        self.squares = np.einsum("ij,ij->i", rows, rows)
        super().__init__(rows, np.full(len(rows), np.inf))
        self.synchronize([first])
        self.scores[first] = -np.inf

    def refreshed(self, scores: Floats, active: NDArray[np.int64], row: int, products: Floats) -> Floats:
        """The smaller of the old distance and the one to the new choice."""
        distances: Floats = self.squares[active] + self.squares[row] - 2.0 * products
        return np.minimum(scores, distances)

    def ceiling(self, best: float) -> float:
        """Distances to the nearest choice never grow."""
        return best

    def synchronize(self, batch: Sequence[int]) -> None:
        """One product of all rows with every block of choices."""
        for start in range(0, len(batch), _BLOCK):
            block = np.asarray(batch[start : start + _BLOCK])
            gaps = (-2.0 * self.rows[block]) @ self.rows.T
            gaps += self.squares[block, None]
            np.minimum(self.scores, gaps.min(axis=0) + self.squares, out=self.scores)


class LinearGreedy(LookAhead):
    r"""The score of a row :math:`x` is :math:`x \cdot w - |x|^2 / 2`, and a choice :math:`y` takes :math:`y` from
    :math:`w`.

    A row outside the active ones gains at most :math:`x \cdot \Delta \le c \cdot \Delta + r |\Delta|` from a move
    :math:`\Delta` of :math:`w`, where :math:`c` is the mean of all rows and :math:`r` their largest distance to it.

    Args:
        rows: float64 (N, dimensions).
        direction: float64 (dimensions,), :math:`w` before the first choice.
    """  # noqa: D205

    def __init__(self, rows: Floats, direction: Floats) -> None:
        self.direction = direction
        self.move = np.zeros_like(direction)
        self.center = rows.mean(axis=0)
        squares = np.einsum("ij,ij->i", rows, rows)
        self.half_squares = squares / 2
        to_center = squares - 2 * (rows @ self.center) + self.center @ self.center
        self.radius = float(np.sqrt(max(0.0, to_center.max())))
        super().__init__(rows, rows @ direction - self.half_squares)

    def refreshed(self, scores: Floats, active: NDArray[np.int64], row: int, products: Floats) -> Floats:
        """Every score falls by the product with the choice."""
        self.move -= self.rows[row]
        return scores - products

    def ceiling(self, best: float) -> float:
        """Their best score before and the most that the move of the direction since then can add."""
        if not self.move.any():
            return best
        most = float(self.center @ self.move) + self.radius * math.sqrt(self.move @ self.move)
        return best + most + 1e-9 * (abs(best) + abs(most))

    def synchronize(self, batch: Sequence[int]) -> None:
        """One product of all rows with the new direction."""
        chosen = np.isneginf(self.scores)
        self.direction = self.direction + self.move
        self.move = np.zeros_like(self.direction)
        self.scores = self.rows @ self.direction - self.half_squares
        self.scores[chosen] = -np.inf


def leaders(scores: Floats, count: int) -> NDArray[np.int64]:
    """Rows with the largest scores, ties to the lowest index, in ascending order of their index."""
    if count >= len(scores):
        return np.arange(len(scores))
    least = np.partition(scores, len(scores) - count)[len(scores) - count]
    above = np.flatnonzero(scores > least)
    return np.sort(np.concatenate([above, np.flatnonzero(scores == least)[: count - len(above)]]))
