"""Known datasets: how their rows on the hub, and in damoc's own layout, become instruction, input and output."""

from __future__ import annotations

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
        source: where it is read from when the config names no source.
        columns: what a row in the hub's layout needs.
        licence: of rows that name none.
        adapt: a row in the hub's layout, or one that has an ``output``, with damoc's column names.
        instruction: of rows that have none of their own.
        choices: the closed answers, empty for free-form ones.
        valid_is_test: whether the data's validation split serves as test where it has no other.
    """

    source: str
    columns: tuple[str, ...]
    licence: str
    adapt: Callable[[Row], Row]
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
    paragraphs = as_list(lookup(row, "context.contexts"))
    labels = as_list(lookup(row, "context.labels"))
    if len(labels) == len(paragraphs):
        paragraphs = tuple(f"{label.capitalize()}: {text}" for label, text in zip(labels, paragraphs, strict=True))
    abstract = "\n".join(paragraphs)
    return {
        "id": lookup(row, "pubid"),
        "input": f"Abstract:\n{abstract}\n\nQuestion: {as_text(row['question'])}",
        "output": row["final_decision"],
    }


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
        return {**row, "instruction": "", "group": _group(passage)}
    answers = as_list(lookup(row, "answers.text"))
    return {
        "id": lookup(row, "id"),
        "input": f"Passage: {as_text(row['context'])}\n\nQuestion: {as_text(row['question'])}",
        "output": answers[0] if answers else "",
        "group": row["title"],
    }


def _group(document: str) -> str:
    return sha256_text(document)[:16] if document else ""


PRESETS: dict[str, Preset] = {
    "pubmedqa": Preset(
        source="hf:qiaojin/PubMedQA/pqa_labeled",
        columns=("question", "context", "final_decision"),
        licence="MIT",
        adapt=_pubmedqa,
        instruction="Answer the research question from the abstract with one word: yes, no or maybe.",
        choices=("yes", "no", "maybe"),
    ),
    "billsum": Preset(
        source="hf:FiscalNote/billsum",
        columns=("title", "text", "summary"),
        licence="CC0-1.0",
        adapt=_billsum,
        instruction="Summarise the bill.",
    ),
    "dolly": Preset(
        source="hf:databricks/databricks-dolly-15k",
        columns=("instruction", "context", "response"),
        licence="CC BY-SA 3.0",
        adapt=_dolly,
    ),
    "squad": Preset(
        source="hf:rajpurkar/squad",
        columns=("title", "context", "question", "answers"),
        licence="CC BY-SA 4.0",
        adapt=_squad,
        instruction="Read the passage and answer the question with a short span copied from the passage.",
        valid_is_test=True,
    ),
}
"""Presets by the name that ``dataset.preset`` uses."""
