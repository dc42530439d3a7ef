"""Instruction-following difficulty: how little an instruction helps with its answer."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from damoc.filters.ordering import rounded

Form = Literal["perplexity", "loss"]
_SMALLEST_LOSS = 1e-9
_LARGEST_GAP = 50.0


def instruction_following_difficulty(
    answer_loss: NDArray[Any], alone_loss: NDArray[Any], form: Form = "perplexity"
) -> NDArray[np.float64]:
    """IFD of each row: 1 where the instruction tells nothing about the answer, above 1 where it misleads.

    Both forms cross 1 at the same rows; below 1 they order rows differently.

    Args:
        answer_loss: float (N,), mean nats per answer token given the instruction.
        alone_loss: float (N,), mean nats per answer token of the answer by itself.
        form: ``perplexity`` is the ratio of perplexities exp(answer_loss - alone_loss) (Li et al., ACL 2024), ``loss``
            the ratio of losses answer_loss / alone_loss (Li et al., NAACL 2024).

    Returns:
        float64 (N,), positive, NaN where a loss is not finite.
    """
    answer, alone = np.asarray(answer_loss, dtype=np.float64), np.asarray(alone_loss, dtype=np.float64)
    measured = np.isfinite(answer) & np.isfinite(alone)
    answer, alone = np.where(measured, answer, np.nan), np.where(measured, alone, np.nan)
    by_loss: NDArray[np.float64] = np.maximum(answer, _SMALLEST_LOSS) / np.maximum(alone, _SMALLEST_LOSS)
    by_perplexity: NDArray[np.float64] = np.exp(np.minimum(answer - alone, _LARGEST_GAP))
    return by_loss if form == "loss" else by_perplexity


def helps(difficulty: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows' instructions help: IFD below 1.

    Args:
        difficulty: float (N,), IFD.
    """
    return rounded(difficulty) < 1


def difficulty_score(difficulty: NDArray[Any]) -> NDArray[np.float64]:
    """IFD as a score: higher is better below 1; rows at or above 1 come after all others, the nearest to 1 first.

    Args:
        difficulty: float (N,), IFD.

    Returns:
        float64 (N,), the IFD where it is below 1, else its negative; NaN stays.
    """
    return np.where(helps(difficulty), difficulty, -np.asarray(difficulty, dtype=np.float64))
