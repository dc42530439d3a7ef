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

    from damoc.config import ModelCompression


def compress(
    model: Any,
    settings: ModelCompression,
    batches: Sequence[Mapping[str, torch.Tensor]],
    calibration_loss: Callable[[Any], float],
    pad_id: int,
    seed: int,
    on_progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
    base: Callable[[int, str], torch.Tensor] | None = None,
) -> CompressionOutcome:
    """Makes a candidate its own proxy, in place.

    Args:
        model: causal language model in evaluation mode, whole.
        settings: the config's section.
        batches: calibration rows as ``input_ids`` and ``attention_mask``, int64 (rows, length), on the model's device.
        calibration_loss: mean nats per answer token of a model on the calibration rows.
        pad_id: padding token.
        seed: of the merge.
        on_progress: called with (``importance`` or ``calibration``, done, total).
        base: weight of the checkpoint that the candidate was tuned from, by layer and name within it, if there is one.

    Returns:
        What was measured and decided.

    Raises:
        CandidateError: ``incompatible`` when its layers are not found, when the whole model fails
            :func:`check_surgery`, as its proxy would later, or when its config cannot describe what is left;
            ``diverged`` when a measurement of the whole model is not finite.
    """
    surgery = LayerSurgery(model)
    parameters = _parameters(model)
    scales = [scale for scale in settings.merge.grid() if scale != 0]
    measured, total = 0, 2 + len(scales)

    def loss() -> float:
        nonlocal measured
        value = round(float(calibration_loss(model)), DECIMALS)
        measured += 1
        on_progress("calibration", measured, max(measured, total))
        return value

    original = loss()
    if not math.isfinite(original):
        raise CandidateError("diverged", "the loss of the whole model on the calibration rows is not finite")
    check_surgery(model, pad_id)
    decision = _decide(model, surgery, settings, batches, original, loss, on_progress)
    surgery.keep(decision.plan.keep)

    of = Ingredients(surgery, decision.plan.keep, decision.plan.remove, settings.merge, seed, base)
    merge = build_merge(model, of, batches)
    losses = {0.0: decision.loss}
    for scale in scales if merge else []:
        merge.apply(scale)
        losses[scale] = loss()
    scale = choose_scale(losses, settings.merge.min_gain)
    merge.apply(scale)
    if measured < total:
        on_progress("calibration", total, total)
    return CompressionOutcome(
        layers=decision,
        method=settings.merge.method,
        scale=scale,
        scale_losses=losses,
        patches=merge.patches if scale else {},
        original_parameters=parameters,
        proxy_parameters=_parameters(model),
    )


def _decide(
    model: Any,
    surgery: LayerSurgery,
    settings: ModelCompression,
    batches: Sequence[Mapping[str, torch.Tensor]],
    original: float,
    loss: Callable[[], float],
    on_progress: Callable[[str, int, int], None],
) -> LayerDecision:
    layers, kinds = surgery.layers, surgery.layer_types
    budget, amount = settings.budget
    rules = Rules(
        settings.policy, budget, amount, settings.min_layers, tuple(settings.protect), settings.collapse_limit
    )
    counters = {
        "flops": lambda: count_operations(model, layers, batches),
        "microseconds": lambda: time_layers(model, layers, kinds, batches),
    }
    costs = counters[COUNTED[budget]]() if budget in COUNTED else None

    def prune(keep: Sequence[int]) -> None:
        surgery.keep(keep)
        check_config(model)

    def measure(keep: Sequence[int]) -> LayerMeasurement:
        prune(keep)
        kept = [layers[index] for index in keep]
        return measure_layers(model, kept, batches, lambda done, of: on_progress("importance", done, of))

    def pruned_loss(keep: Sequence[int]) -> float:
        prune(keep)
        return loss()

    return decide(rules, WholeModel(len(layers), kinds, original, costs), measure, pruned_loss)


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
