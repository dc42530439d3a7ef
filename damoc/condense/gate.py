"""The gate: what may stand for a text, by BERTScore and by rule.

The decision is pure: a :class:`Verdict` follows from an F1, a threshold and broken rules. :func:`judge_kept` is not: it
has the encoder measure the F1 first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from damoc.condense.apply import rebuild
from damoc.condense.bertscore import BertScore, BertScorer
from damoc.condense.rules import violations
from damoc.condense.words import Word

OnProgress = Callable[[int, int], None]
_DECIMALS = 4


@dataclass(frozen=True)
class Draft:
    """A text that is to be condensed.

    Args:
        text: the original.
        words: its words.
        fixed: options and answer, which may neither go from it nor come into it.
        rate: share of its words to keep.
        threshold: BERTScore F1 that what stands for it must reach.
        least_words: words below which it is left alone.
        question: what an answer answers; None where the text is no answer.
    """

    text: str
    words: Sequence[Word]
    fixed: tuple[str, ...]
    rate: float
    threshold: float
    least_words: int
    question: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What the gate says about one candidate.

    Args:
        f1: BERTScore F1, rounded to four decimals, so that the way in which texts were batched decides nothing.
        threshold: what it must reach.
        broken: the rules that it breaks.
    """

    f1: float
    threshold: float
    broken: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the candidate may stand for its original."""
        return self.f1 >= self.threshold and not self.broken

    def __str__(self) -> str:
        sign = ">=" if self.f1 >= self.threshold else "<"
        return "; ".join((f"F1 {self.f1:.4g} {sign} {self.threshold:g}", *self.broken))


def rounded(score: BertScore) -> float:
    """The F1 by which the gate decides."""
    return round(score.f1, _DECIMALS)


def judge_kept(
    scorer: BertScorer,
    drafts: Sequence[Draft],
    kept: Sequence[NDArray[Any]],
    remember: bool = False,
    on_progress: OnProgress = lambda done, total: None,
) -> list[Verdict]:
    """Measures what is left of each text, all in one go, and checks it by rule.

    Args:
        scorer: the encoder.
        drafts: N texts.
        kept: N bool arrays (words,).
        remember: whether the originals will be scored again.
        on_progress: called with (windows scored, windows).
    """
    texts, words = [draft.text for draft in drafts], [draft.words for draft in drafts]
    scores = scorer.score_kept(texts, words, kept, remember, on_progress)
    candidates = [rebuild(*own) for own in zip(texts, words, kept, strict=True)]
    return [
        Verdict(rounded(score), draft.threshold, violations(draft.text, candidate, draft.fixed))
        for draft, candidate, score in zip(drafts, candidates, scores, strict=True)
    ]


@dataclass(frozen=True)
class Refusal:
    """A condensed text that the gate refused.

    Args:
        draft: the text.
        kept: bool (words,), what was refused.
        surprise: float (words,), how informative each word is.
        verdict: why.
    """

    draft: Draft
    kept: NDArray[Any]
    surprise: NDArray[Any]
    verdict: Verdict
