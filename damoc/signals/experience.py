"""MEASURE: likelihoods under the scorer after brief experience with a few diverse rows (Cherry)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from damoc.config import TuningConfig
from damoc.data.example import Example
from damoc.data.prompts import Encoded, render_prompt
from damoc.filters.hybrid.cherry import experience_rows
from damoc.hashing import canonical_json, sha256_file
from damoc.models.likelihood import answer_losses
from damoc.signals.identity import local_identity
from damoc.signals.registry import SignalContext, register_signal
from damoc.signals.warm_up import adapted_scorer, encoded, tuned_adapter

EXPERIENCE = TuningConfig(rank=8, alpha=16, dropout=0.0, epochs=1.0, dtype="float32")
_STORED_AT_ONCE = 256


@register_signal(
    "experienced_answer_loss",
    "experienced_alone_loss",
    models=("encoder", "scorer"),
    needs=("prompt_embedding", "prompt_loss"),
)
def experienced_losses(context: SignalContext) -> Mapping[str, NDArray[Any]]:
    """Answer losses with and without the prompt under the scorer after one epoch on a few diverse rows (Cherry).

    ``experienced_answer_loss`` and ``experienced_alone_loss``, float32 (N,): mean nats per answer token, as
    ``answer_loss`` and ``alone_loss`` are under the scorer itself. The pre-experience of Li et al., "From Quantity to
    Quality", NAACL 2024, section 2.1, with LoRA adapters in place of full tuning.

    Raises:
        DamocError: the scorer cannot be tuned.
    """
    ids = experience_rows(context.measured["prompt_embedding"], context.measured["prompt_loss"], context.seed)
    adapter = tuned_adapter(context, "experience", ids.tolist(), EXPERIENCE)
    settings = {
        "scorer": local_identity(context.config.scorer),
        "max_length": context.max_length,
        "adapter": sha256_file(adapter),
    }
