"""PNG plots of a selection, for trackers that show pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from damoc.report import text
from damoc.report.histogram import drawable, totals
from damoc.report.layer_charts import importance_scale
from damoc.report.layer_states import layer_states, runs
from damoc.report.perplexity import STATES, factors, times
from damoc.report.table import ranked
from damoc.selection.record import CandidateRecord, Distribution, SelectionRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ACCENT, _SOFT, _REMOVED, _RULE = "#1f5fbf", "#566275", "#d9793b", "#e2e6ec"
_GROUPS = ((_ACCENT, ""), (_REMOVED, "////"), ("#13713f", "...."), (_SOFT, "xxxx"))
_MARKS = {
    "original": ("o", _SOFT),
    "untuned": ("o", _SOFT),
    "pruned": ("D", _REMOVED),
    "merged": ("s", _ACCENT),
    "tuned": ("^", "#13713f"),
}
_LABEL = 34


def save_plots(record: SelectionRecord, folder: Path) -> list[Path]:
    """Draws the plots that the record has data for.

    Args:
        record: the selection.
        folder: existing folder that receives ``ranking.png``, ``heatmap.png``, ``importance.png``,
            ``perplexity.png``, ``curves.png``, ``funnel.png``, ``distributions.png``.

    Returns:
        The files written; the same record gives the same bytes.
    """
    candidates = ranked(record)
    figures = {
        "ranking.png": _ranking(record, [item for item in candidates if item.rank is not None]),
        "heatmap.png": _heat_map([item for item in candidates if item.importance]),
        "importance.png": _importance([item for item in candidates if item.importance]),
        "perplexity.png": _perplexity([item for item in candidates if any(item.losses.values())]),
        "curves.png": _curves(record, [item for item in candidates if item.history]),
        "funnel.png": _funnel(record),
        "distributions.png": _distributions([item for item in record.data_evidence.distributions if drawable(item)]),
    }
    written = []
    for name, figure in figures.items():
        if figure is not None:
            figure.savefig(folder / name, dpi=144, facecolor="white", metadata={"Software": None})
            written.append(folder / name)
    return written


def _ranking(record: SelectionRecord, candidates: Sequence[CandidateRecord]) -> Figure | None:
    if not candidates:
        return None
    figure, (axes,) = _figure(8.0, 1.3 + 0.42 * len(candidates), 1, 1)
    for place, item in enumerate(candidates):
        value = item.metrics.get(record.metric, math.nan)
        low, high = item.interval or (value, value)
        colour = _ACCENT if item.candidate_id == record.winner else _SOFT
        axes.plot([low, high], [place, place], color=colour, linewidth=1.8, marker="|", markersize=9)
        axes.plot([value], [place], color=colour, marker="o", markersize=7)
    axes.set_yticks(range(len(candidates)))
    axes.set_yticklabels([f"{item.rank}  {_name(item)}" for item in candidates], parse_math=False)
    axes.set_ylim(len(candidates) - 0.5, -0.5)
    better = "higher is better" if record.higher_is_better else "lower is better"
    axes.set_xlabel(f"{record.metric} ({better}), {record.confidence:.0%} interval", parse_math=False)
    return figure


def _importance(candidates: Sequence[CandidateRecord]) -> Figure | None:
    if not candidates:
        return None
    from matplotlib.ticker import MaxNLocator

    columns = min(3, len(candidates))
    rows = math.ceil(len(candidates) / columns)
    figure, panels = _figure(3.6 * columns, 2.3 * rows, rows, columns)
    for axes, item in zip(panels, candidates, strict=False):
        kept = set(item.kept_layers)
        colours = [_ACCENT if index in kept else _REMOVED for index in range(len(item.importance))]
        axes.bar(range(len(colours)), [value or 0.0 for value in item.importance], color=colours)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(_name(item), fontsize=9, loc="left", parse_math=False)
    for axes in panels[len(candidates) :]:
        axes.set_visible(False)
    figure.supxlabel("layer (blue: kept, orange: removed)", fontsize=9)
    figure.supylabel("importance", fontsize=9)
    return figure


def _heat_map(candidates: Sequence[CandidateRecord]) -> Figure | None:
    """A row a candidate from its first layer to its last; an orange bar under each removed layer."""
    import numpy as np
    from matplotlib.colors import LogNorm

    scale = importance_scale(candidates)
    if not candidates:
        return None
    figure, (axes,) = _figure(9.0, 1.3 + 0.42 * len(candidates), 1, 1)
    for place, item in enumerate(candidates):
        layers = layer_states(item)
        edges = np.linspace(0.0, 1.0, len(layers) + 1)
        values = np.array([[math.nan if layer.importance is None else layer.importance for layer in layers]])
        norm = LogNorm(scale.low, scale.high, clip=True)
        shown = axes.pcolormesh(edges, [place - 0.35, place + 0.2], values, norm=norm, cmap="Blues", linewidth=0)
        for first, last in runs([layer.index for layer in layers if layer.state == "removed"]):
            axes.plot([edges[first], edges[last + 1]], [place + 0.29] * 2, color=_REMOVED, linewidth=2.6)
            axes.lines[-1].set_solid_capstyle("butt")
    axes.set_yticks(range(len(candidates)))
    axes.set_yticklabels([_name(item) for item in candidates], parse_math=False)
    axes.set_ylim(len(candidates) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 1], ["first layer", "last layer"])
    axes.grid(visible=False)
    figure.colorbar(shown, ax=axes, label="Block Influence", pad=0.02)
    figure.supxlabel("orange: removed from the proxy", fontsize=9)
    return figure


def _perplexity(candidates: Sequence[CandidateRecord]) -> Figure | None:
    """Factors by which a candidate's perplexity changed, for each set of rows."""
    groups = [rows for rows in STATES if any(factors(item, rows) for item in candidates)]
    if not groups:
        return None
    figure, panels = _figure(4.5 * len(groups), 1.6 + 0.36 * len(candidates), 1, len(groups))
    for axes, rows in zip(panels, groups, strict=True):
        points = [factors(item, rows) for item in candidates]
        for place, own in enumerate(points):
            axes.plot([factor for _, factor in own], [place] * len(own), color=_SOFT, linewidth=1.2, zorder=2)
        for state, name in STATES[rows].items():
            marked = [(factor, place) for place, own in enumerate(points) for key, factor in own if key == state]
            if marked:
                marker, colour = _MARKS[state]
                axes.scatter(*zip(*marked, strict=True), marker=marker, color=colour, label=name, zorder=3)
        reached = {0.0, *(factor for own in points for _, factor in own)}
        ticks = sorted({min(reached), 0.0, max(reached)})
        axes.set_xticks(ticks, [times(tick) for tick in ticks])
        axes.set_title(f"{rows} rows", fontsize=9, loc="left")
        axes.set_ylim(len(candidates) - 0.5, -0.5)
        axes.set_yticks(range(len(candidates)))
        names = [_name(item) if axes is panels[0] else "" for item in candidates]
        axes.set_yticklabels(names, parse_math=False)
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0.0, -0.12), ncols=4)
    figure.supxlabel("perplexity as a factor of the first state, logarithmic", fontsize=9)
    return figure


