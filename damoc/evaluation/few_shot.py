"""DECIDE: the worked examples of k-shot evaluation, and how a row shows them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from damoc.data.example import Example
from damoc.data.prompts import render_prompt


def demonstrations(train: Sequence[Example], shots: int, seed: int) -> list[Example]:
    """Draws training rows, the same for every candidate.

    The rows that are no longer than the median are drawn from, so that the worked examples leave room for the row.

    Args:
        train: training rows.
        shots: how many.
        seed: of the drawing.
    """
    order = sorted(train, key=lambda row: (len(row.instruction) + len(row.input) + len(row.output), row.id))
    short = order[: max(shots, (len(order) + 1) // 2)]
    drawn = np.random.default_rng(seed).permutation(len(short))[:shots]
    return [short[index] for index in drawn]


def with_demonstrations(row: Example, shown: Sequence[Example]) -> Example:
    """The row with solved prompts before its own, a blank line between them.

    A prompt that is too long loses its start, so the worked examples go first.
    """
    if not shown:
        return row
    solved = [f"{render_prompt(one.instruction, one.input, one.choices)} {one.output}" for one in shown]
    return row.with_text("\n\n".join([*solved, row.instruction]), row.input, row.output)
