"""A tracker that records nothing, for a step that is taken outside of a selection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from damoc.tracking.runs import Tracker


class Untracked(Tracker):
    """What a step of a candidate asks of a tracker, without a server."""

    def __init__(self) -> None:
        """Connects to nothing."""

    def candidate_run_id(self, candidate_id: str) -> str:
        """No run."""
        return ""

    def log_history(self, run_id: str, history: Sequence[Mapping[str, Any]]) -> None:
        """Records nothing."""

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Records nothing."""

    @contextmanager
    def system_metrics(self, run_id: str) -> Iterator[None]:
        """Samples nothing."""
        yield
