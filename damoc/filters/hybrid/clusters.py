"""Clusters of embeddings, the same on every run of one machine."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray


def principal_components(points: NDArray[Any], variance: float = 0.95) -> NDArray[np.float64]:
    """Coordinates of centred points on the fewest principal axes that hold a share of their variance.

    By the eigenvectors of the covariance, O(N d^2 + d^3).

    Args:
        points: float (N, d).
        variance: share of the variance to hold, in (0, 1].

    Returns:
        float64 (N, axes), axes in [1, d].
    """
    centred = np.asarray(points, dtype=np.float64) - np.mean(points, axis=0, dtype=np.float64)
    spread, axes = np.linalg.eigh(centred.T @ centred)
    held = np.cumsum(np.clip(spread[::-1], 0.0, None))
    count = min(len(held), 1 + int(np.searchsorted(held, variance * held[-1])))
    projected: NDArray[np.float64] = centred @ axes[:, ::-1][:, :count]
    return projected


def k_means(points: NDArray[Any], clusters: int, seed: int) -> NDArray[np.int64]:
    """Cluster of each point by Lloyd's algorithm from one start by greedy k-means++.

    float64 on one thread: several threads add up a centre in the order in which they finish, and a last bit can move
    a point on a border. O(N * clusters * d) an iteration.

    Args:
        points: float (N, d).
        clusters: how many at most, in [1, N]; fewer come out where fewer points are distinct.
        seed: of the start.

    Returns:
        int64 (N,), cluster numbers.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    method = KMeans(clusters, init="k-means++", n_init=1, random_state=seed % 2**32, algorithm="lloyd")
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return np.asarray(method.fit_predict(np.asarray(points, dtype=np.float64)), dtype=np.int64)
