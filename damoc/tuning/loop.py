"""APPLY: fine-tuning on completions, one plain loop for every candidate and every method.

Only answer tokens carry loss, averaged over the tokens of the whole batch however it is cut into micro-batches. All
that is random follows from the seed, and where a training stands can be written down: a killed one goes on to the same
weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from damoc.config import TuningConfig
from damoc.data.prompts import Encoded
from damoc.errors import CandidateError
from damoc.tuning.checkpoint import Checkpoints, TrainingState
from damoc.tuning.cost import flops_per_token
from damoc.tuning.gradients import BatchRunner
from damoc.tuning.methods import make_trainable, settle
from damoc.tuning.processes import OneProcess
from damoc.tuning.schedule import (
    blown_up,
    learning_rate_factor,
    steps_of_epochs,
    steps_of_tokens,
    training_batches,
)

_LOGGED_POINTS = 60
_VALIDATIONS = 6

OnStep = Callable[[int, int, Mapping[str, float]], None]


@dataclass(frozen=True)
class TuningOutcome:
    """A fine-tuned model and how it got there.

    Args:
        model: the model (a peft model where there are adapters), in evaluation mode.
        history: per logged step ``step``, ``epoch``, ``train_loss``, ``learning_rate`` and, a few times,
            ``valid_loss`` (nats per answer token).
        steps: optimiser steps.
        tokens: tokens read, padding not counted.
        trainable: parameters trained.
        flops: floating-point operations of the steps, see :func:`damoc.tuning.cost.flops_per_token`.
        valid_before: validation loss before the first step, None without validation rows.
        calibration_loss: loss afterwards on the rows that the layers were chosen by, None where none are named.
        micro_batch_tokens: padded tokens of a micro-batch at most, at the end; less than at the start where the memory
            did not suffice.
    """

    model: Any
    history: list[dict[str, float]]
    steps: int
    tokens: int
    trainable: int
    flops: float
    valid_before: float | None
    calibration_loss: float | None
    micro_batch_tokens: int


def fine_tune(
    model: Any,
    rows: Sequence[Encoded],
    valid: Sequence[Encoded],
    pad_id: int,
    settings: TuningConfig,
    seed: int,
    on_step: OnStep = lambda step, steps, point: None,
    checkpoints: Checkpoints | None = None,
) -> TuningOutcome:
    """Trains a model on answers in this process, with AdamW and a cosine schedule.

    Args:
        model: causal language model, as :func:`damoc.tuning.open_proxy` loads it; with adapters its own weights stay as
            they are.
        rows: training rows.
        valid: held-out rows on which the loss is measured now and then; may be empty.
        pad_id: padding token.
        settings: method, rates, budget and limits.
        seed: of adapter weights, dropout and row order.
        on_step: called with (step, steps, history point, which is empty where none was logged).
        checkpoints: where the training is kept and found again; None keeps nothing.

    Returns:
        The outcome.

    Raises:
        CandidateError: ``diverged`` when a loss is not finite or stays far above its start, ``timeout`` when the time
            is up, ``oom`` when the memory does not suffice for one row, ``incompatible`` when there is nothing to
            attach adapters to or nothing to learn in a row.
    """
    import torch

    torch.manual_seed(seed)
    return train(make_trainable(model, settings), rows, valid, pad_id, settings, seed, on_step, checkpoints)


def train(
    tuned: Any,
    rows: Sequence[Encoded],
    valid: Sequence[Encoded],
    pad_id: int,
    settings: TuningConfig,
    seed: int,
    on_step: OnStep,
    checkpoints: Checkpoints | None,
    processes: OneProcess | None = None,
    micro_batch_tokens: int | None = None,
    calibration: int = 0,
) -> TuningOutcome:
    """The loop of :func:`fine_tune`, in one process or in one of several that share a model.

    Args:
        tuned: the model with its trained weights marked, sharded where there are several processes.
        rows: training rows, the same in every process.
        valid: held-out rows, the same in every process.
        pad_id: padding token.
        settings: see :func:`fine_tune`.
        seed: of the row order.
        on_step: see :func:`fine_tune`; called in every process.
        checkpoints: see :func:`fine_tune`.
        processes: those that share the training.
        micro_batch_tokens: padded tokens of a micro-batch at most, where it is known that more do not fit.
        calibration: the loss of so many training rows, the first ones, is measured at the end.

    Returns:
        The outcome, the same in every process but for the model, of which each has its part.

    Raises:
        CandidateError: see :func:`fine_tune`; not in every process where time or memory of one are used up.
    """
    processes = processes or OneProcess()
    if empty := sum(not row.answer_length for row in rows):
        raise CandidateError("incompatible", f"the tokenizer makes no token of {empty} of {len(rows)} answers")
    training = _Training(tuned, valid, pad_id, settings, processes)
    training.runner.micro_batch_tokens = micro_batch_tokens or training.runner.micro_batch_tokens
    lengths = [len(row.ids) for row in rows]
    steps = _steps(lengths, settings, seed, training.flops_per_token)
    state = training.resume(checkpoints) if checkpoints else training.state
    batches = enumerate(training_batches(lengths, settings.batch_size, seed), 1)
    for step, batch in islice(batches, state.step, steps):
        point = training.step([rows[index] for index in batch], step, steps, math.ceil(len(rows) / settings.batch_size))
        on_step(step, steps, point)
        if checkpoints and step < steps and processes.first(checkpoints.due()):
            training.save(checkpoints)
    calibration_loss = round(training.runner.mean_loss(rows[:calibration]), 6) if calibration else None
    settle(tuned, settings)
    return training.outcome(calibration_loss)


def _steps(lengths: Sequence[int], settings: TuningConfig, seed: int, flops_per_token: float) -> int:
    if settings.budget is None:
        return steps_of_epochs(len(lengths), settings.batch_size, settings.epochs)
    price = flops_per_token if settings.budget.unit == "flops" else 1.0
    return steps_of_tokens(lengths, settings.batch_size, seed, settings.budget.amount / price)


class _Training:
    """A model in training.

    Args:
        tuned: the model, its trained weights marked.
        valid: held-out rows.
        pad_id: padding token.
        settings: of the tuning.
        processes: those that share it.
    """

    def __init__(
        self, tuned: Any, valid: Sequence[Encoded], pad_id: int, settings: TuningConfig, processes: OneProcess
    ) -> None:
        import torch

        self._tuned, self._valid, self._settings = tuned, valid, settings
        self._weights = {name: weight for name, weight in tuned.named_parameters() if weight.requires_grad}
        self._optimizer = torch.optim.AdamW(self._weights.values(), lr=settings.learning_rate, weight_decay=0.0)
        device = str(next(tuned.parameters()).device)
        self._processes = processes
        self.runner = BatchRunner(tuned, pad_id, lambda: processes.precision(settings, device), processes)
        self._started = time.monotonic()
        self.flops_per_token = flops_per_token(tuned)
        self.state = TrainingState()

    def step(self, batch: Sequence[Encoded], step: int, steps: int, per_epoch: int) -> dict[str, float]:
        """One step of the optimiser and, now and then, a point of the history."""
        import torch

        state, settings = self.state, self._settings
        if step == 1 and self._valid:
            state.valid_before = self._validate()
        rate = settings.learning_rate * learning_rate_factor(step - 1, steps, settings.warmup_fraction)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        loss = self.runner.backward(batch)
        if not math.isfinite(loss):
            raise CandidateError("diverged", f"the training loss is {loss} at step {step} of {steps}")
        torch.nn.utils.clip_grad_norm_(self._weights.values(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        state.step = step
        state.tokens += sum(len(row.ids) for row in batch)
        state.losses.append(loss)
        if state.start_loss is None:
            state.start_loss = loss
        point = self._log(step, steps, per_epoch, rate)
        if self._seconds() > settings.timeout_minutes * 60:
            raise CandidateError(
                "timeout", f"training reached step {step} of {steps} in {settings.timeout_minutes:g} minutes"
            )
        return point

    def resume(self, checkpoints: Checkpoints) -> TrainingState:
        """Where the training stands: at its last checkpoint, or before its first step."""
        if (found := checkpoints.load(self._weights, self._optimizer, self._processes)) is not None:
            self.state = found
            self.runner.micro_batch_tokens = min(found.micro_batch_tokens, self.runner.micro_batch_tokens)
        return self.state

    def save(self, checkpoints: Checkpoints) -> None:
        """Keeps where the training stands."""
        self.state.seconds, self._started = self._seconds(), time.monotonic()
        self.state.micro_batch_tokens = self.runner.micro_batch_tokens
        checkpoints.save(self.state, self._weights, self._optimizer, self._processes)

    def outcome(self, calibration_loss: float | None) -> TuningOutcome:
        """What came out."""
        state = self.state
        return TuningOutcome(
            model=self._tuned,
            history=state.history,
            steps=state.step,
            tokens=state.tokens,
            trainable=sum(weight.numel() for weight in self._weights.values()),
            flops=state.tokens * self.flops_per_token,
            valid_before=state.valid_before,
            calibration_loss=calibration_loss,
            micro_batch_tokens=self.runner.micro_batch_tokens,
        )

    def _seconds(self) -> float:
        return self.state.seconds + time.monotonic() - self._started

    def _log(self, step: int, steps: int, per_epoch: int, rate: float) -> dict[str, float]:
        """A point of the history, empty where none is due; gives the candidate up where its losses have blown up."""
        state = self.state
        log_every, validate_every = max(1, steps // _LOGGED_POINTS), max(1, steps // _VALIDATIONS)
        if step % log_every and step != steps:
            return {}
        point = {
            "step": step,
            "epoch": round(step / per_epoch, 4),
            "train_loss": round(float(np.mean(state.losses)), 5),
            "learning_rate": float(f"{rate:.6g}"),
        }
        state.losses.clear()
        if self._valid and (step % validate_every < log_every or step == steps):
            point["valid_loss"] = round(self._validate(), 5)
        state.history.append(point)
        self._give_up("train_loss", "training", state.start_loss)
        self._give_up("valid_loss", "validation", state.valid_before)
        return point

    def _validate(self) -> float:
        mean = self.runner.mean_loss(self._valid)
        if not math.isfinite(mean):
            raise CandidateError("diverged", f"the validation loss is {mean}")
        return mean

    def _give_up(self, key: str, name: str, start: float | None) -> None:
        losses = [point[key] for point in self.state.history if key in point]
        factor, patience = self._settings.divergence_factor, self._settings.divergence_patience
        if start is not None and blown_up(losses, start, factor, patience):
            raise CandidateError(
                "diverged",
                f"the {name} loss went from {start:.3g} to {losses[-1]:.3g} nats and stayed above {factor:g} times its "
                f"start, step {self.state.step}",
            )
