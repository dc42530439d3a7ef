"""Which weights a merge changes, by what the config names and what can be had."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from damoc.compression.architecture import find_layers
from damoc.compression.merge.anchors import anchors
from damoc.compression.merge.linear_patch import fit_patches, patch_changes
from damoc.compression.merge.task_vectors import instruct_minus_base, removed_minus_anchor
from damoc.compression.merge.weights import Merge
from damoc.models.checkpoint import Checkpoint

if TYPE_CHECKING:
    import torch

    from damoc.compression.architecture import LayerSurgery
    from damoc.config import MergeConfig


@dataclass(frozen=True)
class Ingredients:
    """What a merge is made of.

    Args:
        surgery: of the model; its layers are those of the whole model.
        keep: layers that stay.
        remove: layers that go.
        settings: the config's section.
        seed: of what ``dare`` drops.
        base: weight of the checkpoint that the candidate was tuned from, by layer and name within it; None where the
            config names none.
    """

    surgery: LayerSurgery
    keep: Sequence[int]
    remove: Sequence[int]
    settings: MergeConfig
    seed: int
    base: Callable[[int, str], torch.Tensor] | None = None


def build_merge(model: Any, of: Ingredients, batches: Sequence[Mapping[str, torch.Tensor]]) -> Merge:
    """The merge that the config names, at scale 0; an empty one where there is nothing to merge.

    Args:
        model: causal language model in evaluation mode, pruned.
        of: what it is made of.
        batches: rows that a linear patch is fitted to; without any there is none.
    """
    if of.settings.method != "linear_patch":
        return _task_vectors(of)
    if not of.remove or not batches:
        return Merge()
    groups = anchors(of.keep, of.remove, "before")
    patches = fit_patches(model, of.surgery, of.keep, groups, batches, of.settings.ridge)
    return _patched(of, {str(anchor): patch for anchor, patch in patches.items()})


def recorded_merge(of: Ingredients, patches: Mapping[str, torch.Tensor]) -> Merge:
    """The same merge again, from its record: ``patches`` is what :attr:`Merge.patches` was."""
    return _patched(of, patches) if of.settings.method == "linear_patch" else _task_vectors(of)


def _patched(of: Ingredients, patches: Mapping[str, torch.Tensor]) -> Merge:
    by_anchor = {int(anchor): patch for anchor, patch in patches.items()}
    return Merge(list(patch_changes(of.surgery.layers, by_anchor)), dict(patches))


def _task_vectors(of: Ingredients) -> Merge:
    layers, settings = of.surgery.layers, of.settings
    how = (settings.sparsifier, settings.density, of.seed)
    if not of.remove or settings.method == "none":
        return Merge()
    if settings.method == "rdsc_sparse":
        groups = anchors(of.keep, of.remove, settings.anchor)
        return Merge(list(removed_minus_anchor(layers, groups, *how)))
    return Merge(list(instruct_minus_base(layers, of.keep, of.base, *how))) if of.base else Merge()


def base_weights(model: Any, source: str, revision: str | None) -> Callable[[int, str], torch.Tensor]:
    """Reads the checkpoint that a model was tuned from, weight by weight.

    Args:
        model: causal language model of the same family, whole or pruned.
        source: folder or hub id of the base.
        revision: commit of a hub model.

    Raises:
        DamocError: there is no such checkpoint.
    """
    checkpoint, prefix = Checkpoint(source, revision), find_layers(model)
    return lambda layer, name: checkpoint.tensor(f"{prefix}.{layer}.{name}")
