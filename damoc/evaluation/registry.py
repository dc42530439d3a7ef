"""The task registry: a module in ``damoc.evaluation.tasks`` that calls :func:`register_task` is found by its name."""

from __future__ import annotations

import difflib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from damoc.config import EvaluationConfig, SelectionConfig
from damoc.data.example import Example
from damoc.data.presets import PRESETS
from damoc.errors import DamocError
from damoc.evaluation.row_scores import RowScores
from damoc.models.load import LoadedModel

OnProgress = Callable[[int, int], None]
DEFAULT = "generation"
HARNESS = "lm_eval:"
"""What stands before the name of a task of lm-evaluation-harness."""


def _quiet(done: int, total: int) -> None:
    """No progress."""


@dataclass(frozen=True)
class Settings:
    """How a task is measured.

    Args:
        config: the evaluation's config; its ``task`` and ``metric`` are settled already.
        metrics: what has to be measured; a task may measure more where it costs nothing.
        max_length: longest row that is read, in tokens.
        shown: worked examples before every row, for k-shot evaluation.
        seed: of what a task draws.
        on_progress: called with (work done, work).
    """

    config: EvaluationConfig
    metrics: Sequence[str]
    max_length: int
    shown: Sequence[Example] = ()
    seed: int = 0
    on_progress: OnProgress = _quiet


Measure = Callable[[LoadedModel, Sequence[Example], Settings], dict[str, RowScores]]


@dataclass(frozen=True)
class Task:
    """A way to score held-out rows.

    Args:
        name: what ``evaluation.task`` says.
        main_metric: ranks when the config names none.
        higher_is_better: direction of every metric that can rank. ``measure`` may return others, which are shown.
        measure: (model, rows, settings) to scores by metric.
        check: what is wrong with a row for this task, or None.
        content: SHA-256 over the rows that the task brings along; empty where it scores the dataset's own.
    """

    name: str
    main_metric: str
    higher_is_better: Mapping[str, bool]
    measure: Measure
    check: Callable[[Example], str | None] = lambda row: None
    content: str = ""


_TASKS: dict[str, Task] = {}


def register_task(task: Task) -> Task:
    """Puts a task into the registry."""
    _TASKS[task.name] = task
    return task


def known_tasks() -> dict[str, Task]:
    """All tasks by name, those of lm-evaluation-harness left out."""
    _discover()
    return dict(sorted(_TASKS.items()))


def task_named(name: str) -> Task:
    """A task by name; ``lm_eval:NAME`` and ``lm_eval:FILE.yaml`` are tasks of lm-evaluation-harness.

    Raises:
        DamocError: there is none of that name.
    """
    if name.startswith(HARNESS):
        from damoc.evaluation.harness import harness_task

        return harness_task(name.removeprefix(HARNESS))
    known = known_tasks()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        fix = f"{hint}known tasks: {', '.join(known)}, {HARNESS}NAME"
        raise DamocError(f"unknown task {name!r}", "field evaluation.task", fix)
    return known[name]


def task_of(config: SelectionConfig) -> Task:
    """The task that a config names, or else the one of its dataset's preset, or else :data:`DEFAULT`.

    Raises:
        DamocError: there is none of that name.
    """
    preset = PRESETS.get(config.dataset.preset or "")
    return task_named(config.evaluation.task or (preset.task if preset else DEFAULT))


def metric_of(task: Task, metric: str | None) -> str:
    """The metric that ranks.

    Raises:
        DamocError: the task does not know it.
    """
    name = metric or task.main_metric
    _check_metric(task, name, "metric")
    return name


def metrics_of(task: Task, config: EvaluationConfig) -> list[str]:
    """The metric that ranks, and those that are to be shown beside it.

    Raises:
        DamocError: the task does not know one of them.
    """
    for name in config.also:
        _check_metric(task, name, "also")
    return list(dict.fromkeys([metric_of(task, config.metric), *config.also]))


def _check_metric(task: Task, name: str, field: str) -> None:
    if name not in task.higher_is_better:
        raise DamocError(
            f"the task {task.name!r} has no metric {name!r}",
            f"field evaluation.{field}",
            f"use one of {', '.join(task.higher_is_better)}",
        )


@cache
def _discover() -> Any:
    package = import_module("damoc.evaluation.tasks")
    for module in pkgutil.iter_modules(package.__path__, "damoc.evaluation.tasks."):
        import_module(module.name)
