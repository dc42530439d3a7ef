"""What the report shows of the models: importance, plans, blocks, perplexities and scores with their intervals."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html import unescape
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from html_reader import Reader
from hypothesis import given
from hypothesis import strategies as st
from records import deep_record, make_record

from damoc.report import render, save_plots
from damoc.report.heat import LEVELS, HeatScale
from damoc.report.layer_charts import block_map, block_scale, closest_blocks, heat_strip, importance_scale, layer_plan
from damoc.report.layer_states import layer_states, ranges
from damoc.report.perplexity import factors, perplexities
from damoc.report.svg import LEFT, RIGHT, WIDTH
from damoc.selection.record import CandidateRecord, LayerEvidence, SelectionRecord

RECORD = make_record()
MERGED, PLAIN = RECORD.candidates[0], RECORD.candidates[1]


def _section(record: SelectionRecord, name: str) -> str:
    found = re.search(rf'<section id="{name}".*?</section>', render(record), re.S)
    assert found, name
    return found[0]


def _rows(section: str) -> list[list[str]]:
    """Texts of the cells of every row."""
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", section, re.S)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in rows]
    return [[" ".join(unescape(re.sub(r"<[^>]+>", " ", cell)).split()) for cell in row] for row in cells]


def _removed(candidate: CandidateRecord) -> list[int]:
    return [index for index in range(len(candidate.importance)) if index not in candidate.kept_layers]


def _whole(candidate: CandidateRecord) -> CandidateRecord:
    """The candidate with nothing removed."""
    return replace(
        candidate,
        kept_layers=list(range(len(candidate.importance))),
        layer_evidence=replace(candidate.layer_evidence, order=[], given_back=[], anchors={}),
        merge={"method": "rdsc_sparse", "scale": 0.0, "accepted": False, "losses": {"0.0": 2.2}},
        losses={"calibration": {"original": 2.2}},
    )


@given(st.lists(st.floats(0, 2), min_size=2), st.booleans())
def test_levels_rise_with_the_value_from_the_first_to_the_last(values: list[float], logarithmic: bool) -> None:
    scale = HeatScale.around(values, logarithmic)
    levels = [scale.level(value) for value in sorted(values)]
    assert all(level is not None and 0 <= level < LEVELS for level in levels)
    assert levels == sorted(levels, key=lambda level: level or 0)
    shown = [value for value in values if value > 0 or not logarithmic]
    if shown and max(shown) > min(shown):
        assert scale.level(min(shown)) == 0 and scale.level(max(shown)) == LEVELS - 1
    assert scale.level(math.nan) is None


@pytest.mark.parametrize("candidate", [MERGED, PLAIN, _whole(PLAIN)], ids=["merged", "pruned", "whole"])
def test_a_heat_strip_has_a_cell_a_layer_and_a_bar_under_each_removed_one(candidate: CandidateRecord) -> None:
    strip = heat_strip(candidate, importance_scale(RECORD.candidates))
    cells = re.findall(r'<title>layer (\d+): ([\d.]+), ([^<]*)</title><rect class="cell h(\d)" x="([\d.]+)%"', strip)
    assert [int(layer) for layer, *_ in cells] == list(range(len(candidate.importance)))
    assert [float(value) for _, value, *_ in cells] == pytest.approx(candidate.importance, abs=5e-5)
    by_value = [int(level) for _, _, _, level, _ in sorted(cells, key=lambda cell: float(cell[1]))]
    assert by_value == sorted(by_value) and len(set(by_value)) > 3
    bars = {x for x in re.findall(r'class="gone" x="([\d.]+)%"', strip)}
    assert bars == {x for layer, *_, x in cells if int(layer) in _removed(candidate)}


def test_the_heat_map_shows_every_candidate_that_was_measured_and_no_other() -> None:
    section = _section(RECORD, "importance")
    measured = [item for item in RECORD.candidates if item.importance]
    assert section.count('class="heat"') == len(measured) == 7
    assert RECORD.candidates[7].candidate_id not in section
    shown = Reader(section)
    assert not shown.open
    _, *numbers = _rows(section[section.index("<details>") :])
    deepest = max(len(item.importance) for item in measured)
    assert [row[0] for row in numbers] == [str(layer) for layer in range(deepest)]
    for layer, (_, *cells) in enumerate(numbers):
        for item, cell in zip(sorted(measured, key=lambda item: item.rank or 99), cells, strict=True):
            if layer >= len(item.importance):
                assert cell == ""
            else:
                assert cell.startswith(f"{item.importance[layer]:.4f}")
                assert cell.endswith(" removed") == (layer in _removed(item))


def test_what_was_not_measured_has_no_colour() -> None:
    broken = replace(PLAIN, importance=[math.nan, *PLAIN.importance[1:]])
    strip = heat_strip(broken, importance_scale([broken]))
    assert strip.count('class="cell unknown"') == 1
    assert "layer 0: not measured" in strip


def test_a_plan_says_of_each_layer_what_became_of_it() -> None:
    chart = layer_plan(MERGED)
    removed, back = _removed(MERGED), list(MERGED.layer_evidence.given_back)
    assert back and removed
    assert chart.count('class="plan removed"') == len(removed)
    assert chart.count('class="plan given-back"') == len(back)
    assert chart.count('class="plan kept"') == len(MERGED.importance) - len(removed) - len(back)
    assert chart.count('class="protected"') == 2
    titles = dict(re.findall(r"<title>layer (\d+): [\d.]+, ([^<]*)</title>", chart))
    for place, layer in enumerate(MERGED.layer_evidence.order, start=1):
        state = "given back" if layer in back else "removed"
        assert titles[str(layer)].startswith(f"{state}, number {place} to go")
    for anchor, layers in MERGED.layer_evidence.anchors.items():
        assert f"absorbed {ranges(layers)}" in titles[anchor]
        assert all(f"merged into layer {anchor}" in titles[str(layer)] for layer in layers)
    assert titles["0"] == "protected, kept"


def test_arrows_lead_from_what_was_removed_to_what_absorbed_it() -> None:
    pitch = (WIDTH - LEFT - RIGHT) / len(MERGED.importance)
    arrows = re.findall(r'class="merged" d="((?:M[\d.]+ \d+V\d+)+)M([\d.]+) \d+H([\d.]+)M([\d.]+) ', layer_plan(MERGED))
    assert len(arrows) == len(MERGED.layer_evidence.anchors) > 1
    for (stems, left, right, head), (anchor, layers) in zip(
        arrows, sorted(MERGED.layer_evidence.anchors.items(), key=lambda item: int(item[0])), strict=True
    ):
        middles = [LEFT + (layer + 0.5) * pitch for layer in layers]
        at = LEFT + (int(anchor) + 0.5) * pitch
        assert [float(x) for x in re.findall(r"M([\d.]+)", stems)] == pytest.approx(middles, abs=0.06)
        assert float(head) == pytest.approx(at, abs=0.06)
        assert [float(left), float(right)] == pytest.approx([min(at, *middles), max(at, *middles)], abs=0.06)
    assert 'class="merged"' not in layer_plan(PLAIN)


def test_nothing_removed_is_said_and_nothing_is_called_merged() -> None:
    record = replace(RECORD, candidates=[_whole(item) for item in RECORD.candidates[:2]])
    assert 'class="gone"' not in _section(record, "importance")
    layers = _section(record, "layers")
    assert layers.count("No layer was removed, so there was nothing to merge.") == 2
    assert 'class="losses"' not in layers and 'class="merged"' not in layers
    shown = perplexities(record)
    assert shown and shown.groups[0].heads == ["Original"] and len(shown.groups) == 1
    mixed = perplexities(replace(RECORD, candidates=[_whole(MERGED), PLAIN]))
    assert mixed and mixed.groups[0].cells[MERGED.candidate_id][1] == "nothing removed"


def test_scale_zero_is_never_called_merged() -> None:
    shown = perplexities(RECORD)
    assert shown
    calibration = shown.groups[0]
    assert calibration.heads == ["Original", "Pruned", "Merged"]
    for item in shown.candidates:
        accepted = item.merge["accepted"]
        cell, chart = calibration.cells[item.candidate_id][2], calibration.charts[item.candidate_id]
        assert (cell == "not merged") is not accepted
        assert ("mark-merged" in chart) is accepted
    assert {item.merge["accepted"] for item in shown.candidates} == {True, False}


def test_a_merge_that_gained_too_little_was_not_worse() -> None:
    merge = {"method": "linear_patch", "scale": 0.0, "accepted": False, "losses": {"0.0": 2.4127, "0.5": 2.4126}}
    section = _section(replace(RECORD, candidates=[MERGED, replace(PLAIN, merge=merge)]), "layers")
    assert "Linear patch not accepted: it lowered the calibration loss by less than merge.min_gain asks for" in section
    assert "plain removal was better" not in section


def test_perplexities_are_those_of_the_losses_and_say_of_which_rows() -> None:
    section = _section(RECORD, "perplexity")
    groups, heads, *rows = _rows(section)
    assert groups == ["Candidate", "Calibration rows", "Validation rows"]
    assert heads[:3] == ["Original", "Pruned", "Merged"] and heads[4:6] == ["Untuned proxy", "Tuned proxy"]
    first = dict(zip(("", *heads), next(row for row in rows if row[0] == MERGED.candidate_id), strict=True))
    calibration, validation = MERGED.losses["calibration"], MERGED.losses["validation"]
    for head, loss in (
        ("Original", calibration["original"]),
        ("Pruned", calibration["pruned"]),
        ("Merged", calibration["merged"]),
        ("Untuned proxy", validation["untuned"]),
        ("Tuned proxy", validation["tuned"]),
    ):
        assert first[head] == f"{math.exp(loss):.2f}"
    diverged = next(row for row in rows if row[0] == RECORD.candidates[6].candidate_id)
    assert diverged[5:7] == ["–", "–"]
    assert len(rows) == 7
    marks = re.findall(r'class="key mark (\w+)"></i>([^<]*)<', section)
    assert [name for name, _ in marks] == ["original", "pruned", "merged", "untuned", "tuned"]


def test_marks_stand_at_their_factors() -> None:
    losses = {"calibration": {"original": 2.0, "pruned": 3.0, "merged": 2.5, "tuned": 1.0}}
    item = replace(MERGED, losses=losses)
    assert factors(item, "calibration") == [("original", 0.0), ("pruned", 1.0), ("merged", 0.5), ("tuned", -1.0)]
    shown = perplexities(replace(RECORD, candidates=[item]))
    assert shown and (shown.groups[0].low, shown.groups[0].high) == ("×0.368", "×2.72")
    chart = shown.groups[0].charts[item.candidate_id]
    circles = dict(re.findall(r'<circle class="mark-(\w+)" cx="([\d.]+)%"', chart))
    assert [float(circles["original"]), float(circles["tuned"])] == [50.0, 6.0]
    assert [float(x) for x in re.findall(r'<svg x="([\d.]+)%"', chart)] == [94.0, 72.0]
    assert shown.groups[0].heads[-1] == "Tuned"


def _cells(chart: str, total: int, longest: int) -> dict[tuple[int, int], int]:
    """Level of each block by its first layer and length, read back from the runs of a block map."""
    found = {}
    wide, high = (WIDTH - LEFT - RIGHT) / total, 118 / longest
    for level, paths in re.findall(r'<path class="h(\d)" d="([^"]*)"', chart):
        for left, top, right in re.findall(r"M([\d.]+) ([\d.]+)H([\d.]+)", paths):
            start, stop = (round((float(x) - LEFT) / wide) for x in (left, right))
            length = round((float(top) - 8) / high)
            for first in range(start, stop):
                assert (first, length) not in found
                found[first, length] = int(level)
    return found


def test_a_block_map_has_every_block_at_its_level() -> None:
    scale = block_scale(RECORD.candidates)
    chart = block_map(PLAIN, scale)
    distances = PLAIN.layer_evidence.distances
    total, longest = len(distances), math.ceil(len(distances) / 2)
    expected = {
        (first, length): scale.level(row[length])
        for first, row in enumerate(distances)
        for length in range(min(longest, len(row)))
    }
    assert _cells(chart, total, longest) == expected
    assert set(expected.values()) == set(range(LEVELS))
    found = re.findall(r"<title>removed: ([^<]*)</title>", chart)
    assert ", ".join(found) == ranges(_removed(PLAIN))


_TRIANGLES = st.integers(2, 9).flatmap(
    lambda n: st.tuples(*(st.lists(st.floats(0, 1), min_size=k, max_size=k) for k in range(n, 0, -1)))
)


@given(_TRIANGLES)
def test_the_closest_block_of_each_length(distances: tuple[list[float], ...]) -> None:
    evidence = LayerEvidence(distances=list(distances))
    total = len(distances)
    for length, where, distance in closest_blocks(replace(PLAIN, layer_evidence=evidence)):
        blocks = {ranges(range(i, i + length)): distances[i][length - 1] for i in range(total - length + 1)}
        assert distance == min(blocks.values()) == blocks[where]
    assert length == math.ceil(total / 2)


def test_scores_have_their_intervals_before_and_after_tuning() -> None:
    section = _section(RECORD, "metrics")
    assert "On 3,610 held-out rows of the task choice, with 90% bootstrap intervals" in section
    assert "accuracy <span" in section and "higher is better, ranks the candidates" in section
    heads, first, *_ = _rows(section)
    assert heads == ["Candidate", "zero-shot", "3-shot", "tuned proxy", "tuned whole"]
    zero, few = MERGED.zero_shot["accuracy"], MERGED.few_shot["accuracy"]
    assert first == [
        MERGED.candidate_id,
        f"{zero:.4f} {zero - 0.02:.4f} to {zero + 0.019:.4f}",
        f"{few:.4f} 0.3100 to 0.3700",
        "0.8420 0.8280 to 0.8550",
        "0.8530 +0.0110, -0.0042 to +0.0263",
    ]
    assert "Tuned whole: the control" in section
    assert "Other metrics (1)" in section and "0.6100 0.5000 to 0.6500" in " ".join(sum(_rows(section), []))


def test_a_control_that_failed_is_named_with_its_reason() -> None:
    failed = [
        replace(item, control={"failure": "oom, out of <memory>"} if item.control else {}) for item in RECORD.candidates
    ]
    section = _section(replace(RECORD, candidates=failed), "metrics")
    _, first, *_ = _rows(section)
    assert first[-1] == "failed"
    assert f"The control of {MERGED.candidate_id} failed: oom, out of &lt;memory&gt;" in section


def test_without_few_shot_there_is_no_column_for_it() -> None:
    plain = [replace(item, few_shot={}, few_shot_intervals={}, control={}) for item in RECORD.candidates]
    heads, *_ = _rows(_section(replace(RECORD, candidates=plain), "metrics"))
    assert heads == ["Candidate", "zero-shot", "tuned proxy"]
    assert "3-shot" not in _section(replace(RECORD, candidates=plain), "ranking")
    assert "3-shot" in _section(RECORD, "ranking")


def test_a_record_of_an_earlier_version_is_read_and_shown() -> None:
    value: dict[str, Any] = RECORD.to_json()
    del value["evaluation"]
    for item in value["candidates"]:
        for name in ("layer_evidence", "losses", "zero_shot_intervals", "few_shot", "few_shot_intervals", "control"):
            del item[name]
    old = SelectionRecord.from_json(value)
    assert old.candidates[0].layer_evidence == LayerEvidence()
    shown = render(old)
    assert 'id="importance"' in shown and 'id="layers"' in shown
    assert 'id="perplexity"' not in shown and 'id="blocks"' not in shown
    assert "then scored on held-out rows by accuracy" in shown


def test_many_deep_candidates_stay_one_small_page() -> None:
    html = render(deep_record())
    assert not Reader(html).open
    assert len(html) < 1_200_000
    strips = re.findall(r'<svg role="img" class="heat".*?</svg>', html, re.S)
    assert [strip.count("<title>") for strip in strips] == [80] * 12
    widths = {float(width) for width in re.findall(r'class="cell h\d" x="[\d.]+%" width="([\d.]+)%"', html)}
    assert widths == {1.25}


@pytest.mark.slow
def test_plots_of_many_deep_candidates(tmp_path: Path) -> None:
    files = save_plots(deep_record(), tmp_path)
    assert {"heatmap.png", "perplexity.png"} <= {file.name for file in files}


def test_shades_are_told_apart_in_grey() -> None:
    """In both colour schemes, neighbouring levels differ in luma by at least 4 of 100, in one direction."""
    style = (Path(__file__).parents[2] / "damoc/report/style.css.j2").read_text(encoding="utf-8")
    opacity = {int(level): float(value) for level, value in re.findall(r"\.h(\d) { fill-opacity: ([\d.]+); }", style)}
    schemes = list(zip(re.findall(r"--card: (#\w+)", style), re.findall(r"--heat: (#\w+)", style), strict=True))
    assert len(schemes) == 3 and sorted(opacity) == list(range(LEVELS))
    for card, heat in schemes:
        greys = [(1 - opacity[level]) * _grey(card) + opacity[level] * _grey(heat) for level in range(LEVELS)]
        steps = [after - before for before, after in pairwise(greys)]
        assert all(step > 4 for step in steps) or all(step < -4 for step in steps)


def _grey(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    red, green, blue = (int(digits[at : at + 2], 16) for at in (0, 2, 4))
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 2.55


def test_states_of_layers() -> None:
    candidate = replace(
        PLAIN,
        importance=[0.5, 0.1, 0.2, 0.1, math.nan],
        kept_layers=[0, 2, 4],
        layer_evidence=LayerEvidence("lowest", [0, 4], [1, 3, 2], [2], {"0": [1], "2": [3]}),
    )
    assert [(layer.state, layer.protected, layer.place, layer.anchor) for layer in layer_states(candidate)] == [
        ("kept", True, None, None),
        ("removed", False, 1, 0),
        ("given back", False, 3, None),
        ("removed", False, 2, 2),
        ("kept", True, None, None),
    ]
    assert layer_states(candidate)[4].importance is None
    assert layer_states(replace(PLAIN, importance=())) == []
