"""Sparse differences of matrices: which of their entries are kept, and how several are put together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch

    Choose = Callable[[torch.Tensor], torch.Tensor]

CHUNK = 1 << 20
"""Entries that are worked on at a time."""

_SAMPLE = 1 << 17
_DEVIATIONS = 4
_DENSE = 3


@dataclass(frozen=True)
class Sparse:
    """Entries of a matrix, on the CPU; all others are 0.

    Args:
        where: flat indices, int64, ascending.
        values: float32, as many.
    """

    where: torch.Tensor
    values: torch.Tensor

    def nonzero(self) -> Sparse:
        """Without the entries that are 0."""
        told = self.values != 0
        return self if told.all() else Sparse(self.where[told], self.values[told])


Delta: TypeAlias = "Sparse | torch.Tensor"
"""What is added to a matrix: some entries, or all of them, float32 and flat."""


class Difference:
    """Two matrices of one shape, subtracted in float32 a million entries at a time: no whole difference is in memory.

    Args:
        minuend: of any dtype, on any device.
        subtrahend: of any dtype, on any device.
    """

    def __init__(self, minuend: torch.Tensor, subtrahend: torch.Tensor) -> None:
        self._minuend, self._subtrahend = minuend.detach().reshape(-1), subtrahend.detach().reshape(-1)
        self.size = minuend.numel()

    def largest(self, count: int) -> Sparse:
        """The entries of largest magnitude; of equal ones the first."""
        import torch

        if count == 0:
            return Sparse(torch.empty(0, dtype=torch.int64), torch.empty(0))
        found = self._where(self._roughly(count))
        if len(found.where) < count:
            found = self._where(lambda values: torch.ones_like(values, dtype=torch.bool))
        sizes = found.values.abs()
        least = sizes.kthvalue(len(sizes) - count + 1).values
        chosen = sizes > least
        chosen[(sizes == least).nonzero().flatten()[: count - int(chosen.sum())]] = True
        return Sparse(found.where[chosen], found.values[chosen])

    def drawn(self, share: float, generator: torch.Generator) -> Sparse:
        """Random entries, divided by their share: the whole is the same on average."""
        import torch

        if share == 0:
            return self.largest(0)

        def draw(values: torch.Tensor) -> torch.Tensor:
            return torch.empty_like(values, dtype=torch.bool).bernoulli_(share, generator=generator)

        drawn = self._where(draw)
        return Sparse(drawn.where, drawn.values / share)

    def _entries(self, part: slice) -> torch.Tensor:
        import torch

        values: torch.Tensor = self._minuend[part].to("cpu", torch.float32)
        return values - self._subtrahend[part].to("cpu", torch.float32)

    def _roughly(self, count: int) -> Choose:
        """Chooses a few more than the largest ones, by what every n-th entry says."""
        sample = self._entries(slice(None, None, self.size // _SAMPLE + 1)).abs()
        share = count / self.size
        rank = math.ceil(len(sample) * share + _DEVIATIONS * math.sqrt(len(sample) * share))
        least = sample.kthvalue(len(sample) - rank).values if rank < len(sample) else 0.0
        return lambda values: values.abs() >= least

    def _where(self, choose: Choose) -> Sparse:
        import torch

        where, kept = [], []
        for start in range(0, self.size, CHUNK):
            values = self._entries(slice(start, start + CHUNK))
            inside = choose(values).nonzero().flatten()
            where.append(inside + start)
            kept.append(values[inside])
        return Sparse(torch.cat(where), torch.cat(kept))


def summed(vectors: Iterable[Sparse], size: int) -> Delta:
    """The sum of sparse vectors of a length, at least one; one of them is in memory at a time."""
    import torch

    pending = iter(vectors)
    first, second = next(pending), next(pending, None)
    if second is None:
        return first
    total = torch.zeros(size)
    for vector in chain((first, second), pending):
        total.index_add_(0, vector.where, vector.values)
    return _compact(total)


def elected(vectors: Iterable[Sparse], size: int) -> Delta:
    """Sign election of TIES (arXiv 2306.01708): per entry the mean of those that have the sign of the sum."""
    import torch

    found = list(vectors)
    if len(found) == 1:
        return found[0]
    total, votes = torch.zeros(size), torch.zeros(size, dtype=torch.int16)
    for vector in found:
        total.index_add_(0, vector.where, vector.values)
    positive = total >= 0
    total.zero_()
    for vector in found:
        agrees = vector.values.sign() == torch.where(positive[vector.where], 1.0, -1.0)
        where = vector.where[agrees]
        total.index_add_(0, where, vector.values[agrees])
        votes.index_add_(0, where, torch.ones_like(where, dtype=torch.int16))
    return _compact(total.div_(votes.clamp_(min=1)))


def _compact(total: torch.Tensor) -> Delta:
    """In the form that takes less memory."""
    if _DENSE * int(total.count_nonzero()) > len(total):
        return total
    where = total.nonzero().flatten()
    return Sparse(where, total[where])
