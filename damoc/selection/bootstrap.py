"""DECIDE: how far a score would move with other rows: the percentile bootstrap (Efron and Tibshirani 1993)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from damoc.evaluation.row_scores import RowScores

_CHUNK = 256


def resample(scores: Sequence[RowScores], resamples: int, seed: int) -> NDArray[Any]:
    """Scores on rows drawn with replacement, the same rows for every member.

    Args:
        scores: one metric of several models, on the same rows in the same order.
        resamples: number of resamples.
        seed: of the drawing.

    Returns:
        float64 (resamples, members).
    """
    count = len(scores[0].records)
    rng = np.random.default_rng(seed)
    parts = []
    for start in range(0, resamples, _CHUNK):
        size = min(_CHUNK, resamples - start)
        weights = rng.multinomial(count, np.full(count, 1.0 / count), size=size).astype(np.float64)
        parts.append(np.stack([own.over(weights @ own.records) for own in scores], axis=1))
    return np.concatenate(parts)


def interval(scores: RowScores, confidence: float, resamples: int, seed: int) -> tuple[float, float]:
    """Percentile interval of one score.

    Args:
        scores: the metric row by row.
        confidence: coverage, in (0, 1).
        resamples: number of resamples.
        seed: of the drawing.

    Returns:
        Lower and upper end.
    """
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(resample([scores], resamples, seed)[:, 0], [tail, 1.0 - tail])
    return float(low), float(high)


def difference(
    one: RowScores, other: RowScores, confidence: float, resamples: int, seed: int
) -> tuple[float, float, float]:
    """How much one score is above another on the same rows.

    Args:
        one: the metric row by row.
        other: the same metric of another model, on the same rows in the same order.
        confidence: coverage of the percentile interval, in (0, 1).
        resamples: number of resamples.
        seed: of the drawing.

    Returns:
        The difference, lower and upper end of its interval.
    """
    tail = (1.0 - confidence) / 2
    draws = resample([one, other], resamples, seed)
    low, high = np.quantile(draws[:, 0] - draws[:, 1], [tail, 1.0 - tail])
    return one.score() - other.score(), float(low), float(high)
