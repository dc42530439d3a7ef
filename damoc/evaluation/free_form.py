"""MEASURE free-form answers: what every task whose answers are written has in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from damoc.config import EvaluationConfig
from damoc.data.example import Example
from damoc.data.prompts import render_prompt
from damoc.evaluation.few_shot import with_demonstrations
from damoc.evaluation.generation import generate
from damoc.evaluation.likelihood import answer_bits
from damoc.evaluation.registry import Settings, Task
from damoc.evaluation.row_scores import RowScores
from damoc.models.load import LoadedModel

BERTSCORE = "bertscore"
ROUGE = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
Grade = Callable[[Example, str, EvaluationConfig], Mapping[str, float]]


@dataclass(frozen=True)
class Writing:
    """How a model writes its answers, and how they are graded.

    Args:
        max_new_tokens: longest answer, in tokens.
        grade: (row, answer, config) to metrics from 0 to 1, higher is better.
        stop: strings that end an answer.
        fitted: makes the longest answer no longer than most references need, and at most ``max_new_tokens``.
    """

    max_new_tokens: int
    grade: Grade
    stop: tuple[str, ...] = ()
    fitted: bool = False


def written_task(name: str, main_metric: str, grades: Sequence[str], writing: Writing) -> Task:
    """A task with ``bits_per_byte`` of the references, and grades of what the model writes.

    It generates only where one of ``grades`` is wanted, and then also tells ``empty_answers`` (their share) and
    ``answer_bytes`` (mean UTF-8 bytes of an answer).

    Args:
        name: of the task.
        main_metric: ranks when the config names none.
        grades: what ``writing.grade`` gives; :data:`BERTSCORE` is measured here.
        writing: how answers are written and graded.
    """

    def measure(loaded: LoadedModel, rows: Sequence[Example], settings: Settings) -> dict[str, RowScores]:
        config = settings.config
        asked = [with_demonstrations(row, settings.shown) for row in rows]
        scores = answer_bits(loaded, asked, config.batch_size, settings.max_length, settings.on_progress)
        if any(metric in grades for metric in settings.metrics):
            answers = _write(loaded, asked, settings, writing)
            scores |= _graded([writing.grade(row, answer, config) for row, answer in zip(rows, answers, strict=True)])
            scores["empty_answers"] = RowScores.mean([float(not answer) for answer in answers])
            scores["answer_bytes"] = RowScores.mean([float(len(answer.encode("utf-8"))) for answer in answers])
            if BERTSCORE in settings.metrics:
                scores[BERTSCORE] = bertscore([row.output for row in rows], answers, config)
        return scores

    directions = {metric: True for metric in grades}
    return Task(name, main_metric, {"bits_per_byte": False, **directions}, measure)


def _write(loaded: LoadedModel, rows: Sequence[Example], settings: Settings, writing: Writing) -> list[str]:
    config = settings.config
    longest = config.max_new_tokens or writing.max_new_tokens
    if writing.fitted and config.max_new_tokens is None:
        sizes = [len(loaded.tokenizer(row.output, verbose=False)["input_ids"]) for row in rows]
        longest = min(longest, int(np.quantile(sizes, 0.95)) + 8)
    return generate(
        loaded.model,
        loaded.tokenizer,
        [render_prompt(row.instruction, row.input, row.choices) for row in rows],
        longest,
        config.batch_size,
        settings.on_progress,
        stop=writing.stop,
        max_length=settings.max_length,
    )


def _graded(grades: Sequence[Mapping[str, float]]) -> dict[str, RowScores]:
    return {metric: RowScores.mean([row[metric] for row in grades]) for metric in grades[0]}


def bertscore(references: Sequence[str], answers: Sequence[str], config: EvaluationConfig) -> RowScores:
    """BERTScore F1 (Zhang et al., ICLR 2020) of each answer, not rescaled."""
    from damoc.condense.bertscore import BertScorer

    chosen = config.bertscore
    scorer = BertScorer(chosen.encoder, chosen.layer, chosen.revision)
    return RowScores.mean([score.f1 for score in scorer.score_rewritten(references, answers)])


def rouge(row: Example, answer: str, config: EvaluationConfig) -> dict[str, float]:
    """F1 of ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004), words stemmed; of the best reference."""
    found = _rouge_scorer().score_multi([row.output, *row.aliases], answer)
    return {metric: float(found[name].fmeasure) for metric, name in ROUGE.items()}


@cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(ROUGE.values()), use_stemmer=True)
