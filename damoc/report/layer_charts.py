"""Layers as inline SVG: importance across candidates, a candidate's plan, and how close blocks are in angle."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby

from markupsafe import Markup

from damoc.report.heat import HeatScale
from damoc.report.layer_states import LayerState, layer_states, ranges, runs
from damoc.report.svg import LEFT, RIGHT, WIDTH, Scale, grid, label_at, number, round_scale, svg, tag
from damoc.selection.record import CandidateRecord

_BARS, _TOP = 128, 8
_INDEX = _BARS + 15
_STRIP, _CELL = _BARS + 23, 13
_HEIGHT = _STRIP + _CELL + 15
_MOST_LABELS = 12
_BLOCKS, _LEAST_BLOCK = 118, 3.0


def importance_scale(candidates: Sequence[CandidateRecord]) -> HeatScale:
    """The logarithmic scale that all heat strips share: Block Influence spans orders of magnitude."""
    values = [layer.importance for item in candidates for layer in layer_states(item)]
    return HeatScale.around([value for value in values if value is not None], logarithmic=True)


def heat_strip(candidate: CandidateRecord, scale: HeatScale) -> Markup:
    """A row of the heat map: a cell a layer over the whole width; a bar under each removed one."""
    layers = layer_states(candidate)
    pitch = 100 / len(layers)
    parts = []
    for layer in layers:
        x, width = f"{layer.index * pitch:.3f}%", f"{pitch:.3f}%"
        level = None if layer.importance is None else scale.level(layer.importance)
        kind = "unknown" if level is None else f"h{level}"
        cell = [tag("title", _title(layer)), tag("rect", class_=f"cell {kind}", x=x, width=width, height=20)]
        if layer.state == "removed":
            cell.append(tag("rect", class_="gone", x=x, y=22, width=width, height=5))
        parts.append(tag("g", Markup("").join(cell)))
    return svg(f"Layer importance of {candidate.candidate_id}; {_removed(layers)}", parts, "heat", height=27)


def layer_plan(candidate: CandidateRecord) -> Markup:
    """Importance of each layer as a bar, and below it what became of the layer; arrows lead to what absorbed it."""
    layers = layer_states(candidate)
    values = [layer.importance or 0.0 for layer in layers]
    heights = round_scale(min(0.0, *values), max(0.0, *values), _BARS, _TOP)
    pitch = (WIDTH - LEFT - RIGHT) / len(layers)
    parts = grid(heights)
    every = math.ceil(len(layers) / _MOST_LABELS)
    for layer in layers:
        parts.append(_layer(layer, LEFT + layer.index * pitch, pitch, heights))
        if layer.index % every == 0:
            parts.append(label_at(str(layer.index), LEFT + (layer.index + 0.5) * pitch, _INDEX, "middle"))
    parts += [_bracket(layer, pitch) for layer in layers if layer.absorbed]
    parts.append(label_at("plan", LEFT - 6, _STRIP + _CELL - 3, "end"))
    summary = f"Layer importance and plan of {candidate.candidate_id}; {_removed(layers)}"
    return svg(summary, parts, "panel", viewBox=f"0 0 {WIDTH} {_HEIGHT}", stroke_width=_edge(pitch))


def block_scale(candidates: Sequence[CandidateRecord]) -> HeatScale:
    """The scale that all block maps share."""
    return HeatScale.around(value for item in candidates for row in _shown(item) for value in row)


def block_map(candidate: CandidateRecord, scale: HeatScale) -> Markup:
    """Angle of every block of up to half of the layers: its first layer to the right, its length downwards."""
    rows = _shown(candidate)
    longest = max(len(row) for row in rows)
    across = Scale(0, len(rows), LEFT, WIDTH - RIGHT)
    down = Scale(0, longest, _TOP, _TOP + _BLOCKS)
    levels: defaultdict[int, list[str]] = defaultdict(list)
    for length in range(longest):
        of_length = (scale.level(row[length]) if length < len(row) else None for row in rows)
        for level, places in groupby(enumerate(of_length), key=lambda place: place[1]):
            if level is not None:
                first, *rest = (place for place, _ in places)
                levels[level].append(_box(across(first), down(length), across(first + len(rest) + 1), down(length + 1)))
    parts = [tag("path", class_=f"h{level}", d="".join(boxes)) for level, boxes in sorted(levels.items())]
    parts += _block_axes(across, down)
    for first, last in runs([layer.index for layer in layer_states(candidate) if layer.state == "removed"]):
        if last - first < longest:
            right = max(across(first + 1), across(first) + _LEAST_BLOCK)
            foot = max(down(last - first + 1), down(last - first) + _LEAST_BLOCK)
            title = tag("title", f"removed: {ranges(range(first, last + 1))}")
            parts.append(tag("path", title, class_="taken", d=_box(across(first), down(last - first), right, foot)))
    summary = f"Angular distance of blocks of {candidate.candidate_id} by first layer and length"
    return svg(summary, parts, "panel blocks", viewBox=f"0 0 {WIDTH} {_TOP + _BLOCKS + 20}")


def closest_blocks(candidate: CandidateRecord) -> list[tuple[int, str, float]]:
    """Length, layers and distance of the closest block of each length shown."""
    rows = _shown(candidate)
    found = []
    for length in range(max((len(row) for row in rows), default=0)):
        distance, first = min((row[length], first) for first, row in enumerate(rows) if length < len(row))
        found.append((length + 1, ranges(range(first, first + length + 1)), distance))
    return found


def _shown(candidate: CandidateRecord) -> list[Sequence[float]]:
    """Distances by first layer and length, of blocks of up to half of the layers."""
    distances = candidate.layer_evidence.distances
    longest = math.ceil(len(distances) / 2)
    return [row[:longest] for row in distances]


def _box(left: float, top: float, right: float, foot: float) -> str:
    return f"M{left:.1f} {top:.1f}H{right:.1f}V{foot:.1f}H{left:.1f}z"


def _block_axes(across: Scale, down: Scale) -> list[Markup]:
    total, longest = int(across.high), int(down.high)
    foot = down.end + 14
    parts = [
        label_at(str(length), LEFT - 6, down(length - 0.5) + 3.5, "end")
        for length in range(1, longest + 1, math.ceil(longest / 6))
    ]
    every = math.ceil(total / _MOST_LABELS)
    return parts + [label_at(str(at), across(at + 0.5), foot, "middle") for at in range(0, total, every)]


def _layer(layer: LayerState, x: float, pitch: float, heights: Scale) -> Markup:
    """Bar and plan cell of a layer, under one title."""
    value = layer.importance or 0.0
    top, foot = heights(max(value, 0.0)), heights(min(value, 0.0))
    state = layer.state.replace(" ", "-")
    inset = 3 if layer.state == "removed" else 0

    def block(kind: str, y: float, height: float) -> Markup:
        left, width = f"{x + 0.12 * pitch:.2f}", f"{0.76 * pitch:.2f}"
        return tag("rect", class_=kind, x=left, y=number(y), width=width, height=number(height), rx=_edge(pitch))

    parts = [
        tag("title", _title(layer)),
        block(state, top, max(foot - top, 1.0)),
        block(f"plan {state}", _STRIP + inset, _CELL - 2 * inset),
    ]
    if layer.protected:
        parts.append(block("protected", _STRIP - 4, 2.2))
    return tag("g", Markup("").join(parts))


def _edge(pitch: float) -> str:
    """Width of outlines and radius of corners: finer where the layers stand close."""
    return number(min(1.0, 0.12 * pitch))


def _bracket(anchor: LayerState, pitch: float) -> Markup:
    """From the layers that went to the one that absorbed them."""
    high, low = _STRIP + _CELL + 2, _STRIP + _CELL + 9
    to, *others = (LEFT + (index + 0.5) * pitch for index in (anchor.index, *anchor.absorbed))
    stems = "".join(f"M{x:.1f} {high}V{low}" for x in others)
    reach = f"M{min(to, *others):.1f} {low}H{max(to, *others):.1f}"
    head = f"M{to:.1f} {low}V{high}m-2.5 3.5l2.5 -3.5l2.5 3.5"
    return tag("path", class_="merged", d=f"{stems}{reach}{head}")


def _title(layer: LayerState) -> str:
    value = "not measured" if layer.importance is None else f"{layer.importance:.4f}"
    return f"layer {layer.index}: {value}, {layer.words}"


def _removed(layers: Sequence[LayerState]) -> str:
    removed = ranges([layer.index for layer in layers if layer.state == "removed"])
    return f"removed layers: {removed or 'none'}"
