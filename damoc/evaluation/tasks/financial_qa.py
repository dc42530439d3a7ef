"""Questions about financial reports (FinQA, TAT-QA, ConvFinQA): numbers are compared as numbers."""

from __future__ import annotations

from damoc.config import EvaluationConfig
from damoc.data.example import Example
from damoc.evaluation.answers import figures_match, token_f1
from damoc.evaluation.free_form import Writing, written_task
from damoc.evaluation.registry import register_task


def grade(row: Example, answer: str, config: EvaluationConfig) -> dict[str, float]:
    """Exact match with numeric tolerance; the same with scales left aside; word F1. Of the best reference each."""
    references = [row.output, *row.aliases]
    tolerance = config.tolerance
    return {
        "exact_match": max(figures_match(answer, reference, tolerance) for reference in references),
        "unscaled_match": max(figures_match(answer, reference, tolerance, scaled=False) for reference in references),
        "f1": token_f1(answer, references),
    }


register_task(
    written_task(
        "financial_qa", "exact_match", ("exact_match", "unscaled_match", "f1"), Writing(32, grade, stop=("\n",))
    )
)
