"""A linear map that does what the removed layers did, folded into the anchor's last projection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from damoc.compression.merge.offloaded import read_weight, weight_change
from damoc.compression.merge.weights import Change, Merge

if TYPE_CHECKING:
    import torch

    from damoc.compression.architecture import LayerSurgery

_LINEARITY = 0.02
_ABOVE_ROUNDING = 16
_MOSTLY = 0.95


def fit_patches(
    model: Any,
    surgery: LayerSurgery,
    keep: Sequence[int],
    groups: Mapping[int, Sequence[int]],
    batches: Sequence[Mapping[str, torch.Tensor]],
    ridge: float,
) -> dict[int, torch.Tensor]:
    r"""Fits a map for each anchor, from the lowest up, on what the layers below it really pass on.

    With :math:`M` what the anchor's last projection adds to the residual stream, :math:`H` the stream behind the
    anchor in the pruned model and :math:`Z` the stream behind the removed layers in the whole model, :math:`I + D`
    minimises :math:`\lVert M D - (Z - H) \rVert^2 + r \lVert D \rVert^2`, with :math:`r` as ``ridge`` times the mean
    square of a column of :math:`M`. The idea is that of ReplaceMe (arXiv 2505.02819); here the map shrinks towards the
    identity, so that few calibration tokens change little. Sums are taken in float64, batch by batch: memory does not
    grow with the rows.

    Args:
        model: causal language model in evaluation mode.
        surgery: of the model; left with ``keep``.
        keep: layers that stay.
        groups: removed layers by their anchor. Anchors above their layers are skipped, and those whose last
            projection is not added to the stream as it is (a norm follows it, or experts share it).
        batches: ``input_ids`` and ``attention_mask``, int64 (rows, length), on the model's device.
        ridge: strength of the shrinking.

    Returns:
        Maps, float32 (hidden, hidden) on the CPU, by anchor; a row of M is mapped by multiplying it from the left.
    """
    import torch

    whole = range(len(surgery.layers))
    patches: dict[int, torch.Tensor] = {}
    merge = Merge()
    for anchor, removed in sorted(groups.items()):
        if min(removed) < anchor:
            continue
        layer, last = surgery.layers[anchor], surgery.layers[max(removed)]
        surgery.keep(keep)
        projection = residual_projection(model, layer, batches[0])
        if projection is None:
            continue
        gram: Any = 0.0
        right: Any = 0.0
        for batch in batches:
            merge.apply(0.0)
            surgery.keep(whole)
            (wanted,) = _outputs(model, batch, [last])
            surgery.keep(keep)
            merge.apply(1.0)
            stream, added = _outputs(model, batch, [layer, projection])
            added = added.double()
            gram = gram + added.T @ added
            right = right + added.T @ (wanted.double() - stream.double())
        identity = torch.eye(len(gram), dtype=torch.float64, device=gram.device)
        shrinking = ridge * gram.diagonal().mean() * identity
        patches[anchor] = (identity + torch.linalg.solve(gram + shrinking, right)).float().cpu()
        merge.apply(0.0)
        merge = Merge(list(patch_changes(surgery.layers, patches)))
    merge.apply(0.0)
    surgery.keep(keep)
    return patches


def patch_changes(layers: Sequence[torch.nn.Module], patches: Mapping[int, torch.Tensor]) -> Iterator[Change]:
    """The changes that fold maps into the last projection of their anchors.

    Args:
        layers: all layers of the whole model.
        patches: what :func:`fit_patches` returned.
    """
    for anchor, patch in sorted(patches.items()):
        found = last_projection(layers[anchor], len(patch))
        assert found is not None, "a patch is fitted to a projection"
        projection = found[1]
        for name, _ in projection.named_parameters(recurse=False):
            delta = patch_delta(projection, name, read_weight(projection, name), patch)
            if change := weight_change(projection, name, delta):
                yield change


def patch_delta(projection: torch.nn.Module, name: str, weight: torch.Tensor, patch: torch.Tensor) -> torch.Tensor:
    """What folding a map into a projection adds to its ``weight`` or ``bias``: float32, flat, on the CPU."""
    own = weight.detach().float().cpu()
    return (patch.T @ own if name == "weight" and _is_linear(projection) else own @ patch).sub_(own).flatten()


def residual_projection(
    model: Any, layer: torch.nn.Module, batch: Mapping[str, torch.Tensor]
) -> torch.nn.Module | None:
    """The last projection of a layer, if what it computes is added to the residual stream as it is, else None.

    Found by trying: doubling what the projection returns has to add exactly that to what the layer returns. So no
    family has to be known by name, and norms behind the projection, residual multipliers and experts are told.
    """
    import torch

    (stream,) = _outputs(model, batch, [layer])
    found = last_projection(layer, stream.shape[-1])
    if found is None:
        return None
    projection = found[1]
    (added,) = _outputs(model, batch, [projection])
    handle = projection.register_forward_hook(lambda module, args, output: 2 * output)
    try:
        (doubled,) = _outputs(model, batch, [layer])
    finally:
        handle.remove()
    if added.shape != stream.shape:
        return None
    rounding = torch.finfo(stream.dtype).eps * torch.maximum(stream.abs(), doubled.abs()).float()
    told = added.float().abs() > _ABOVE_ROUNDING * rounding
    error = (doubled.float() - stream.float() - added.float()).abs()
    same = error <= _LINEARITY * added.float().abs() + rounding
    return projection if told.any() and same[told].float().mean() >= _MOSTLY else None


def last_projection(layer: torch.nn.Module, width: int) -> tuple[str, Any] | None:
    """Name and module of a layer's last linear map whose results are as wide as the residual stream."""
    found = None
    for name, module in layer.named_modules():
        sizes = vars(module)
        if (_is_linear(module) and sizes["out_features"] == width) or (_is_transposed(module) and sizes["nf"] == width):
            found = name, module
    return found


def _is_linear(module: Any) -> bool:
    from torch.nn import Linear

    return isinstance(module, Linear)


def _is_transposed(module: Any) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def _outputs(model: Any, batch: Mapping[str, torch.Tensor], modules: Sequence[torch.nn.Module]) -> list[torch.Tensor]:
    """What modules return for the tokens of a batch that are not padding: (tokens, width) each."""
    import torch

    found: dict[int, torch.Tensor] = {}
    real = batch["attention_mask"].bool()

    def watch(index: int) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            value = output[0] if isinstance(output, tuple) else output
            mask = real.to(value.device)
            found[index] = value[mask] if value.ndim == 3 else value.view(*mask.shape, -1)[mask]

        return hook

    handles = [module.register_forward_hook(watch(index)) for index, module in enumerate(modules)]
    body = getattr(model, "base_model", model)
    try:
        with torch.inference_mode():
            body(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return [found[index] for index in range(len(modules))]
