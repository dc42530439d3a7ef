"""What the report shows of the layers of a candidate: which were removed, and whether they were merged back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from damoc.report import charts, text
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
        chart: importance of each layer.
        kept: number of layers kept, of all.
        removed: indices of the layers removed.
        verdict: what became of the merge.
        losses: calibration loss by scale of the merge.
        facts: the other settings of the merge.
    """

    candidate_id: str
    winner: bool
    chart: Markup
    kept: str
    removed: str
    verdict: str
    losses: list[_Loss]
    facts: list[tuple[str, str]]


def compressed_layers(record: SelectionRecord, candidate: CandidateRecord) -> CompressedLayers:
    """What the report shows of a candidate's layers.

    Args:
        record: the selection.
        candidate: one whose importance was measured.
    """
    kept = set(candidate.kept_layers)
    removed = [index for index in range(len(candidate.importance)) if index not in kept]
    merge = candidate.merge
    losses = merge.get("losses") or {}
    return CompressedLayers(
        candidate_id=candidate.candidate_id,
        winner=candidate.candidate_id == record.winner,
        chart=charts.importance(candidate),
        kept=f"{len(kept)} of {len(candidate.importance)}",
        removed=_ranges(removed) or "none",
        verdict=_verdict(merge, removed),
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


def _verdict(merge: Mapping[str, Any], removed: Sequence[int]) -> str:
    if not removed:
        return "No layer was removed, so there was nothing to merge."
    if len(merge.get("losses") or {}) < 2:
        return "Removed layers were not merged back: no merge was tried."
    name = _METHODS.get(str(merge.get("method")), "Sparse merge")
    if merge.get("accepted"):
        return f"{name} accepted at scale {text.fact(merge.get('scale'))}: it lowered the calibration loss."
    return f"{name} not accepted: plain removal was better on the calibration rows."


def _ranges(indices: Sequence[int]) -> str:
    """Indices with runs drawn together: ``3–5, 9``."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
