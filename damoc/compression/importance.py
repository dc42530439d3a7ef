"""MEASURE: how much each layer changes what passes through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from damoc.errors import CandidateError

if TYPE_CHECKING:
    import torch

DECIMALS = 6
"""Measurements are rounded before anything is decided on them, so that a recorded decision can be replayed."""


def block_influence(
    model: Any,
    layers: Sequence[torch.nn.Module],
    batches: Sequence[Mapping[str, torch.Tensor]],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> NDArray[np.float64]:
    """Block Influence of each layer: 1 minus the mean cosine of its input and its output (ShortGPT, arXiv 2403.03853).

    The mean is over all tokens that are not padding, so neither padding nor batching changes it. Both vectors are
    read at the layer itself: the last of transformers' ``hidden_states`` stands behind the final norm. Activations
    are not kept; cosines are computed in float32 and summed in float64.

    Args:
        model: causal language model in evaluation mode; its head is not run.
        layers: its decoder layers, in order.
        batches: ``input_ids`` and ``attention_mask``, int64 (rows, length), each on the model's device.
        on_progress: called with (batches done, batches).

    Returns:
        float64 (layers,) in [0, 2], rounded to 6 decimals; a layer that passes its input through has 0.

    Raises:
        CandidateError: ``diverged`` when a value is not finite, ``incompatible`` when a layer is not run.
    """
    import torch
    from torch.nn.functional import cosine_similarity

    sums = np.zeros(len(layers), dtype=np.float64)
    counts = np.zeros(len(layers), dtype=np.int64)
    mask: torch.Tensor = torch.zeros(0)

    def watch(index: int) -> Callable[[Any, tuple[Any, ...], dict[str, Any], Any], None]:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            before = args[0] if args else kwargs["hidden_states"]
            after = output[0] if isinstance(output, tuple) else output
            real = mask.to(before.device)
            cosines = cosine_similarity(before[real].float(), after[real].float(), dim=-1)
            sums[index] += cosines.double().sum().item()
            counts[index] += len(cosines)

        return hook

    handles = [layer.register_forward_hook(watch(index), with_kwargs=True) for index, layer in enumerate(layers)]
    body = getattr(model, "base_model", model)
    try:
        with torch.inference_mode():
            for done, batch in enumerate(batches, start=1):
                mask = batch["attention_mask"].bool()
                body(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
                on_progress(done, len(batches))
    finally:
        for handle in handles:
            handle.remove()
    if not counts.all():
        raise CandidateError("incompatible", f"layer {int(counts.argmin())} did not run on the calibration rows")
    influence = 1.0 - sums / counts
    if not np.isfinite(influence).all():
        broken = int(np.flatnonzero(~np.isfinite(influence))[0])
        raise CandidateError("diverged", f"the activations of layer {broken} are not finite on the calibration rows")
    return np.clip(np.round(influence, DECIMALS), 0.0, 2.0)
