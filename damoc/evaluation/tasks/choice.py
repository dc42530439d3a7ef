"""Closed answers: the choice that the model finds most likely."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from damoc.data.example import Example
from damoc.evaluation.few_shot import with_demonstrations
from damoc.evaluation.likelihood import choice_bits
from damoc.evaluation.registry import Settings, Task, register_task
from damoc.evaluation.row_scores import RowScores
from damoc.models.load import LoadedModel


def measure(loaded: LoadedModel, rows: Sequence[Example], settings: Settings) -> dict[str, RowScores]:
    """Scores every choice as a continuation of the prompt.

    ``accuracy`` compares log-likelihoods, ``accuracy_per_byte`` log-likelihoods per UTF-8 byte of the choice (fairer
    to long choices); ties go to the earlier choice. ``macro_f1`` is that of the choices by log-likelihood, and is
    there only where all rows have the same choices. ``bits_per_byte`` is that of the right choice and its end.
    """
    asked = [with_demonstrations(row, settings.shown) for row in rows]
    found, bits_per_byte, cut_prompts = choice_bits(
        loaded, asked, settings.config.batch_size, settings.max_length, settings.on_progress
    )
    gold = [row.choices.index(row.output) for row in rows]
    sizes = [np.array([len(choice.encode("utf-8")) for choice in row.choices]) for row in rows]
    likely = [int(np.argmin(np.round(own, 6))) for own in found]
    per_byte = [int(np.argmin(np.round(own / size, 6))) for own, size in zip(found, sizes, strict=True)]
    scores = {
        "accuracy": RowScores.mean(np.equal(likely, gold).astype(float)),
        "accuracy_per_byte": RowScores.mean(np.equal(per_byte, gold).astype(float)),
        "bits_per_byte": bits_per_byte,
        "cut_prompts": cut_prompts,
    }
    if len({row.choices for row in rows}) == 1:
        predicted = [row.choices[at] for row, at in zip(rows, likely, strict=True)]
        scores["macro_f1"] = RowScores.macro_f1([row.output for row in rows], predicted)
    return scores


def check(row: Example) -> str | None:
    """A row needs at least two choices, its answer among them."""
    if len(row.choices) < 2:
        return "has fewer than two choices"
    return None if row.output in row.choices else "has an answer that is none of its choices"


register_task(
    Task(
        name="choice",
        main_metric="accuracy",
        higher_is_better={"accuracy": True, "macro_f1": True, "accuracy_per_byte": True, "bits_per_byte": False},
        measure=measure,
        check=check,
    )
)
