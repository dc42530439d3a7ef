"""DECIDE: the way from rules and measurements to a layer plan; a record is replayed by the same code."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from damoc.compression.cost import LayerCosts
from damoc.compression.importance import LayerMeasurement
from damoc.compression.plan import (
    Bounds,
    LayerPlan,
    Target,
    contiguous,
    give_back,
    lowest,
    next_removal,
    protected_layers,
    target,
)
from damoc.errors import CandidateError, DamocError

Keep = tuple[int, ...]
COUNTED = {"flops": "flops", "gflops": "flops", "latency": "microseconds"}
"""What has to be measured of a whole model for the budgets that no count of layers decides."""


@dataclass(frozen=True)
class Rules:
    """What a plan is made by, the same for every candidate.

    Args:
        policy: ``lowest``, ``iterative`` or ``contiguous``.
        budget: see :func:`damoc.compression.plan.target`.
        amount: how much of it.
        min_layers: layers that stay at least.
        protect: layers that stay; negative ones count from the end.
        collapse_limit: largest multiple of the whole model's loss that is not a collapse.
    """

    policy: str
    budget: str
    amount: float
    min_layers: int
    protect: tuple[int, ...]
    collapse_limit: float


@dataclass(frozen=True)
class WholeModel:
    """What is known of a candidate before any layer goes.

    Args:
        measured: of all its layers.
        layer_types: the type of each, or empty where all are alike.
        loss: on the calibration rows, nats per answer token.
        costs: for the budgets in :data:`COUNTED`.
    """

    measured: LayerMeasurement
    layer_types: tuple[str, ...]
    loss: float
    costs: LayerCosts | None = None

    @property
    def layers(self) -> int:
        """Their number."""
        return len(self.measured.influence)

    def to_json(self) -> dict[str, Any]:
        """A JSON object; :meth:`from_json` reads it back to the same numbers."""
        distances = self.measured.distances
        return {
            "layer_types": list(self.layer_types),
            "costs": self.costs.to_json() if self.costs else None,
            "importance": [float(value) for value in self.measured.influence],
            "distances": [[float(value) for value in row[index:]] for index, row in enumerate(distances)],
            "loss": self.loss,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> WholeModel:
        """Reads what :meth:`to_json` wrote."""
        distances = np.zeros((len(value["importance"]), len(value["importance"])))
        for index, row in enumerate(value["distances"]):
            distances[index, index:] = row
        costs = value["costs"]
        return cls(
            measured=LayerMeasurement(np.array(value["importance"]), distances),
            layer_types=tuple(value["layer_types"]),
            loss=value["loss"],
            costs=LayerCosts(costs["unit"], tuple(costs["layers"]), costs["rest"]) if costs else None,
        )


@dataclass(frozen=True)
class LayerDecision:
    """A plan, and all that it was made from.

    Args:
        rules: what it was made by.
        whole: what was known of the whole model.
        rounds: what was measured again of which layers, once some were gone.
        order: the layers in the order in which they were to go.
        attempts: the removed layers and the loss of each plan that was tried, the last one being ``plan`` unless that
            removes nothing.
        plan: which layers stay.
    """

    rules: Rules
    whole: WholeModel
    rounds: Sequence[tuple[Keep, LayerMeasurement]]
    order: tuple[int, ...]
    attempts: Sequence[tuple[Keep, float]]
    plan: LayerPlan

    @property
    def loss(self) -> float:
        """Calibration loss under the plan."""
        return self.attempts[-1][1] if self.plan.remove else self.whole.loss

    def to_json(self) -> dict[str, Any]:
        """A JSON object that :func:`replay` reads; a loss that is not finite is null."""
        whole = self.whole.to_json()
        return {
            "rules": asdict(self.rules),
            "losses": {"original": whole.pop("loss"), "pruned": self.loss},
            **whole,
            "rounds": [
                {"keep": list(keep), "importance": [float(value) for value in measured.influence]}
                for keep, measured in self.rounds
            ],
            "order": list(self.order),
            "attempts": [
                {"remove": list(removed), "loss": loss if math.isfinite(loss) else None}
                for removed, loss in self.attempts
            ],
            "plan": {name: list(layers) for name, layers in asdict(self.plan).items()},
        }


@dataclass
class _Notes:
    rounds: list[tuple[Keep, LayerMeasurement]] = field(default_factory=list)
    attempts: list[tuple[Keep, float]] = field(default_factory=list)


def decide(
    rules: Rules,
    whole: WholeModel,
    measure: Callable[[Keep], LayerMeasurement],
    loss: Callable[[Keep], float],
) -> LayerDecision:
    """Decides which layers stay; what it asks for and what it makes of the answers depends on nothing else.

    Args:
        rules: what the plan is made by.
        whole: what is known of the whole model.
        measure: some layers of the model, measured in a model that has no others.
        loss: calibration loss of the model that keeps these layers.

    Raises:
        CandidateError: ``incompatible``, when a layer is to be protected that the model does not have.
    """
    if wrong := [index for index in rules.protect if not -whole.layers <= index < whole.layers]:
        raise CandidateError(
            "incompatible",
            f"model_compression.protect names layer {wrong[0]}, but the model has {whole.layers}; "
            "negative indices count from the end and fit every depth",
        )
    notes = _Notes()

    def measured(keep: Keep) -> LayerMeasurement:
        notes.rounds.append((keep, measure(keep)))
        return notes.rounds[-1][1]

    order = _order(rules, whole, measured)
    plan = LayerPlan.without(order, whole.layers)
    while plan.remove:
        notes.attempts.append((plan.remove, loss(plan.keep)))
        after = give_back(plan, order, notes.attempts[-1][1], whole.loss, rules.collapse_limit)
        if after == plan:
            break
        plan = after
    return LayerDecision(rules, whole, notes.rounds, order, notes.attempts, plan)


def replay(record: Mapping[str, Any]) -> LayerDecision:
    """Decides again from a record, without a model.

    Args:
        record: ``compression.json``.

    Raises:
        DamocError: the rules lead to a question that the record does not answer.
    """
    rules = Rules(**{**record["rules"], "protect": tuple(record["rules"]["protect"])})
    whole = WholeModel.from_json({**record, "loss": record["losses"]["original"]})
    nothing: NDArray[np.float64] = np.zeros((0, 0))
    rounds = {tuple(item["keep"]): LayerMeasurement(np.array(item["importance"]), nothing) for item in record["rounds"]}
    losses = {
        LayerPlan.without(item["remove"], whole.layers).keep: math.nan if item["loss"] is None else item["loss"]
        for item in record["attempts"]
    }
    try:
        return decide(rules, whole, rounds.__getitem__, losses.__getitem__)
    except KeyError as error:
        raise DamocError(
            f"the record does not say what was measured of layers {error.args[0]}, but its rules lead there",
            "compression.json",
            "its rules or measurements were changed after the decision: compress the candidate again",
        ) from None


def _order(rules: Rules, whole: WholeModel, measure: Callable[[Keep], LayerMeasurement]) -> tuple[int, ...]:
    measured = whole.measured
    costs = (whole.costs.layers, whole.costs.rest) if whole.costs else ()
    goal = target(rules.budget, rules.amount, whole.layers, *costs)
    protected = protected_layers(measured.influence, whole.layer_types, rules.protect)
    bounds = Bounds(protected, rules.min_layers)
    if rules.policy == "contiguous":
        return contiguous(measured.distances, goal, bounds)
    if rules.policy == "lowest":
        return lowest(measured.influence, goal, bounds)
    return _iterative(measured.influence, goal, bounds, measure)


def _iterative(
    influence: NDArray[np.float64], goal: Target, bounds: Bounds, measure: Callable[[Keep], LayerMeasurement]
) -> tuple[int, ...]:
    """Removes the least important layer, measures what is left, and again."""
    order: list[int] = []
    layer = next_removal(influence, order, goal, bounds)
    while layer is not None:
        order.append(layer)
        layer = next_removal(influence, order, goal, bounds)
        if layer is not None:
            keep = LayerPlan.without(order, len(influence)).keep
            influence = influence.copy()
            influence[list(keep)] = measure(keep).influence
            layer = next_removal(influence, order, goal, bounds)
    return tuple(order)
