"""Closed answers: the choice that the model finds most likely."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from damoc.data.example import Example
from damoc.data.prompts import encode
from damoc.evaluation.registry import OnProgress, RowScores, Task, register_task
from damoc.models.likelihood import answer_losses
from damoc.models.load import LoadedModel


def measure(
    loaded: LoadedModel,
    rows: Sequence[Example],
    wanted: Sequence[str],
    batch_size: int,
    max_length: int,
    on_progress: OnProgress,
) -> dict[str, RowScores]:
    """Scores every choice as a continuation of the prompt.

    ``accuracy`` compares log-likelihoods, ``accuracy_per_byte`` log-likelihoods per UTF-8 byte of the choice (fairer
    to long choices), ``bits_per_byte`` is that of the right choice. Ties go to the earlier choice.
    """
    limit = min(max_length, loaded.max_length)
    pairs = [(index, choice) for index, row in enumerate(rows) for choice in row.choices]
    encoded = [encode(loaded.tokenizer, rows[index], limit, answer=choice) for index, choice in pairs]
    losses = answer_losses(loaded.model, encoded, loaded.tokenizer.pad_token_id, batch_size, on_progress)
    bits = [float(nats.sum(dtype=np.float64)) / math.log(2) for nats in losses]
    right, right_per_byte, gold_bits = [], [], []
    at = 0
    for row in rows:
        own = np.array(bits[at : at + len(row.choices)])
        sizes = np.array([len(choice.encode("utf-8")) for choice in row.choices])
        gold = row.choices.index(row.output)
        right.append(float(np.argmin(np.round(own, 6)) == gold))
        right_per_byte.append(float(np.argmin(np.round(own / sizes, 6)) == gold))
        gold_bits.append(own[gold])
        at += len(row.choices)
    ones = np.ones(len(rows))
    return {
        "accuracy": RowScores(np.array(right), ones),
        "accuracy_per_byte": RowScores(np.array(right_per_byte), ones),
        "bits_per_byte": RowScores(np.array(gold_bits), np.array([float(len(row.output.encode())) for row in rows])),
    }


def check(row: Example) -> str | None:
    """A row needs at least two choices, its answer among them."""
    if len(row.choices) < 2:
        return "has fewer than two choices"
    return None if row.output in row.choices else "has an answer that is none of its choices"


register_task(
    Task(
        name="choice",
        main_metric="accuracy",
        higher_is_better={"accuracy": True, "accuracy_per_byte": True, "bits_per_byte": False},
        measure=measure,
        check=check,
    )
)
