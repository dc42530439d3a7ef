"""MEASURE: the gradient of a batch, cut into as many micro-batches as the memory asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from damoc.data.prompts import Encoded
from damoc.errors import CandidateError
from damoc.models.batching import length_batches, pad_batch
from damoc.models.likelihood import answer_losses, token_losses
from damoc.tuning.rng import random_state, set_random_state

if TYPE_CHECKING:
    import torch

MICRO_BATCH_TOKENS = 8192
_OUT_OF_MEMORY = ("outofmemory", "out of memory", "can't allocate memory", "not enough memory", "alloc_failed")


class BatchRunner:
    """Runs batches of any size through a model and takes less at a time where the memory does not suffice.

    A batch that fails is run again in smaller parts, with the same random numbers. The loss is averaged over the answer
    tokens of the whole batch, so that parts change the outcome by rounding only (and, with dropout, by other draws).

    Args:
        model: causal language model.
        pad_id: padding token.
        precision: context of every forward pass.
        rows_at_once: rows of a forward pass without gradient at most.

    Attributes:
        micro_batch_tokens: padded tokens of a part at most, a single longer row stands alone.
    """

    def __init__(
        self,
        model: Any,
        pad_id: int,
        precision: Callable[[], AbstractContextManager[Any]],
        rows_at_once: int,
    ) -> None:
        self._model = model
        self._pad_id = pad_id
        self._precision = precision
        self._device = str(next(model.parameters()).device)
        self._rows_at_once = rows_at_once
        self.micro_batch_tokens = MICRO_BATCH_TOKENS

    def backward(self, batch: Sequence[Encoded]) -> float:
        """Leaves the gradient of the batch's mean answer-token loss in the parameters, which have none before.

        Returns:
            The loss, in nats.

        Raises:
            CandidateError: ``oom``, when the memory does not suffice for a single row.
        """
        self._model.train()
        random = random_state()
        while (loss := self._accumulate(batch)) is None:
            self._model.zero_grad(set_to_none=True)
            set_random_state(random)
        return loss

    def mean_loss(self, rows: Sequence[Encoded]) -> float:
        """Mean loss of the answer tokens of some rows, in nats, without a gradient; raises as :meth:`backward` does."""
        self._model.eval()
        while (losses := self._losses(rows)) is None:
            self._rows_at_once //= 2
        return float(np.concatenate(losses).mean(dtype=np.float64))

    def _accumulate(self, batch: Sequence[Encoded]) -> float | None:
        """The loss, its gradient accumulated part by part; None where the memory did not suffice."""
        supervised = sum(row.answer_length for row in batch)
        total = 0.0
        for indices in length_batches(batch, len(batch), self.micro_batch_tokens):
            rows = [batch[index] for index in indices]
            try:
                with self._precision():
                    padded = pad_batch(rows, self._pad_id, self._device)
                    loss: torch.Tensor = token_losses(self._model, padded).sum() / supervised
                loss.backward()
            except (MemoryError, RuntimeError) as error:
                _check_smaller(error, len(rows))
                self.micro_batch_tokens = len(rows) * len(rows[0].ids) // 2
                return None
            total += float(loss.detach())
        return total

    def _losses(self, rows: Sequence[Encoded]) -> list[Any] | None:
        try:
            with self._precision():
                return answer_losses(self._model, rows, self._pad_id, self._rows_at_once)
        except (MemoryError, RuntimeError) as error:
            _check_smaller(error, self._rows_at_once)
            return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU (``torch.OutOfMemoryError``) or in the memory of the machine."""
    text = f"{type(error).__name__} {error}".lower()
    return isinstance(error, MemoryError) or any(sign in text for sign in _OUT_OF_MEMORY)


def _check_smaller(error: BaseException, rows: int) -> None:
    """Raises what is not a lack of memory, and what no smaller part can mend."""
    import torch

    if not is_out_of_memory(error):
        raise error
    if rows == 1:
        raise CandidateError("oom", f"the memory does not suffice for a single row: {error}") from error
    torch.cuda.empty_cache()
