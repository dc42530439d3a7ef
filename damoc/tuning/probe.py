"""MEASURE: which learning rate suits a candidate, found on a share of its rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from damoc.config import TuningConfig
from damoc.data.prompts import Encoded
from damoc.errors import CandidateError
from damoc.tuning.loop import OnStep, fine_tune

_SHARE = 0.1


@dataclass(frozen=True)
class ProbedRate:
    """How a short tuning at one learning rate ended.

    Args:
        learning_rate: its peak.
        bits_per_byte: of the validation answers afterwards; None where the tuning failed.
        reason: why it failed.
        flops: floating-point operations of its steps.
    """

    learning_rate: float
    bits_per_byte: float | None
    reason: str = ""
    flops: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)


def probe_learning_rates(
    open_model: Callable[[], Any],
    rows: Sequence[Encoded],
    valid: Sequence[Encoded],
    valid_bytes: int,
    pad_id: int,
    settings: TuningConfig,
    seed: int,
    on_step: OnStep = lambda step, steps, point: None,
) -> list[ProbedRate]:
    """Tunes a fresh model at each rate of ``settings.lr_probe`` on the same tenth of the rows, one batch at least.

    Args:
        open_model: loads the model anew.
        rows: training rows.
        valid: held-out rows that the rates are compared on.
        valid_bytes: UTF-8 bytes of their answers.
        pad_id: padding token.
        settings: of the tuning; budget and epochs are those of the share.
        seed: of the draw and of each tuning.
        on_step: see :func:`damoc.tuning.fine_tune`.

    Returns:
        One entry a rate, in their order.

    Raises:
        CandidateError: every rate failed.
    """
    size = min(len(rows), max(settings.batch_size, round(_SHARE * len(rows))))
    share = [rows[index] for index in np.random.default_rng(seed).permutation(len(rows))[:size]]
    tokens = sum(row.answer_length for row in valid)
    probes = []
    for rate in settings.lr_probe:
        short = settings.model_copy(update={"learning_rate": rate, "budget": None})
        try:
            outcome = fine_tune(open_model(), share, valid, pad_id, short, seed, on_step)
        except CandidateError as error:
            probes.append(ProbedRate(rate, None, error.reason))
            continue
        bits = outcome.history[-1]["valid_loss"] * tokens / math.log(2)
        probes.append(ProbedRate(rate, bits / valid_bytes, flops=outcome.flops))
    if all(probe.bits_per_byte is None for probe in probes):
        raise CandidateError("diverged", f"no learning rate of the probe works: {probes[0].reason}")
    return probes


def best_rate(probes: Sequence[ProbedRate]) -> float:
    """The rate with the fewest bits per byte; the smaller one of equals."""
    worked = [(probe.bits_per_byte, probe.learning_rate) for probe in probes if probe.bits_per_byte is not None]
    return min(worked)[1]
