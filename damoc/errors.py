"""What damoc says when something is wrong: what, where, and how to mend it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Args:
        what: what is wrong, in one sentence.
        where: file, row or field (``data.jsonl:12 field 'output'``).
        fix: what the user can do about it.
    """

    what: str
    where: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}\n    fix: {self.fix}"


class DamocError(Exception):
    """An error that the user can mend; the command line prints it and exits with code 2.

    Args:
        what: what is wrong, in one sentence.
        where: file, row or field.
        fix: what the user can do about it.
    """

    exit_code = 2

    def __init__(self, what: str, where: str, fix: str) -> None:
        self.problems: tuple[Problem, ...] = (Problem(what, where, fix),)
        super().__init__(str(self.problems[0]))

    @classmethod
    def from_problems(cls, problems: Sequence[Problem]) -> DamocError:
        """Collects every problem found in one pass, so that they can be mended in one pass."""
        first = problems[0]
        error = cls(first.what, first.where, first.fix)
        error.problems = tuple(problems)
        error.args = ("\n".join(str(problem) for problem in problems),)
        return error

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_problems, (self.problems,)


class InfrastructureError(DamocError):
    """The workspace, the object store or the tracking server failed: no candidate is to blame, so the run stops."""


class CandidateError(Exception):
    """A candidate cannot go on; the selection records the status and continues with the others.

    Args:
        status: one of ``incompatible``, ``diverged``, ``oom``, ``timeout``, ``error``.
        reason: one sentence for the ranking table.
    """

    def __init__(self, status: str, reason: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(f"{status}: {reason}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.status, self.reason)
