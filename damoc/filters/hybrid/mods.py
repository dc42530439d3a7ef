"""Good rows, spread over the prompts, and those that a model tuned on these still answers badly."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from damoc.filters.distribution.k_center_greedy import k_center_greedy
from damoc.filters.ordering import UNSCORED, best_first, reasons
from damoc.filters.registry import RowSelection, Signals, register_filter


@register_filter(
    "mods",
    kind="hybrid",
    signals=("reward", "prompt_embedding", "necessity"),
    source="Du, Zong and Zhang, MoDS, 2023, arXiv 2311.15653",
)
def mods(
    signals: Signals,
    budget: int,
    seed: int,
    *,
    quality_share: Annotated[float, Field(gt=0, le=1)] = 0.7,
    reward_threshold: float | None = None,
    coverage_share: Annotated[float, Field(ge=0, le=1)] = 0.5,
) -> RowSelection:
    """Keeps rows of high quality: first some that cover the prompts, then those that a model tuned on these needs.

    1. Quality: H = the ``quality_share`` of rows of the highest reward, or those above ``reward_threshold``.
    2. Coverage: k-center greedy on the prompts of H takes ``coverage_share`` of the budget.
    3. Necessity: the rows of H that the seed-tuned model answers worst (lowest reward of its own answers) fill the
       rest. Where H is too small, the best rewards outside it fill up.

    The seed model is tuned on :func:`seed_rows`, which walks the same H in the same order: step 2 takes a prefix of
    these rows, or they are a prefix of it, and both are the same rows at a budget of 10 % and the defaults. Chosen
    within each label, H and its walk are the label's own, while the model was tuned on the whole pool's.
    O(budget * N * dimensions). The paper has no budget: its third step takes all below a threshold.

    Args:
        signals: ``reward`` float (N,), of question and answer; ``prompt_embedding`` float (N, dimensions);
            ``necessity`` float (N,), reward of the seed-tuned model's own answer, low = needed.
        budget: rows to keep.
        seed: not used.
        quality_share: share of the rows that count as good, in (0, 1].
        reward_threshold: reward above which a row is good; replaces ``quality_share``.
        coverage_share: share of the budget that coverage takes, in [0, 1].

    Returns:
        Rows in the order of the steps; scores are the negative necessity of the good rows, NaN for others.
    """
    reward = np.asarray(signals["reward"], dtype=np.float64)
    necessity = np.asarray(signals["necessity"], dtype=np.float64)
    good = _good(reward, quality_share, reward_threshold)
    covering = _covering(signals["prompt_embedding"], good, round(coverage_share * budget))
    needed = best_first(np.where(good, -necessity, np.nan))
    needed = needed[good[needed] & ~np.isin(needed, covering)]
    others = best_first(reward)
    others = others[~good[others]]
    ids = tuple(np.concatenate([covering, needed, others])[:budget].tolist())
    why = reasons(
        len(reward),
        ids,
        lambda row, place: _kept(row, place, len(covering), good, reward, necessity),
        lambda row: _cut(row, good, reward, necessity),
    )
    facts = {
        "rows good enough": int(good.sum()),
        "rows kept for coverage": len(covering),
        "rows kept for necessity": int(good[list(ids)].sum()) - len(covering),
        "rows that fill the budget": int((~good[list(ids)]).sum()),
        "rows not scored": int((np.isnan(reward) | (good & np.isnan(necessity))).sum()),
    }
    return RowSelection(ids, np.where(good, -necessity, np.nan), why, facts=facts)


def seed_rows(
    reward: NDArray[Any],
    prompt_embedding: NDArray[Any],
    quality_share: float = 0.7,
    seed_share: float = 0.05,
    minimum: int = 20,
) -> NDArray[np.int64]:
    """Rows that the model behind ``necessity`` is tuned on: good ones that cover the prompts.

    Args:
        reward: float (N,), of question and answer; NaN is never good.
        prompt_embedding: float (N, dimensions).
        quality_share: share of the rows that count as good.
        seed_share: share of all rows to tune on.
        minimum: never fewer rows than this, where as many are good.

    Returns:
        int64, in the order of their choice by k-center greedy; empty where no row has a reward.
    """
    good = _good(np.asarray(reward, dtype=np.float64), quality_share, None)
    return _covering(prompt_embedding, good, max(minimum, round(seed_share * len(reward))))


def _good(reward: NDArray[np.float64], share: float, threshold: float | None) -> NDArray[np.bool_]:
    known = ~np.isnan(reward)
    if threshold is not None:
        return known & (reward > threshold)
    best = best_first(reward)[: max(1, round(share * int(known.sum())))]
    return known & np.isin(np.arange(len(reward)), best)


def _covering(embedding: NDArray[Any], good: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
    """The first ``count`` good rows (or all) by farthest-first traversal, which needs no seed."""
    rows = np.flatnonzero(good)
    count = min(count, len(rows))
    if count == 0:
        return rows[:0]
    own = {"rows": np.arange(len(rows)), "embedding": embedding[rows]}
    return rows[list(k_center_greedy(own, count, 0).ids)]


def _kept(
    row: int,
    place: int,
    covering: int,
    good: NDArray[np.bool_],
    reward: NDArray[np.float64],
    necessity: NDArray[np.float64],
) -> str:
    if place <= covering:
        return f"kept: good (reward {reward[row]:.3f}), covers prompts as choice {place}"
    if not good[row]:
        return f"kept: fills the budget, {_quality(row, reward)}"
    if np.isnan(necessity[row]):
        return f"kept: good (reward {reward[row]:.3f}), its necessity {UNSCORED}"
    return f"kept: good and answered badly (reward of the model's answer {necessity[row]:.3f})"


def _cut(row: int, good: NDArray[np.bool_], reward: NDArray[np.float64], necessity: NDArray[np.float64]) -> str:
    if not good[row]:
        return f"cut: {_quality(row, reward)}"
    if np.isnan(necessity[row]):
        return f"cut: good, its necessity {UNSCORED}"
    return f"cut: good, answered well enough (reward of the model's answer {necessity[row]:.3f})"


def _quality(row: int, reward: NDArray[np.float64]) -> str:
    return UNSCORED if np.isnan(reward[row]) else f"reward {reward[row]:.3f} is not good enough"
