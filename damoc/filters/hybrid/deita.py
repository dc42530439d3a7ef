"""The best rows that are not near a better one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from damoc.filters.ordering import UNSCORED, best_first, reasons, rounded, shortfall
from damoc.filters.quality.difficulty import difficulty_score, helps, instruction_following_difficulty
from damoc.filters.registry import RowSelection, Signals, register_filter

Score = Literal["evol", "ifd"]
_NARROWEST = 1e-3


def _needs(options: Mapping[str, Any]) -> tuple[str, ...]:
    measured = ("complexity", "quality") if options["score"] == "evol" else ("answer_loss", "alone_loss")
    return (*measured, "embedding")


@register_filter(
    "deita",
    kind="hybrid",
    signals=_needs,
    source="Liu et al., What Makes Good Data for Alignment?, ICLR 2024, arXiv 2312.15685",
)
def deita(
    signals: Signals,
    budget: int,
    seed: int,
    *,
    score: Score = "evol",
    novelty: Annotated[float, Field(ge=-1, le=1)] = 0.9,
) -> RowSelection:
    """Walks down the rows from the best and keeps each that is unlike all that were kept before.

    score(x) = complexity(x) * quality(x); x is kept if max over kept y of cos(x, y) < novelty. Where the walk ends
    before the budget is reached, the limit moves half way to 1 and the walk starts over among the rows left, and so on
    until at last similarity is ignored; the limits used are recorded. Rows that could not be scored, and with ``ifd``
    those at 1 and above, come only after that. A row is compared with each kept row once over all walks:
    O(N * budget * dimensions) at worst, O(budget^2 * dimensions) where few rows are refused.

    Args:
        signals: ``embedding`` float (N, dimensions); ``complexity`` and ``quality`` float (N,), 1 to 6; ``answer_loss``
            and ``alone_loss`` float (N,), mean nats per answer token, instead where ``score`` is ``ifd``.
        budget: rows to keep.
        seed: not used.
        score: ``evol`` is the paper's product; ``ifd`` is the difficulty of Superfiltering, which needs no judge.
        novelty: cosine that a kept row stays below, in [-1, 1]; 1 keeps the best, copies included.

    Returns:
        Rows in the order of their choice; the trace is the largest cosine to the rows kept before (-1 for the first).
    """
    scores, passed = _scores(signals, score)
    order = best_first(scores)
    walk = _Walk(_unit(signals["embedding"]), budget)
    limits = [min(1.0, novelty)]
    walk.down(order[passed[order]], limits[0])
    while len(walk.kept) < min(budget, int(passed.sum())):
        gap = (1 - limits[-1]) / 2
        limits.append(1 - gap if gap >= _NARROWEST else 1.0)
        walk.down(order[passed[order]], limits[-1])
    walk.down(order[~passed[order]], 1.0)
    known = ~np.isnan(scores)
    noun = "score" if score == "evol" else "IFD"

    def says(row: int) -> str:
        return f"{noun} {abs(scores[row]):.3f}" if known[row] else UNSCORED

    def likeness(row: int) -> str:
        return f"cosine {walk.nearest[row]:.3f} to a row kept before"

    def kept(row: int, place: int) -> str:
        if not passed[row]:
            return f"kept: fills the budget, {says(row)}"
        return f"kept: {says(row)}, " + ("the best" if place == 1 else likeness(row))

    def cut(row: int) -> str:
        return f"cut: {says(row)}, " + (likeness(row) if walk.compared[row] else "not among the best")

    facts = {
        **shortfall(walk.kept, known, passed),
        "novelty asked": novelty,
        "novelty used": limits[-1],
        "walks": len(limits),
    }
    trace = tuple(float(walk.nearest[row]) for row in walk.kept)
    why = reasons(len(scores), walk.kept, kept, cut)
    return RowSelection(tuple(walk.kept), rounded(scores), why, trace, facts)


class _Walk:
    """Rows kept so far, and for each row its largest cosine to those it has been compared with.

    Args:
        directions: float64 (N, dimensions), unit rows.
        budget: rows to keep.
    """

    def __init__(self, directions: NDArray[np.float64], budget: int) -> None:
        self.directions = directions
        self.budget = budget
        self.kept: list[int] = []
        self.nearest = np.full(len(directions), -1.0)
        self.compared = np.zeros(len(directions), dtype=np.int64)
        self._chosen = np.empty((budget, directions.shape[1]))

    def down(self, order: NDArray[np.int64], limit: float) -> None:
        """Keeps the rows, in this order, whose largest cosine to the kept is below a limit; 1 refuses none."""
        for row in order[~np.isin(order, self.kept)].tolist():
            if len(self.kept) == self.budget:
                return
            if not self.kept or limit >= 1 or (self.nearest[row] < limit and self._compare(row) < limit):
                self._compare(row)
                self._chosen[len(self.kept)] = self.directions[row]
                self.kept.append(row)

    def _compare(self, row: int) -> float:
        """Largest cosine of a row to all that are kept, computed for those that it has not met yet."""
        unmet = self._chosen[self.compared[row] : len(self.kept)]
        if len(unmet):
            self.nearest[row] = max(self.nearest[row], float(rounded(unmet @ self.directions[row]).max()))
            self.compared[row] = len(self.kept)
        return float(self.nearest[row])


def _scores(signals: Signals, score: Score) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Score of each row, and which rows the walk may keep."""
    if score == "ifd":
        difficulty = instruction_following_difficulty(signals["answer_loss"], signals["alone_loss"])
        return difficulty_score(difficulty), helps(difficulty)
    evolved = np.asarray(signals["complexity"], dtype=np.float64) * np.asarray(signals["quality"], dtype=np.float64)
    return evolved, ~np.isnan(evolved)


def _unit(vectors: NDArray[Any]) -> NDArray[np.float64]:
    """Rows of length one; a zero vector stays, and is like no other row."""
    points = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    unit: NDArray[np.float64] = points / np.where(lengths > 0, lengths, 1.0)
    return unit
