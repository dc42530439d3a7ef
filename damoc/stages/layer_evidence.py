"""What the report shows of a candidate's compression, gathered from what its steps left behind."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from damoc.compression.merge.anchors import anchors
from damoc.compression.outcome import PATCHES
from damoc.compression.plan import protected_layers
from damoc.selection.record import LayerEvidence
from damoc.store import StepResult


def read_compression(step: StepResult | None) -> dict[str, Any]:
    """``compression.json`` of a candidate; empty when it did not get that far."""
    return {} if step is None else dict(json.loads((step.path() / "compression.json").read_text(encoding="utf-8")))


def layer_evidence(compression: Mapping[str, Any], folder: Path) -> LayerEvidence:
    """What the choice of layers was made from.

    Args:
        compression: ``compression.json``.
        folder: where it lies, with the maps of an accepted linear patch beside it.
    """
    plan, rules = compression["plan"], compression["rules"]
    importance = np.array(compression["importance"])
    return LayerEvidence(
        policy=rules["policy"],
        protected=sorted(protected_layers(importance, compression["layer_types"], rules["protect"])),
        order=compression["order"],
        given_back=plan["given_back"],
        anchors={str(anchor): list(removed) for anchor, removed in _absorbed(compression, folder).items()},
        distances=compression["distances"],
    )


def loss_table(compression: Mapping[str, Any], tuning: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Losses by rows and state, as :class:`damoc.selection.record.CandidateRecord` has them.

    Args:
        compression: ``compression.json``, or nothing.
        tuning: summary of the tuning, or nothing.
    """
    table: dict[str, dict[str, float | None]] = {
        "validation": {"untuned": tuning.get("valid_loss_before"), "tuned": tuning.get("valid_loss")}
    }
    if compression:
        losses = compression["losses"]
        table["calibration"] = {
            "original": losses["original"],
            "pruned": losses["pruned"] if compression["plan"]["remove"] else None,
            "merged": losses["merged"] if compression["merge"]["accepted"] else None,
            "tuned": tuning.get("calibration_loss"),
        }
    known = {rows: {state: loss for state, loss in own.items() if loss is not None} for rows, own in table.items()}
    return {rows: own for rows, own in known.items() if own}


def _absorbed(compression: Mapping[str, Any], folder: Path) -> dict[int, Sequence[int]]:
    """Removed layers by the layer that an accepted merge put them into."""
    plan, method = compression["plan"], compression["merge"]["method"]
    if not compression["merge"]["accepted"] or method == "instruct_delta":
        return {}
    if method == "rdsc_sparse":
        return dict(anchors(plan["keep"], plan["remove"], compression["merge_settings"]["anchor"]))
    from safetensors import safe_open

    with safe_open(folder / PATCHES, framework="numpy") as patches:
        patched = {int(anchor) for anchor in patches.keys()}
    groups = anchors(plan["keep"], plan["remove"])
    return {anchor: removed for anchor, removed in groups.items() if anchor in patched}
