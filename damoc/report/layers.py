"""What the report shows of the layers of the candidates: how important they are, which went, what absorbed them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from damoc.report import text
from damoc.report.heat import LEVELS, HeatScale
from damoc.report.layer_charts import block_map, block_scale, closest_blocks, heat_strip, importance_scale, layer_plan
from damoc.report.layer_states import LayerState, layer_states, ranges
from damoc.report.table import ranked
from damoc.selection.record import CandidateRecord, SelectionRecord

_METHODS = {"instruct_delta": "Instruct delta", "linear_patch": "Linear patch"}


@dataclass(frozen=True)
class _Loss:
    scale: str
    loss: str
    chosen: bool


@dataclass(frozen=True)
class CompressedLayers:
    """What was removed from a candidate and merged back.

    Args:
        candidate_id: its name in the config.
        winner: whether it was chosen.
        chart: importance of each layer, and the plan.
        plan: which layers were removed, given back and protected.
        verdict: what became of the merge.
        losses: calibration loss by scale of the merge.
        facts: the other settings of the merge.
    """

    candidate_id: str
    winner: bool
    chart: Markup
    plan: list[tuple[str, str]]
    verdict: str
    losses: list[_Loss]
    facts: list[tuple[str, str]]


def compressed_layers(record: SelectionRecord, candidate: CandidateRecord) -> CompressedLayers:
    """What the report shows of a candidate's layers.

    Args:
        record: the selection.
        candidate: one whose importance was measured.
    """
    layers = layer_states(candidate)
    merge = candidate.merge
    tried = merge.get("losses") or {}
    losses = tried if len(tried) > 1 else {}
    return CompressedLayers(
        candidate_id=candidate.candidate_id,
        winner=candidate.candidate_id == record.winner,
        chart=layer_plan(candidate),
        plan=_plan(candidate, layers),
        verdict=_verdict(candidate, any(layer.state == "removed" for layer in layers)),
        losses=[
            _Loss(
                text.fact(float(scale)),
                text.score(math.nan if loss is None else loss),
                float(scale) == float(merge.get("scale", 0.0)),
            )
            for scale, loss in sorted(losses.items(), key=lambda item: float(item[0]))
        ],
        facts=list(
            text.facts({key: item for key, item in merge.items() if key not in ("losses", "scale", "accepted")})
        ),
    )


@dataclass(frozen=True)
class HeatMap:
    """Importance across candidates.

    Args:
        rows: candidate, its strip, and how many of its layers stay.
        key: class of each colour level, low to high.
        bounds: the numbers at the ends of the key.
        numbers: per layer index, its cell of each candidate; empty where a candidate has no such layer.
    """

    rows: list[tuple[CandidateRecord, Markup, str]]
    key: list[str]
    bounds: list[str]
    numbers: list[tuple[int, list[str]]]


def heat_map(record: SelectionRecord) -> HeatMap | None:
    """The heat map of all candidates whose importance was measured, best first; None when there is none."""
    candidates = [item for item in ranked(record) if item.importance]
    if not candidates:
        return None
    scale = importance_scale(candidates)
    states = [layer_states(item) for item in candidates]
    deepest = max(len(layers) for layers in states)
    return HeatMap(
        rows=[(item, heat_strip(item, scale), _kept(item)) for item in candidates],
        key=_key(),
        bounds=scale.bounds(),
        numbers=[(at, [_number(layers[at]) if at < len(layers) else "" for layers in states]) for at in range(deepest)],
    )


@dataclass(frozen=True)
class BlockMaps:
    """Angular distances of blocks, a map a candidate.

    Args:
        maps: candidate, map, and the closest block of each length in words.
        key: class of each colour level, low to high.
        bounds: the numbers at the ends of the key.
    """

    maps: list[tuple[CandidateRecord, Markup, list[tuple[int, str, str]]]]
    key: list[str]
    bounds: list[str]


def block_maps(record: SelectionRecord) -> BlockMaps | None:
    """The maps of all candidates whose blocks were measured, best first; None when there is none."""
    candidates = [item for item in ranked(record) if item.importance and item.layer_evidence.distances]
    if not candidates:
        return None
    scale: HeatScale = block_scale(candidates)
    maps = [
        (item, block_map(item, scale), [(size, where, text.score(far)) for size, where, far in closest_blocks(item)])
        for item in candidates
    ]
    return BlockMaps(maps, _key(), scale.bounds())


def _key() -> list[str]:
    return [f"h{level}" for level in range(LEVELS)]


def _kept(candidate: CandidateRecord) -> str:
    return f"{len(candidate.kept_layers)} of {len(candidate.importance)}"


def _number(layer: LayerState) -> str:
    value = text.ABSENT if layer.importance is None else f"{layer.importance:.4f}"
    return value if layer.state == "kept" else f"{value} {layer.state}"


def _plan(candidate: CandidateRecord, layers: Sequence[LayerState]) -> list[tuple[str, str]]:
    evidence = candidate.layer_evidence
    facts = [
        ("layers kept", _kept(candidate)),
        ("layers removed", ranges([layer.index for layer in layers if layer.state == "removed"]) or "none"),
        ("given back", ", ".join(map(str, evidence.given_back))),
        ("protected", ranges(evidence.protected)),
        ("order of removal", ", ".join(map(str, evidence.order))),
        ("policy", evidence.policy),
    ]
    return [(name, value) for name, value in facts if value]


def _verdict(candidate: CandidateRecord, removed: bool) -> str:
    merge = candidate.merge
    losses = {float(scale): loss for scale, loss in (merge.get("losses") or {}).items() if loss is not None}
    plain = losses.pop(0.0, math.inf)
    if not removed:
        return "No layer was removed, so there was nothing to merge."
    if not losses:
        return "Removed layers were not merged back: no merge was tried."
    name = _METHODS.get(str(merge.get("method")), "Sparse merge")
    if merge.get("accepted"):
        return f"{name} accepted at scale {text.fact(merge.get('scale'))}: it lowered the calibration loss."
    if min(losses.values()) < plain:
        return f"{name} not accepted: it lowered the calibration loss by less than merge.min_gain asks for."
    return f"{name} not accepted: plain removal was better on the calibration rows."
