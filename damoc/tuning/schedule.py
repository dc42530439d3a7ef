"""DECIDE: the order of the rows and the learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_POOL = 8


def epoch_batches(lengths: Sequence[int], batch_size: int, rng: np.random.Generator) -> list[list[int]]:
    """One epoch of shuffled batches whose rows have similar lengths.

    Rows are shuffled, sorted by length within pools of eight batches, cut, and the batches shuffled.

    Args:
        lengths: tokens of each row.
        batch_size: rows a batch; the last one of the epoch may be smaller.
        rng: seeded generator.

    Returns:
        Batches of row indices; every row stands in exactly one.
    """
    order = rng.permutation(len(lengths)).tolist()
    pool = batch_size * _POOL
    batches: list[list[int]] = []
    for start in range(0, len(order), pool):
        rows = sorted(order[start : start + pool], key=lambda row: (lengths[row], row))
        batches += [rows[at : at + batch_size] for at in range(0, len(rows), batch_size)]
    return [batches[index] for index in rng.permutation(len(batches))]


def learning_rate_factor(step: int, steps: int, warmup_fraction: float) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then cosine to zero.

    Args:
        step: 0 for the first.
        steps: steps in all.
        warmup_fraction: share of them that warms up.
    """
    warmup = max(1, math.ceil(steps * warmup_fraction))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
