"""What a selection looks like in a terminal: progress bars while it runs, a table when it is done."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from damoc.launch import Selection
from damoc.report import text
from damoc.report.table import RankingRow, few_shot_name, ranking_rows

_PLAIN_SECONDS = 10.0


class _Rate(ProgressColumn):
    """Units per second."""

    def render(self, task: Task) -> Text:
        """The rate so far, or the rate of the whole when done."""
        speed = task.finished_speed or task.speed
        return Text("" if not speed else f"{speed:,.1f} {task.fields.get('unit', '')}/s", style="cyan")


class SelectionDisplay:
    """Draws the progress events of a selection; a context manager.

    Args:
        console: where to; plain lines when it is not a terminal.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._started = time.monotonic()
        self._begun: dict[tuple[str, str], float] = {}
        self._reused: dict[tuple[str, str], list[bool]] = {}
        self._bars: dict[tuple[str, str], TaskID] = {}
        self._printed: dict[tuple[str, str], float] = {}
        self._failed: set[tuple[str, str]] = set()
        self._progress = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> SelectionDisplay:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Takes one event."""
        kind = event["event"]
        if kind == "progress":
            self._advance(event)
        elif kind == "step":
            for key in [key for key in self._begun if key[1] == event["label"]]:
                self._reused.setdefault(key, []).append(bool(event["reused"]))
        elif kind == "failed":
            self._failed.add((event["stage"], event["label"]))
            self.console.print(
                Text.assemble(
                    (f"  ✗ {event['stage']} {event['label']}: ", "bold red"), f"{event['status']}: {event['reason']}"
                )
            )
        elif kind == "begin":
            self._begun[event["stage"], event["label"]] = time.monotonic()
        elif kind == "end":
            self._end((event["stage"], event["label"]))

    def _advance(self, event: Mapping[str, Any]) -> None:
        key = (event["stage"], event["label"])
        if self.console.is_terminal:
            if key not in self._bars:
                label = f"{event['stage']} {event['label']}"
                self._bars[key] = self._progress.add_task(label, total=event["total"], unit=event["unit"])
            self._progress.update(self._bars[key], completed=event["done"], total=event["total"])
            if event["done"] >= event["total"]:
                self._progress.remove_task(self._bars.pop(key))
            return
        now = time.monotonic()
        first = self._printed.setdefault(key, now)
        if event["done"] < event["total"] and now - first >= _PLAIN_SECONDS:
            self._printed[key] = now
            self.console.print(f"    {key[0]} {key[1]} {event['done']:,}/{event['total']:,} {event['unit']}")

    def _end(self, key: tuple[str, str]) -> None:
        for bar in [known for known in self._bars if known[0] == key[0] and known[1].startswith(key[1])]:
            self._progress.remove_task(self._bars.pop(bar))
        seconds = time.monotonic() - self._begun.pop(key, time.monotonic())
        reused = self._reused.pop(key, [])
        if key in self._failed:
            return
        note = " (reused)" if reused and all(reused) else ""
        self.console.print(
            Text.assemble(
                (f"  {time.monotonic() - self._started:6.1f} s ", "dim"),
                ("✓ ", "green"),
                f"{key[0]} {key[1]} ".replace("  ", " "),
                (f"{seconds:.1f} s{note}", "dim"),
            )
        )


def print_selection(console: Console, selection: Selection) -> None:
    """The ranking as a table, and where to look."""
    record = selection.record
    rows = ranking_rows(record)
    console.print()
    console.print(Text(f"{record.name}: proxies ranked by {record.metric}", style="bold"))
    table = _table(console, rows, few_shot_name(record))
    console.print(table)
    for row in rows:
        if row.reason:
            console.print(Text(f"{row.candidate_id}: {row.status}, {row.reason}", style="red"))
    console.print(record.why, markup=False, highlight=False)
    console.print()
    for name, place in _places(selection):
        console.print(Text.assemble((f"{name:8s}", "bold"), place), soft_wrap=True)


def _table(console: Console, rows: Sequence[RankingRow], few_shot: str) -> Table:
    """As many columns as fit into the terminal, or into 100 characters of a wider one."""
    width = min(console.width, _WIDEST)
    columns = _columns(rows, few_shot, max(_SHORT_NAME, min(_LONG_NAME, width - _NUMBERS)))
    for least in sorted({column.need for column in columns}):
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, header_style="bold")
        shown = [column for column in columns if column.need >= least]
        for column in shown:
            table.add_column(column.head, justify=column.justify, no_wrap=True)
        for place, row in enumerate(rows):
            style = "bold green" if row.winner else "dim" if row.failed else None
            table.add_row(*(column.cells[place] for column in shown), style=style)
        if console.measure(table, options=console.options.update(width=_ENDLESS)).maximum <= width:
            break
    return table


@dataclass(frozen=True)
class _Column:
    """A column; those of the least need are left out first, the ones of one need together."""

    head: str
    justify: Literal["left", "right"]
    need: int
    cells: Sequence[str]


def _columns(rows: Sequence[RankingRow], few_shot: str, name: int) -> list[_Column]:
    columns = [
        _Column("#", "right", 5, [row.rank for row in rows]),
        _Column("candidate", "left", 5, [text.shorten(row.candidate_id, name) for row in rows]),
        _Column("proxy", "right", 5, [row.status if row.failed else row.score for row in rows]),
        _Column("interval", "right", 4, [row.interval.replace(" to ", "–") for row in rows]),
        _Column("P(best)", "right", 1, [row.p_best for row in rows]),
        _Column("zero-shot", "right", 5, [row.zero_shot for row in rows]),
        _Column("#", "right", 3, [row.zero_shot_rank for row in rows]),
        _Column(few_shot, "right", 3, [row.few_shot for row in rows]),
        _Column("layers", "right", 0, [row.layers for row in rows]),
        _Column("cost", "right", 2, [row.seconds for row in rows]),
    ]
    return [column for column in columns if any(column.cells)]


_WIDEST, _ENDLESS = 100, 1000
"""Characters that the ranking takes at most, and a width in which nothing is cut."""
_SHORT_NAME, _LONG_NAME, _NUMBERS = 16, 28, 36
"""Characters that a candidate's name keeps, and those that go to the numbers before it keeps more."""


def _places(selection: Selection) -> list[tuple[str, str]]:
    places = [("report", selection.report)]
    if registered := selection.record.registration:
        places.append(
            ("model", f"models:/{registered['model']}@{registered['alias']} (version {registered['version']})")
        )
    if selection.tracking:
        places.append(("MLflow", selection.tracking))
    return [*places, ("record", f"{selection.folder}/record.json")]
