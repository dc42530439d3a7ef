"""MEASURE: what each layer of a model costs, in operations or in seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    Batches = Sequence[Mapping[str, torch.Tensor]]

_REPEATS = 3
_DECIMALS = 3


@dataclass(frozen=True)
class LayerCosts:
    """Cost of a forward pass over one calibration row, the mean over the rows.

    Args:
        unit: ``flops`` or ``microseconds``.
        layers: of each decoder layer.
        rest: of everything else: embeddings, final norm, head.
    """

    unit: str
    layers: tuple[float, ...]
    rest: float

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {"unit": self.unit, "layers": list(self.layers), "rest": self.rest}


def count_operations(model: Any, layers: Sequence[torch.nn.Module], batches: Batches) -> LayerCosts:
    """Floating-point operations of each layer, as torch counts them while the model reads the rows.

    Matrix products, convolutions and attention are counted, a multiplication and an addition as two; attention as if
    every token saw every other one. A mixture of experts costs what the experts cost that its router picks.

    Args:
        model: causal language model in evaluation mode.
        layers: its decoder layers, in order.
        batches: ``input_ids`` and ``attention_mask``, int64 (rows, length).
    """
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False, custom_mapping=_formulas()) as counter:
        measured = [_read(model, layers, batch, counter.get_total_flops) for batch in batches]
    return _costs("flops", np.sum(measured, axis=0), batches)


def time_layers(
    model: Any, layers: Sequence[torch.nn.Module], layer_types: Sequence[str], batches: Batches
) -> LayerCosts:
    """Time that each layer takes on this machine: of three readings of each batch the shortest.

    Layers of one kind (same class, same shapes of weights, same type) take the same time, so each is given the median
    of its kind: then noise of the clock does not choose between them.

    Args:
        model: causal language model in evaluation mode.
        layers: its decoder layers, in order.
        layer_types: the type of each layer, or empty where all are alike.
        batches: ``input_ids`` and ``attention_mask``, int64 (rows, length).
    """
    _read(model, layers, batches[0], _seconds)
    measured = [np.min([_read(model, layers, batch, _seconds) for _ in range(_REPEATS)], axis=0) for batch in batches]
    *taken, rest = np.sum(measured, axis=0) * 1e6
    kinds = list(zip(map(_kind, layers), layer_types or [""] * len(layers), strict=True))
    pooled = [np.median([other for other, alike in zip(taken, kinds, strict=True) if alike == kind]) for kind in kinds]
    return _costs("microseconds", np.array([*pooled, rest]), batches)


def _read(
    model: Any, layers: Sequence[torch.nn.Module], batch: Mapping[str, torch.Tensor], meter: Callable[[], float]
) -> NDArray[np.float64]:
    """What a meter shows of each layer, and last of all the rest, while the model reads a batch: (layers + 1,)."""
    import torch

    shown = np.zeros((len(layers), 2))
    handles = []
    for index, layer in enumerate(layers):
        handles.append(layer.register_forward_pre_hook(_note(shown, index, 0, meter)))
        handles.append(layer.register_forward_hook(_note(shown, index, 1, meter)))
    try:
        with torch.no_grad():
            start = meter()
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
            whole = meter() - start
    finally:
        for handle in handles:
            handle.remove()
    taken = shown[:, 1] - shown[:, 0]
    return np.array([*taken, max(0.0, whole - taken.sum())])


def _note(shown: NDArray[np.float64], index: int, side: int, meter: Callable[[], float]) -> Callable[..., None]:
    def hook(*_: Any) -> None:
        shown[index, side] = meter()

    return hook


def _costs(unit: str, values: NDArray[np.float64], batches: Batches) -> LayerCosts:
    rows = sum(len(batch["input_ids"]) for batch in batches)
    *layers, rest = (round(float(value) / rows, _DECIMALS) for value in values)
    return LayerCosts(unit, tuple(layers), rest)


def _seconds() -> float:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _kind(layer: torch.nn.Module) -> tuple[Any, ...]:
    return type(layer), tuple((name, tuple(weight.shape)) for name, weight in layer.named_parameters())


def _formulas() -> dict[Any, Callable[..., int]]:
    """What torch's counter does not know: grouped products of experts, attention on the CPU and with fewer keys."""
    import torch

    aten = torch.ops.aten
    kernels = ("flash_attention", "flash_attention_for_cpu", "efficient_attention", "cudnn_attention")
    attention = {getattr(aten, f"_scaled_dot_product_{kernel}"): _attention for kernel in kernels}
    return {**attention, aten._grouped_mm: _grouped}


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    batch, heads, asked, width = query
    return 2 * batch * heads * asked * key[-2] * (width + value[-1])


def _grouped(tokens: Sequence[int], experts: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * tokens[-2] * tokens[-1] * experts[-1]
