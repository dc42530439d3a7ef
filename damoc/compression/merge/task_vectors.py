"""Sparse task vectors: what a layer that goes has and its anchor has not, or what instruction tuning added."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from damoc.compression.merge.offloaded import read_weight, weight_change
from damoc.compression.merge.sparse import Delta, Difference, Sparse, elected, summed
from damoc.compression.merge.weights import Change
from damoc.errors import CandidateError
from damoc.hashing import derive_seed

if TYPE_CHECKING:
    import torch

_ROUTERS = {"gate", "router", "shared_expert_gate"}


def removed_minus_anchor(
    layers: Sequence[torch.nn.Module],
    groups: Mapping[int, Sequence[int]],
    sparsifier: str,
    density: float,
    seed: int,
) -> Iterator[Change]:
    """Adds to each matrix of an anchor the sparsified difference of the layers that it absorbs and itself.

    The difference of two layers follows RDSC (LaCo, arXiv 2402.11187), the sparsification TIES (arXiv 2306.01708) or
    DARE (arXiv 2311.03099). Norms, biases, embeddings, routers and stacked experts are left alone.

    Args:
        layers: all layers of the whole model.
        groups: removed layers by their anchor.
        sparsifier: ``magnitude``, ``ties`` or ``dare``.
        density: share of each task vector that is kept, in [0, 1].
        seed: decides what ``dare`` drops; each matrix has its own stream.
    """
    for anchor, removed in sorted(groups.items()):
        others = [(layers[index], dict(layers[index].named_parameters())) for index in removed]
        for name, weight in matrices(layers[anchor]):
            alike = [other for other, own in others if name in own and own[name].shape == weight.shape]
            if alike:
                own = read_weight(layers[anchor], name)
                absorbed = (read_weight(other, name) for other in alike)
                delta = absorbed_delta(own, absorbed, sparsifier, density, matrix_seed(seed, anchor, name))
                if change := weight_change(layers[anchor], name, delta):
                    yield change


def instruct_minus_base(
    layers: Sequence[torch.nn.Module],
    keep: Sequence[int],
    base: Callable[[int, str], torch.Tensor],
    sparsifier: str,
    density: float,
    seed: int,
) -> Iterator[Change]:
    """Adds to each matrix of a kept layer what instruction tuning had added to it, sparsified, once more.

    At scale s a weight is base + (1 + s) times the kept entries of (instruct - base): task arithmetic (Ilharco et al.,
    arXiv 2212.04089) with a coefficient above 1, to offset what the layers that went take along.

    Args:
        layers: all layers of the whole model.
        keep: layers that stay.
        base: weight of the checkpoint that the model was tuned from, by layer and name within it.
        sparsifier: ``magnitude``, ``ties`` or ``dare``.
        density: share of each task vector that is kept, in [0, 1].
        seed: decides what ``dare`` drops; each matrix has its own stream.

    Raises:
        CandidateError: ``incompatible``, where the base has another shape.
    """
    for index in keep:
        for name, weight in matrices(layers[index]):
            before = base(index, name)
            if before.shape != weight.shape:
                raise CandidateError(
                    "incompatible",
                    f"{name} of layer {index} has the shape {tuple(weight.shape)}, in the base {tuple(before.shape)}; "
                    "name the checkpoint that the candidate was tuned from",
                )
            own = read_weight(layers[index], name)
            delta = tuning_delta(own, before, sparsifier, density, matrix_seed(seed, index, name))
            if change := weight_change(layers[index], name, delta):
                yield change


def absorbed_delta(
    anchor: torch.Tensor, removed: Iterable[torch.Tensor], sparsifier: str, density: float, seed: int
) -> Delta:
    """Sparsified differences of removed matrices and their anchor's, all of one shape, at least one.

    Args:
        anchor: matrix of the anchor.
        removed: read one by one.
        sparsifier: ``magnitude`` (largest entries of each, summed), ``ties`` (largest entries, sign election, mean of
            those that agree) or ``dare`` (random entries, rescaled by 1/density, summed).
        density: share of the entries of each vector that is kept, in [0, 1].
        seed: of the random entries.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)

    def thin(matrix: torch.Tensor) -> Sparse:
        difference = Difference(matrix, anchor)
        if sparsifier == "dare":
            return difference.drawn(density, generator)
        return difference.largest(int(density * difference.size))

    put_together = elected if sparsifier == "ties" else summed
    return put_together(map(thin, removed), anchor.numel())


def tuning_delta(instruct: torch.Tensor, base: torch.Tensor, sparsifier: str, density: float, seed: int) -> Delta:
    """Sparsified difference of a tuned matrix and the one it was tuned from."""
    return absorbed_delta(base, [instruct], sparsifier, density, seed)


def matrix_seed(seed: int, layer: int, name: str) -> int:
    """The seed of one matrix."""
    return derive_seed(seed, "merge", str(layer), name)


def matrices(layer: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Names and weights of a layer's matrices, without embeddings and routers."""
    from torch.nn import Embedding

    for path, module in layer.named_modules():
        if isinstance(module, Embedding) or path.rpartition(".")[2] in _ROUTERS:
            continue
        for name, weight in module.named_parameters(recurse=False):
            if weight.ndim == 2 and name == "weight":
                yield f"{path}.{name}", weight
