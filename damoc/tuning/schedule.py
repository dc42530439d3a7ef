"""DECIDE: the order of the rows, how many steps a budget pays for, the learning rate of each, and when to give up."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

_POOL = 8
_LEAST_START = 1.0


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


def training_batches(lengths: Sequence[int], batch_size: int, seed: int) -> Iterator[list[int]]:
    """The batches of one epoch after another, without end; the same for the same arguments."""
    rng = np.random.default_rng(seed)
    while True:
        yield from epoch_batches(lengths, batch_size, rng)


def steps_of_epochs(rows: int, batch_size: int, epochs: float) -> int:
    """Steps of so many passes over the rows, one at least."""
    return max(1, round(math.ceil(rows / batch_size) * epochs))


def steps_of_tokens(lengths: Sequence[int], batch_size: int, seed: int, tokens: float) -> int:
    """Steps whose tokens come closest to a budget, one at least.

    Args:
        lengths: tokens of each row, none of them 0.
        batch_size: rows a batch.
        seed: of the order of the rows.
        tokens: the budget.
    """
    spent = 0.0
    for step, batch in enumerate(training_batches(lengths, batch_size, seed), 1):
        more = sum(lengths[row] for row in batch)
        if spent + more >= tokens:
            return step if step == 1 or spent + more - tokens <= tokens - spent else step - 1
        spent += more
    raise AssertionError("the batches have no end")


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


def blown_up(losses: Sequence[float], start: float, factor: float, patience: int) -> bool:
    """Whether a training should be given up: its last losses are all far above where it started.

    Args:
        losses: nats per token, in order.
        start: the loss before the first step; one below 1 nat counts as 1, so that noise around a small loss is none.
        factor: multiple of the start that is too much.
        patience: losses in a row that have to be over it.
    """
    limit = factor * max(start, _LEAST_START)
    return len(losses) >= patience and all(loss > limit for loss in losses[-patience:])
