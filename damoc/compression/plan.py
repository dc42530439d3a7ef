"""DECIDE: which layers go, in which order, and which come back when too much was taken."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SLACK = 1e-9


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

    @classmethod
    def without(cls, removed: Collection[int], total: int, given_back: tuple[int, ...] = ()) -> LayerPlan:
        """The plan that removes these of ``total`` layers."""
        keep = tuple(index for index in range(total) if index not in removed)
        return cls(keep, tuple(sorted(removed)), given_back)


@dataclass(frozen=True)
class Target:
    """How much has to go.

    Args:
        savings: float (layers,), what leaving each layer out saves.
        amount: what has to be saved, in the same unit.
    """

    savings: NDArray[np.float64]
    amount: float

    def met(self, removed: Collection[int]) -> bool:
        """Whether removing these layers saves enough; sums of floats have a billionth of slack."""
        saved = float(self.savings[sorted(removed)].sum()) if removed else 0.0
        return saved >= self.amount * (1 - _SLACK)


@dataclass(frozen=True)
class Bounds:
    """What no plan may break.

    Args:
        protected: indices of layers that stay.
        min_layers: layers that stay at least.
    """

    protected: frozenset[int]
    min_layers: int


def target(budget: str, amount: float, layers: int, costs: Sequence[float] = (), rest: float = 0.0) -> Target:
    """What a budget asks of one model.

    Args:
        budget: ``ratio`` (share of the layers to remove, rounded to whole layers), ``layers`` (layers to remove),
            ``depth`` (layers that stay), ``flops`` or ``latency`` (share of the model's cost to save at least) or
            ``gflops`` (cost of the model that is left at most, in 10^9 operations).
        amount: how much of it.
        layers: layers of the model.
        costs: for the last three, the cost of each layer.
        rest: for the last three, the cost of everything else.
    """
    counted = {"ratio": round(amount * layers), "layers": int(amount), "depth": max(0, layers - int(amount))}
    if budget in counted:
        return Target(np.ones(layers), counted[budget])
    savings = np.asarray(costs, dtype=np.float64)
    whole = float(savings.sum()) + rest
    return Target(savings, max(0.0, whole - 1e9 * amount) if budget == "gflops" else amount * whole)


def protected_layers(
    importance: NDArray[np.float64], layer_types: Sequence[str] = (), asked: Collection[int] = ()
) -> frozenset[int]:
    """Layers that always stay: first, last, those asked for, and of each type that these lack the most important one.

    Args:
        importance: float (layers,).
        layer_types: the type of each layer (``sliding_attention``, ...), or empty where all are alike.
        asked: indices of further layers; negative ones count from the end.

    Returns:
        Indices from 0; ties of importance protect the earlier layer.
    """
    total = len(importance)
    stay = {0, total - 1, *(index % total for index in asked)}
    seen = {layer_types[index] for index in stay} if layer_types else set()
    others = [
        max((index for index, kind in enumerate(layer_types) if kind == missing), key=lambda i: (importance[i], -i))
        for missing in sorted(set(layer_types) - seen)
    ]
    return frozenset(stay | set(others))


def next_removal(
    importance: NDArray[np.float64], removed: Collection[int], target: Target, bounds: Bounds
) -> int | None:
    """The next layer to go: the least important one of those that may.

    Of equally important layers the later one goes: published plans remove late layers, early ones build the features.

    Args:
        importance: float (layers,); that of removed layers is not looked at.
        removed: indices of the layers that are gone.
        target: how much has to go.
        bounds: what may not be broken.

    Returns:
        An index, or None when the target is met or nothing more may go.
    """
    total = len(importance)
    if target.met(removed) or total - len(removed) <= bounds.min_layers:
        return None
    free = (index for index in range(total) if index not in removed and index not in bounds.protected)
    return min(free, key=lambda index: (importance[index], -index), default=None)


def lowest(importance: NDArray[np.float64], target: Target, bounds: Bounds) -> tuple[int, ...]:
    """The least important layers, by one measurement (ShortGPT, arXiv 2403.03853).

    Args:
        importance: float (layers,).
        target: how much has to go.
        bounds: what may not be broken.

    Returns:
        Indices in the order of removal.
    """
    order: list[int] = []
    while (layer := next_removal(importance, order, target, bounds)) is not None:
        order.append(layer)
    return tuple(order)


def contiguous(distances: NDArray[np.float64], target: Target, bounds: Bounds) -> tuple[int, ...]:
    """The block whose input and output are closest in angle (Gromov et al., arXiv 2403.17887).

    At each start, the shortest block that meets the target competes; where no block within the bounds does, those
    that save most. Ties remove the later block.

    Args:
        distances: float (layers, layers); [i, j] between the input of layer i and the output of layer j >= i.
        target: how much has to go.
        bounds: what may not be broken.

    Returns:
        Indices in the order of removal: what comes first grows into the block by whichever neighbour makes the
        closer block, so that a collapse gives back an end of it.
    """
    if target.met(()):
        return ()
    blocks = list(_blocks(len(distances), bounds))
    enough: dict[int, tuple[int, int]] = {}
    for start, stop in blocks:
        if start not in enough and target.met(range(start, stop)):
            enough[start] = (start, stop)
    most = max((float(target.savings[start:stop].sum()) for start, stop in blocks), default=0.0)
    rivals = list(enough.values()) or [
        (start, stop) for start, stop in blocks if target.savings[start:stop].sum() >= most * (1 - _SLACK)
    ]
    best = min(rivals, key=lambda block: (distances[block[0], block[1] - 1], -block[0]), default=(0, 0))
    return _growth(distances, *best)


def give_back(
    plan: LayerPlan, order: Sequence[int], loss: float, original_loss: float, collapse_limit: float
) -> LayerPlan:
    """The collapse guard: gives the layer back that went last while the model without it is broken.

    Args:
        plan: the plan that was tried.
        order: the layers in the order of removal; with one measurement the most important one goes last.
        loss: calibration loss of the model under this plan, nats per token; not finite counts as broken.
        original_loss: the same of the whole model.
        collapse_limit: largest multiple of ``original_loss`` that is not a collapse.

    Returns:
        The next plan to try, or the same plan when it holds.
    """
    holds = math.isfinite(loss) and loss <= collapse_limit * original_loss
    if holds or not plan.remove:
        return plan
    returned = [index for index in order if index in plan.remove][-1]
    left = set(plan.remove) - {returned}
    return LayerPlan.without(left, len(plan.keep) + len(plan.remove), (*plan.given_back, returned))


def _blocks(total: int, bounds: Bounds) -> Iterator[tuple[int, int]]:
    """Start and stop of every block that may go, shorter ones of a start first."""
    for start in range(total):
        for stop in range(start + 1, total + 1):
            if stop - 1 in bounds.protected or total - (stop - start) < bounds.min_layers:
                break
            yield start, stop


def _growth(distances: NDArray[np.float64], start: int, stop: int) -> tuple[int, ...]:
    """The layers of a block; each but the first is the end without which the block up to it is closest in angle."""
    shrinking: list[int] = []
    while stop - start > 1:
        if distances[start + 1, stop - 1] <= distances[start, stop - 2]:
            shrinking.append(start)
            start += 1
        else:
            stop -= 1
            shrinking.append(stop)
    return tuple(reversed([*shrinking, *range(start, stop)]))
