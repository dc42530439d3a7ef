"""DECIDE: which dropped words go back into a text that the gate refuses."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from damoc.filters.ordering import best_first

_LONGEST_SPAN = 4
Gate = Callable[[Mapping[int, NDArray[Any]]], Mapping[int, bool]]


@dataclass(frozen=True)
class Restoration:
    """The smallest restoration of a text that the gate lets pass.

    Args:
        kept: bool (words,); None where only the whole original passes.
        rounds: restorations that were measured.
    """

    kept: NDArray[Any] | None
    rounds: int


def restore(kept: Sequence[NDArray[Any]], surprise: Sequence[NDArray[Any]], gate: Gate) -> list[Restoration]:
    """Puts the most informative dropped spans back into each text until the gate lets it pass.

    All texts advance together, one restoration each a round, so that the gate measures one batch a round. The number
    of spans that go back doubles until one passes, then it is bisected between the last that failed and the first
    that passed: about ``2 log2(spans)`` rounds. Scores may dip where words go back, so the result is the smallest
    restoration among those measured, not the smallest there is.

    Args:
        kept: N bool arrays (words,): which words the gate's first measurement had.
        surprise: N float arrays (words,): how informative each word is.
        gate: measures one restoration of each of some texts, by text number, and says which of them pass.

    Returns:
        One restoration a text; each keeps all that was kept, more, and less than everything.
    """
    searches = {index: _search(own, nats) for index, (own, nats) in enumerate(zip(kept, surprise, strict=True))}
    found: dict[int, Restoration] = {}
    rounds = dict.fromkeys(searches, 0)

    def advance(index: int, passed: bool | None) -> NDArray[Any] | None:
        try:
            return searches[index].send(passed)
        except StopIteration as end:
            found[index] = Restoration(end.value, rounds[index])
            return None

    waiting = {index: trial for index in searches if (trial := advance(index, None)) is not None}
    while waiting:
        verdicts = gate(waiting)
        for index in waiting:
            rounds[index] += 1
        waiting = {index: trial for index in waiting if (trial := advance(index, verdicts[index])) is not None}
    return [found[index] for index in range(len(kept))]


def dropped_spans(kept: NDArray[Any], surprise: NDArray[Any]) -> list[tuple[int, int]]:
    """Runs of dropped words, ``(start, end)``, the most informative a word first; ties go to the earlier one.

    A run of more than four words is cut into spans of about equal length, so that a little of it can go back.

    Args:
        kept: bool (words,).
        surprise: float (words,).
    """
    edges = np.flatnonzero(np.diff(np.concatenate(([True], kept, [True])).astype(np.int8)))
    spans: list[tuple[int, int]] = []
    for start, end in edges.reshape(-1, 2).tolist():
        parts = -(-(end - start) // _LONGEST_SPAN)
        cuts = [start + (end - start) * part // parts for part in range(parts + 1)]
        spans += zip(cuts[:-1], cuts[1:], strict=True)
    gains = np.array([surprise[start:end].mean(dtype=np.float64) for start, end in spans])
    return [spans[place] for place in best_first(gains)]


def _search(kept: NDArray[Any], surprise: NDArray[Any]) -> Generator[NDArray[Any], bool | None, NDArray[Any] | None]:
    """Yields restorations, is sent whether each passes, returns the smallest that did."""
    spans = dropped_spans(kept, surprise)
    failed, passed = 0, len(spans)
    step = 1
    while failed + 1 < passed:
        unbounded = passed == len(spans)
        count = min(failed + step, passed - 1) if unbounded else (failed + passed) // 2
        if (yield _put_back(kept, spans[:count])):
            passed = count
        else:
            failed = count
            step *= 2
    return _put_back(kept, spans[:passed]) if passed < len(spans) else None


def _put_back(kept: NDArray[Any], spans: Sequence[tuple[int, int]]) -> NDArray[Any]:
    restored = kept.copy()
    for start, end in spans:
        restored[start:end] = True
    return restored
