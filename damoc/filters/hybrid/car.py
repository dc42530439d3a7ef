"""The best rows overall and the best of every cluster."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from damoc.filters.hybrid.clusters import k_means, principal_components
from damoc.filters.ordering import UNSCORED, best_first, reasons, rounded, shortfall
from damoc.filters.quality.difficulty import difficulty_score, helps, instruction_following_difficulty
from damoc.filters.registry import RowSelection, Signals, register_filter

Quality = Literal["judge", "ifd", "reward"]


def _needs(options: Mapping[str, Any]) -> tuple[str, ...]:
    measured = ("answer_loss", "alone_loss") if options["quality"] == "ifd" else (str(options["quality"]),)
    return (*measured, "embedding")


@register_filter(
    "car",
    kind="hybrid",
    signals=_needs,
    source="Ge et al., Clustering and Ranking, EMNLP 2024, arXiv 2402.18191",
)
def car(signals: Signals, budget: int, seed: int, *, quality: Quality = "judge") -> RowSelection:
    """Keeps the best row of every cluster, so that small topics survive, and the best of all others.

    The embeddings are projected to the principal axes that hold 95 % of their variance and clustered by k-means into
    K = floor(sqrt(N / 2)) clusters, or as many as the budget if that is smaller. The choice is the union of the best
    of each cluster and the top n1 overall, with n1 such that the budget is hit exactly. A cluster none of whose rows is
    good enough (scored; IFD below 1) has no best row. O(N d^2 + N K d) for each iteration of k-means.

    Args:
        signals: ``embedding`` float (N, d), and the measurement that ``quality`` names, float (N,) (``answer_loss`` and
            ``alone_loss`` for ``ifd``).
        budget: rows to keep.
        seed: of k-means.
        quality: what ranks the rows: the judge's rating, IFD, or the reward. The paper trains a scorer of its own.

    Returns:
        The best rows of clusters, best first, then the others, best first.
    """
    scores, passed = _scores(signals, quality)
    order = best_first(scores)
    axes = principal_components(signals["embedding"])
    labels = k_means(axes, max(1, min(isqrt(len(scores) // 2), budget)), seed)
    _, first = np.unique(labels[order], return_index=True)
    leaders = order[np.sort(first)]
    leaders = leaders[passed[leaders]]
    ids = tuple(np.concatenate([leaders, order[~np.isin(order, leaders)]])[:budget].tolist())
    leading = set(leaders.tolist())
    known = ~np.isnan(scores)

    def says(row: int) -> str:
        return f"{'IFD' if quality == 'ifd' else quality} {abs(scores[row]):.3f}" if known[row] else UNSCORED

    why = reasons(
        len(scores),
        ids,
        lambda row, place: (
            f"kept: best of its cluster, {says(row)}"
            if row in leading
            else f"kept: among the best overall, {says(row)}"
            if passed[row]
            else f"kept: fills the budget, {says(row)}"
        ),
        lambda row: f"cut: {says(row)}, neither best of its cluster nor among the best overall",
    )
    facts = {
        **shortfall(ids, known, passed),
        "clusters": len(np.unique(labels)),
        "principal axes": axes.shape[1],
        "rows kept as best of their cluster": len(leaders),
    }
    return RowSelection(ids, rounded(scores), why, facts=facts)


def _scores(signals: Signals, quality: Quality) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Score of each row, and which rows are good enough to lead a cluster."""
    if quality == "ifd":
        difficulty = instruction_following_difficulty(signals["answer_loss"], signals["alone_loss"])
        return difficulty_score(difficulty), helps(difficulty)
    scores = np.asarray(signals[quality], dtype=np.float64)
    return scores, ~np.isnan(scores)
