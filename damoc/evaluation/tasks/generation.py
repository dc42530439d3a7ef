"""Free-form answers: bits per byte of the reference, and ROUGE-L of what the model writes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from damoc.data.example import Example
from damoc.data.prompts import Encoded, encode, render_prompt
from damoc.evaluation.generation import generate
from damoc.evaluation.registry import OnProgress, RowScores, Task, register_task
from damoc.models.likelihood import answer_losses
from damoc.models.load import LoadedModel

_LONGEST_ANSWER = 256


def bits_per_byte(
    loaded: LoadedModel, rows: Sequence[Example], batch_size: int, max_length: int, on_progress: OnProgress
) -> RowScores:
    """Bits that the model needs for the reference answers (and their ends), over their UTF-8 bytes.

    Unlike loss per token it compares models with different tokenizers. Of an answer that is cut, only the part that
    was read counts, in bits and in bytes.
    """
    limit = min(max_length, loaded.max_length)
    encoded = [encode(loaded.tokenizer, row, limit) for row in rows]
    losses = answer_losses(loaded.model, encoded, loaded.tokenizer.pad_token_id, batch_size, on_progress)
    bits = np.array([float(nats.sum(dtype=np.float64)) / math.log(2) for nats in losses])
    sizes = [
        len(row.output.encode("utf-8")) * _share_scored(loaded, row, own, limit)
        for row, own in zip(rows, encoded, strict=True)
    ]
    return RowScores(bits, np.array(sizes))


def _share_scored(loaded: LoadedModel, row: Example, encoded: Encoded, limit: int) -> float:
    """Share of an answer's tokens that the model read; below 1 where the answer alone is longer than the limit."""
    if len(encoded.ids) < limit:
        return 1.0
    return encoded.answer_length / encode(loaded.tokenizer, row, 1 << 30).answer_length


def rouge_l(loaded: LoadedModel, rows: Sequence[Example], batch_size: int, on_progress: OnProgress) -> RowScores:
    """ROUGE-L F1 (Lin 2004, stemmed) of greedy answers."""
    from rouge_score.rouge_scorer import RougeScorer

    prompts = [render_prompt(row.instruction, row.input, row.choices) for row in rows]
    answer_tokens = [len(loaded.tokenizer(row.output, verbose=False)["input_ids"]) for row in rows]
    longest = min(_LONGEST_ANSWER, int(np.quantile(answer_tokens, 0.95)) + 8)
    answers = generate(loaded.model, loaded.tokenizer, prompts, longest, batch_size, on_progress)
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    scores = [scorer.score(row.output, answer)["rougeL"].fmeasure for row, answer in zip(rows, answers, strict=True)]
    return RowScores(np.array(scores, dtype=float), np.ones(len(rows)))


def measure(
    loaded: LoadedModel,
    rows: Sequence[Example],
    wanted: Sequence[str],
    batch_size: int,
    max_length: int,
    on_progress: OnProgress,
) -> dict[str, RowScores]:
    """Bits per byte always; ROUGE-L, which has to generate, only where it is wanted."""
    scores = {"bits_per_byte": bits_per_byte(loaded, rows, batch_size, max_length, on_progress)}
    if "rouge_l" in wanted:
        scores["rouge_l"] = rouge_l(loaded, rows, batch_size, on_progress)
    return scores


register_task(
    Task(
        name="generation",
        main_metric="bits_per_byte",
        higher_is_better={"bits_per_byte": False, "rouge_l": True},
        measure=measure,
        check=lambda row: None,
    )
)
