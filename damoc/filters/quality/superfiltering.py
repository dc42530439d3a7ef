"""The rows whose answers a small model finds hardest to give, although the instruction helps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from damoc.filters.ordering import best_first, best_scored, fifths, ranks, reasons
from damoc.filters.quality.difficulty import Form, difficulty_score, helps, instruction_following_difficulty
from damoc.filters.registry import RowSelection, Signals, filter_named, register_filter

_DIVERSE = "facility_location"


def _needs(options: Mapping[str, Any]) -> tuple[str, ...]:
    lengths = ("answer_tokens",) if options["by_length"] else ()
    places = filter_named(_DIVERSE).needs(filter_named(_DIVERSE).defaults()) if options["diverse_pool"] > 1 else ()
    return ("answer_loss", "alone_loss", *lengths, *places)


@register_filter(
    "superfiltering",
    kind="quality",
    signals=_needs,
    source="Li et al., Superfiltering, ACL 2024, pp. 14255-14273, arXiv 2402.00530",
)
def superfiltering(
    signals: Signals,
    budget: int,
    seed: int,
    *,
    ifd_form: Form = "perplexity",
    by_length: bool = False,
    diverse_pool: Annotated[float, Field(ge=1)] = 1.0,
) -> RowSelection:
    """Keeps the rows of the highest instruction-following difficulty (IFD) below 1 under a small model.

    IFD = exp(answer_loss - alone_loss). At 1 and above the instruction does not help, so the pair is misaligned and
    dropped; such rows come back only to fill the budget, the nearest to 1 first. Low IFD means that the answer is
    already mastered. IFD favours long answers, which ``by_length`` takes out. O(N log N), and facility location on
    the pool where ``diverse_pool`` asks for it.

    Args:
        signals: ``answer_loss`` and ``alone_loss`` float (N,), mean nats per answer token; ``answer_tokens`` int (N,)
            where ``by_length``; ``embedding`` float (N, dimensions) where ``diverse_pool`` is above 1.
        budget: rows to keep.
        seed: of facility location.
        ifd_form: ratio of perplexities (the paper) or of losses.
        by_length: ranks rows within fifths of equal answer length instead of among all.
        diverse_pool: multiple of the budget that IFD leaves for facility location to choose from; 1 leaves the choice
            to IFD alone, the paper's Superfiltering.D has 10.

    Returns:
        Rows, highest IFD first, scored by IFD (its rank within the fifth where ``by_length``; the negative IFD for
        dropped rows); in the order of facility location where it chose.
    """
    difficulty = instruction_following_difficulty(signals["answer_loss"], signals["alone_loss"], ifd_form)
    passed, scores = helps(difficulty), difficulty_score(difficulty)
    if by_length:
        within = ranks(np.where(passed, difficulty, np.nan), fifths(signals["answer_tokens"]))
        scores = np.where(passed, within, scores)
    chosen = best_scored(scores, budget, lambda row: f"IFD {difficulty[row]:.3f}", passed, "is not below 1")
    pool = best_first(scores)[: min(int(passed.sum()), round(diverse_pool * budget))]
    return _diverse(chosen, pool, signals, budget, seed) if len(pool) > budget else chosen


def _diverse(ranked: RowSelection, pool: NDArray[np.int64], signals: Signals, budget: int, seed: int) -> RowSelection:
    """What facility location chooses among the rows that IFD leaves."""
    rows = np.sort(pool)
    spread = filter_named(_DIVERSE)
    own = {name: signals[name][rows] for name in spread.needs(spread.defaults())} | {"rows": np.arange(len(rows))}
    found = spread.select(own, budget, seed, **spread.defaults())
    ids = tuple(rows[list(found.ids)].tolist())
    left = set(pool.tolist())
    why = reasons(
        len(ranked.why),
        ids,
        lambda row, place: f"kept: among the {len(pool)} of highest IFD, stands for the others as choice {place}",
        lambda row: (
            f"cut: among the {len(pool)} of highest IFD, others stand for it" if row in left else ranked.why[row]
        ),
    )
    facts = {**ranked.facts, "rows in the pool": len(pool), _DIVERSE: dict(found.facts)}
    return replace(ranked, ids=ids, why=why, trace=found.trace, facts=facts)
