"""Batches of similar length, padded for a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from damoc.data.prompts import Encoded

if TYPE_CHECKING:
    import torch


def length_batches(
    rows: Sequence[Encoded], batch_size: int, max_tokens: int = 1 << 14, max_padding: float = 1.0
) -> Iterator[list[int]]:
    """Indices of rows of similar length, longest first, so that an out-of-memory shows at once.

    Args:
        rows: encoded rows.
        batch_size: rows at most.
        max_tokens: padded tokens at most (a single longer row stands alone).
        max_padding: share of padding that a row brings with it at most.
    """
    order = sorted(range(len(rows)), key=lambda index: (-len(rows[index].ids), index))
    batch: list[int] = []
    for index in order:
        longest = len(rows[batch[0]].ids) if batch else 0
        full = len(batch) == batch_size or (len(batch) + 1) * longest > max_tokens
        if batch and (full or longest - len(rows[index].ids) > max_padding * longest):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def pad_batch(rows: Sequence[Encoded], pad_id: int, device: str) -> dict[str, torch.Tensor]:
    """Right-padded ``input_ids``, ``attention_mask``, ``labels`` (-100 outside the answer): int64 (rows, longest)."""
    import torch

    longest = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), longest), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)
    for index, row in enumerate(rows):
        tokens = torch.tensor(row.ids, dtype=torch.long)
        ids[index, : len(tokens)] = tokens
        mask[index, : len(tokens)] = 1
        labels[index, row.answer_start : len(tokens)] = tokens[row.answer_start :]
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device), "labels": labels.to(device)}
