"""Iterative token compression: each segment is measured given only what was kept of the earlier ones (LLMLingua)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from damoc.condense.decide import free_budget, keep_best, segment_budget
from damoc.condense.kept_prefix import KeptPrefixes
from damoc.condense.measure import OnProgress, TokenizedWords, condition_ids, tokenize_words
from damoc.condense.words import Word


@dataclass(frozen=True)
class Segment:
    """Consecutive words of a text that are decided at once.

    Args:
        words: start and end of them.
        tokens: index of their first token, and of the end.
    """

    words: tuple[int, int]
    tokens: tuple[int, int]


@dataclass
class _Text:
    """How far a text is."""

    index: int
    tokenized: TokenizedWords
    segments: list[Segment]
    protected: NDArray[Any]
    budget: int
    importance: NDArray[Any]
    kept: NDArray[Any] = field(init=False)

    def __post_init__(self) -> None:
        self.kept = np.zeros(len(self.protected), dtype=bool)

    def token_ids(self, segment: Segment) -> list[int]:
        return self.tokenized.ids[slice(*segment.tokens)]

    def decide(self, segment: Segment) -> list[int]:
        """Decides a segment whose importance is known; returns the token ids of the words that stay."""
        start, end = segment.words
        free = ~self.protected
        share = segment_budget(self.budget, int(free[start:end].sum()), int(free[start:].sum()))
        self.kept[start:end] = keep_best(self.importance[start:end], self.protected[start:end], share)
        self.budget -= share
        first, last = segment.tokens
        stays = self.kept[_owners(self.tokenized)[first:last]]
        return [token for token, stay in zip(self.tokenized.ids[first:last], stays, strict=True) if stay]


def compress_iteratively(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    words: Sequence[Sequence[Word]],
    rates: Sequence[float],
    max_length: int,
    segment_tokens: int,
    conditions: Sequence[str] | None = None,
    batch_size: int = 8,
    on_progress: OnProgress = lambda done, total: None,
) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """Decides texts segment by segment, all texts of a batch at once.

    A segment's words are measured given the kept words of the earlier segments, whose keys and values are cached
    (Jiang et al., "LLMLingua", EMNLP 2023, algorithm 2). With conditions, the importance of a word is its surprise
    less its surprise given the condition ("LongLLMLingua", ACL 2024). Each segment gets its share of what
    is left of the text's budget. A text of one segment gets what one pass over it gives.

    Args:
        model: causal language model with keys and values that can be cached.
        tokenizer: its tokenizer, a fast one.
        texts: N texts.
        words: the words of each.
        rates: share of the words of each to keep, in [0, 1].
        max_length: tokens that the model reads at most, at least 8.
        segment_tokens: tokens of a segment at most (a quarter of ``max_length`` at most); a single longer word is
            measured by its first tokens.
        conditions: text that stands before each one (the question before an answer); None measures each by itself.
        batch_size: texts in a forward pass.
        on_progress: called with (texts done, texts).

    Returns:
        Which words stay, bool (words,) a text, and how important each is, float32 (words,) a text: nats.
    """
    size = min(segment_tokens, max(1, max_length // 4))
    tokenized = tokenize_words(tokenizer, texts, words)
    order = sorted(range(len(texts)), key=lambda index: (-len(tokenized[index].ids), index))
    kept: list[NDArray[Any]] = [np.zeros(0, dtype=bool)] * len(texts)
    importance: list[NDArray[Any]] = [np.zeros(0, dtype=np.float32)] * len(texts)
    for start in range(0, len(order), batch_size):
        batch = []
        for index in order[start : start + batch_size]:
            protected = np.array([word.protected for word in words[index]], dtype=bool)
            nothing = np.zeros(len(protected), dtype=np.float32)
            segments = list(split_segments(tokenized[index], size))
            budget = free_budget(protected, rates[index])
            batch.append(_Text(index, tokenized[index], segments, protected, budget, nothing))
        heads = [[condition_ids(tokenizer, "", max_length) for _ in batch]]
        if conditions is not None:
            heads.append([condition_ids(tokenizer, conditions[text.index], max_length) for text in batch])
        _advance(batch, [KeptPrefixes(model, own, max_length, tokenizer.pad_token_id) for own in heads])
        for text in batch:
            kept[text.index], importance[text.index] = text.kept, text.importance
        on_progress(min(start + batch_size, len(order)), len(order))
    return kept, importance


def _advance(batch: Sequence[_Text], prefixes: Sequence[KeptPrefixes]) -> None:
    """Decides all segments of a batch of texts, a segment of each at a time; the longest text comes first."""
    for step in range(max(len(text.segments) for text in batch)):
        active = [row for row, text in enumerate(batch) if step < len(text.segments)]
        segments = [batch[row].segments[step] for row in active]
        tokens = [batch[row].token_ids(segment) for row, segment in zip(active, segments, strict=True)]
        plain, *given = [prefix.losses(active, tokens) for prefix in prefixes]
        for place, (row, segment) in enumerate(zip(active, segments, strict=True)):
            text, own = batch[row], slice(*segment.words)
            text.importance[own] = text.tokenized.most(plain[place], segment.tokens[0])[own]
            for nats in given:
                text.importance[own] -= text.tokenized.most(nats[place], segment.tokens[0])[own]
            stays = text.decide(segment)
            for prefix in prefixes:
                prefix.extend(row, stays)


def split_segments(tokenized: TokenizedWords, size: int) -> Iterator[Segment]:
    """Segments of whole words and at most ``size`` tokens (the first ones of a single longer word).

    White space goes with the word behind it; what trails the last word is left out.
    """
    ends = np.searchsorted(_owners(tokenized), np.arange(tokenized.count), side="right")
    word = token = 0
    while word < tokenized.count:
        end = max(word + 1, int(np.searchsorted(ends, token + size, side="right")))
        until = int(ends[end - 1])
        yield Segment((word, end), (token, min(until, token + size)))
        word, token = end, until


def _owners(tokenized: TokenizedWords) -> NDArray[Any]:
    """The word that each token stays or goes with: int64 (tokens,), not falling."""
    return np.maximum.accumulate(np.maximum(tokenized.first, tokenized.last))
