"""MEASURE: how well a model predicts answers, token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from damoc.data.prompts import Encoded
from damoc.models.batching import length_batches, pad_batch
from damoc.models.load import input_device

if TYPE_CHECKING:
    import torch

_LOGITS = 1 << 29
_MAX_PADDING = 0.2


def answer_losses(
    model: Any,
    rows: Sequence[Encoded],
    pad_id: int,
    batch_size: int = 16,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[NDArray[Any]]:
    """Negative log-likelihood of every answer token.

    Args:
        model: causal language model.
        rows: encoded rows.
        pad_id: padding token.
        batch_size: rows in a forward pass at most.
        on_progress: called with (rows done, rows).

    Returns:
        One float32 array a row, in the rows' order: nats of each answer token.
    """
    import torch

    device = input_device(model)
    losses: list[NDArray[Any]] = [np.zeros(0, dtype=np.float32)] * len(rows)
    done = 0
    with torch.inference_mode():
        for batch in length_batches(rows, batch_size, _tokens_at_once(model), _MAX_PADDING):
            chosen = [rows[index] for index in batch]
            padded = pad_batch(chosen, pad_id, device)
            del padded["attention_mask"]  # causal attention never sees padding on the right, and is faster unmasked
            nats = token_losses(model, padded).cpu().numpy()
            for index, row, values in zip(batch, chosen, nats, strict=True):
                losses[index] = values[row.answer_start - 1 : len(row.ids) - 1].copy()
            done += len(batch)
            on_progress(done, len(rows))
    return losses


def _tokens_at_once(model: Any) -> int:
    """Tokens of a batch: 16,384, or fewer where their logits would take more than 2 GiB in float32."""
    return int(min(1 << 14, max(1, _LOGITS // model.config.get_text_config().vocab_size)))


def token_losses(model: Any, padded: dict[str, torch.Tensor]) -> torch.Tensor:
    """Nats of each label given what stands before it: float32 (rows, length - 1), 0 where the label is -100.

    Padding stands on the right, where no token of a causal model looks, so that no mask is needed; without one,
    attention takes its fast path.
    """
    import torch
    from torch.nn import functional

    output = model(input_ids=padded["input_ids"], attention_mask=padded.get("attention_mask"), use_cache=False)
    labels = padded["labels"][:, 1:]
    scored = labels != -100
    nats = [  # row by row: what is scored of one row in float32 fits the processor's cache, a batch of it does not
        functional.cross_entropy(logits[own].float(), wanted[own], reduction="none")
        for logits, wanted, own in zip(output.logits[:, :-1], labels, scored, strict=True)
    ]
    return torch.zeros(labels.shape, dtype=torch.float32, device=labels.device).masked_scatter(scored, torch.cat(nats))
