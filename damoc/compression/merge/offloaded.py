"""APPLY: weights that accelerate brings in for each forward pass, from disk or from memory beside a GPU."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from damoc.compression.merge.sparse import Delta, Sparse
from damoc.compression.merge.weights import Change, WeightChange

if TYPE_CHECKING:
    import torch


def read_weight(layer: torch.nn.Module, name: str) -> torch.Tensor:
    """A weight of a layer, wherever it is kept, in the dtype that the layer computes with."""
    module, own = _owner(layer, name)
    weight = module.get_parameter(own)
    return _source(module).weights_map[own].to(weight.dtype) if weight.is_meta else weight


def weight_change(layer: torch.nn.Module, name: str, delta: Delta) -> Change | None:
    """The change of a layer's weight by a delta, wherever the weight is kept; None where nothing changes."""
    module, own = _owner(layer, name)
    weight = module.get_parameter(own)
    if not weight.is_meta:
        return WeightChange.of(weight, delta)
    return OffloadedChange.of(_source(module), own, weight.dtype, delta)


@dataclass(frozen=True)
class OffloadedChange:
    """What a merge adds to a weight while it is brought in; the stored one stays as it is.

    Args:
        hook: of accelerate, on the module that owns the weight.
        name: of the weight in the module.
        dtype: that the module computes with.
        delta: added at scale 1; on disk, in a nameless file, so that many changes fit beside little memory.
    """

    hook: Any
    name: str
    dtype: torch.dtype
    delta: Delta

    @classmethod
    def of(cls, hook: Any, name: str, dtype: torch.dtype, delta: Delta) -> OffloadedChange | None:
        """The change by a delta; None where nothing changes."""
        if isinstance(delta, Sparse):
            changes = delta.nonzero()
            stored = Sparse(_on_disk(changes.where), _on_disk(changes.values)) if len(changes.where) else None
            return cls(hook, name, dtype, stored) if stored else None
        return cls(hook, name, dtype, _on_disk(delta)) if delta.any() else None

    def apply(self, scale: float) -> None:
        """Brings the weight in at this scale from now on; 0 as it is stored."""
        if not isinstance(self.hook.weights_map, _Changed):
            self.hook.weights_map = _Changed(self.hook.weights_map)
        changes = self.hook.weights_map.changes
        if scale == 0:
            changes.pop(self.name, None)
        else:
            changes[self.name] = lambda stored: self._at(scale, stored)

    def _at(self, scale: float, stored: torch.Tensor) -> torch.Tensor:
        value = stored.to(self.dtype, copy=True)
        if change := WeightChange.of(value, self.delta):
            change.apply(scale)
        return value


class _Changed(Mapping[str, Any]):
    """Weights by name, some of them changed when they are asked for."""

    def __init__(self, stored: Mapping[str, torch.Tensor]) -> None:
        self._stored = stored
        self.changes: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {}

    def __getitem__(self, name: str) -> torch.Tensor:
        stored = self._stored[name]
        return self.changes[name](stored) if name in self.changes else stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def _owner(layer: torch.nn.Module, name: str) -> tuple[torch.nn.Module, str]:
    path, _, own = name.rpartition(".")
    return layer.get_submodule(path), own


def _source(module: torch.nn.Module) -> Any:
    """The hook that knows a module's weights; accelerate chains several where it has to."""
    hook: Any = module._hf_hook
    return next(each for each in getattr(hook, "hooks", (hook,)) if getattr(each, "weights_map", None) is not None)


def _on_disk(tensor: torch.Tensor) -> torch.Tensor:
    """The same values, mapped from a nameless file: the system can take their memory back."""
    import numpy as np
    import torch

    values = tensor.contiguous().numpy()
    with tempfile.TemporaryFile(prefix="damoc-merge-") as file:
        mapped = np.memmap(file, dtype=values.dtype, mode="w+", shape=values.shape)
    mapped[...] = values
    return torch.from_numpy(mapped)
