"""What several filters agree on."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from damoc.errors import DamocError, Problem
from damoc.filters.choice import choose
from damoc.filters.ordering import best_first, reasons, rounded
from damoc.filters.registry import RowSelection, Signals, filter_named, filters, register_filter

_NAME = "ensemble"
_DAMPING = 60
_MEMBERS = {"superfiltering": 1.0, "k_center_greedy": 1.0}


def _needs(options: Mapping[str, Any]) -> tuple[str, ...]:
    members = [filter_named(name) for name in _checked(options["members"])]
    return tuple(dict.fromkeys(signal for member in members for signal in member.needs(member.defaults())))


@register_filter(
    _NAME,
    kind="hybrid",
    signals=_needs,
    source="Cormack, Clarke and Buettcher, Reciprocal Rank Fusion, SIGIR 2009; de Borda 1781",
)
def ensemble(
    signals: Signals,
    budget: int,
    seed: int,
    *,
    members: dict[str, float] = _MEMBERS,
    fusion: Literal["reciprocal", "borda"] = "reciprocal",
) -> RowSelection:
    """Fuses the rankings of other filters by weight and keeps the rows that rank best over all.

    A member, run with its default options, ranks the rows that it chooses in the order of its choice, and the others
    behind them by its scores; rows that it does not tell apart share their mean place. With places p from 1 and weights
    w that sum to 1, ``reciprocal`` is sum w * 61 / (60 + p), which prizes a high place with any member, and ``borda``
    is sum w * (N - p) / N, which prizes a good mean place. One member alone gives that member's choice. Costs what the
    members cost, and O(N log N) each.

    Args:
        signals: what the members need.
        budget: rows to keep.
        seed: given to every member.
        members: names of filters and their weights, each above 0.
        fusion: ``reciprocal`` or ``borda``.

    Returns:
        Rows, best first, scored by the fused rank in [0, 1].

    Raises:
        DamocError: no members, unknown ones, the ensemble itself, or a weight that is not above 0.
    """
    count = len(signals["rows"])
    weights = np.array(list(_checked(members).values()))
    choices = {name: choose(filter_named(name), signals, budget, seed) for name in members}
    places = np.stack([_places(choice, count) for choice in choices.values()])
    credits = (_DAMPING + 1) / (_DAMPING + places) if fusion == "reciprocal" else (count - places) / count
    fused = weights / weights.sum() @ credits

    def says(row: int) -> str:
        return ", ".join(f"{name} {places[index, row]:g}" for index, name in enumerate(members))

    ids = tuple(best_first(fused)[:budget].tolist())
    why = reasons(count, ids, lambda row, place: f"kept: places {says(row)}", lambda row: f"cut: places {says(row)}")
    facts = {name: dict(choice.facts) for name, choice in choices.items()}
    return RowSelection(ids, rounded(fused), why, facts={"members": facts})


def _places(choice: RowSelection, count: int) -> NDArray[np.float64]:
    """Place of each row from 1: the chosen in their order, the others by score, equal ones on their mean place."""
    from scipy.stats import rankdata

    places = np.full(count, np.nan)
    places[list(choice.ids)] = np.arange(1, len(choice.ids) + 1)
    others = np.flatnonzero(np.isnan(places))
    scores = np.zeros(count) if choice.scores is None else rounded(choice.scores)
    places[others] = len(choice.ids) + rankdata(np.where(np.isnan(scores), np.inf, -scores)[others])
    return places


def _checked(members: Mapping[str, float]) -> Mapping[str, float]:
    where = "field data_compression.filter.options.members"
    known = [name for name in filters() if name != _NAME]
    fix = f"name some of {', '.join(known)}"
    problems = [] if members else [Problem("the ensemble has no members", where, fix)]
    for name, weight in members.items():
        if name == _NAME:
            problems.append(Problem("the ensemble cannot be a member of itself", f"{where}.{name}", fix))
        elif name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            problems.append(Problem(f"unknown filter {name!r}", f"{where}.{name}", f"{hint}{fix}"))
        if not weight > 0:
            problems.append(
                Problem(f"the weight {weight:g} is not above 0", f"{where}.{name}", "raise it, or remove it")
            )
    if problems:
        raise DamocError.from_problems(problems)
    return members
