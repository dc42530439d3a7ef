"""APPLY: changes of weights that can be scaled and taken back bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from damoc.compression.merge.sparse import CHUNK, Delta, Sparse

if TYPE_CHECKING:
    import torch


class Change(Protocol):
    """A change of one weight."""

    def apply(self, scale: float) -> None:
        """Sets the weight to this scale; 0 restores its bits."""


@dataclass(frozen=True)
class WeightChange:
    """What a merge adds to one weight. All arithmetic is in float32 on the CPU, the same with and without a GPU.

    Args:
        weight: a parameter, or a tensor that was read from a checkpoint.
        where: flat indices of the entries that change, int64, or None where all do.
        original: these entries before any merge, flat, in the weight's dtype.
        delta: float32, flat, added to them at scale 1.
    """

    weight: torch.Tensor
    where: torch.Tensor | None
    original: torch.Tensor
    delta: torch.Tensor

    @classmethod
    def of(cls, weight: torch.Tensor, delta: Delta) -> WeightChange | None:
        """The change by a delta; None where nothing changes."""
        if not isinstance(delta, Sparse):
            return cls(weight, None, weight.detach().flatten().to("cpu", copy=True), delta) if delta.any() else None
        changes = delta.nonzero()
        if not len(changes.where):
            return None
        original = weight.detach().flatten()[changes.where.to(weight.device)].cpu()
        return cls(weight, changes.where, original, changes.values)

    def apply(self, scale: float) -> None:
        """Sets the weight to this scale; 0 restores its bits."""
        flat = self.weight.detach().view(-1)
        for start in range(0, len(self.original), CHUNK):
            part = slice(start, start + CHUNK)
            new = self.original[part]
            if scale != 0:
                new = (new.float() + scale * self.delta[part]).to(new.dtype)
            if self.where is None:
                flat[part] = new.to(flat.device)
            else:
                flat.index_copy_(0, self.where[part].to(flat.device), new.to(flat.device))


class Merge:
    """Changes of weights under one scale.

    Args:
        changes: at most one a weight.
        patches: what a fitted merge was fitted to, by name; kept beside the record, which alone cannot rebuild it.
    """

    def __init__(self, changes: Sequence[Change] = (), patches: dict[str, torch.Tensor] | None = None) -> None:
        self._changes = tuple(changes)
        self.patches = patches or {}

    def __bool__(self) -> bool:
        """Whether there is anything to merge."""
        return bool(self._changes)

    def apply(self, scale: float) -> None:
        """Sets all weights to this scale; 0 restores them bit for bit."""
        for change in self._changes:
            change.apply(scale)
