"""MEASURE: how likely a model finds answers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from damoc.data.example import Example
from damoc.data.prompts import Encoded, encode, stop_ids
from damoc.evaluation.registry import OnProgress
from damoc.evaluation.row_scores import RowScores
from damoc.models.likelihood import answer_losses, choice_losses
from damoc.models.load import LoadedModel


def answer_bits(
    loaded: LoadedModel, rows: Sequence[Example], batch_size: int, max_length: int, on_progress: OnProgress
) -> dict[str, RowScores]:
    """``bits_per_byte`` of the reference answers, and ``cut_prompts``.

    Bits that the model needs for an answer and its end, over the answer's UTF-8 bytes: unlike loss per token it
    compares models with different tokenizers. Of an answer that is cut, only the part that was read counts, in bits
    and in bytes. ``cut_prompts`` is the share of the rows that lost the start of their prompt, or more.
    """
    limit = min(max_length, loaded.max_length)
    encoded = [encode(loaded.tokenizer, row, limit) for row in rows]
    losses = answer_losses(loaded.model, encoded, loaded.tokenizer.pad_token_id, batch_size, on_progress)
    sizes = [
        len(row.output.encode("utf-8")) * _share_read(loaded, row, own, limit)
        for row, own in zip(rows, encoded, strict=True)
    ]
    return {
        "bits_per_byte": RowScores.ratio([bits(nats) for nats in losses], sizes),
        "cut_prompts": RowScores.mean([float(len(own.ids) >= limit) for own in encoded]),
    }


def choice_bits(
    loaded: LoadedModel, rows: Sequence[Example], batch_size: int, max_length: int, on_progress: OnProgress
) -> tuple[list[NDArray[np.float64]], RowScores, RowScores]:
    """Bits of every choice after the prompt.

    The end of text is no part of a choice, as in lm-evaluation-harness, but in rows where one choice starts another:
    there the shorter one would always win.

    Returns:
        Per row, the bits of its choices; ``bits_per_byte`` and ``cut_prompts`` as :func:`answer_bits` has them.
    """
    limit = min(max_length, loaded.max_length)
    stops = stop_ids(loaded.tokenizer)
    encoded = []
    for row in rows:
        ends = [choice == row.output or _start_one_another(row.choices) for choice in row.choices]
        encoded.append(
            [
                encode(loaded.tokenizer, row, limit, answer=choice, end=end)
                for choice, end in zip(row.choices, ends, strict=True)
            ]
        )
    losses = choice_losses(loaded.model, encoded, loaded.tokenizer.pad_token_id, batch_size, on_progress)
    found, gold_bits = [], []
    for row, own, nats in zip(rows, encoded, losses, strict=True):
        gold = row.choices.index(row.output)
        gold_bits.append(bits(nats[gold]))
        if not _start_one_another(row.choices) and own[gold].ids[-1] in stops:
            nats[gold] = nats[gold][:-1]
        found.append(np.array([bits(values) for values in nats]))
    sizes = [float(len(row.output.encode("utf-8"))) for row in rows]
    cut = [float(max(len(answer.ids) for answer in own) >= limit) for own in encoded]
    return found, RowScores.ratio(gold_bits, sizes), RowScores.mean(cut)


def bits(nats: NDArray[np.float32]) -> float:
    """Sum of losses, in bits."""
    return float(nats.sum(dtype=np.float64)) / math.log(2)


def _start_one_another(choices: Sequence[str]) -> bool:
    return any(one != other and other.startswith(one) for one in choices for other in choices)


def _share_read(loaded: LoadedModel, row: Example, encoded: Encoded, limit: int) -> float:
    """Share of an answer's tokens that the model read; below 1 where the answer alone is longer than the limit."""
    if len(encoded.ids) < limit:
        return 1.0
    return encoded.answer_length / encode(loaded.tokenizer, row, 1 << 30).answer_length
