"""MEASURE: the surprise of each word under a small language model outside the candidates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from damoc.condense.words import Word
from damoc.data.prompts import Encoded
from damoc.models.likelihood import answer_losses

_OVERLAP = 32
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class TokenizedWords:
    """The tokens of a text and the words that each of them writes.

    Args:
        ids: token ids.
        first: int64 (tokens,), first word that a token has a character of.
        last: int64 (tokens,), last one; below ``first`` for a token of white space only, whose word ``first`` follows.
        count: number of words.
    """

    ids: list[int]
    first: NDArray[Any]
    last: NDArray[Any]
    count: int

    def most(self, nats: NDArray[Any], start: int = 0) -> NDArray[Any]:
        """The largest of the nats of each word's tokens, 0 where none is given: float32 (count,).

        Args:
            nats: float (n,), of the tokens from ``start`` on.
            start: index of the first one.
        """
        found = np.zeros(self.count, dtype=np.float32)
        first, last = self.first[start : start + len(nats)], self.last[start : start + len(nats)]
        for step in range(int((last - first).max(initial=-1)) + 1):
            reached = first + step <= last
            np.maximum.at(found, first[reached] + step, nats[reached])
        return found


def tokenize_words(tokenizer: Any, texts: Sequence[str], words: Sequence[Sequence[Word]]) -> list[TokenizedWords]:
    """Tokenizes texts without special tokens and aligns tokens with words by their characters.

    Args:
        tokenizer: a fast one (it must report character offsets).
        texts: N texts.
        words: the words of each.
    """
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    tokenized = []
    for ids, offsets, own in zip(encoded["input_ids"], encoded["offset_mapping"], words, strict=True):
        bounds = np.array(offsets, dtype=np.int64).reshape(-1, 2)
        starts = np.array([word.start for word in own], dtype=np.int64)
        ends = np.array([word.end for word in own], dtype=np.int64)
        first = np.searchsorted(ends, bounds[:, 0], side="right")
        last = np.searchsorted(starts, bounds[:, 1], side="left") - 1
        tokenized.append(TokenizedWords(ids, first, last, len(own)))
    return tokenized


def start_token(tokenizer: Any) -> int:
    """What stands before a text, so that its first token has a likelihood too."""
    starts = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return int(next(token for token in starts if token is not None))


def condition_ids(tokenizer: Any, condition: str, max_length: int) -> list[int]:
    """Start token and the end of what stands before a text, at most half of what the model reads."""
    ids: list[int] = tokenizer(condition, add_special_tokens=False, verbose=False)["input_ids"] if condition else []
    return [start_token(tokenizer), *ids[-(max_length // 2) :]]


@dataclass(frozen=True)
class _Window:
    text: int
    first_token: int
    row: Encoded


def word_surprises(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    words: Sequence[Sequence[Word]],
    max_length: int,
    conditions: Sequence[str] | None = None,
    batch_size: int | None = None,
    on_progress: OnProgress = lambda done, total: None,
) -> list[NDArray[Any]]:
    """The largest token surprise within each word; words are measured, so that the result fits every tokenizer.

    The sum over a word's tokens has a higher BERTScore at an equal share of words, but by keeping longer words. At an
    equal share of characters, closer to what training pays for, the largest is best, then the mean, then the sum.

    A text longer than the model reads is scored in windows that overlap by 32 tokens (half a window, where windows
    are short): all windows of all texts share batches, where cached keys and values would have to be read in turn.

    Args:
        model: causal language model.
        tokenizer: its tokenizer, a fast one (it must report character offsets).
        texts: N texts.
        words: the words of each.
        max_length: tokens that the model reads at most, at least 4.
        conditions: text that stands before each one (the question before an answer), not scored.
        batch_size: windows in a forward pass; None takes 32 on a GPU and 4 on a CPU, whose caches more would overflow.
        on_progress: called with (windows done, windows).

    Returns:
        One float32 array a text: nats, one number a word.
    """
    tokenized = tokenize_words(tokenizer, texts, words)
    windows: list[_Window] = []
    for index, own in enumerate(tokenized):
        before = condition_ids(tokenizer, conditions[index] if conditions else "", max_length)
        room = max_length - len(before)
        overlap = min(_OVERLAP, room // 2)
        first = 0
        while True:
            skip = min(first, overlap)
            part = own.ids[first - skip : first - skip + room]
            windows.append(_Window(index, first, Encoded((*before, *part), len(before) + skip)))
            first += len(part) - skip
            if first >= len(own.ids):
                break
    together = batch_size or (32 if next(model.parameters()).is_cuda else 4)
    losses = answer_losses(model, [window.row for window in windows], tokenizer.pad_token_id, together, on_progress)
    surprises: list[NDArray[Any]] = [np.zeros(len(own), dtype=np.float32) for own in words]
    for window, nats in zip(windows, losses, strict=True):
        found = surprises[window.text]
        np.maximum(found, tokenized[window.text].most(nats, window.first_token), out=found)
    return surprises
