"""Measures and decides texts in one of the two ways of the config."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from damoc.condense.decide import keep_words
from damoc.condense.iterative import compress_iteratively
from damoc.condense.measure import OnProgress, word_surprises
from damoc.condense.words import Word
from damoc.models.load import LoadedModel


def compress_words(
    loaded: LoadedModel,
    texts: Sequence[str],
    words: Sequence[Sequence[Word]],
    rates: Sequence[float],
    max_length: int,
    context: Literal["original", "kept"] = "original",
    segment_tokens: int = 128,
    conditions: Sequence[str] | None = None,
    progress: Callable[[str], OnProgress] = lambda phase: lambda done, total: None,
) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """Decides which words of each text stay, by their surprise or, with conditions, by contrastive surprise.

    Args:
        loaded: the compressor.
        texts: N texts.
        words: the words of each.
        rates: share of the words of each to keep, in [0, 1].
        max_length: tokens that the compressor reads at most, at least 8.
        context: what stands before a word when it is measured: the original text, or what was kept of it.
        segment_tokens: tokens decided at once where the context is what was kept.
        conditions: the question before each answer; importance is then nll(a) - nll(a | q), how much the question
            explains a word (LongLLMLingua, arXiv 2310.06839). None measures each text by itself.
        progress: gives, for the name of a phase, what is called with (done, total).

    Returns:
        Which words stay, bool (words,) a text, and how important each is, float32 (words,) a text: nats.
    """
    longest = min(max_length, loaded.max_length)
    source = (loaded.model, loaded.tokenizer, texts, words)
    if context == "kept":
        report = progress("token perplexity by segments" + " given the question" * (conditions is not None))
        return compress_iteratively(*source, rates, longest, segment_tokens, conditions, on_progress=report)
    importance = word_surprises(*source, longest, on_progress=progress("token perplexity"))
    if conditions is not None:
        report = progress("token perplexity given the question")
        given = word_surprises(*source, longest, conditions, on_progress=report)
        importance = [alone - explained for alone, explained in zip(importance, given, strict=True)]
    protected = [np.array([word.protected for word in own], dtype=bool) for own in words]
    return [keep_words(*own) for own in zip(importance, protected, rates, strict=True)], importance
