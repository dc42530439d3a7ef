"""APPLY: the weights of a merge, computed from a checkpoint on disk one by one, with the bits of a loaded model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from damoc.compression.architecture import LayerSurgery, find_layers
from damoc.compression.merge.anchors import anchors
from damoc.compression.merge.linear_patch import last_projection, patch_delta
from damoc.compression.merge.task_vectors import absorbed_delta, matrices, matrix_seed, tuning_delta
from damoc.compression.merge.weights import WeightChange
from damoc.compression.sharded import skeleton
from damoc.errors import CandidateError
from damoc.models.checkpoint import Checkpoint

if TYPE_CHECKING:
    import torch

    from damoc.compression.sharded import Rewrite
    from damoc.config import MergeConfig


def stored_merge(
    source: Checkpoint,
    config: Any,
    record: Mapping[str, Any],
    settings: MergeConfig,
    patches: Mapping[str, torch.Tensor],
    base: Checkpoint | None = None,
    dtypes: Mapping[str, torch.dtype] | None = None,
) -> Rewrite:
    """What :func:`damoc.compression.sharded.prune_checkpoint` asks for each weight.

    Args:
        source: weights of the whole model.
        config: of the whole model, as transformers reads it.
        record: ``compression.json``: ``plan``, ``merge`` and ``seed``.
        settings: of the merge.
        patches: maps of a linear patch, by anchor.
        base: weights that the candidate was tuned from, for ``instruct_delta``.
        dtypes: as for ``prune_checkpoint``; a merge is computed from weights of the dtype that they are stored in.

    Raises:
        CandidateError: ``incompatible``, when the checkpoint names the weights that change in another way.
    """
    scale, seed = float(record["merge"]["scale"]), int(record["seed"])
    model = skeleton(config)
    layers, prefix = LayerSurgery(model).layers, find_layers(model)
    place = {layer: index for index, layer in enumerate(record["plan"]["keep"])}
    groups = anchors(record["plan"]["keep"], record["plan"]["remove"], settings.anchor)

    changing = {
        "rdsc_sparse": list(groups),
        "instruct_delta": record["plan"]["keep"],
        "linear_patch": [int(anchor) for anchor in patches],
        "none": [],
    }[settings.method]
    wanted = [f"{prefix}.{layer}.{name}" for layer in changing for name, _ in matrices(layers[layer])]
    if scale != 0 and (absent := [name for name in wanted if name not in source.tensors]):
        raise CandidateError(
            "incompatible",
            f"{source.source} has no tensor {absent[0]}, which {type(model).__name__} has; load it with transformers "
            "and save it again",
        )

    def read(checkpoint: Checkpoint, layer: int, name: str) -> torch.Tensor:
        checkpoint.announce(f"{prefix}.{layer}.{name}")
        return checkpoint.tensor(f"{prefix}.{layer}.{name}")

    def announce(layer: int, name: str) -> None:
        """Has what this matrix and the next one of its layer absorb read while the first is worked on."""
        names = sorted(own for own, _ in matrices(layers[layer]))
        at = names.index(name)
        for own in names[at : at + 2]:
            for other in (layer, *groups[layer]):
                source.announce(f"{prefix}.{other}.{own}")

    def absorbed(layer: int, name: str, own: torch.Tensor) -> WeightChange | None:
        others = {other: dict(layers[other].named_parameters()) for other in groups[layer]}
        alike = [other for other, parts in others.items() if name in parts and parts[name].shape == own.shape]
        if not alike:
            return None
        announce(layer, name)
        removed = (read(source, other, name).to(own.dtype) for other in alike)
        how = (settings.sparsifier, settings.density, matrix_seed(seed, layer, name))
        return WeightChange.of(own, absorbed_delta(own, removed, *how))

    def tuned(layer: int, name: str, own: torch.Tensor) -> WeightChange | None:
        if base is None:
            return None
        how = (settings.sparsifier, settings.density, matrix_seed(seed, layer, name))
        return WeightChange.of(own, tuning_delta(own, read(base, layer, name), *how))

    def patched(layer: int, name: str, own: torch.Tensor) -> WeightChange | None:
        patch = patches[str(layer)]
        found = last_projection(layers[layer], len(patch))
        inner, _, kind = name.rpartition(".")
        return WeightChange.of(own, patch_delta(found[1], kind, own, patch)) if found and found[0] == inner else None

    methods: dict[str, Callable[[int, str, torch.Tensor], WeightChange | None]] = {
        "rdsc_sparse": absorbed,
        "instruct_delta": tuned,
        "linear_patch": patched,
    }

    def rewrite(layer: int, name: str) -> torch.Tensor | None:
        if scale == 0 or layer not in changing:
            return None
        if settings.method != "linear_patch" and name not in dict(matrices(layers[layer])):
            return None
        own = read(source, layer, name)
        own = own.to((dtypes or {}).get(f"{prefix}.{place[layer]}.{name}", own.dtype))
        if change := methods[settings.method](layer, name, own):
            change.apply(scale)
        return own if change else None

    return rewrite
