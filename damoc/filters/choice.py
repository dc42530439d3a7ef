"""Runs a filter on signals: within each label where asked, and checked against its promise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from damoc.errors import DamocError
from damoc.filters.registry import Filter, RowSelection, Signals
from damoc.hashing import derive_seed

TARGET = "target_"
"""Signals whose names start so belong to the validation rows, all others to the rows that are chosen from."""


def choose(
    method: Filter,
    signals: Signals,
    budget: int,
    seed: int,
    options: Mapping[str, Any] | None = None,
    per_label: bool = False,
) -> RowSelection:
    """Runs a filter and checks that it kept its promise: ``budget`` distinct rows.

    Args:
        method: the filter.
        signals: its measurements, each of length N but for those of the validation rows.
        budget: rows to keep, in [1, N].
        seed: of everything random in the decision.
        options: of the method, checked.
        per_label: chooses within each label of ``signals["label"]``, in proportion to its rows.

    Raises:
        DamocError: an embedding is not finite.
    """
    _check_embeddings(signals)
    settings = method.defaults() | dict(options or {})
    labels = signals.get("label")
    if not per_label or labels is None or len(np.unique(labels)) < 2:
        return _checked(method, method.select(signals, budget, seed, **settings), budget, len(signals["rows"]))
    parts: list[tuple[NDArray[Any], RowSelection]] = []
    known, counts = np.unique(labels, return_counts=True)
    for label, share in zip(known.tolist(), allocate(counts, budget).tolist(), strict=True):
        rows = np.flatnonzero(labels == label)
        own = {name: values if name.startswith(TARGET) else values[rows] for name, values in signals.items()}
        own["rows"] = np.arange(len(rows))
        if share:
            chosen = method.select(own, share, derive_seed(seed, str(label)), **settings)
            parts.append((rows, _checked(method, chosen, share, len(rows))))
        else:
            parts.append((rows, RowSelection((), why=("cut: its label has no share of the budget",) * len(rows))))
    return _joined(parts, len(labels))


def _check_embeddings(signals: Signals) -> None:
    for name in signals.keys() & {"embedding", "prompt_embedding"}:
        if not (finite := np.isfinite(signals[name]).all(axis=1)).all():
            raise DamocError(
                f"the {name.replace('_', ' ')} is not finite",
                f"row {int(np.argmin(finite))}",
                "set another data_compression.signals.encoder, or delete its signal cache",
            )


def allocate(counts: NDArray[Any], budget: int) -> NDArray[np.int64]:
    """Shares of a budget in proportion to counts, by largest remainder; every stratum gets a row where they suffice.

    Args:
        counts: int (strata,), positive.
        budget: in [1, sum of counts].

    Returns:
        int64 (strata,), sums to the budget, nowhere above its count.
    """
    sizes = np.asarray(counts, dtype=np.int64)
    floor = np.ones_like(sizes) if budget >= len(sizes) else np.zeros_like(sizes)
    exact = sizes * (budget / sizes.sum())
    shares: NDArray[np.int64] = np.maximum(np.floor(exact).astype(np.int64), floor)
    while shares.sum() > budget:
        over = np.where(shares > floor, shares - exact, -np.inf)
        shares[int(np.argmax(np.round(over, 9)))] -= 1
    while shares.sum() < budget:
        under = np.where(shares < sizes, exact - shares, -np.inf)
        shares[int(np.argmax(np.round(under, 9)))] += 1
    return shares


def _joined(parts: list[tuple[NDArray[Any], RowSelection]], count: int) -> RowSelection:
    """Choices within labels as one, dealt out so that every prefix keeps the proportions."""
    places, ids, traces = [], [], []
    why = [""] * count
    scores = np.full(count, np.nan)
    for rows, chosen in parts:
        for place, row in enumerate(chosen.ids):
            places.append(((place + 0.5) / len(chosen.ids), int(rows[row])))
            ids.append(int(rows[row]))
            traces.append(chosen.trace[place] if chosen.trace else np.nan)
        for row, reason in zip(rows.tolist(), chosen.why, strict=False):
            why[row] = reason
        if chosen.scores is not None:
            scores[rows] = chosen.scores
    order = sorted(range(len(ids)), key=lambda index: places[index])
    scored = any(chosen.scores is not None for _, chosen in parts)
    traced = all(chosen.trace for _, chosen in parts if chosen.ids)
    return RowSelection(
        tuple(ids[index] for index in order),
        scores if scored else None,
        tuple(why),
        tuple(traces[index] for index in order) if traced else (),
        {"labels": [dict(chosen.facts) for _, chosen in parts]},
    )


def _checked(method: Filter, chosen: RowSelection, budget: int, count: int) -> RowSelection:
    distinct = len(set(chosen.ids) & set(range(count)))
    if len(chosen.ids) != budget or distinct != budget:
        raise AssertionError(
            f"filter {method.name} chose {len(chosen.ids)} rows, {distinct} of them distinct and among the {count} "
            f"that there are; the budget is {budget}"
        )
    if chosen.scores is not None and chosen.scores.shape != (count,):
        raise AssertionError(f"filter {method.name} scored {chosen.scores.shape} for {count} rows")
    if chosen.why and len(chosen.why) != count:
        raise AssertionError(f"filter {method.name} gave {len(chosen.why)} reasons for {count} rows")
    return chosen if chosen.why else replace(chosen, why=_plain_reasons(chosen, count))


def _plain_reasons(chosen: RowSelection, count: int) -> tuple[str, ...]:
    place = {row: number for number, row in enumerate(chosen.ids, 1)}
    return tuple(f"kept: choice {place[row]}" if row in place else "cut: not among the chosen" for row in range(count))
