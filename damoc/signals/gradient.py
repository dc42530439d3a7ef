"""MEASURE: the direction in which each row would move the scorer, and where the validation rows want it to go (LESS).

Xia, Malladi, Gururangan, Arora, Chen, "LESS: Selecting Influential Data for Targeted Instruction Tuning", ICML 2024.
The scorer is warmed up on a random sample of the rows. At the checkpoint, a training row gives the direction of Adam's
next update and a validation row its plain gradient; both are projected to a few dimensions and brought to unit length,
so that their inner product is the cosine by which LESS ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from damoc.data.example import Example
from damoc.data.prompts import Encoded, render_prompt
from damoc.errors import DamocError
from damoc.hashing import canonical_json, sha256_file
from damoc.models.batching import length_batches, pad_batch
from damoc.signals.adam import AdamDirection, Checkpoint, WarmUp, warm_up
from damoc.signals.identity import local_identity
from damoc.signals.per_example import per_example_gradients, row_losses
from damoc.signals.projection import CountSketch
from damoc.signals.registry import SignalContext, labels, register_signal
from damoc.signals.warm_up import chosen_by_hash, encoded, kept_tensors, lora

if TYPE_CHECKING:
    import torch

Project = Callable[[str, "torch.Tensor"], "torch.Tensor"]
DIMENSIONS = 4096
WARM_UP = WarmUp()
_WARM_UP_SHARE = 0.05
_WARM_UP_ROWS = 32
_BATCH = 16
_BATCH_TOKENS = 8192
_STORED_AT_ONCE = 256


@register_signal("gradient", "target_gradient", "target_group", models=("scorer",))
def gradient(context: SignalContext) -> Mapping[str, NDArray[Any]]:
    """Adam directions of the rows and gradients of the validation rows, projected, unit length (LESS).

    ``gradient`` float32 (N, dimensions), ``target_gradient`` float32 (M, dimensions), ``target_group`` int64 (M,): the
    closed answer of each validation row by number, 0 for all where answers are free. A row whose gradient is zero has a
    zero vector. With several checkpoints their vectors stand side by side, each times the square root of its weight
    (its epoch's mean learning rate over the sum of all), so that an inner product is the weighted mean of cosines.

    Raises:
        DamocError: there is no validation split, or the scorer cannot be warmed up.
    """
    if not context.targets:
        raise DamocError(
            "LESS needs a validation split: its gradients say what the rows should teach",
            "field dataset.splits.valid",
            "give a validation split (a share or a source), or choose another filter",
        )
    checkpoints = _checkpoints(context)
    total = sum(checkpoint.rate for _, checkpoint in checkpoints)
    groups = np.unique(labels(context.targets), return_inverse=True)[1].astype(np.int64)
    measured: dict[str, NDArray[Any]] = {"target_group": groups}
    for name, rows in (("gradient", context.rows), ("target_gradient", context.targets)):
        parts = [
            _measured(context, name, rows, identity, checkpoint) * np.float32(np.sqrt(checkpoint.rate / total))
            for identity, checkpoint in checkpoints
        ]
        measured[name] = np.concatenate(parts, axis=1)
    return measured


def row_vectors(
    model: Any,
    rows: Sequence[Encoded],
    pad_id: int,
    project: Project,
    direction: AdamDirection | None = None,
) -> NDArray[np.float32]:
    """Unit-length projections of the rows' gradients of their mean answer-token loss, float32 (rows, dimensions).

    Args:
        model: peft model with LoRA adapters.
        rows: encoded rows.
        pad_id: padding token.
        project: projection of one weight's gradients, such as a :class:`CountSketch`.
        direction: makes the gradients of a weight directions; None leaves them as they are.
    """
    vectors: dict[int, NDArray[Any]] = {}
    for batch in length_batches(rows, _BATCH, _BATCH_TOKENS):
        padded = pad_batch([rows[index] for index in batch], pad_id, str(model.device))
        summed = _Summed(project, direction)
        with per_example_gradients(model, summed.add):
            row_losses(model, padded).sum().backward()
        vectors.update(zip(batch, summed.unit().cpu().numpy(), strict=True))
    return np.stack([vectors[index] for index in range(len(rows))])


class _Summed:
    """Projected vectors of the rows of a batch, summed as the gradients of each weight come by."""

    def __init__(self, project: Project, direction: AdamDirection | None) -> None:
        self._project = project
        self._direction = direction
        self._total: torch.Tensor | float = 0.0
        self._moves: torch.Tensor | bool = False

    def add(self, name: str, gradients: torch.Tensor) -> None:
        moved = self._direction(name, gradients) if self._direction else gradients
        self._total = self._total + self._project(name, moved)
        self._moves = self._moves | gradients.any(dim=1)

    def unit(self) -> torch.Tensor:
        """Unit vectors; zero where all gradients are zero, though Adam's momentum would go on."""
        from torch.nn import functional

        moves: Any = self._moves
        return functional.normalize(self._total * moves[:, None], dim=1)


def _checkpoints(context: SignalContext) -> list[tuple[str, Checkpoint]]:
    """Checkpoints of the warm-up, each with a name that tells it from all others."""
    from safetensors.torch import load_file

    rows = chosen_by_hash(context.rows, _WARM_UP_SHARE, _WARM_UP_ROWS, context.seed)

    def make() -> dict[str, torch.Tensor]:
        scorer = context.scorer
        with lora(scorer.model, WARM_UP.rank, WARM_UP.alpha, seed=context.seed) as model:
            ends = warm_up(model, encoded(context, rows), scorer.tokenizer.pad_token_id, WARM_UP, context.seed)
        return {f"{at}/{name}": tensor for at, end in enumerate(ends) for name, tensor in end.tensors().items()}

    path = kept_tensors(context, "gradient", asdict(WARM_UP), rows, make)
    content, stored = sha256_file(path), load_file(path)
    checkpoints = []
    for at in range(WARM_UP.checkpoints):
        flat = {name.removeprefix(f"{at}/"): tensor for name, tensor in stored.items() if name.startswith(f"{at}/")}
        checkpoints.append((f"{content}/{at}", Checkpoint.from_tensors(flat)))
    return checkpoints


def _measured(
    context: SignalContext, name: str, rows: Sequence[Example], identity: str, checkpoint: Checkpoint
) -> NDArray[Any]:
    def key(row: Example) -> str:
        return canonical_json([render_prompt(row.instruction, row.input, row.choices), row.output])

    def compute(missing: Sequence[Example]) -> Iterator[NDArray[Any]]:
        scorer = context.scorer
        project = CountSketch(DIMENSIONS, context.seed)
        direction = AdamDirection(checkpoint, str(scorer.model.device)) if name == "gradient" else None
        with lora(scorer.model, WARM_UP.rank, WARM_UP.alpha, checkpoint.weights) as model:
            for start in range(0, len(missing), _STORED_AT_ONCE):
                batch = encoded(context, missing[start : start + _STORED_AT_ONCE])
                yield row_vectors(model, batch, scorer.tokenizer.pad_token_id, project, direction)

    settings = {
        "scorer": local_identity(context.config.scorer),
        "max_length": context.max_length,
        "checkpoint": identity,
        "dimensions": DIMENSIONS,
        "projection": ["balanced count-sketch", context.seed],
    }
    return context.cached(name, settings).measure(rows, compute, context.progress(name.replace("_", " ")), key)
