"""Cached keys and values of growing prefixes, a batch of texts at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


class KeptPrefixes:
    """The prefixes of a batch of texts, each a head and the tokens kept since, and their keys and values.

    The cache is right-aligned: a row's tokens stand in neighbouring columns, so that sliding-window attention counts
    tokens and not padding. What is measured leaves the cache; what is kept of it is read again at its new place, in
    the same forward pass as the next segment. The last token of a prefix is never cached, as the next segment needs
    its logits. Where prefix and segment are longer than the model reads, the oldest tokens go: the head and the second
    half of the room are read anew, so that positions start again from 0.

    Args:
        model: causal language model.
        heads: token ids that stand before each text, at least one.
        max_length: tokens that the model reads at most.
        pad_id: padding token.
    """

    def __init__(self, model: Any, heads: Sequence[Sequence[int]], max_length: int, pad_id: int) -> None:
        self._model = model
        self._max_length = max_length
        self._pad_id = pad_id
        self._heads = [list(head) for head in heads]
        self._kept: list[list[int]] = [[] for _ in heads]
        self._unread = [list(head) for head in heads]
        self._cached = [0] * len(heads)
        self._rows = list(range(len(heads)))
        self._states: list[tuple[torch.Tensor, torch.Tensor]] = []

    def extend(self, row: int, tokens: Sequence[int]) -> None:
        """Adds tokens to a prefix."""
        self._kept[row] += tokens
        self._unread[row] += tokens

    def losses(self, rows: Sequence[int], segments: Sequence[Sequence[int]]) -> list[NDArray[Any]]:
        """Measures what would follow the prefixes; rows left out now are left out for good.

        Args:
            rows: which texts, rising.
            segments: token ids of each, not empty.

        Returns:
            One float32 array a row: nats of each token of its segment.
        """
        import torch
        from torch.nn import functional

        self._make_room(rows, segments)
        device = next(self._model.parameters()).device
        width = max(len(self._unread[row]) + len(own) for row, own in zip(rows, segments, strict=True))
        past = self._states[0][0].shape[2] if self._states else 0
        ids = np.full((len(rows), width), self._pad_id)
        mask = np.zeros((len(rows), past + width), dtype=np.int64)
        targets = np.full((len(rows), width), -100)
        for place, (row, own) in enumerate(zip(rows, segments, strict=True)):
            unread, end = self._unread[row], len(self._unread[row]) + len(own)
            ids[place, :end] = [*unread, *own]
            mask[place, past - self._cached[row] : past + end] = 1
            targets[place, len(unread) - 1 : end - 1] = own
        cached = np.array([self._cached[row] for row in rows])
        positions = np.minimum(cached[:, None] + np.arange(width), self._max_length - 1)
        with torch.inference_mode():
            output = self._model(
                input_ids=torch.from_numpy(ids).to(device),
                attention_mask=torch.from_numpy(mask).to(device),
                position_ids=torch.from_numpy(positions).to(device),
                past_key_values=self._cache(rows),
                use_cache=True,
            )
            labels = torch.from_numpy(targets).to(device)
            scored = labels != -100
            nats = functional.cross_entropy(output.logits[scored].float(), labels[scored], reduction="none")
            self._remember(rows, output.past_key_values, past)
        return np.split(nats.cpu().numpy(), np.cumsum([len(own) for own in segments])[:-1])

    def _make_room(self, rows: Sequence[int], segments: Sequence[Sequence[int]]) -> None:
        for row, own in zip(rows, segments, strict=True):
            if self._cached[row] + len(self._unread[row]) + len(own) > self._max_length:
                room = self._max_length - len(self._heads[row]) - len(own)
                self._kept[row] = self._kept[row][-max(1, room // 2) :]
                self._unread[row] = [*self._heads[row], *self._kept[row]]
                self._cached[row] = 0

    def _cache(self, rows: Sequence[int]) -> Any:
        from transformers import DynamicCache

        cache = DynamicCache()
        if self._states:
            places = [self._rows.index(row) for row in rows]
            for layer, (keys, values) in enumerate(self._states):
                cache.update(keys[places], values[places], layer)
        return cache

    def _remember(self, rows: Sequence[int], cache: Any, past: int) -> None:
        """Keeps the columns of the prefixes but for the last token of each, right-aligned."""
        import torch

        ends = []
        for row in rows:
            ends.append(past + len(self._unread[row]) - 1)
            self._cached[row] += len(self._unread[row]) - 1
            self._unread[row] = self._unread[row][-1:]
        longest = max(self._cached[row] for row in rows)
        columns = np.maximum(np.array(ends)[:, None] - longest + np.arange(longest), 0)
        self._rows = list(rows)
        states = [(layer.keys, layer.values) for layer in cache.layers]
        index = torch.from_numpy(columns).to(states[0][0].device)[:, None, :, None]
        self._states = [
            tuple(side.gather(2, index.expand(-1, side.shape[1], -1, side.shape[3])) for side in layer)
            for layer in states
        ]
