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


@dataclass(frozen=True)
class _Window:
    text: int
    first_token: int
    skip: int
    row: Encoded


def word_surprises(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    words: Sequence[Sequence[Word]],
    max_length: int,
    conditions: Sequence[str] | None = None,
    batch_size: int = 16,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[NDArray[Any]]:
    """The largest token surprise within each word; words are measured, so that the result fits every tokenizer.

    A text longer than the model reads is scored in windows that overlap by 32 tokens (half a window, where windows
    are short).

    Args:
        model: causal language model.
        tokenizer: its tokenizer, a fast one (it must report character offsets).
        texts: N texts.
        words: the words of each.
        max_length: tokens that the model reads at most, at least 4.
        conditions: text that stands before each one (the question before an answer), not scored.
        batch_size: windows in a forward pass.
        on_progress: called with (windows done, windows).

    Returns:
        One float32 array a text: nats, one number a word.
    """
    starts = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    start_id = next(token for token in starts if token is not None)
    windows: list[_Window] = []
    owners: list[NDArray[Any]] = []
    for index, (text, own) in enumerate(zip(texts, words, strict=True)):
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        owners.append(_owners(text, encoded["offset_mapping"], own))
        before = [start_id]
        if conditions is not None:
            question = tokenizer(conditions[index], add_special_tokens=False, verbose=False)["input_ids"]
            before += question[-(max_length // 2) :]
        ids, room = encoded["input_ids"], max_length - len(before)
        overlap = min(_OVERLAP, room // 2)
        first = 0
        while True:
            skip = min(first, overlap)
            part = ids[first - skip : first - skip + room]
            windows.append(_Window(index, first, skip, Encoded((*before, *part), len(before) + skip)))
            first += len(part) - skip
            if first >= len(ids):
                break
    losses = answer_losses(model, [window.row for window in windows], tokenizer.pad_token_id, batch_size, on_progress)
    surprises: list[NDArray[Any]] = [np.zeros(len(own), dtype=np.float32) for own in words]
    for window, nats in zip(windows, losses, strict=True):
        owner = owners[window.text][window.first_token : window.first_token + len(nats)]
        known = owner >= 0
        np.maximum.at(surprises[window.text], owner[known], nats[known])
    return surprises


def _owners(text: str, offsets: Sequence[tuple[int, int]], words: Sequence[Word]) -> NDArray[Any]:
    """Word of each token's last visible character, -1 where it has none: int64 (tokens,)."""
    starts = np.array([word.start for word in words], dtype=np.int64)
    ends = np.array([word.end for word in words], dtype=np.int64)
    ends_at = ((start, len(text[start:end].rstrip())) for start, end in offsets)
    last = np.array([start + size - 1 if size else -1 for start, size in ends_at], dtype=np.int64)
    if len(words) == 0 or len(last) == 0:
        return np.full(len(last), -1, dtype=np.int64)
    owner = np.searchsorted(starts, last, side="right") - 1
    inside = (owner >= 0) & (last < ends[np.maximum(owner, 0)])
    return np.where(inside, owner, -1)
