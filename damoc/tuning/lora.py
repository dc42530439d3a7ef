"""APPLY: LoRA fine-tuning on completions, one plain loop for every candidate.

Only answer tokens carry loss, averaged over the tokens of the whole batch however it is cut into micro-batches, so
memory settings never change the outcome.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from damoc.config import TuningConfig
from damoc.data.prompts import Encoded
from damoc.errors import CandidateError
from damoc.models.batching import length_batches, pad_batch
from damoc.models.likelihood import answer_losses, token_losses
from damoc.tuning.schedule import epoch_batches, learning_rate_factor

if TYPE_CHECKING:
    import torch

_LOGGED_POINTS = 60
_VALIDATIONS = 6
_MICRO_BATCH_TOKENS = 8192


@dataclass(frozen=True)
class TuningOutcome:
    """A fine-tuned model and how it got there.

    Args:
        model: the peft model, in evaluation mode.
        history: per logged step ``step``, ``epoch``, ``train_loss``, ``learning_rate`` and, a few times,
            ``valid_loss`` (nats per answer token).
        steps: optimiser steps.
        tokens: tokens read, padding not counted.
        trainable: parameters trained.
    """

    model: Any
    history: list[dict[str, float]]
    steps: int
    tokens: int
    trainable: int


def fine_tune(
    model: Any,
    rows: Sequence[Encoded],
    valid: Sequence[Encoded],
    pad_id: int,
    settings: TuningConfig,
    seed: int,
    on_step: Callable[[int, int, Mapping[str, float]], None] = lambda step, steps, point: None,
) -> TuningOutcome:
    """Trains LoRA adapters (Hu et al., ICLR 2022) on every linear layer but the head.

    Args:
        model: causal language model; its weights stay as they are.
        rows: training rows.
        valid: held-out rows on which the loss is measured now and then; may be empty.
        pad_id: padding token.
        settings: rank, rates, epochs and limits.
        seed: of adapter weights, dropout and row order.
        on_step: called with (step, steps, history point, which is empty where none was logged).

    Returns:
        The outcome.

    Raises:
        CandidateError: ``diverged`` when the loss is not finite, ``timeout`` when the time is up, ``incompatible``
            when there is nothing to attach adapters to.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    lora = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    try:
        tuned: Any = get_peft_model(model, lora)
    except ValueError as error:
        raise CandidateError("incompatible", f"LoRA cannot be attached: {error}") from error
    parameters = [parameter for parameter in tuned.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=0.0)

    per_epoch = math.ceil(len(rows) / settings.batch_size)
    steps = max(1, round(per_epoch * settings.epochs))
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, steps, settings.warmup_fraction)
    )
    device = str(next(tuned.parameters()).device)
    rng = np.random.default_rng(seed)
    lengths = [len(row.ids) for row in rows]
    deadline = time.monotonic() + settings.timeout_minutes * 60
    log_every = max(1, steps // _LOGGED_POINTS)
    validate_every = max(1, steps // _VALIDATIONS)
    history: list[dict[str, float]] = []
    since_logged: list[float] = []
    queue: list[list[int]] = []
    tokens = 0
    for step in range(1, steps + 1):
        if not queue:
            queue = epoch_batches(lengths, settings.batch_size, rng)
        batch = [rows[index] for index in queue.pop(0)]
        tuned.train()
        rate = scheduler.get_last_lr()[0]
        loss = _backward(tuned, batch, pad_id, device)
        if not math.isfinite(loss):
            raise CandidateError("diverged", f"the training loss is {loss} at step {step} of {steps}")
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        tokens += sum(len(row.ids) for row in batch)
        since_logged.append(loss)

        point: dict[str, float] = {}
        if step % log_every == 0 or step == steps:
            point = {
                "step": step,
                "epoch": round(step / per_epoch, 4),
                "train_loss": round(float(np.mean(since_logged)), 5),
                "learning_rate": float(f"{rate:.6g}"),
            }
            since_logged.clear()
            if valid and (step % validate_every < log_every or step == steps):
                point["valid_loss"] = round(_mean_loss(tuned, valid, pad_id, settings.batch_size), 5)
            history.append(point)
        on_step(step, steps, point)
        if time.monotonic() > deadline:
            raise CandidateError(
                "timeout", f"training reached step {step} of {steps} in {settings.timeout_minutes:g} minutes"
            )
    tuned.eval()
    return TuningOutcome(tuned, history, steps, tokens, sum(parameter.numel() for parameter in parameters))


def _backward(model: Any, batch: Sequence[Encoded], pad_id: int, device: str) -> float:
    """Accumulates the gradient of the batch's mean answer-token loss and returns that loss, in nats."""
    supervised = sum(row.answer_length for row in batch)
    total = 0.0
    for indices in length_batches(batch, len(batch), _MICRO_BATCH_TOKENS):
        padded = pad_batch([batch[index] for index in indices], pad_id, device)
        loss: torch.Tensor = token_losses(model, padded).sum() / supervised
        loss.backward()
        total += float(loss.detach())
    return total


def _mean_loss(model: Any, rows: Sequence[Encoded], pad_id: int, batch_size: int) -> float:
    model.eval()
    losses = answer_losses(model, rows, pad_id, batch_size)
    mean = float(np.concatenate(losses).astype(np.float64).mean())
    if not math.isfinite(mean):
        raise CandidateError("diverged", f"the validation loss is {mean}")
    return mean
