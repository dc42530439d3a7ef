"""DECIDE: which words of a text stay, and which condensed texts are good enough."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def keep_words(surprise: NDArray[Any], protected: NDArray[Any], rate: float) -> NDArray[Any]:
    """Keeps the protected words and then the most surprising ones until the share ``rate`` of all words is reached.

    At least one word stays.

    Words that a language model foresees carry little for another one (LLMLingua, arXiv 2310.05736); word ``i`` stays
    or goes by its own surprise. Protected words stay even where they alone exceed the share. Ties go to the earlier
    word, and a smaller rate keeps a subset of what a larger one keeps.

    Args:
        surprise: float (words,), nats.
        protected: bool (words,).
        rate: share of the words to keep, in [0, 1].

    Returns:
        bool (words,), true where a word stays.
    """
    count = len(surprise)
    free = max(min(count, 1), round(rate * count)) - int(protected.sum())
    order = np.lexsort((np.arange(count), -np.round(surprise.astype(np.float64), 6), protected))
    kept = protected.copy()
    kept[order[: max(0, free)]] = True
    return kept


def passes_gate(f1: float, threshold: float) -> bool:
    """Whether a condensed text stands for its original; otherwise the original is used."""
    return bool(np.isfinite(f1) and f1 >= threshold)
