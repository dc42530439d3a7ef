"""Makes a proxy from a candidate, and makes it again from its record."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from damoc.compression.architecture import LayerSurgery
from damoc.compression.check import check_config, check_surgery
from damoc.compression.cost import count_operations, time_layers
from damoc.compression.decision import COUNTED, LayerDecision, Rules, WholeModel, decide
from damoc.compression.importance import DECIMALS, LayerMeasurement, measure_layers
from damoc.compression.merge import Ingredients, build_merge, choose_scale, recorded_merge
from damoc.compression.outcome import CompressionOutcome
from damoc.compression.plan import LayerPlan
from damoc.errors import CandidateError

if TYPE_CHECKING:
    import torch

    from damoc.config import MergeConfig, ModelCompression

OnProgress = Callable[[str, int, int], None]


class ProxyMaker:
    """A candidate on its way to its proxy: one model in memory, three steps that take each other's results.

    Args:
        model: causal language model in evaluation mode, whole; changed in place.
        batches: calibration rows as ``input_ids`` and ``attention_mask``, int64 (rows, length), on the model's device.
        calibration_loss: mean nats per answer token of a model on the calibration rows.
        pad_id: padding token.
        on_progress: called with (``importance``, ``plan`` or ``merge``, done, total).

    Raises:
        CandidateError: ``incompatible``, when its layers are not found.
    """

    def __init__(
        self,
        model: Any,
        batches: Sequence[Mapping[str, torch.Tensor]],
        calibration_loss: Callable[[Any], float],
        pad_id: int,
        on_progress: OnProgress = lambda phase, done, total: None,
    ) -> None:
        self.model = model
        self._surgery = LayerSurgery(model)
        self._batches = batches
        self._calibration_loss = calibration_loss
        self._pad_id = pad_id
        self._on_progress = on_progress
        self._parameters = _parameters(model)

    def measure(self, counted: str | None = None) -> WholeModel:
        """What has to be known of the whole model.

        Args:
            counted: what its layers cost is measured in, ``flops`` or ``microseconds``, if at all.

        Raises:
            CandidateError: ``incompatible`` when the model fails :func:`check_surgery`, as its proxy would later;
                ``diverged`` when a measurement is not finite.
        """
        layers, kinds = self._surgery.layers, self._surgery.layer_types
        self._prune(range(len(layers)))
        loss = self._loss()
        if not math.isfinite(loss):
            raise CandidateError("diverged", "the loss of the whole model on the calibration rows is not finite")
        check_surgery(self.model, self._pad_id)
        measured = self._measure(range(len(layers)))
        costs = None
        if counted == "flops":
            costs = count_operations(self.model, layers, self._batches)
        elif counted == "microseconds":
            costs = time_layers(self.model, layers, kinds, self._batches)
        return WholeModel(measured, kinds, loss, costs)

    def decide(self, rules: Rules, whole: WholeModel) -> LayerDecision:
        """Which layers stay.

        Args:
            rules: what the plan is made by.
            whole: what :meth:`measure` returned.

        Raises:
            CandidateError: ``incompatible``, when a layer is to be protected that the model does not have, or when its
                config cannot describe what is left.
        """
        tried = 0

        def loss(keep: Sequence[int]) -> float:
            nonlocal tried
            tried += 1
            self._prune(keep)
            value = self._loss()
            self._on_progress("plan", tried, tried)
            return value

        return decide(rules, whole, self._measure, loss)

    def merge(
        self,
        decision: LayerDecision,
        settings: MergeConfig,
        seed: int,
        base: Callable[[int, str], torch.Tensor] | None = None,
    ) -> CompressionOutcome:
        """Removes the layers and merges them back as far as that pays; the model is the proxy then.

        Args:
            decision: what :meth:`decide` returned.
            settings: of the merge.
            seed: of the merge.
            base: weight of the checkpoint that the candidate was tuned from, by layer and name within it, if there is
                one.
        """
        plan = decision.plan
        self._prune(plan.keep)
        merge = build_merge(
            self.model, Ingredients(self._surgery, plan.keep, plan.remove, settings, seed, base), self._batches
        )
        scales = [scale for scale in settings.grid() if scale != 0] if merge else []
        losses = {0.0: decision.loss}
        for done, scale in enumerate(scales, start=1):
            merge.apply(scale)
            losses[scale] = self._loss()
            self._on_progress("merge", done, len(scales))
        scale = choose_scale(losses, settings.min_gain)
        merge.apply(scale)
        return CompressionOutcome(
            layers=decision,
            method=settings.method,
            scale=scale,
            scale_losses=losses,
            patches=merge.patches if scale else {},
            original_parameters=self._parameters,
            proxy_parameters=_parameters(self.model),
        )

    def _prune(self, keep: Sequence[int]) -> None:
        self._surgery.keep(keep)
        check_config(self.model)

    def _measure(self, keep: Sequence[int]) -> LayerMeasurement:
        self._prune(keep)
        kept = [self._surgery.layers[index] for index in keep]
        return measure_layers(
            self.model, kept, self._batches, lambda done, total: self._on_progress("importance", done, total)
        )

    def _loss(self) -> float:
        return round(float(self._calibration_loss(self.model)), DECIMALS)


def rules_of(settings: ModelCompression) -> Rules:
    """The rules that a config's section lays down."""
    budget, amount = settings.budget
    return Rules(settings.policy, budget, amount, settings.min_layers, tuple(settings.protect), settings.collapse_limit)


