"""Known datasets: how their rows on the hub, and in damoc's own layout, become instruction, input and output."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from damoc.data.values import as_list, as_text, lookup
from damoc.hashing import sha256_text

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Preset:
    """A known dataset.

    Args:
        source: where it is read from when the config names no source; empty where there is no such place.
        columns: what a row in the hub's layout needs.
        licence: of rows that name none.
        adapt: a row in the hub's layout, or one that has an ``output``, with damoc's column names.
        task: evaluates it where the config names no task.
        instruction: of rows that have none of their own.
        choices: the closed answers, empty for free-form ones.
        valid_is_test: whether the data's validation split serves as test where it has no other.
    """

    source: str
    columns: tuple[str, ...]
    licence: str
    adapt: Callable[[Row], Row]
    task: str = "generation"
    instruction: str = ""
    choices: tuple[str, ...] = ()
    valid_is_test: bool = False

    def read(self, row: Row) -> Row:
        """The row with damoc's column names.

        Raises:
            ValueError: a column is missing or holds something else.
        """
        if "output" not in row and (missing := [name for name in self.columns if name not in row]):
            raise ValueError(f"lacks {', '.join(missing)} (or input and output); its columns are {', '.join(row)}")
        adapted = self.adapt(row)
        licence = lookup(row, "licence") or lookup(row, "meta.licence") or self.licence
        return {**adapted, "licence": licence}


def _pubmedqa(row: Row) -> Row:
    if "output" in row:
        return {**row, "instruction": "", "output": as_text(row["output"]).partition("\n")[0]}
    return {"id": lookup(row, "pubid"), "input": _abstract(row), "output": row["final_decision"]}


def _pubmedqa_long(row: Row) -> Row:
    if "output" in row:
        return {**row, "instruction": "", "output": as_text(row["output"]).partition("\n")[2]}
    return {"id": lookup(row, "pubid"), "input": _abstract(row), "output": row["long_answer"]}


def _abstract(row: Row) -> str:
    """Abstract, its sections labelled where they have labels, and question of PubMedQA."""
    paragraphs = as_list(lookup(row, "context.contexts"))
    labels = as_list(lookup(row, "context.labels"))
    if len(labels) == len(paragraphs):
        paragraphs = tuple(f"{label.capitalize()}: {text}" for label, text in zip(labels, paragraphs, strict=True))
    abstract = "\n".join(paragraphs)
    return f"Abstract:\n{abstract}\n\nQuestion: {as_text(row['question'])}"


def _billsum(row: Row) -> Row:
    if "output" in row:
        return {**row, "instruction": ""}
    title = as_text(row["title"])
    return {
        "id": lookup(row, "bill_id"),
        "input": f"Title: {title}\n\n{as_text(row['text'])}",
        "output": " ".join(as_text(row["summary"]).split()),
    }


def _dolly(row: Row) -> Row:
    if "output" in row:
        return {**row, "group": _group(as_text(row.get("input")))}
    context = as_text(row["context"])
    return {
        "instruction": row["instruction"],
        "input": context,
        "output": row["response"],
        "group": _group(context),
    }


def _squad(row: Row) -> Row:
    if "output" in row:
        passage = as_text(row.get("input")).partition("\n\nQuestion:")[0]
        return {**row, "instruction": "", "aliases": lookup(row, "meta.answers"), "group": _group(passage)}
    answers = as_list(lookup(row, "answers.text"))
    return {
        "id": lookup(row, "id"),
        "input": f"Passage: {as_text(row['context'])}\n\nQuestion: {as_text(row['question'])}",
        "output": answers[0] if answers else "",
        "aliases": answers,
        "group": row["title"],
    }


def _squad_v2(row: Row) -> Row:
    adapted = _squad(row)
    return {**adapted, "output": adapted["output"] or "unanswerable"}


def _questions(row: Row) -> Row:
    """Questions without a passage, each with a list of right answers."""
    if "output" in row:
        answers = as_list(lookup(row, "meta.answers"))
        return {**row, "instruction": "", "output": answers[0] if answers else row["output"], "aliases": answers}
    answers = as_list(row["answer"] if "answer" in row else row["answers"])
    return {"input": row["question"], "output": answers[0] if answers else "", "aliases": answers}


def _report(row: Row) -> Row:
    """A question about a financial report: rows on one report stay together."""
    report = re.split(r"\n\n(?:Question|Conversation):", as_text(row.get("input")))[0]
    return {**row, "instruction": "", "group": _group(report)}


def _group(document: str) -> str:
    return sha256_text(document)[:16] if document else ""


_SPAN = "Read the passage and answer the question with a short span copied from the passage."
_FIGURE = "Give only the final number (a fraction such as 0.15 for 15%), or yes or no."

PRESETS: dict[str, Preset] = {
    "pubmedqa": Preset(
        source="hf:qiaojin/PubMedQA/pqa_labeled",
        columns=("question", "context", "final_decision"),
        licence="MIT",
        adapt=_pubmedqa,
        task="choice",
        instruction="Answer the research question from the abstract with one word: yes, no or maybe.",
        choices=("yes", "no", "maybe"),
    ),
    "pubmedqa_long": Preset(
        source="hf:qiaojin/PubMedQA/pqa_labeled",
        columns=("question", "context", "long_answer"),
        licence="MIT",
        adapt=_pubmedqa_long,
        instruction="Answer the research question from the abstract with its conclusion.",
    ),
    "billsum": Preset(
        source="hf:FiscalNote/billsum",
        columns=("title", "text", "summary"),
        licence="CC0-1.0",
        adapt=_billsum,
        task="summarization",
        instruction="Summarise the bill.",
    ),
    "finqa": Preset(
        source="",
        columns=("input", "output"),
        licence="MIT",
        adapt=_report,
        task="financial_qa",
        instruction=f"Answer the financial question from the report excerpt. {_FIGURE}",
    ),
    "convfinqa": Preset(
        source="",
        columns=("input", "output"),
        licence="MIT",
        adapt=_report,
        task="financial_qa",
        instruction=f"Answer the last question of the conversation from the report excerpt. {_FIGURE}",
    ),
    "tat_qa": Preset(
        source="",
        columns=("input", "output"),
        licence="CC BY 4.0",
        adapt=_report,
        task="financial_qa",
        instruction="Answer the question from the financial table and text. Give only the answer, with its scale "
        "(thousand, million, percent) where there is one.",
    ),
    "dolly": Preset(
        source="hf:databricks/databricks-dolly-15k",
        columns=("instruction", "context", "response"),
        licence="CC BY-SA 3.0",
        adapt=_dolly,
    ),
    "nq_open": Preset(
        source="hf:google-research-datasets/nq_open",
        columns=("question", "answer"),
        licence="CC BY-SA 3.0",
        adapt=_questions,
        task="short_answer",
        instruction="Answer the question. Give only the answer.",
        valid_is_test=True,
    ),
    "web_questions": Preset(
        source="hf:stanfordnlp/web_questions",
        columns=("question", "answers"),
        licence="CC BY 4.0",
        adapt=_questions,
        task="short_answer",
        instruction="Answer the question. Give only the answer.",
    ),
    "squad": Preset(
        source="hf:rajpurkar/squad",
        columns=("title", "context", "question", "answers"),
        licence="CC BY-SA 4.0",
        adapt=_squad,
        task="short_answer",
        instruction=_SPAN,
        valid_is_test=True,
    ),
    "squad_v2": Preset(
        source="hf:rajpurkar/squad_v2",
        columns=("title", "context", "question", "answers"),
        licence="CC BY-SA 4.0",
        adapt=_squad_v2,
        task="short_answer",
        instruction=f"{_SPAN} Write 'unanswerable' where the passage does not answer it.",
        valid_is_test=True,
    ),
}
"""Presets by the name that ``dataset.preset`` uses."""
