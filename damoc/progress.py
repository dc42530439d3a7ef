"""Progress of long work, seen from outside: events in a file that the command line draws, or plain lines in a log."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TextIO

EVENTS_VARIABLE = "DAMOC_PROGRESS_FILE"
_EVENT_SECONDS, _LINE_SECONDS = 0.2, 10.0


@dataclass
class Progress:
    """Counts one piece of work; calling it with ``(done, total)`` reports, seldom enough to cost nothing.

    Lines go to standard error, which leaves standard output to results.

    Args:
        stage: name of the stage.
        label: what is worked on, e.g. the candidate.
        unit: what is counted, e.g. ``rows``.
    """

    stage: str
    label: str = ""
    unit: str = "rows"
    _first: tuple[int, float] | None = None
    _reported: float = float("-inf")

    def __call__(self, done: int, total: int) -> None:
        """Reports unless the last report was a moment ago; the end is always reported."""
        now = time.monotonic()
        if self._first is None:
            self._first = (done, now)
        path = os.environ.get(EVENTS_VARIABLE)
        pause = _EVENT_SECONDS if path else _LINE_SECONDS
        if done < total and now - self._reported < pause:
            return
        self._reported = now
        if path:
            emit("progress", stage=self.stage, label=self.label, unit=self.unit, done=done, total=total)
            return
        name = f"{self.stage} {self.label}".rstrip()
        pace = _pace(done - self._first[0], total - done, now - self._first[1])
        print(f"{name} {done:,}/{total:,} {self.unit}{pace}", file=sys.stderr, flush=True)


def _pace(done: int, left: int, seconds: float) -> str:
    """How fast it has gone since the first report (what came before may have been found done), and what is left."""
    if not done or seconds < _EVENT_SECONDS:
        return ""
    rate = done / seconds
    return f" ({rate:,.1f}/s" + (f", {left / rate:.0f} s left)" if left else ")")


def emit(event: str, **values: object) -> None:
    """Appends one event to the file that ``DAMOC_PROGRESS_FILE`` names, if it names one."""
    if path := os.environ.get(EVENTS_VARIABLE):
        line = json.dumps({"event": event, **values}, allow_nan=False) + "\n"
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(handle, line.encode("utf-8"))
        finally:
            os.close(handle)


def new_lines(stream: TextIO) -> Iterator[Any]:
    """The JSON values of whole lines that were appended to a file since it was read last."""
    while True:
        start = stream.tell()
        line = stream.readline()
        if not line.endswith("\n"):
            stream.seek(start)
            return
        yield json.loads(line)