def compress(
    model: Any,
    settings: ModelCompression,
    batches: Sequence[Mapping[str, torch.Tensor]],
    calibration_loss: Callable[[Any], float],
    pad_id: int,
    seed: int,
    on_progress: OnProgress = lambda phase, done, total: None,
    base: Callable[[int, str], torch.Tensor] | None = None,
) -> CompressionOutcome:
    """Makes a candidate its own proxy, in place: the three steps of :class:`ProxyMaker`.

    Args:
        model: see :class:`ProxyMaker`, as ``batches``, ``calibration_loss``, ``pad_id`` and ``on_progress``.
        settings: the config's section.
        batches: calibration rows.
        calibration_loss: of a model.
        pad_id: padding token.
        seed: of the merge.
        on_progress: called with (phase, done, total).
        base: see :meth:`ProxyMaker.merge`.

    Returns:
        What was measured and decided.

    Raises:
        CandidateError: see :meth:`ProxyMaker.measure` and :meth:`ProxyMaker.decide`.
    """
    maker = ProxyMaker(model, batches, calibration_loss, pad_id, on_progress)
    rules = rules_of(settings)
    decision = maker.decide(rules, maker.measure(COUNTED.get(rules.budget)))
    return maker.merge(decision, settings.merge, seed, base)


def rebuild(
    model: Any,
    record: Mapping[str, Any],
    patches: Mapping[str, torch.Tensor] | None = None,
    base: Callable[[int, str], torch.Tensor] | None = None,
) -> None:
    """Makes a freshly loaded candidate the proxy that a record describes, in place, with the same bits.

    Args:
        model: the candidate as it was before, in the same dtype.
        record: ``compression.json``: ``plan``, ``merge``, ``seed`` and ``merge_settings``.
        patches: what ``patches.safetensors`` beside the record holds, where a linear patch was accepted.
        base: weight of the checkpoint that the candidate was tuned from, where ``instruct_delta`` was accepted.

    Raises:
        CandidateError: ``incompatible``, when the record describes a model of another depth.
    """
    from damoc.config import MergeConfig

    surgery = LayerSurgery(model)
    plan = LayerPlan(tuple(record["plan"]["keep"]), tuple(record["plan"]["remove"]))
    if sorted((*plan.keep, *plan.remove)) != list(range(len(surgery.layers))):
        raise CandidateError(
            "incompatible",
            f"the record plans {len(plan.keep) + len(plan.remove)} layers, the model has {len(surgery.layers)}; "
            "rebuild from the model and revision that the record was made with",
        )
    surgery.keep(plan.keep)
    if record["merge"]["accepted"]:
        settings = MergeConfig.model_validate(record["merge_settings"])
        of = Ingredients(surgery, plan.keep, plan.remove, settings, record["seed"], base)
        recorded_merge(of, patches or {}).apply(record["merge"]["scale"])


def _parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
