"""The task registry: a module in ``damoc.evaluation.tasks`` that calls :func:`register_task` is found by its name."""

from __future__ import annotations

import difflib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from damoc.data.example import Example
from damoc.errors import DamocError
from damoc.models.load import LoadedModel

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class RowScores:
    """A metric row by row; over any set of rows it is the sum of numerators over the sum of denominators.

    Args:
        numerator: float64 (rows,), e.g. bits of the answer, or 1 for a right one.
        denominator: float64 (rows,), e.g. bytes of the answer, or 1.
    """

    numerator: NDArray[Any]
    denominator: NDArray[Any]

    def score(self) -> float:
        """The metric over all rows."""
        return float(self.numerator.sum() / self.denominator.sum())

    def to_json(self) -> dict[str, list[float]]:
        """Rounded to six decimals; :meth:`from_json` reads it back."""
        return {
            "numerator": [round(float(value), 6) for value in self.numerator],
            "denominator": [round(float(value), 6) for value in self.denominator],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Sequence[float]]) -> RowScores:
        """Reads what :meth:`to_json` wrote."""
        return cls(np.asarray(value["numerator"], dtype=float), np.asarray(value["denominator"], dtype=float))


Measure = Callable[[LoadedModel, Sequence[Example], Sequence[str], int, int, OnProgress], dict[str, RowScores]]


@dataclass(frozen=True)
class Task:
    """A way to score held-out rows.

    Args:
        name: what ``evaluation.task`` says.
        main_metric: ranks when the config names none.
        higher_is_better: direction of every metric the task knows.
        measure: (model, rows, wanted metrics, batch size, max length, on_progress) to scores; may return more metrics
            than wanted where they cost nothing.
        check: what is wrong with a row for this task, or None.
    """

    name: str
    main_metric: str
    higher_is_better: Mapping[str, bool]
    measure: Measure
    check: Callable[[Example], str | None]


_TASKS: dict[str, Task] = {}


def register_task(task: Task) -> Task:
    """Puts a task into the registry."""
    _TASKS[task.name] = task
    return task


def tasks() -> dict[str, Task]:
    """All tasks by name."""
    _discover()
    return dict(sorted(_TASKS.items()))


def task_named(name: str) -> Task:
    """A task by name.

    Raises:
        DamocError: there is none of that name.
    """
    known = tasks()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise DamocError(f"unknown task {name!r}", "field evaluation.task", f"{hint}known tasks: {', '.join(known)}")
    return known[name]


def metric_of(task: Task, metric: str | None) -> str:
    """The metric that ranks.

    Raises:
        DamocError: the task does not know it.
    """
    name = metric or task.main_metric
    if name not in task.higher_is_better:
        raise DamocError(
            f"the task {task.name!r} has no metric {name!r}",
            "field evaluation.metric",
            f"use one of {', '.join(task.higher_is_better)}",
        )
    return name


@cache
def _discover() -> Any:
    package = import_module("damoc.evaluation.tasks")
    for module in pkgutil.iter_modules(package.__path__, "damoc.evaluation.tasks."):
        import_module(module.name)
