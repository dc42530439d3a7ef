"""The record: what was done to every text, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Outcome = Literal["condensed", "rewritten", "restored", "original", "untouched"]
_ROW_OUTCOMES = (
    ("repaired", {"rewritten", "restored"}),
    ("condensed", {"condensed"}),
    ("put back", {"original"}),
    ("untouched", {"untouched"}),
)


@dataclass(frozen=True)
class Settled:
    """How a text ended.

    Args:
        outcome: ``condensed`` (words dropped, the gate passed), ``rewritten`` (by a language model), ``restored``
            (dropped words put back until the gate passed), ``original`` (nothing passed) or ``untouched`` (not tried).
        text: what is trained on.
        why: one line.
        kept: bool (words,), the words that are left; None where the text is not made of them.
        first_f1: BERTScore F1 of the condensed text; None where there is none.
        f1: BERTScore F1 of ``text``; 1 for the original after a refusal.
        rewrites: rewrites asked for.
        restorations: restorations measured.
        refused: refused rewrites by the rule that they broke.
    """

    outcome: Outcome
    text: str
    why: str
    kept: NDArray[Any] | None = None
    first_f1: float | None = None
    f1: float | None = None
    rewrites: int = 0
    restorations: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)


def to_record(row: str, part: str, settled: Settled, words: int | None) -> dict[str, Any]:
    """One text's entry in the evidence.

    Args:
        row: id of its row.
        part: ``instruction``, ``input`` or ``output``.
        settled: how it ended.
        words: words of the original where they were counted.

    Returns:
        A JSON object with ``id``, ``part``, ``outcome``, ``why`` and, where they say something, ``words``,
        ``kept`` (:func:`unpack_kept` reads it), ``first_f1``, ``f1``, ``rewrites``, ``restorations`` and ``refused``.
    """
    entry = {"id": row, "part": part, "outcome": settled.outcome, "why": settled.why}
    said = {
        "words": words,
        "kept": None if settled.kept is None else pack_kept(settled.kept),
        "first_f1": settled.first_f1,
        "f1": settled.f1,
        "rewrites": settled.rewrites or None,
        "restorations": settled.restorations or None,
        "refused": dict(settled.refused) or None,
    }
    return {**entry, **{name: value for name, value in said.items() if value is not None}}


def pack_kept(kept: NDArray[Any]) -> list[int]:
    """Lengths of the alternating runs of kept and dropped words, kept first (0 where the first word is dropped).

    Args:
        kept: bool (words,).
    """
    edges = np.flatnonzero(np.diff(np.concatenate(([True], kept)).astype(np.int8)))
    return [int(length) for length in np.diff([0, *edges, len(kept)])]


def unpack_kept(runs: Sequence[int]) -> NDArray[np.bool_]:
    """Which words are kept, from what :func:`pack_kept` wrote: bool (words,)."""
    return np.repeat(np.arange(len(runs)) % 2 == 0, runs)


def journeys(
    ids: Sequence[str], filtered: Mapping[str, Any], condensed: Sequence[Mapping[str, Any]]
) -> list[dict[str, str]]:
    """The way of every training row through filter and condensing, one object a step.

    Args:
        ids: the rows before the filter, in their order.
        filtered: the filter's record: ``rows`` (ids kept) and ``why`` (id to reason).
        condensed: what :func:`to_record` gave for the kept rows.

    Returns:
        Objects with ``id``, ``step`` (filter or condense), ``outcome`` (filter: kept or cut; condense: condensed,
        repaired, put back or untouched, the strongest of its parts) and ``why``.
    """
    kept = set(filtered["rows"])
    texts: dict[str, list[Mapping[str, Any]]] = {}
    for entry in condensed:
        texts.setdefault(entry["id"], []).append(entry)
    steps = []
    for row in ids:
        outcome = "kept" if row in kept else "cut"
        steps.append(
            {"id": row, "step": "filter", "outcome": outcome, "why": filtered["why"][row].removeprefix(f"{outcome}: ")}
        )
        if own := texts.get(row):
            why = "; ".join(f"{entry['part']} {entry['outcome']}: {entry['why']}" for entry in own)
            steps.append({"id": row, "step": "condense", "outcome": _row_outcome(own), "why": why})
    return steps


def _row_outcome(entries: Sequence[Mapping[str, Any]]) -> str:
    outcomes = {entry["outcome"] for entry in entries}
    return next(name for name, marks in _ROW_OUTCOMES if outcomes & marks)
