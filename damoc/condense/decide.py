"""DECIDE: which words of a text stay."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def keep_words(importance: NDArray[Any], protected: NDArray[Any], rate: float) -> NDArray[Any]:
    """Keeps the protected words and then the most important ones until the share ``rate`` of all words is reached.

    At least one word stays.

    Words that a language model foresees carry little for another one (Jiang et al., "LLMLingua", EMNLP 2023); word
    ``i`` stays or goes by its own surprise. Protected words stay even where they alone exceed the share. Ties go to
    the earlier word, and a smaller rate keeps a subset of what a larger one keeps.

    Args:
        importance: float (words,), nats.
        protected: bool (words,).
        rate: share of the words to keep, in [0, 1].

    Returns:
        bool (words,), true where a word stays.
    """
    return keep_best(importance, protected, free_budget(protected, rate))


def free_budget(protected: NDArray[Any], rate: float) -> int:
    """Words of a text that stay besides the protected ones, so that the share ``rate`` of all stays, at least one.

    Args:
        protected: bool (words,).
        rate: share of the words to keep, in [0, 1].
    """
    count = len(protected)
    return max(0, max(min(count, 1), round(rate * count)) - int(protected.sum()))


def segment_budget(budget: int, free: int, free_left: int) -> int:
    """A segment's share of what is left of a text's budget, in proportion to its words; the last one gets all of it.

    Args:
        budget: free words of the text that may still stay.
        free: words of the segment that are not protected.
        free_left: words of this segment and the later ones that are not protected.
    """
    return (2 * budget * free + free_left) // (2 * free_left) if free_left else 0


def keep_best(importance: NDArray[Any], protected: NDArray[Any], free: int) -> NDArray[Any]:
    """Keeps the protected words and the ``free`` most important others; ties go to the earlier word.

    Args:
        importance: float (words,), nats.
        protected: bool (words,).
        free: words to keep besides the protected ones.

    Returns:
        bool (words,), true where a word stays.
    """
    order = np.lexsort((np.arange(len(importance)), -np.round(importance.astype(np.float64), 6), protected))
    kept = protected.copy()
    kept[order[:free]] = True
    return kept
