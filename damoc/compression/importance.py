"""MEASURE: how much each layer, and each block of layers, changes what passes through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from damoc.errors import CandidateError

if TYPE_CHECKING:
    import torch

DECIMALS = 6
"""Measurements are rounded before anything is decided on them, so that a recorded decision can be replayed."""


@dataclass(frozen=True)
class LayerMeasurement:
    """What one forward pass says of the layers, rounded to 6 decimals.

    Args:
        influence: float64 (layers,) in [0, 2]: Block Influence, 1 minus the mean cosine of a layer's input and output
            over all tokens that are not padding (ShortGPT, arXiv 2403.03853).
        distances: float64 (layers, layers) in [0, 1]: [i, j] is the angle between the input of layer i and the output
            of layer j >= i at the last token that is not padding, in units of pi, mean over the rows (Gromov et al.,
            arXiv 2403.17887); 0 below the diagonal.
    """

    influence: NDArray[np.float64]
    distances: NDArray[np.float64]


def measure_layers(
    model: Any,
    layers: Sequence[torch.nn.Module],
    batches: Sequence[Mapping[str, torch.Tensor]],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> LayerMeasurement:
    """Block Influence and block distances of a model's layers, in one forward pass over the rows.

    Neither padding nor batching changes them. Vectors are read at the layers themselves: the last of transformers'
    ``hidden_states`` stands behind the final norm. Activations are not kept: of a batch in work, the last token's
    vectors before and behind each layer are. Cosines of all tokens are computed in float32, the rest in float64.

    Args:
        model: causal language model in evaluation mode; its head is not run. Its weights may be offloaded.
        layers: its decoder layers, in order.
        batches: ``input_ids`` and ``attention_mask``, int64 (rows, length), each on the model's device.
        on_progress: called with (batches done, batches).

    Raises:
        CandidateError: ``diverged`` when a value is not finite, ``incompatible`` when a layer is not run.
    """
    import torch
    from torch.nn.functional import cosine_similarity, normalize

    sums = np.zeros(len(layers), dtype=np.float64)
    counts = np.zeros(len(layers), dtype=np.int64)
    angles = np.zeros((len(layers), len(layers)), dtype=np.float64)
    ends: dict[int, tuple[torch.Tensor, ...]] = {}
    mask: torch.Tensor = torch.zeros(0)
    rows = 0

    def watch(index: int) -> Callable[[Any, tuple[Any, ...], dict[str, Any], Any], None]:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            after = output[0] if isinstance(output, tuple) else output
            before = (args[0] if args else kwargs["hidden_states"]).to(after.device)
            real = mask.to(after.device)
            cosines = cosine_similarity(before[real].float(), after[real].float(), dim=-1)
            sums[index] += cosines.double().sum().item()
            counts[index] += len(cosines)
            last = real.shape[1] - 1 - real.flip(1).int().argmax(dim=1)
            at = torch.arange(len(last), device=last.device), last
            ends[index] = tuple(normalize(vectors[at].cpu().double(), dim=-1) for vectors in (before, after))

        return hook

    handles = [layer.register_forward_hook(watch(index), with_kwargs=True) for index, layer in enumerate(layers)]
    body = getattr(model, "base_model", model)
    try:
        with torch.inference_mode():
            for done, batch in enumerate(batches, start=1):
                mask = batch["attention_mask"].bool()
                body(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
                if absent := sorted(set(range(len(layers))) - ends.keys()):
                    raise CandidateError("incompatible", f"layer {absent[0]} did not run on the calibration rows")
                angles += _angles([ends[index] for index in range(len(layers))])
                rows += len(mask)
                ends.clear()
                on_progress(done, len(batches))
    finally:
        for handle in handles:
            handle.remove()
    influence = 1.0 - sums / counts
    if not np.isfinite(influence).all():
        broken = int(np.flatnonzero(~np.isfinite(influence))[0])
        raise CandidateError("diverged", f"the activations of layer {broken} are not finite on the calibration rows")
    return LayerMeasurement(
        influence=np.clip(np.round(influence, DECIMALS), 0.0, 2.0),
        distances=np.triu(np.round(angles / rows, DECIMALS)),
    )


def _angles(ends: Sequence[tuple[torch.Tensor, ...]]) -> NDArray[np.float64]:
    """Angle of each layer's input and each layer's output in units of pi, summed over rows: float64 (layers, layers).

    Args:
        ends: unit vectors before and behind each layer, float64 (rows, width).
    """
    import torch

    before, after = (torch.stack(vectors) for vectors in zip(*ends, strict=True))
    cosines = torch.einsum("ird,jrd->ijr", before, after).clamp(-1.0, 1.0)
    angles: NDArray[np.float64] = (cosines.arccos() / torch.pi).sum(dim=-1).numpy()
    return angles
