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


def choice_losses(
    model: Any,
    rows: Sequence[Sequence[Encoded]],
    pad_id: int,
    batch_size: int = 16,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[list[NDArray[Any]]]:
    """:func:`answer_losses` of several answers to each prompt.

    An answer that differs from a longer one in no token but its last needs no pass of its own: one pass over a prompt
    serves all choices of one token.

    Args:
        model: causal language model.
        rows: per prompt, the encoded answers.
        pad_id: padding token.
        batch_size: sequences in a forward pass at most.
        on_progress: called with (sequences done, sequences).

    Returns:
        Per prompt, one float32 array an answer: nats of each of its tokens.
    """
    import torch

    device = str(next(model.parameters()).device)
    read: list[Encoded] = []
    served: list[list[tuple[int, int]]] = []
    for at, answers in enumerate(rows):
        own = len(read)
        for index in sorted(range(len(answers)), key=lambda index: -len(answers[index].ids)):
            known = answers[index].ids[:-1]
            reader = next((place for place in range(own, len(read)) if read[place].ids[: len(known)] == known), None)
            if reader is None:
                read.append(answers[index])
                served.append([])
            served[-1 if reader is None else reader].append((at, index))
    losses: list[list[NDArray[Any]]] = [[np.zeros(0, dtype=np.float32)] * len(answers) for answers in rows]
    done = 0
    with torch.inference_mode():
        for batch in length_batches(read, batch_size, _tokens_at_once(model), _MAX_PADDING):
            padded = pad_batch([read[place] for place in batch], pad_id, device)
            logits = model(input_ids=padded["input_ids"], use_cache=False).logits
            for own_logits, place in zip(logits, batch, strict=True):
                start = read[place].answer_start
                logs = torch.log_softmax(own_logits[start - 1 : len(read[place].ids) - 1].float(), dim=-1)
                for at, index in served[place]:
                    tokens = torch.tensor(rows[at][index].ids[start:], device=device)
                    nats = -logs[: len(tokens)].gather(1, tokens[:, None])[:, 0]
                    losses[at][index] = nats.cpu().numpy()
            done += len(batch)
            on_progress(done, len(read))
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