def _curves(record: SelectionRecord, candidates: Sequence[CandidateRecord]) -> Figure | None:
    if not candidates:
        return None
    import matplotlib

    figure, (axes,) = _figure(9.0, 4.6, 1, 1)
    palette = matplotlib.colormaps["tab10"]
    for index, item in enumerate(candidates):
        width = 2.4 if item.candidate_id == record.winner else 1.2
        style = "-" if index < 10 else "--"
        colour = palette(index % 10)
        steps = [point["step"] for point in item.history]
        axes.plot(steps, [point["train_loss"] for point in item.history], style, color=colour, linewidth=width)
        axes.lines[-1].set_label(_name(item).lstrip("_"))
        valid = [(point["step"], point["valid_loss"]) for point in item.history if point.get("valid_loss") is not None]
        axes.plot([x for x, _ in valid], [y for _, y in valid], "o", color=colour, markersize=4.5)
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats per token (line: train, dot: valid)")
    legend = axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    for label in legend.get_texts():
        label.set_parse_math(False)
    return figure


def _funnel(record: SelectionRecord) -> Figure | None:
    if not record.funnel:
        return None
    figure, panels = _figure(9.0, 1.1 + 0.5 * len(record.funnel), 1, 3)
    for axes, unit in zip(panels, ("rows", "words", "tokens"), strict=True):
        values = [getattr(step, unit) for step in record.funnel]
        axes.barh(range(len(values)), [value or 0 for value in values], color=_ACCENT, height=0.55)
        for place, value in enumerate(values):
            note = "not counted" if value is None else text.magnitude(value)
            axes.annotate(note, (value or 0, place), (4, 0), textcoords="offset points", va="center", fontsize=8)
        axes.set_title(unit, fontsize=9, loc="left")
        axes.set_ylim(len(values) - 0.5, -0.5)
        axes.set_xlim(0, max([value or 0 for value in values] + [1]) * 1.25)
        axes.set_xticks([])
        axes.grid(visible=False)
        axes.set_yticks(range(len(values)))
        names = [step.name for step in record.funnel] if axes is panels[0] else [""] * len(values)
        axes.set_yticklabels(names, parse_math=False)
    return figure


