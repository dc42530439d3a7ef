"""The rows of middling perplexity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from damoc.filters.ordering import best_scored, fifths, ranks
from damoc.filters.registry import RowSelection, Signals, register_filter


def _needs(options: Mapping[str, Any]) -> tuple[str, ...]:
    return ("answer_loss", "answer_tokens") if options["by_length"] else ("answer_loss",)


@register_filter(
    "perplexity_band",
    kind="quality",
    signals=_needs,
    source="Marion et al., When Less is More, 2023, arXiv 2309.04564",
)
def perplexity_band(
    signals: Signals,
    budget: int,
    seed: int,
    *,
    centre: Annotated[float, Field(ge=0, le=1)] = 0.5,
    by_length: bool = False,
) -> RowSelection:
    """Keeps the rows nearest to a quantile of the answer's perplexity, neither boilerplate nor noise.

    score = -|rank - centre|, where rank in (0, 1) is the share of rows of lower ``answer_loss``; any monotone function
    of the loss, perplexity among them, gives the same rows. Which part of the range is best differs by study; the
    middle is the default. Short answers have extreme means, which ``by_length`` takes out. O(N log N).

    Args:
        signals: ``answer_loss`` float (N,), mean nats per answer token; ``answer_tokens`` int (N,) where ``by_length``.
        budget: rows to keep.
        seed: not used.
        centre: quantile in the middle of the band: 0 keeps the easiest rows, 1 the hardest.
        by_length: ranks rows within fifths of equal answer length instead of among all.

    Returns:
        Rows, nearest to the centre first, scored by the negative distance to it.
    """
    loss = np.asarray(signals["answer_loss"], dtype=np.float64)
    place = ranks(np.where(np.isfinite(loss), loss, np.nan), fifths(signals["answer_tokens"]) if by_length else None)
    known = ~np.isnan(place)
    return best_scored(-np.abs(place - centre), budget, lambda row: f"perplexity rank {place[row]:.3f}", known, "")
