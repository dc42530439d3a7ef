"""DECIDE: which layers stay, and which come back when too much was taken."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class LayerPlan:
    """Which layers of a model stay.

    Args:
        keep: indices of the layers that stay, ascending.
        remove: indices of the layers that go, ascending.
        given_back: indices of the layers that were to go and stay after all, in the order they came back.
    """

    keep: tuple[int, ...]
    remove: tuple[int, ...]
    given_back: tuple[int, ...] = ()


def protected_layers(importance: NDArray[np.float64], layer_types: Sequence[str] = ()) -> frozenset[int]:
    """Layers that always stay: the first, the last, and of each type that these are not the most important one.

    Args:
        importance: float (layers,).
        layer_types: the type of each layer (``sliding_attention``, ...), or empty where all are alike.

    Returns:
        Indices; ties of importance protect the earlier layer.
    """
    ends = {0, len(importance) - 1}
    seen = {layer_types[index] for index in ends} if layer_types else set()
    others = [
        max((index for index, kind in enumerate(layer_types) if kind == missing), key=lambda i: (importance[i], -i))
        for missing in sorted(set(layer_types) - seen)
    ]
    return frozenset(ends | set(others))


def plan_layers(
    importance: NDArray[np.float64], ratio: float, min_layers: int, protected: Collection[int]
) -> LayerPlan:
    """Removes the least important layers at once (ShortGPT, arXiv 2403.03853).

    ``round(ratio * layers)`` layers go, fewer where ``min_layers`` or the protected layers forbid it. Of equally
    important layers the later one goes first: published plans remove late layers, early ones build the features.

    Args:
        importance: float (layers,).
        ratio: share of the layers to remove, in [0, 1).
        min_layers: layers that stay at least.
        protected: indices of layers that stay.

    Returns:
        The plan, with nothing given back.
    """
    total = len(importance)
    free = [index for index in range(total) if index not in protected]
    count = max(0, min(round(ratio * total), total - min_layers, len(free)))
    removed = set(sorted(free, key=lambda index: (importance[index], -index))[:count])
    return LayerPlan(tuple(i for i in range(total) if i not in removed), tuple(sorted(removed)))


def give_back(
    plan: LayerPlan, importance: NDArray[np.float64], loss: float, original_loss: float, collapse_limit: float
) -> LayerPlan:
    """The collapse guard: gives back the most important removed layer while the model without it is broken.

    Args:
        plan: the plan that was tried.
        importance: float (layers,).
        loss: calibration loss of the model under this plan, nats per token; not finite counts as broken.
        original_loss: the same of the whole model.
        collapse_limit: largest multiple of ``original_loss`` that is not a collapse.

    Returns:
        The next plan to try, or the same plan when it holds. Ties give back the earlier layer.
    """
    holds = math.isfinite(loss) and loss <= collapse_limit * original_loss
    if holds or not plan.remove:
        return plan
    returned = max(plan.remove, key=lambda index: (importance[index], -index))
    return LayerPlan(
        tuple(sorted((*plan.keep, returned))),
        tuple(index for index in plan.remove if index != returned),
        (*plan.given_back, returned),
    )
