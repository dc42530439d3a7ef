"""The data stage in a terminal: filters to choose from, and what became of the rows."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from damoc.filters import Filter

_KINDS = ("distribution", "quality", "hybrid", "baseline")


def filter_json(method: Filter) -> dict[str, Any]:
    """A filter for programs: name, kind, signals (with default options), options with defaults, summary, source."""
    return {
        "name": method.name,
        "kind": method.kind,
        "signals": list(method.needs(method.defaults())),
        "options": method.defaults(),
        "summary": method.summary,
        "source": method.source,
    }


def print_filters(console: Console, methods: Sequence[Filter]) -> None:
    """A table of filters by kind."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("filter", "kind", "measures", "what it keeps"):
        table.add_column(heading, overflow="fold")
    for method in sorted(methods, key=lambda item: (_KINDS.index(item.kind), item.name)):
        needs = ", ".join(method.needs(method.defaults())) or "nothing"
        table.add_row(method.name, method.kind, needs, method.summary)
    console.print(table)
    console.print("damoc data filters NAME shows options, formula and source of one.")


def print_filter(console: Console, method: Filter) -> None:
    """One filter with its documentation and options."""
    console.print(f"[bold]{method.name}[/bold] ({method.kind})")
    console.print(Markdown(inspect.getdoc(method.select) or method.summary))
    for name, default in method.defaults().items():
        console.print(f"  data_compression.filter.options.{name}: {default!r}", markup=False)
    if method.source:
        console.print(f"Source: {method.source}", markup=False)


def print_data_compression(console: Console, summary: Mapping[str, Any]) -> None:
    """The funnel, and what became of the rows."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("training data")
    for unit in ("rows", "words", "tokens"):
        table.add_column(unit, justify="right")
    for step in summary["funnel"]:
        table.add_row(
            step["name"], *(f"{step[unit]:,}" if step.get(unit) else "" for unit in ("rows", "words", "tokens"))
        )
    console.print(table)
    outcomes = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    outcomes.add_column("what became of the rows")
    outcomes.add_column("rows", justify="right")
    for name, count in summary["outcomes"].items():
        outcomes.add_row(name, f"{count:,}")
    console.print(outcomes)
