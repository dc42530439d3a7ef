"""Open answers: bits per byte of the reference, and ROUGE and BERTScore of what the model writes."""

from __future__ import annotations

from damoc.evaluation.free_form import BERTSCORE, ROUGE, Writing, rouge, written_task
from damoc.evaluation.registry import register_task

register_task(
    written_task("generation", "bits_per_byte", (*ROUGE, BERTSCORE), Writing(256, rouge, fitted=True)),
)