def _distributions(distributions: Sequence[Distribution]) -> Figure | None:
    if not distributions:
        return None
    columns = min(3, len(distributions))
    rows = math.ceil(len(distributions) / columns)
    figure, panels = _figure(3.6 * columns, 2.5 * rows, rows, columns)
    for axes, item in zip(panels, distributions, strict=False):
        _stack(axes, item)
        axes.set_title(text.shorten(item.name, _LABEL), fontsize=9, loc="left", parse_math=False)
    for axes in panels[len(distributions) :]:
        axes.set_visible(False)
    figure.supylabel("rows or texts", fontsize=9)
    return figure


def _stack(axes: Axes, distribution: Distribution) -> None:
    """The groups on top of each other, told apart by hatching too; a limit beyond the scores is only named."""
    edges = distribution.edges
    floor = [0] * (len(edges) - 1)
    least = (edges[-1] - edges[0] or 1.0) / 100
    widths = [max(high - low, least) for low, high in pairwise(edges)]
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    for place, (name, total) in enumerate(totals(distribution)):
        colour, hatch = _GROUPS[place % len(_GROUPS)]
        face = colour if not hatch else "white"
        counts = list(distribution.series[name])
        axes.bar(middles, counts, widths, bottom=floor, facecolor=face, edgecolor=colour, hatch=hatch, linewidth=0.6)
        axes.containers[-1].set_label(f"{name} {total:,}".lstrip("_"))
        floor = [below + count for below, count in zip(floor, counts, strict=True)]
    if edges[0] == edges[-1]:
        axes.set_xlim(edges[0] - 50 * least, edges[0] + 50 * least)
    limit = distribution.limit
    if limit is not None and math.isfinite(limit):
        inside = edges[0] <= limit <= edges[-1]
        axes.plot([], [], color="black", linestyle="--", linewidth=1.1)
        axes.lines[-1].set_label(f"limit {text.fact(float(limit))}" + ("" if inside else ", beyond the scores"))
        if inside:
            axes.axvline(limit, color="black", linestyle="--", linewidth=1.1)
    if axes.get_legend_handles_labels()[1]:
        legend = axes.legend(frameon=False, fontsize=7.5, loc="upper left", bbox_to_anchor=(0.0, -0.12), ncols=2)
        for label in legend.get_texts():
            label.set_parse_math(False)


def _figure(width: float, height: float, rows: int, columns: int) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    panels: list[Axes] = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_RULE)
        axes.tick_params(colors=_SOFT, labelsize=8.5)
        axes.grid(axis="both", color=_RULE, linewidth=0.6)
        axes.set_axisbelow(True)
    return figure, panels


def _name(candidate: CandidateRecord) -> str:
    return text.shorten(candidate.candidate_id, _LABEL)
