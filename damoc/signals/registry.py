"""The signal registry: a module of this package that calls :func:`register_signal` is found by its name.

A measurement gives one or more named arrays. It may need others first; each is measured once, cached by content where
that pays, and shared by all filters.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from damoc.config import DataCompression
from damoc.data.example import Example
from damoc.signals.cache import SignalCache

if TYPE_CHECKING:
    from damoc.chat import ChatModel
    from damoc.models.load import LoadedModel

OnProgress = Callable[[int, int], None]


@dataclass
class SignalContext:
    """What a measurement may use.

    Args:
        rows: N rows to choose from.
        targets: validation rows, which say what the task is (LESS).
        config: models that the rows are measured with.
        cache: folder of the signal cache.
        seed: of everything random in a measurement.
        progress: name of a signal to its progress callback.
        measured: arrays measured so far, by name.
    """

    rows: Sequence[Example]
    targets: Sequence[Example]
    config: DataCompression
    cache: Path
    seed: int = 0
    progress: Callable[[str], OnProgress] = lambda name: lambda done, total: None
    measured: dict[str, NDArray[Any]] = field(default_factory=dict)

    @cached_property
    def scorer(self) -> LoadedModel:
        """The causal language model behind perplexity, IFD and gradients; it reads rows in the plain form."""
        from damoc.models.load import load_local

        return load_local(self.config.scorer, template="plain")

    @cached_property
    def judge(self) -> ChatModel:
        """The model that rates rows."""
        from damoc.chat import open_chat_model

        return open_chat_model(self.config.judge, self.cache)

    @property
    def max_length(self) -> int:
        """Tokens that scorer, judge and reward model read at most."""
        return self.config.signals.max_length

    def cached(self, name: str, settings: Mapping[str, Any]) -> SignalCache:
        """The cache of one signal under settings that decide its values."""
        return SignalCache(self.cache, name, settings)


Measure = Callable[[SignalContext], Mapping[str, NDArray[Any]]]


@dataclass(frozen=True)
class Measurement:
    """A way to measure rows.

    Args:
        signals: names of the arrays it gives; each has the rows (or, named ``target_...``, the validation rows) as
            its first axis.
        measure: context to these arrays.
        models: which models it runs: ``encoder``, ``scorer``, ``judge``, ``reward``.
        needs: signals that must be measured before.
        summary: first line of its docstring.
    """

    signals: tuple[str, ...]
    measure: Measure
    models: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    summary: str = ""


_MEASUREMENTS: dict[str, Measurement] = {}
ALWAYS = ("rows", "label", "words")


def register_signal(
    *signals: str, models: Iterable[str] = (), needs: Iterable[str] = ()
) -> Callable[[Measure], Measure]:
    """Decorator that puts a measurement of one or more signals into the registry."""

    def enter(measure: Measure) -> Measure:
        summary = (measure.__doc__ or "").strip().split("\n")[0]
        for name in signals:
            _MEASUREMENTS[name] = Measurement(signals, measure, tuple(models), tuple(needs), summary)
        return measure

    return enter


def measurements() -> dict[str, Measurement]:
    """Every signal's measurement by the signal's name."""
    _discover()
    return dict(sorted(_MEASUREMENTS.items()))


def measure_signals(names: Sequence[str], context: SignalContext) -> dict[str, NDArray[Any]]:
    """Measures signals and what they need, each once.

    Args:
        names: of registered signals.
        context: rows and models.

    Returns:
        The named arrays and ``rows``, ``label`` and ``words``, which are always there.
    """
    context.measured.setdefault("rows", np.arange(len(context.rows)))
    context.measured.setdefault("label", labels(context.rows))
    context.measured.setdefault("words", word_counts(context.rows))
    for name in required(names):
        if name not in context.measured:
            found = measurements()[name].measure(context)
            context.measured.update({signal: found[signal] for signal in measurements()[name].signals})
    return {name: context.measured[name] for name in (*ALWAYS, *names)}


def required(names: Iterable[str]) -> list[str]:
    """Names and everything they need, in an order that measures what is needed first."""
    order: list[str] = []

    def visit(name: str) -> None:
        if name in order or name in ALWAYS:
            return
        for before in measurements()[name].needs:
            visit(before)
        order.append(name)

    for name in names:
        visit(name)
    return order


def models_of(names: Iterable[str]) -> list[str]:
    """Which models the measurements of some signals run, sorted."""
    return sorted({model for name in required(names) for model in measurements()[name].models})


def labels(rows: Sequence[Example]) -> NDArray[np.int64]:
    """Which closed answer each row has, by its place among all closed answers in sorted order; -1 for free-form."""
    known = sorted({row.output for row in rows if row.choices})
    place = {answer: index for index, answer in enumerate(known)}
    return np.array([place[row.output] if row.choices else -1 for row in rows], dtype=np.int64)


def word_counts(rows: Sequence[Example]) -> NDArray[np.int64]:
    """Words of each row, separated by white space."""
    return np.array([len(f"{row.instruction} {row.input} {row.output}".split()) for row in rows], dtype=np.int64)


@cache
def _discover() -> Any:
    package = import_module("damoc.signals")
    for module in pkgutil.iter_modules(package.__path__, "damoc.signals."):
        import_module(module.name)
