"""Short answers: reading comprehension (SQuAD) and factoid questions, with one or more right answers."""

from __future__ import annotations

from damoc.config import EvaluationConfig
from damoc.data.example import Example
from damoc.evaluation.answers import exact_match, token_f1
from damoc.evaluation.free_form import Writing, written_task
from damoc.evaluation.registry import register_task


def grade(row: Example, answer: str, config: EvaluationConfig) -> dict[str, float]:
    """Exact match and word F1 of the best reference, normalised as SQuAD does."""
    references = [row.output, *row.aliases]
    return {"f1": token_f1(answer, references), "exact_match": exact_match(answer, references)}


register_task(written_task("short_answer", "f1", ("f1", "exact_match"), Writing(32, grade, stop=("\n",))))
