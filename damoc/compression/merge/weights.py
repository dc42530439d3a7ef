"""APPLY: changes of weights that can be scaled and taken back bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from damoc.compression.merge.sparse import Sparse


@dataclass(frozen=True)
class WeightChange:
    """What a merge adds to one weight. All arithmetic is in float32 on the CPU, the same with and without a GPU.

    Args:
        weight: a parameter, or a tensor that was read from a checkpoint.
        where: flat indices of the entries that change, int64, or None where all do.
        original: these entries before any merge, in the weight's dtype.
        delta: float32, added to them at scale 1.
    """

    weight: torch.Tensor
    where: torch.Tensor | None
    original: torch.Tensor
    delta: torch.Tensor

    @classmethod
    def dense(cls, weight: torch.Tensor, delta: torch.Tensor) -> WeightChange | None:
        """The change by a delta of the weight's shape, float32; None where nothing changes."""
        return cls(weight, None, weight.detach().cpu().clone(), delta) if delta.any() else None

    @classmethod
    def sparse(cls, weight: torch.Tensor, delta: Sparse) -> WeightChange | None:
        """The change of some entries; None where nothing changes."""
        changes = delta.values != 0
        if not changes.any():
            return None
        where = delta.where[changes]
        return cls(weight, where, weight.detach().flatten()[where.to(weight.device)].cpu(), delta.values[changes])

    def apply(self, scale: float) -> None:
        """Sets the weight to this scale; 0 restores its bits."""
        import torch

        new = self.original if scale == 0 else (self.original.float() + scale * self.delta).to(self.original.dtype)
        with torch.no_grad():
            if self.where is None:
                self.weight.copy_(new)
            else:
                device = self.weight.device
                self.weight.view(-1).index_copy_(0, self.where.to(device), new.to(device))


class Merge:
    """Changes of weights under one scale.

    Args:
        changes: at most one a weight.
        patches: what a fitted merge was fitted to, by name; kept beside the record, which alone cannot rebuild it.
    """

    def __init__(self, changes: Sequence[WeightChange] = (), patches: dict[str, torch.Tensor] | None = None) -> None:
        self._changes = tuple(changes)
        self.patches = patches or {}

    def __bool__(self) -> bool:
        """Whether there is anything to merge."""
        return bool(self._changes)

    def apply(self, scale: float) -> None:
        """Sets all weights to this scale; 0 restores them bit for bit."""
        for change in self._changes:
            change.apply(scale)
