"""The filter registry: a module in a sub-package that calls :func:`register_filter` is found by its name."""

from __future__ import annotations

import difflib
import inspect
import pkgutil
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError

from damoc.errors import DamocError, Problem

Signals = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class RowSelection:
    """What a filter decided.

    Args:
        ids: row numbers in the order of their choice; a prefix is the choice for a smaller budget where the method is
            greedy.
        scores: float64 (N,), what the method thinks of each row, larger is better; NaN where it says nothing; None
            where it scores sets and not rows.
        why: (N,) why each row was kept or cut, in a few words.
        trace: one number a choice where the method has one (covering radius, gain), same order as ``ids``.
        facts: JSON-able facts about the decision (thresholds used, whether it is exact, rows short of the budget).
    """

    ids: tuple[int, ...]
    scores: NDArray[np.float64] | None = None
    why: tuple[str, ...] = ()
    trace: tuple[float, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


Select = Callable[..., RowSelection]
"""A pure function of (signals, budget in rows, seed); its keyword-only parameters are the options of the method."""

Needs = Callable[[Mapping[str, Any]], Sequence[str]]


@dataclass(frozen=True)
class Filter:
    """A way to choose rows.

    Args:
        name: what ``data_compression.filter.method`` says.
        kind: ``distribution``, ``quality``, ``hybrid`` or ``baseline``.
        needs: options to the names of the measurements that the method reads. ``rows`` (int64 row numbers), ``label``
            (int64, which closed answer, -1 for free-form) and ``words`` (int64, words of the row) are always there.
        select: the decision.
        source: where the method comes from.
        summary: first line of its docstring.
    """

    name: str
    kind: str
    needs: Needs
    select: Select
    source: str = ""
    summary: str = field(default="", compare=False)

    def defaults(self) -> dict[str, Any]:
        """Every option with its default."""
        return {name: parameter.default for name, parameter in self._parameters().items()}

    def checked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """All options, the given ones converted to their types.

        Raises:
            DamocError: unknown options or values of another type, all at once.
        """
        parameters = self._parameters()
        hints = typing.get_type_hints(self.select, include_extras=True)
        problems, values = [], self.defaults()
        for name, value in options.items():
            place = f"field data_compression.filter.options.{name}"
            if name not in parameters:
                close = difflib.get_close_matches(name, parameters, n=1)
                known = f"options of {self.name}: {', '.join(parameters) or 'none'}"
                hint = f"did you mean {close[0]!r}? " if close else ""
                problems.append(Problem(f"the filter {self.name} has no option {name!r}", place, f"{hint}{known}"))
                continue
            try:
                adapter = TypeAdapter(hints[name], config=ConfigDict(allow_inf_nan=False))
                values[name] = adapter.validate_python(value)
            except ValidationError as error:
                message = error.errors()[0]["msg"]
                fix = f"correct the value; the default is {parameters[name].default!r}"
                problems.append(Problem(f"{message[0].lower()}{message[1:]} (given: {value!r})", place, fix))
        if problems:
            raise DamocError.from_problems(problems)
        return values

    def _parameters(self) -> dict[str, inspect.Parameter]:
        signature = inspect.signature(self.select)
        return {name: item for name, item in signature.parameters.items() if item.kind is item.KEYWORD_ONLY}


_FILTERS: dict[str, Filter] = {}


def register_filter(
    name: str, kind: str, signals: Sequence[str] | Needs = (), source: str = ""
) -> Callable[[Select], Select]:
    """Decorator that puts a select function into the registry; its keyword-only parameters are its options.

    Args:
        name: of the filter.
        kind: ``distribution``, ``quality``, ``hybrid`` or ``baseline``.
        signals: measurements that it reads, or a function from its options to them.
        source: citation.
    """
    needs: Needs = signals if callable(signals) else lambda options: tuple(signals)

    def enter(select: Select) -> Select:
        summary = (select.__doc__ or "").strip().split("\n")[0]
        _FILTERS[name] = Filter(name, kind, needs, select, source, summary)
        return select

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


@cache
def _discover() -> Any:
    package = import_module("damoc.filters")
    for module in pkgutil.walk_packages(package.__path__, "damoc.filters."):
        import_module(module.name)
