"""Repairs texts that the gate refuses: the rewriter first, then the restorer, and the original as the last resort."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from damoc.chat import ChatModel
from damoc.condense.apply import rebuild
from damoc.condense.bertscore import BertScorer
from damoc.condense.gate import Refusal, judge_kept, rounded
from damoc.condense.record import Settled
from damoc.condense.restore import Restoration, restore
from damoc.condense.rewrite import RewriteOutcome, RewriteTask, rewrite
from damoc.condense.rules import is_question, violations
from damoc.config import RepairConfig

Progress = Callable[[str], Callable[[int, int], None]]


def repair(
    refusals: Sequence[Refusal],
    scorer: BertScorer,
    config: RepairConfig,
    rewriter: ChatModel | None,
    progress: Progress,
    seed: int,
) -> list[Settled]:
    """Repairs every text as far as it can be.

    Args:
        refusals: N texts that the gate refused.
        scorer: the gate's encoder.
        config: rounds, length and whether words are put back.
        rewriter: None leaves rewriting out.
        progress: gives, for the name of a phase, what is called with (done, total).
        seed: of the rewriter's sampling.

    Returns:
        How each ended: rewritten, restored or original.
    """
    ends = [Settled("original", own.draft.text, str(own.verdict), first_f1=own.verdict.f1, f1=1.0) for own in refusals]
    if rewriter is not None:
        ends = _rewrite(refusals, ends, scorer, config, rewriter, seed, progress("rewriting"))
    if config.restore:
        left = [place for place, end in enumerate(ends) if end.outcome == "original"]
        restored = _restore([refusals[place] for place in left], [ends[place] for place in left], scorer)
        for place, end in zip(left, restored, strict=True):
            ends[place] = end
    return [replace(end, why=f"{end.why}; the original stays") if end.outcome == "original" else end for end in ends]


def _rewrite(
    refusals: Sequence[Refusal],
    ends: Sequence[Settled],
    scorer: BertScorer,
    config: RepairConfig,
    rewriter: ChatModel,
    seed: int,
    on_progress: Callable[[int, int], None],
) -> list[Settled]:
    """Asks the language model for all texts at once, round by round."""

    def score(originals: list[str], candidates: list[str]) -> NDArray[Any]:
        return np.array([rounded(own) for own in scorer.score_rewritten(originals, candidates, remember=True)])

    def broken(original: str, candidate: str, task: RewriteTask) -> tuple[str, ...]:
        return violations(original, candidate, task.fixed, task.word_limit)

    tasks = [
        RewriteTask(
            own.draft.text,
            rebuild(own.draft.text, own.draft.words, own.kept),
            _word_limit(own, config.length_slack),
            is_question(own.draft.text),
            own.draft.fixed,
            own.verdict.f1,
        )
        for own in refusals
    ]
    thresholds = [own.draft.threshold for own in refusals]
    outcomes = rewrite(tasks, rewriter, score, thresholds, broken, config.rounds, seed, on_progress)
    return [_with_rewrite(end, outcome) for end, outcome in zip(ends, outcomes, strict=True)]


def _with_rewrite(end: Settled, outcome: RewriteOutcome) -> Settled:
    end = replace(end, rewrites=outcome.rounds, refused=outcome.rejected)
    if outcome.text is None:
        return replace(end, why=f"{end.why}; {_times(outcome.rounds, 'rewrite')}: {outcome.reason}")
    why = f"{end.why}; rewrite {outcome.rounds} passed, F1 {outcome.f1:.4g}"
    return replace(end, outcome="rewritten", text=outcome.text, f1=outcome.f1, why=why)


def _restore(refusals: Sequence[Refusal], ends: Sequence[Settled], scorer: BertScorer) -> list[Settled]:
    """Puts dropped words back, all texts at once; the last restoration that passed is the smallest."""
    passing: dict[int, float] = {}

    def gate(trials: Mapping[int, NDArray[Any]]) -> dict[int, bool]:
        drafts = [refusals[index].draft for index in trials]
        verdicts = dict(zip(trials, judge_kept(scorer, drafts, list(trials.values()), remember=True), strict=True))
        passing.update({index: verdict.f1 for index, verdict in verdicts.items() if verdict.passed})
        return {index: verdict.passed for index, verdict in verdicts.items()}

    found = restore([own.kept for own in refusals], [own.surprise for own in refusals], gate)
    columns = zip(refusals, ends, found, strict=True)
    return [_with_restoration(*own, passing.get(index)) for index, own in enumerate(columns)]


def _with_restoration(refusal: Refusal, end: Settled, found: Restoration, f1: float | None) -> Settled:
    end = replace(end, restorations=found.rounds)
    if found.kept is None:
        return replace(end, why=f"{end.why}; {_times(found.rounds, 'restoration')} failed")
    back, dropped = int((found.kept & ~refusal.kept).sum()), int((~refusal.kept).sum())
    text = rebuild(refusal.draft.text, refusal.draft.words, found.kept)
    why = f"{end.why}; {back} of {dropped} dropped words put back, F1 {f1:.4g}"
    return replace(end, outcome="restored", text=text, f1=f1, why=why, kept=found.kept)


def _word_limit(refusal: Refusal, slack: float) -> int:
    """Words of a rewrite at most: what the rate allows and some more, what the draft has, but not over the original."""
    words = len(refusal.kept)
    return min(words, max(int(refusal.kept.sum()), math.ceil(slack * refusal.draft.rate * words)))


def _times(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
