"""What became of each layer of a candidate, in words that charts, tables and exports share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from damoc.selection.record import CandidateRecord


@dataclass(frozen=True)
class LayerState:
    """One layer.

    Args:
        index: from 0.
        importance: Block Influence; None when it is not a number.
        state: ``kept``, ``removed`` or ``given back``.
        protected: whether no plan may remove it.
        place: 1 for the layer that was to go first; None for one that was not to go.
        anchor: layer that absorbed it; None when nothing did.
        absorbed: layers that it absorbed.
    """

    index: int
    importance: float | None
    state: str
    protected: bool
    place: int | None
    anchor: int | None
    absorbed: tuple[int, ...]

    @property
    def words(self) -> str:
        """All of it but the number."""
        parts = ["protected"] if self.protected else []
        parts.append(self.state if self.place is None else f"{self.state}, number {self.place} to go")
        if self.anchor is not None:
            parts.append(f"merged into layer {self.anchor}")
        if self.absorbed:
            parts.append(f"absorbed {ranges(self.absorbed)}")
        return ", ".join(parts)


def layer_states(candidate: CandidateRecord) -> list[LayerState]:
    """The layers of a candidate in order.

    Args:
        candidate: the candidate; without importance it has none.
    """
    evidence = candidate.layer_evidence
    kept, back, protected = set(candidate.kept_layers), set(evidence.given_back), set(evidence.protected)
    places = {layer: place for place, layer in enumerate(evidence.order, start=1)}
    absorbed = {int(anchor): tuple(removed) for anchor, removed in evidence.anchors.items()}
    anchors = {layer: anchor for anchor, removed in absorbed.items() for layer in removed}
    return [
        LayerState(
            index=index,
            importance=value if value is not None and math.isfinite(value) else None,
            state="removed" if index not in kept else "given back" if index in back else "kept",
            protected=index in protected,
            place=places.get(index),
            anchor=anchors.get(index),
            absorbed=absorbed.get(index, ()),
        )
        for index, value in enumerate(candidate.importance)
    ]


def runs(indices: Sequence[int]) -> list[tuple[int, int]]:
    """First and last of each run of ascending indices."""
    found: list[tuple[int, int]] = []
    for index in indices:
        if found and index == found[-1][1] + 1:
            found[-1] = (found[-1][0], index)
        else:
            found.append((index, index))
    return found


def ranges(indices: Sequence[int]) -> str:
    """Ascending indices with runs drawn together: ``3–5, 9``."""
    return ", ".join(f"{first}–{last}" if last > first else str(first) for first, last in runs(indices))
