"""What a dataset looks like, in numbers and a few rows."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from damoc.data.dataset import Dataset
from damoc.data.example import Example

_SHOWN = 400


def describe(dataset: Dataset) -> dict[str, Any]:
    """Counts, word lengths and answers of every split, fingerprint and licences; JSON-able."""
    return {
        "source": dataset.source,
        "fingerprint": dataset.fingerprint,
        "licences": list(dataset.licences),
        "report": dict(dataset.report),
        "splits": {name: _describe_rows(rows) for name, rows in dataset.splits.items()},
    }


def print_description(console: Console, dataset: Dataset, rows: int) -> None:
    """:func:`describe` as tables, and the first rows of each split."""
    facts = describe(dataset)
    console.print(f"[bold]{dataset.source}[/bold]  fingerprint {dataset.fingerprint}")
    console.print(f"licences: {', '.join(dataset.licences) or 'not stated'}")
    table = Table("split", "rows", "groups", "median words (95 %)", "closed answers")
    for name, values in facts["splits"].items():
        words = "  ".join(f"{part} {middle} ({high})" for part, (middle, high) in values["words"].items())
        answers = ", ".join(f"{answer}: {count}" for answer, count in values["answers"].items())
        table.add_row(name, f"{values['rows']:,}", f"{values['groups']:,}", words, answers or "free-form")
    console.print(table)
    for name, count in dataset.report.items():
        console.print(f"{name}: {count:,}")
    for name, members in dataset.splits.items():
        for row in list(members)[:rows]:
            console.rule(f"{name}: {row.id}", align="left")
            for part in ("instruction", "input", "output"):
                console.print(f"{part}: {_shorten(getattr(row, part))}", markup=False)


def _describe_rows(rows: list[Example]) -> dict[str, Any]:
    lengths = {
        part: np.array([len(getattr(row, part).split()) for row in rows] or [0])
        for part in ("instruction", "input", "output")
    }
    closed = Counter(row.output for row in rows if row.choices)
    return {
        "rows": len(rows),
        "groups": len({row.group for row in rows}),
        "words": {part: (int(np.median(values)), int(np.quantile(values, 0.95))) for part, values in lengths.items()},
        "answers": dict(closed.most_common(6)),
    }


def _shorten(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text):,} characters)"
