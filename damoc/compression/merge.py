"""Sparse merge: what was removed, minus the layer that absorbs it, thinned out and added at a scale that pays."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from damoc.hashing import derive_seed

if TYPE_CHECKING:
    import torch

    Sparsifier = Callable[[list[torch.Tensor], torch.Tensor, float], torch.Tensor]

_ROUTERS = {"gate", "router", "shared_expert_gate"}


class SparseMerge:
    """Merges removed layers into their anchors, in place and reversibly.

    Each matrix of an anchor gets ``original + scale * delta``, where delta combines the sparsified task vectors
    (removed minus anchor) of the layers that it absorbs. The difference of two layers follows RDSC (LaCo, arXiv
    2402.11187), the sparsification TIES (arXiv 2306.01708) or DARE (arXiv 2311.03099), as peft implements them.
    All arithmetic is in float32 on the CPU, so that a merge made on a GPU can be rebuilt bit for bit without one.
    Norms, biases, embeddings, routers and stacked experts are left alone.

    Args:
        layers: all layers of the whole model.
        groups: removed layers by their anchor.
        method: ``magnitude``, ``ties`` or ``dare``; ``none`` merges nothing.
        density: share of each task vector that is kept, in [0, 1].
        seed: decides what ``dare`` drops; each matrix has its own stream.
    """

    def __init__(
        self,
        layers: Sequence[torch.nn.Module],
        groups: Mapping[int, Sequence[int]],
        method: str,
        density: float,
        seed: int,
    ) -> None:
        self._parts: list[tuple[torch.nn.Parameter, torch.Tensor, torch.Tensor]] = []
        if method == "none":
            return
        for anchor, removed in sorted(groups.items()):
            others = [dict(layers[index].named_parameters()) for index in removed]
            for name, weight in _matrices(layers[anchor]):
                original = weight.detach().cpu().clone()
                vectors = [
                    other[name].detach().float().cpu() - original.float()
                    for other in others
                    if name in other and other[name].shape == weight.shape
                ]
                if vectors:
                    delta = sparsify(vectors, method, density, derive_seed(seed, "merge", str(anchor), name))
                    self._parts.append((weight, original, delta))

    def __bool__(self) -> bool:
        """Whether there is anything to merge."""
        return bool(self._parts)

    def apply(self, scale: float) -> None:
        """Sets the anchors to this scale; 0 restores their weights bit for bit."""
        import torch

        with torch.no_grad():
            for weight, original, delta in self._parts:
                weight.copy_(original if scale == 0 else (original.float() + scale * delta).to(weight.dtype))


def sparsify(vectors: Sequence[torch.Tensor], method: str, density: float, seed: int) -> torch.Tensor:
    """Thins task vectors out and combines them.

    Args:
        vectors: float32, all of one shape, at least one.
        method: ``magnitude`` (largest entries of each, summed), ``ties`` (largest entries, sign election, mean of
            those that agree) or ``dare`` (random entries, rescaled by 1/density, summed).
        density: share of the entries of each vector that is kept, in [0, 1].
        seed: of the random entries.

    Returns:
        float32 of the same shape.
    """
    import torch

    if density == 0:
        return torch.zeros_like(vectors[0])
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The density")
        torch.manual_seed(seed)
        return _sparsifier(method)(list(vectors), torch.ones(len(vectors)), density)


def choose_scale(losses: Mapping[float, float]) -> float:
    """The scale of the lowest calibration loss, or 0 when none is strictly lower than plain removal.

    Args:
        losses: calibration loss in nats per token by scale; 0 is among them. Losses are compared at 6 decimals,
            one that is not finite never wins, and ties go to the smaller scale.
    """
    rounded = {scale: round(loss, 6) for scale, loss in losses.items() if math.isfinite(loss)}
    better = [scale for scale in sorted(rounded) if rounded[scale] < rounded.get(0.0, math.inf)]
    return min(better, key=lambda scale: rounded[scale], default=0.0)


def _sparsifier(method: str) -> Sparsifier:
    from peft.utils import merge_utils

    methods: dict[str, Sparsifier] = {
        "magnitude": merge_utils.magnitude_prune,
        "ties": merge_utils.ties,
        "dare": merge_utils.dare_linear,
    }
    return methods[method]


def _matrices(layer: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    from torch.nn import Embedding

    for path, module in layer.named_modules():
        if isinstance(module, Embedding) or path.rpartition(".")[2] in _ROUTERS:
            continue
        for name, weight in module.named_parameters(recurse=False):
            if weight.ndim == 2 and name == "weight":
                yield f"{path}.{name}", weight
