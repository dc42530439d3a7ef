"""The rows that a model with brief experience of the data finds hardest, although the instruction helps."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from damoc.filters.hybrid.clusters import k_means
from damoc.filters.ordering import best_scored
from damoc.filters.quality.difficulty import Form, difficulty_score, helps, instruction_following_difficulty
from damoc.filters.registry import RowSelection, Signals, register_filter


@register_filter(
    "cherry",
    kind="hybrid",
    signals=("experienced_answer_loss", "experienced_alone_loss"),
    source="Li et al., From Quantity to Quality, NAACL 2024, pp. 7595-7628, arXiv 2308.12032",
)
def cherry(signals: Signals, budget: int, seed: int, *, ifd_form: Form = "loss") -> RowSelection:
    """Keeps the rows of the highest IFD below 1 under a model that was briefly tuned on a diverse few of them.

    The measurement tunes the model on :func:`experience_rows` and gives both losses under it; the decision is that of
    Superfiltering on these: IFD = experienced_answer_loss / experienced_alone_loss, rows at 1 and above come back only
    to fill the budget, the nearest to 1 first. O(N log N).

    Args:
        signals: ``experienced_answer_loss`` and ``experienced_alone_loss`` float (N,), mean nats per answer token.
        budget: rows to keep.
        seed: not used.
        ifd_form: ratio of losses (the paper) or of perplexities (its later code).

    Returns:
        Rows, highest IFD first, scored by IFD (its negative for dropped rows).
    """
    difficulty = instruction_following_difficulty(
        signals["experienced_answer_loss"], signals["experienced_alone_loss"], ifd_form
    )
    return best_scored(
        difficulty_score(difficulty),
        budget,
        lambda row: f"IFD {difficulty[row]:.3f} after brief experience",
        helps(difficulty),
        "is not below 1",
    )


def experience_rows(
    prompt_embedding: NDArray[Any],
    prompt_loss: NDArray[Any],
    seed: int,
    clusters: int = 100,
    per_cluster: int = 10,
    low: float = 25,
    high: float = 75,
    at_most_share: float = 0.2,
) -> NDArray[np.int64]:
    """Rows for the brief experience: from each cluster of prompts a few of middling perplexity.

    Where ``clusters * per_cluster`` rows are more than ``at_most_share`` of all, clusters and rows a cluster shrink by
    the same factor, so that their proportion stays: 500 rows give 33 clusters of 3. A cluster whose window holds fewer
    rows gives fewer.

    Args:
        prompt_embedding: float (N, dimensions).
        prompt_loss: float (N,), mean nats per prompt token; rows with NaN are drawn only where a cluster has no others.
        seed: of k-means and of the draw within a window.
        clusters: of k-means.
        per_cluster: rows drawn from each.
        low: percentile of the cluster's prompt perplexities where its window begins.
        high: percentile where it ends.
        at_most_share: of all rows.

    Returns:
        int64, ascending, at least one row.
    """
    most = max(1, int(at_most_share * len(prompt_loss)))
    factor = min(1.0, sqrt(most / (clusters * per_cluster)))
    each = max(1, int(factor * per_cluster))
    labels = k_means(prompt_embedding, min(clusters, most // each), seed)
    draw = np.random.default_rng(seed)
    drawn: list[int] = []
    for label in np.unique(labels):
        window = _middling(np.flatnonzero(labels == label), prompt_loss, low, high)
        drawn += draw.choice(window, min(each, len(window)), replace=False).tolist()
    return np.array(sorted(drawn), dtype=np.int64)


def _middling(rows: NDArray[np.int64], loss: NDArray[Any], low: float, high: float) -> NDArray[np.int64]:
    """Rows of a cluster in its window; the percentiles are observed losses, so that the window is never empty."""
    known = rows[np.isfinite(loss[rows])]
    if len(known) == 0:
        return rows
    start = np.percentile(loss[known], low, method="lower")
    end = np.percentile(loss[known], high, method="higher")
    window: NDArray[np.int64] = known[(loss[known] >= start) & (loss[known] <= end)]
    return window
