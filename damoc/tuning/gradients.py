"""MEASURE: losses and gradients of a batch, cut into as many micro-batches as memory and processes ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from damoc.data.prompts import Encoded
from damoc.errors import CandidateError
from damoc.models.batching import length_batches, pad_batch
from damoc.models.likelihood import token_losses
from damoc.tuning.processes import OneProcess
from damoc.tuning.rng import random_state, set_random_state

if TYPE_CHECKING:
    import torch

MICRO_BATCH_TOKENS = 8192
_MAX_PADDING = 0.2
_OUT_OF_MEMORY = ("outofmemory", "out of memory", "can't allocate memory", "not enough memory", "alloc_failed")


class SmallerParts(CandidateError):
    """Memory did not suffice in one of several processes, which cannot start a batch again without the others.

    Args:
        reason: what failed.
        micro_batch_tokens: what to try instead, from the last checkpoint.
    """

    def __init__(self, reason: str, micro_batch_tokens: int) -> None:
        super().__init__("oom", reason)
        self.micro_batch_tokens = micro_batch_tokens

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason, self.micro_batch_tokens)


class BatchRunner:
    """Runs batches of any size through a model and takes less at a time where the memory does not suffice.

    A batch that fails is run again in smaller parts, with the same random numbers. The loss is averaged over the answer
    tokens of the whole batch, so that parts change the outcome by rounding only (and, with dropout, by other draws).
    Several processes take turns with the rows of a part, and all run as many parts.

    Args:
        model: causal language model.
        pad_id: padding token.
        precision: context of every forward pass.
        processes: those that share the rows of a batch.

    Attributes:
        micro_batch_tokens: padded tokens of a part at most, a single longer row stands alone.
    """

    def __init__(
        self,
        model: Any,
        pad_id: int,
        precision: Callable[[], AbstractContextManager[Any]],
        processes: OneProcess | None = None,
    ) -> None:
        self._model = model
        self._pad_id = pad_id
        self._precision = precision
        self._processes = processes or OneProcess()
        self._device = str(next(model.parameters()).device)
        self.micro_batch_tokens = MICRO_BATCH_TOKENS

    def backward(self, batch: Sequence[Encoded]) -> float:
        """Leaves the gradient of the batch's mean answer-token loss in the parameters, which have none before.

        Returns:
            The loss, in nats.

        Raises:
            CandidateError: ``oom``, when the memory does not suffice for a single row, or for a part in one of several
                processes (:class:`SmallerParts`).
        """
        self._model.train()
        random = random_state()
        while (loss := self._mean_loss(batch, 1.0, backward=True)) is None:
            self._model.zero_grad(set_to_none=True)
            set_random_state(random)
        return loss

    def mean_loss(self, rows: Sequence[Encoded]) -> float:
        """Mean loss of the answer tokens of some rows, in nats, without a gradient; raises as :meth:`backward` does."""
        import torch

        self._model.eval()
        with torch.no_grad():
            while (loss := self._mean_loss(rows, _MAX_PADDING, backward=False)) is None:
                pass
        return loss

    def _mean_loss(self, batch: Sequence[Encoded], max_padding: float, backward: bool) -> float | None:
        """The loss, its gradient accumulated part by part; None where the memory did not suffice."""
        supervised = sum(row.answer_length for row in batch)
        total = 0.0
        for rows, weight in self._parts(batch, max_padding):
            try:
                with self._precision():
                    padded = pad_batch(rows, self._pad_id, self._device)
                    del padded["attention_mask"]  # see answer_losses: padding stands where no token looks
                    loss: torch.Tensor = token_losses(self._model, padded).sum() * (weight / supervised)
                if backward:
                    loss.backward()
            except (MemoryError, RuntimeError) as error:
                self._take_less(error, rows)
                return None
            total += float(loss.detach())
        return self._processes.total(total)

    def _parts(self, batch: Sequence[Encoded], max_padding: float) -> Iterator[tuple[list[Encoded], float]]:
        """Rows that this process runs together, longest first, and what their loss counts.

        Rows are dealt out by length. The first process has the longest ones, so that its parts fit everywhere. Where
        one has no row left for a part, it runs the shortest one along, which counts nothing.
        """
        order = sorted(batch, key=lambda row: -len(row.ids))
        own, longest = (order[first :: self._processes.size] for first in (self._processes.rank, 0))
        done = 0
        for part in length_batches(longest, len(longest), self.micro_batch_tokens, max_padding):
            rows = own[done : done + len(part)]
            yield (rows, 1.0) if rows else ([order[-1]], 0.0)
            done += len(part)

    def _take_less(self, error: BaseException, rows: Sequence[Encoded]) -> None:
        """Halves the parts; raises what is not a lack of memory, and what smaller parts cannot mend here."""
        import torch

        if not is_out_of_memory(error):
            raise error
        if len(rows) == 1:
            raise CandidateError("oom", f"the memory does not suffice for a single row: {error}") from error
        self.micro_batch_tokens = len(rows) * len(rows[0].ids) // 2
        if self._processes.size > 1:
            reason = f"the memory does not suffice for {len(rows)} rows of {len(rows[0].ids)} tokens: {error}"
            raise SmallerParts(reason, self.micro_batch_tokens) from error
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU (``torch.OutOfMemoryError``) or in the memory of the machine."""
    text = f"{type(error).__name__} {error}".lower()
    return isinstance(error, MemoryError) or any(sign in text for sign in _OUT_OF_MEMORY)
