"""A warm-up with Adam, and the direction in which Adam would then go for a single row (LESS)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from damoc.data.prompts import Encoded
from damoc.errors import DamocError
from damoc.models.batching import length_batches, pad_batch
from damoc.signals.per_example import row_losses
from damoc.tuning.schedule import epoch_batches, learning_rate_factor

if TYPE_CHECKING:
    import torch

BETAS = (0.9, 0.999)
EPSILON = 1e-8
_MICRO_BATCH_TOKENS = 8192


@dataclass(frozen=True)
class WarmUp:
    """How the scorer is warmed up before gradients are taken.

    Args:
        rank: of the LoRA adapters.
        alpha: of the LoRA adapters; their output is scaled by ``alpha / rank``.
        learning_rate: peak.
        warmup_fraction: share of the steps over which the rate rises.
        epochs: passes over the warm-up rows.
        batch_size: rows a step.
        checkpoints: the last so many epochs whose ends gradients are taken at.
    """

    rank: int = 8
    alpha: int = 16
    learning_rate: float = 2e-4
    warmup_fraction: float = 0.03
    epochs: int = 4
    batch_size: int = 16
    checkpoints: int = 1


@dataclass(frozen=True)
class Checkpoint:
    """Adapter and optimiser at the end of an epoch, every tensor by its parameter's name.

    Args:
        weights: of the adapters.
        exp_avg: Adam's first moments.
        exp_avg_sq: Adam's second moments.
        steps: optimiser steps taken.
        rate: mean learning rate of the epoch.
    """

    weights: Mapping[str, torch.Tensor]
    exp_avg: Mapping[str, torch.Tensor]
    exp_avg_sq: Mapping[str, torch.Tensor]
    steps: int
    rate: float

    def tensors(self) -> dict[str, torch.Tensor]:
        """All of it under flat names, as safetensors keeps it."""
        import torch

        parts = {"weights": self.weights, "exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq}
        flat = {f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()}
        facts = {"steps": torch.tensor(self.steps), "rate": torch.tensor(self.rate, dtype=torch.float64)}
        return {**flat, **facts}

    @classmethod
    def from_tensors(cls, flat: Mapping[str, torch.Tensor]) -> Checkpoint:
        """Reads what :meth:`tensors` gave."""

        def part(of: str) -> dict[str, torch.Tensor]:
            return {name.removeprefix(of): tensor for name, tensor in flat.items() if name.startswith(of)}

        named = {key: part(f"{key}/") for key in ("weights", "exp_avg", "exp_avg_sq")}
        return cls(**named, steps=int(flat["steps"]), rate=float(flat["rate"]))


def warm_up(model: Any, rows: Sequence[Encoded], pad_id: int, settings: WarmUp, seed: int) -> list[Checkpoint]:
    """Trains the adapters of a peft model with Adam on the mean of the rows' mean answer-token losses.

    The gradient of a step is thus the mean of its rows' own gradients, which the moments are compared with later; for
    the same reason it is not clipped.

    Args:
        model: peft model with trainable adapters.
        rows: encoded warm-up rows.
        pad_id: padding token.
        settings: rates and epochs.
        seed: of the order of the rows.

    Returns:
        The last ``settings.checkpoints`` epochs' ends, the earliest first.

    Raises:
        DamocError: the loss is not finite.
    """
    import torch

    parameters = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    optimizer = torch.optim.Adam(parameters.values(), lr=settings.learning_rate, betas=BETAS, eps=EPSILON)
    rng = np.random.default_rng(seed)
    lengths = [len(row.ids) for row in rows]
    steps = settings.epochs * math.ceil(len(rows) / settings.batch_size)
    checkpoints: list[Checkpoint] = []
    step = 0
    for epoch in range(settings.epochs):
        rates = []
        for batch in epoch_batches(lengths, settings.batch_size, rng):
            rates.append(settings.learning_rate * learning_rate_factor(step, steps, settings.warmup_fraction))
            optimizer.param_groups[0]["lr"] = rates[-1]
            optimizer.zero_grad(set_to_none=True)
            _accumulate(model, [rows[index] for index in batch], pad_id)
            optimizer.step()
            step += 1
        if epoch >= settings.epochs - settings.checkpoints:
            checkpoints.append(_checkpoint(parameters, optimizer, step, float(np.mean(rates))))
    return checkpoints


def _accumulate(model: Any, batch: Sequence[Encoded], pad_id: int) -> None:
    for indices in length_batches(batch, len(batch), _MICRO_BATCH_TOKENS):
        padded = pad_batch([batch[index] for index in indices], pad_id, str(model.device))
        loss: torch.Tensor = row_losses(model, padded).sum() / len(batch)
        if not math.isfinite(float(loss.detach())):
            raise DamocError(
                "the scorer's loss is not finite in the warm-up before gradients are taken",
                "field data_compression.signals.scorer",
                "name another scorer, or a filter that needs no gradients",
            )
        loss.backward()


def _checkpoint(parameters: Mapping[str, torch.Tensor], optimizer: Any, steps: int, rate: float) -> Checkpoint:
    def copied(part: str) -> dict[str, torch.Tensor]:
        return {name: optimizer.state[weight][part].clone() for name, weight in parameters.items()}

    weights = {name: weight.detach().clone() for name, weight in parameters.items()}
    return Checkpoint(weights, copied("exp_avg"), copied("exp_avg_sq"), steps, rate)


class AdamDirection:
    """Adam's next update (without its learning rate and sign) had the next batch been one row alone.

    With the row's gradient ``g``, the moments ``m`` and ``v`` and ``t`` steps before, it is
    ``m' / (sqrt(v') + eps)`` where ``m' = (b1 m + (1 - b1) g) / (1 - b1**(t + 1))`` and
    ``v' = (b2 v + (1 - b2) g**2) / (1 - b2**(t + 1))``: definition 3.1 of Xia et al., "LESS", ICML 2024, with the
    bias correction of Adam (Kingma and Ba, 2015). The authors' program leaves the correction out and puts ``eps`` below
    the root, which damps coordinates of small ``v``; this is what the optimiser itself does.

    Args:
        checkpoint: moments and steps.
        device: where gradients come from.
    """

    def __init__(self, checkpoint: Checkpoint, device: str) -> None:
        first, second = (1 - beta ** (checkpoint.steps + 1) for beta in BETAS)
        self._share = ((1 - BETAS[0]) / first, (1 - BETAS[1]) / second)
        self._mean = {
            name: moment.flatten().to(device) * (BETAS[0] / first) for name, moment in checkpoint.exp_avg.items()
        }
        self._square = {
            name: moment.flatten().to(device) * (BETAS[1] / second) for name, moment in checkpoint.exp_avg_sq.items()
        }

    def __call__(self, name: str, gradients: torch.Tensor) -> torch.Tensor:
        """Directions of rows with given gradients of one weight, float (rows, elements of the weight)."""
        import torch

        scale = torch.addcmul(self._square[name], gradients, gradients, value=self._share[1]).sqrt_().add_(EPSILON)
        return torch.add(self._mean[name], gradients, alpha=self._share[0]).div_(scale)
