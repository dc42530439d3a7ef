"""What a selection looks like in a terminal: progress bars while it runs, a table when it is done."""

from __future__ import annotations

import time
from collections.abc import Mapping
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
from damoc.report.table import RankingRow, ranking_rows

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
    shown = [index for index, column in enumerate(_COLUMNS) if column[2] or console.width >= _NARROW]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, header_style="bold")
    for index in shown:
        header, justify, _ = _COLUMNS[index]
        table.add_column(header, justify=justify, no_wrap=True)
    for row in rows:
        cells = _cells(row)
        style = "bold green" if row.winner else "dim" if row.failed else None
        table.add_row(*(cells[index] for index in shown), style=style)
    console.print(table)
    for row in rows:
        if row.reason:
            console.print(Text(f"{row.candidate_id}: {row.status}, {row.reason}", style="red"))
    console.print(record.why, markup=False, highlight=False)
    console.print()
    for name, place in _places(selection):
        console.print(Text.assemble((f"{name:8s}", "bold"), place), soft_wrap=True)


_COLUMNS: tuple[tuple[str, Literal["left", "right"], bool], ...] = (
    ("#", "right", True),
    ("candidate", "left", True),
    ("proxy", "right", True),
    ("interval", "right", False),
    ("P(best)", "right", False),
    ("zero-shot", "right", True),
    ("#", "right", True),
    ("layers", "right", False),
    ("cost", "right", True),
)
"""Header, alignment, and whether the column stays in a narrow terminal."""
_NARROW = 92


def _cells(row: RankingRow) -> tuple[str, ...]:
    return (
        row.rank,
        row.candidate_id,
        row.status if row.failed else row.score,
        row.interval.replace(" to ", "–"),
        row.p_best,
        row.zero_shot,
        row.zero_shot_rank,
        row.layers,
        row.seconds,
    )


def _places(selection: Selection) -> list[tuple[str, str]]:
    places = [("report", selection.report)]
    if registered := selection.record.registration:
        places.append(
            ("model", f"models:/{registered['model']}@{registered['alias']} (version {registered['version']})")
        )
    if selection.tracking:
        places.append(("MLflow", selection.tracking))
    return [*places, ("record", f"{selection.folder}/record.json")]
