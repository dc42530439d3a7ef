"""Summaries, e.g. of bills (BillSum): ROUGE-1, ROUGE-2 and ROUGE-L with stemming, of up to 256 tokens."""

from __future__ import annotations

from damoc.evaluation.free_form import BERTSCORE, ROUGE, Writing, rouge, written_task
from damoc.evaluation.registry import register_task

register_task(written_task("summarization", "rouge_l", (*ROUGE, BERTSCORE), Writing(256, rouge)))
