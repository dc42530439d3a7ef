"""The evaluate_candidate component."""

from damoc_components.evaluation.evaluate_candidate.component import evaluate_candidate

__all__ = ["evaluate_candidate"]
