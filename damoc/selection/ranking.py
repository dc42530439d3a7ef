"""DECIDE: the ranking of the candidates and how sure it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from damoc.evaluation.row_scores import RowScores
from damoc.selection.bootstrap import resample


@dataclass(frozen=True)
class Standing:
    """Where a candidate stands.

    Args:
        candidate_id: its id.
        rank: 1 is best.
        score: the metric over all rows.
        low: lower end of the bootstrap interval.
        high: upper end.
        p_best: share of the resamples in which it is best (ties are shared).
        among_best: the interval of its paired difference to the leader contains 0.
    """

    candidate_id: str
    rank: int
    score: float
    low: float
    high: float
    p_best: float
    among_best: bool


def rank(
    rows: Mapping[str, RowScores],
    higher_is_better: bool,
    confidence: float,
    resamples: int,
    seed: int,
) -> list[Standing]:
    """Ranks candidates by a metric and bootstraps the evaluation rows.

    The rows are resampled together for all candidates (paired percentile bootstrap, Efron and Tibshirani 1993), so
    that what makes a row hard for everyone cancels out of the differences.

    Args:
        rows: by candidate id, the metric row by row. All candidates have the same rows in the same order.
        higher_is_better: direction of the metric.
        confidence: coverage of the intervals, in (0, 1).
        resamples: number of resamples.
        seed: of the resampling.

    Returns:
        Standings, best first; equal scores are ordered by id.
    """
    ids = sorted(rows)
    if not ids:
        return []
    sign = 1.0 if higher_is_better else -1.0
    scores = [rows[name].score() for name in ids]
    order = sorted(range(len(ids)), key=lambda index: (-sign * round(scores[index], 9), ids[index]))

    draws = resample([rows[name] for name in ids], resamples, seed)
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1.0 - tail], axis=0)
    best = (sign * draws).max(axis=1, keepdims=True)
    winners = np.isclose(sign * draws, best, rtol=0, atol=1e-12)
    p_best = (winners / winners.sum(axis=1, keepdims=True)).mean(axis=0)
    difference = draws - draws[:, [order[0]]]
    gap_low, gap_high = np.quantile(difference, [tail, 1.0 - tail], axis=0)
    return [
        Standing(
            candidate_id=ids[index],
            rank=place + 1,
            score=scores[index],
            low=float(low[index]),
            high=float(high[index]),
            p_best=float(p_best[index]),
            among_best=bool(gap_low[index] <= 0.0 <= gap_high[index]),
        )
        for place, index in enumerate(order)
    ]


def explain(standings: Sequence[Standing], metric: str, higher_is_better: bool, confidence: float) -> str:
    """One or two plain sentences: who leads, by how much, and who cannot be told from it."""
    leader = standings[0]
    direction = "highest" if higher_is_better else "lowest"
    sure = f"{confidence * 100:g}%"
    text = (
        f"{leader.candidate_id} has the {direction} {metric} ({leader.score:.4g}) "
        f"and is best in {leader.p_best * 100:.3g}% of the resamples."
    )
    equals = [standing.candidate_id for standing in standings[1:] if standing.among_best]
    if equals:
        text += f" At {sure} confidence these rows cannot tell it from {_and(equals)}."
    elif len(standings) > 1:
        text += f" At {sure} confidence it is better than every other candidate."
    return text


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
