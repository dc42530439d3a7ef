"""MEASURE: likelihoods under the scorer after brief experience with a few diverse rows (Cherry)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from damoc.config import TuningConfig
from damoc.filters.hybrid.cherry import experience_rows
from damoc.hashing import sha256_file
from damoc.models.load import LoadedModel
from damoc.signals.likelihood import alone_losses, pair_losses
from damoc.signals.registry import SignalContext, register_signal
from damoc.signals.warm_up import adapted_scorer, tuned_adapter

EXPERIENCE = TuningConfig(rank=8, alpha=16, dropout=0.0, epochs=1.0, dtype="float32")


@register_signal(
    "experienced_answer_loss",
    "experienced_alone_loss",
    models=("encoder", "scorer"),
    needs=("prompt_embedding", "prompt_loss"),
)
def experienced_losses(context: SignalContext) -> Mapping[str, NDArray[Any]]:
    """Answer losses with and without the prompt under the scorer after one epoch on a few diverse rows (Cherry).

    The pre-experience of Li et al., "From Quantity to Quality", NAACL 2024, with LoRA adapters in place of full tuning.

    Returns:
        ``experienced_answer_loss`` and ``experienced_alone_loss`` float64 (N,): mean nats per answer token, measured
        as ``answer_loss`` and ``alone_loss`` are under the scorer itself.

    Raises:
        DamocError: the scorer cannot be loaded or tuned, or its losses are no numbers.
    """
    adapter = tuned_adapter(context, "experience", _experience(context), EXPERIENCE)
    with ExitStack() as adapters:
        experienced = _Experienced(
            rows=context.rows,
            targets=context.targets,
            config=context.config,
            cache=context.cache / "experienced" / sha256_file(adapter)[:32],
            seed=context.seed,
            progress=lambda name: context.progress(f"{name} after experience"),
            open_scorer=lambda: adapters.enter_context(adapted_scorer(context, adapter, EXPERIENCE)),
        )
        return {
            "experienced_answer_loss": pair_losses(experienced)["answer_loss"],
            "experienced_alone_loss": alone_losses(experienced)["alone_loss"],
        }


@dataclass
class _Experienced(SignalContext):
    """The same rows before the experienced scorer, which is opened when a loss is not in its cache."""

    open_scorer: Callable[[], LoadedModel] = field(kw_only=True)

    @cached_property
    def scorer(self) -> LoadedModel:
        return self.open_scorer()


def _experience(context: SignalContext) -> list[int]:
    """Numbers of the rows of the pre-experience: the same rows, in whatever order all of them stand."""
    order = np.array(sorted(range(len(context.rows)), key=lambda row: context.rows[row].content_hash()))
    embedding, loss = (context.measured[name][order] for name in ("prompt_embedding", "prompt_loss"))
    chosen: list[int] = order[experience_rows(embedding, loss, context.seed)].tolist()
    return chosen
