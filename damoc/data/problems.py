"""Collects what is wrong with a dataset, so that it can be mended in one pass."""

from __future__ import annotations

from damoc.errors import DamocError, Problem

_SHOWN = 20


class Problems:
    """The problems found so far; the first 20 are kept, the rest counted."""

    def __init__(self) -> None:
        self._first: list[Problem] = []
        self._count = 0

    def add(self, what: str, where: str, fix: str) -> None:
        """Notes a problem; see :class:`damoc.errors.Problem`."""
        self._count += 1
        if self._count <= _SHOWN:
            self._first.append(Problem(what, where, fix))

    def raise_any(self) -> None:
        """Raises a DamocError with the problems found; without any, does nothing."""
        if not self._count:
            return
        more = self._count - len(self._first)
        rest = [Problem(f"and {more} more problems", "the same data", "mend the ones above, then run again")]
        raise DamocError.from_problems([*self._first, *(rest if more else [])])
