"""Progress of long work, seen from outside: events in a file that the command line draws, or plain lines in a log."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TextIO

EVENTS_VARIABLE = "DAMOC_PROGRESS_FILE"
_EVENT_SECONDS, _LINE_SECONDS = 0.2, 10.0


@dataclass
class Progress:
    """Counts one piece of work; calling it with ``(done, total)`` reports, seldom enough to cost nothing.

    Args:
        stage: name of the stage.
        label: what is worked on, e.g. the candidate.
        unit: what is counted, e.g. ``rows``.
    """

    stage: str
    label: str = ""
    unit: str = "rows"
    _started: float = field(default_factory=time.monotonic)
    _reported: float = float("-inf")

    def __call__(self, done: int, total: int) -> None:
        """Reports unless the last report was a moment ago; the end is always reported."""
        now = time.monotonic()
        path = os.environ.get(EVENTS_VARIABLE)
        pause = _EVENT_SECONDS if path else _LINE_SECONDS
        if done < total and now - self._reported < pause:
            return
        self._reported = now
        if path:
            emit("progress", stage=self.stage, label=self.label, unit=self.unit, done=done, total=total)
            return
        rate = done / max(now - self._started, 1e-6)
        left = f", {(total - done) / rate:.0f} s left" if rate > 0 and done < total else ""
        name = f"{self.stage} {self.label}".rstrip()
        print(f"{name} {done:,}/{total:,} {self.unit} ({rate:,.1f}/s{left})", flush=True)


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
