"""The filter registry: a module in a sub-package that calls :func:`register_filter` is found by its name."""

from __future__ import annotations

import difflib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from damoc.errors import DamocError


@dataclass(frozen=True)
class RowChoice:
    """What a filter decided.

    Args:
        rows: indices in the order of their choice; a prefix is the choice for a smaller budget where the method is
            greedy.
        trace: one number a choice where the method has one (covering radius, gain), same order.
    """

    rows: tuple[int, ...]
    trace: tuple[float, ...] = ()


Decide = Callable[[Mapping[str, NDArray[Any]], int, np.random.Generator], RowChoice]


@dataclass(frozen=True)
class Filter:
    """A way to choose rows.

    Args:
        name: what ``data_compression.filter.method`` says.
        kind: ``distribution``, ``quality``, ``hybrid`` or ``baseline``.
        signals: names of the measurements it reads; each is an array whose first axis is the rows.
        decide: pure function (signals, budget in rows, seeded generator) to :class:`RowChoice`. ``signals["rows"]``
            always holds the row indices, int64 (N,).
        source: where the method comes from.
    """

    name: str
    kind: str
    signals: Sequence[str]
    decide: Decide
    source: str = ""
    summary: str = field(default="", compare=False)


_FILTERS: dict[str, Filter] = {}


def register_filter(name: str, kind: str, signals: Sequence[str] = (), source: str = "") -> Callable[[Decide], Decide]:
    """Decorator that puts a decide function into the registry."""

    def enter(decide: Decide) -> Decide:
        summary = (decide.__doc__ or "").strip().split("\n")[0]
        _FILTERS[name] = Filter(name, kind, tuple(signals), decide, source, summary)
        return decide

    return enter


def filters() -> dict[str, Filter]:
    """All filters by name."""
    _discover()
    return dict(sorted(_FILTERS.items()))


def filter_named(name: str) -> Filter:
    """A filter by name.

    Raises:
        DamocError: there is none of that name.
    """
    known = filters()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise DamocError(
            f"unknown filter {name!r}",
            "field data_compression.filter.method",
            f"{hint}known filters: {', '.join(known)}",
        )
    return known[name]


def choose(method: Filter, signals: Mapping[str, NDArray[Any]], budget: int, seed: int) -> RowChoice:
    """Runs a filter's decide and checks that it kept its promise: ``budget`` distinct rows.

    Args:
        method: the filter.
        signals: its measurements, each of length N.
        budget: rows to keep, in [1, N].
        seed: of the generator.
    """
    count = len(signals["rows"])
    choice = method.decide(signals, budget, np.random.default_rng(seed))
    if len(choice.rows) != budget or len(set(choice.rows)) != budget or not set(choice.rows) <= set(range(count)):
        distinct = len(set(choice.rows) & set(range(count)))
        raise AssertionError(
            f"filter {method.name} chose {len(choice.rows)} rows, {distinct} of them distinct and among the {count} "
            f"that there are; the budget is {budget}"
        )
    return choice


@cache
def _discover() -> Any:
    package = import_module("damoc.filters")
    for module in pkgutil.walk_packages(package.__path__, "damoc.filters."):
        import_module(module.name)
