"""How far one order of candidates agrees with another, over few candidates and several sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

BOOTSTRAP, COVERAGE = 4000, 0.9


def agreement(pairs: Sequence[tuple[Sequence[float], Sequence[float]]], seed: int = 0) -> dict[str, Any]:
    """Agreement of scores with true scores, pooled over sets; lower scores are better in both.

    Args:
        pairs: per set, the scores and the true scores of the same candidates.
        seed: of the bootstrap.

    Returns:
        Means over the sets of ``kendall`` (tau, a tie counts as no agreement and no disagreement), ``spearman``,
        ``regret`` (true score of the choice minus that of the best), ``hits`` (share of sets with the best chosen) and
        ``distortion`` (standard deviation over the candidates of score minus true score: 0 where all are shifted
        alike; unlike an order it tells small changes); ``interval`` of tau by a bootstrap over the candidates of each
        set, whose repeats make no pair; ``p``, the chance that random orders without ties agree at least as well,
        counted out.
    """
    arrays = [(np.asarray(own, dtype=float), np.asarray(true, dtype=float)) for own, true in pairs]
    regrets = [float(true[int(own.argmin())] - true.min()) for own, true in arrays]
    taus = [_tau(*pair) for pair in arrays]
    low, high = _interval(arrays, np.random.default_rng(seed))
    return {
        "kendall": round(float(np.mean(taus)), 3),
        "interval": [round(low, 3), round(high, 3)],
        "p": float(f"{chance([len(true) for _, true in arrays], float(np.mean(taus))):.2g}"),
        "spearman": round(float(np.mean([_spearman(*pair) for pair in arrays])), 3),
        "regret": round(float(np.mean(regrets)), 4),
        "distortion": round(float(np.mean([np.std(own - true) for own, true in arrays])), 4),
        "hits": round(float(np.mean([regret == 0 for regret in regrets])), 3),
        "each": [round(tau, 3) for tau in taus],
    }


def chance(sizes: Sequence[int], tau: float) -> float:
    """Chance that random orders of so many candidates a set have a mean tau of at least ``tau``.

    Counted out for sets of one size: the pairs in the right order are sums of independent uniform numbers, from 0 to
    k for the k-th candidate that is put in.

    Args:
        sizes: candidates of each set, the same for all.
        tau: mean over the sets.
    """
    (size,) = set(sizes)
    counts = np.ones(1)
    for _ in sizes:
        for place in range(size):
            counts = np.convolve(counts, np.full(place + 1, 1 / (place + 1)))
    pairs = len(sizes) * size * (size - 1) / 2
    reached = 2 * np.arange(len(counts)) / pairs - 1 >= tau - 1e-9
    return float(min(1.0, counts[reached].sum()))


def _signs(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sign(values[:, None] - values[None, :])


def _tau(own: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    return float((_signs(own) * _signs(true)).sum() / (len(own) * (len(own) - 1)))


def _spearman(own: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    """0 where all scores are equal: nothing agrees with no order."""
    return float(spearmanr(own, true).statistic) if np.ptp(own) and np.ptp(true) else 0.0


def _interval(
    arrays: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]], rng: np.random.Generator
) -> tuple[float, float]:
    means = []
    for _ in range(BOOTSTRAP):
        taus = []
        for own, true in arrays:
            drawn = rng.integers(0, len(own), size=len(own))
            distinct = drawn[:, None] != drawn[None, :]
            products = (_signs(own[drawn]) * _signs(true[drawn]))[distinct]
            if len(products):
                taus.append(products.mean())
        if taus:
            means.append(np.mean(taus))
    low, high = np.quantile(means, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low), float(high)


def scores(measured: Mapping[str, Mapping[str, Any]], way: str, metric: str) -> list[float]:
    """Scores of all candidates under one way, turned so that lower is better.

    Args:
        measured: results by candidate and way.
        way: one of them.
        metric: of the scores.
    """
    sign = 1.0 if metric == "bits_per_byte" else -1.0
    return [sign * own[way]["scores"][metric] for own in measured.values()]
