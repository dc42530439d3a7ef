"""What the report shows of the training data: outcomes, scores, and texts before and after."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from html_reader import Reader
from hypothesis import given
from hypothesis import strategies as st
from records import make_record

from damoc.redaction import redact
from damoc.report import render, save_plots
from damoc.report.histogram import drawable, histogram
from damoc.report.passages import FOLD_WORDS, Passage, passage
from damoc.selection.record import DataEvidence, Distribution, Sample, SelectionRecord

SECRET = "see https://bob:s3cret@host/x?a=b now"


def _with(**evidence: object) -> SelectionRecord:
    return make_record(data_evidence=DataEvidence(**evidence))  # type: ignore[arg-type]


def _sides(html: str) -> list[tuple[str, str]]:
    """Markup of the texts before and after, without the summaries of folded parts."""
    texts = re.findall(r'<div class="text" dir="auto">(.*?)</div>', html, re.S)
    bare = [re.sub(r"<summary.*?</summary>", "", text, flags=re.S) for text in texts]
    return list(zip(bare[::2], bare[1::2], strict=True))


def _plain(markup: str) -> str:
    return unescape(re.sub(r"<[^>]*>", "", markup))


def _struck(markup: str) -> str:
    return unescape("".join(re.findall(r"<del>(.*?)</del>", markup, re.S)))


def _whole(text: Passage) -> str:
    return "".join(run.text for run in [*text.head, *text.rest])


def _counts(svg: str) -> dict[str, int]:
    """Counts by group, over the titles of all bars."""
    totals: dict[str, int] = defaultdict(int)
    for title in re.findall(r"<g><title>[^<]*: ([^:<]*)</title>", svg):
        for group, count in re.findall(r"(\w+) ([\d,]+)(?:, |$)", title):
            totals[group] += int(count.replace(",", ""))
    return dict(totals)


def _bars(svg: str, group: str) -> list[tuple[float, float, float, float]]:
    found = re.findall(rf'class="group {group}" x="(.*?)" y="(.*?)" width="(.*?)" height="(.*?)"', svg)
    return [(float(x), float(y), float(width), float(height)) for x, y, width, height in found]


def test_every_text_is_there_whole_with_its_dropped_words_struck_through() -> None:
    samples = make_record().data_evidence.samples
    shown = _sides(render(make_record()))
    assert len(shown) == len(samples) > 5
    for sample, (before, after) in zip(samples, shown, strict=True):
        original = "".join(text for text, _ in sample.pieces)
        assert _plain(before) == redact(original)
        assert _plain(after) == redact(sample.after)
        assert "<del>" not in after
        if redact(original) == original:
            assert _struck(before) == "".join(text for text, stayed in sample.pieces if not stayed)


def test_long_texts_fold_and_short_ones_do_not() -> None:
    html = render(make_record())
    folded = ["<details>" in side for pair in re.findall(r'<article class="card sample".*?</article>', html, re.S)
              for side in re.findall(r'<div class="text".*?</div>', pair, re.S)]  # fmt: skip
    assert folded == [side for pair in (0, 0, 1, 0, 1, 0, 0, 1) for side in (bool(pair),) * 2]


def test_samples_say_what_was_done_and_why() -> None:
    shown = " ".join(Reader(render(make_record())).text.split())
    assert "ticket-002210 input restored 600 → 280 words (47%) F1 0.81 was under 0.85: 14 words put back" in shown
    assert "output rewritten 15 → 3 words (20%) F1 0.79 was under 0.85; the rewriter reached 0.91" in shown
    assert "ticket-009134 input condensed 1,357 → 1,082 characters (80%)" in shown


def test_a_text_that_became_empty_says_so() -> None:
    html = render(_with(samples=[Sample("r", "output", [("all of it", False)], "", "condensed", "")]))
    ((before, after),) = _sides(html)
    assert (_struck(before), _plain(after)) == ("all of it", "empty")


@given(st.lists(st.tuples(st.text(max_size=400), st.booleans()), max_size=12))
def test_folding_loses_nothing_and_moves_no_strike(pieces: list[tuple[str, bool]]) -> None:
    whole = "".join(text for text, _ in pieces)
    text = passage(pieces)
    assert _whole(text) == redact(whole)
    if redact(whole) == whole:
        states = [run.stayed for run in [*text.head, *text.rest] for _ in run.text]
        assert states == [stayed for content, stayed in pieces for _ in content]
    assert bool(text.rest) == bool(text.hidden)


@given(st.text(st.characters(exclude_categories=["Cs", "Z", "Cc"]), min_size=1, max_size=6), st.integers(97, 900))
def test_the_head_of_ordinary_words_is_eighty_of_them(word: str, count: int) -> None:
    text = passage([(" ".join([word] * count), True)])
    assert len("".join(run.text for run in text.head).split()) == FOLD_WORDS
    assert text.hidden == f"{count - FOLD_WORDS} more words"


def test_folding_prefers_the_end_of_a_line() -> None:
    line = "one two three four five six seven\n    "
    head = "".join(run.text for run in passage([(line * 40, True)]).head)
    assert head == (line * 11).rstrip(" ")


def test_folding_parts_no_sign_from_its_marks() -> None:
    sign = "👩🏽\u200d🚒"
    for lead in range(len(sign)):
        text = passage([("x" * lead + sign * 400, True)])
        head, rest = ("".join(run.text for run in runs) for runs in (text.head, text.rest))
        assert rest and head.removeprefix("x" * lead).replace(sign, "") == rest.replace(sign, "") == ""


@pytest.mark.parametrize("first", range(0, len(SECRET), 3))
@pytest.mark.parametrize("stayed", [(True, False, True), (False, True, False)])
def test_a_password_is_masked_wherever_its_text_was_cut(first: int, stayed: tuple[bool, bool, bool]) -> None:
    for second in range(first, len(SECRET)):
        parts = (SECRET[:first], SECRET[first:second], SECRET[second:])
        text = passage(zip(parts, stayed, strict=True))
        assert _whole(text) == "see https://bob:***@host/x?a=b now"
        states = [state for part, state in zip(parts, stayed, strict=True) for _ in part]
        whole = all(states[SECRET.index("https") : SECRET.index(" now")])
        assert ("https://bob:***@host/x?a=b" in "".join(run.text for run in text.head if run.stayed)) == whole


def test_no_password_reaches_the_page() -> None:
    html = render(make_record())
    assert "***" in html
    for secret in ("hunter2", "ter2", "s3cr"):
        assert secret not in html
    uri = "https://bob:s3cret@host/x"
    record = _with(
        outcomes={uri: 1},
        distributions=[Distribution(uri, [0, 1], {uri: [1]}, 0.5), Distribution(uri, [], {uri: []})],
        samples=[Sample(uri, uri, [(uri, True)], uri, uri, uri)],
    )
    assert "s3cret" not in render(record)


def test_no_evidence_no_section() -> None:
    bare = make_record(data_evidence=DataEvidence())
    reader = Reader(render(bare))
    ids = {attributes.get("id") for _, attributes in reader.tags}
    links = {attributes.get("href") for _, attributes in reader.tags}
    assert "data" in ids and not ids & {"scores", "texts"} and not links & {"#scores", "#texts"}
    assert "What became of the rows" not in reader.text
    old = {name: value for name, value in bare.to_json().items() if name != "data_evidence"}
    assert render(SelectionRecord.from_json(old)) == render(bare)


def test_outcomes_keep_their_order_and_add_up() -> None:
    record = make_record()
    (table,) = re.findall(r'<table class="outcomes">.*?</table>', render(record), re.S)
    rows = re.findall(
        r'<th scope="row">(.*?)<svg.*?<td class="num">(.*?)</td><td class="num quiet">(.*?)%</td>', table, re.S
    )
    assert [name for name, _, _ in rows] == list(record.data_evidence.outcomes)
    assert sum(int(count.replace(",", "")) for _, count, _ in rows) == 18_240
    assert sum(float(share) for _, _, share in rows) == pytest.approx(100, abs=0.25)
    assert "0.0%" in render(_with(outcomes={"none": 0}))


def test_the_counts_of_a_histogram_add_up() -> None:
    html = render(make_record())
    figures = re.findall(r"<figure class=\"card\">\s*<figcaption>(.*?)</figure>", html, re.S)
    distributions = make_record().data_evidence.distributions
    drawn = [figure for figure in figures if "histogram" in figure]
    assert len(drawn) == len(distributions)
    for figure, distribution in zip(drawn, distributions, strict=True):
        totals = {name: sum(counts) for name, counts in distribution.series.items()}
        assert figure.startswith(distribution.name)
        assert _counts(figure) == totals
        for name, total in totals.items():
            assert f"</i>{name} {total:,}</span>" in figure
            assert f"{name} {total:,}" in re.findall(r'role="img"[^>]*><title>(.*?)</title>', figure)[0]


def test_bars_stand_where_the_numbers_are() -> None:
    series = {"cut": [0, 20, 40], "kept": [10, 10, 0], "unsure": [0, 10, 0]}
    svg = histogram(Distribution("d", [0, 1, 2, 4], series))
    kept, unsure, cut = (_bars(svg, group) for group in ("g0", "g1", "g2"))
    assert [height for *_, height in (*kept, *unsure, *cut)] == pytest.approx([29.5, 29.5, 29.5, 59, 118], abs=0.1)
    assert cut[0][1] + cut[0][3] == pytest.approx(unsure[0][1], abs=0.1)
    assert unsure[0][1] + unsure[0][3] == pytest.approx(kept[1][1], abs=0.1)
    assert cut[0][0] == kept[1][0] and cut[1][2] == pytest.approx(2 * cut[0][2], abs=1)
    assert kept[0][0] == pytest.approx(38, abs=3) and cut[1][0] + cut[1][2] == pytest.approx(332, abs=5)


def test_a_limit_on_the_axis_is_a_line_and_one_beyond_it_an_arrow() -> None:
    def drawn(limit: float | None) -> str:
        return str(histogram(Distribution("d", [0.0, 0.5, 1.0], {"kept": [1, 2]}, limit)))

    for limit, x in ((0.0, 38.0), (0.25, 111.5), (1.0, 332.0)):
        assert re.findall(r'class="limit" x1="(.*?)" x2="(.*?)"', drawn(limit)) == [(f"{x:.1f}", f"{x:.1f}")]
        assert f">limit {limit:g}<" in drawn(limit)
    assert 'class="limit"' not in drawn(-1.5) and ">← limit -1.5<" in drawn(-1.5)
    assert 'class="limit"' not in drawn(12_000.0) and ">limit 12000 →<" in drawn(12_000.0)
    assert "limit-label" not in drawn(None) and "limit-label" not in drawn(math.nan)


@pytest.mark.parametrize(
    "distribution",
    [
        Distribution("one bin", [0.0, 1.0], {"kept": [7], "cut": [2]}),
        Distribution("all the same", [3.0, 3.0], {"kept": [7], "cut": [2]}, 3.0),
        Distribution("the same among others", [0.0, 3.0, 3.0, 4.0], {"kept": [0, 7, 0], "cut": [1, 0, 1]}),
        Distribution("all zero", [0.0, 0.0], {"kept": [7], "cut": [2]}, 0.0),
        Distribution("whole numbers", [0, 1, 2], {"kept": [3, 4], "cut": [2, 0]}, 1),
    ],
    ids=lambda distribution: distribution.name,
)
def test_few_bins(distribution: Distribution, tmp_path: Path) -> None:
    assert drawable(distribution)
    svg = histogram(distribution)
    assert _counts(svg) == {"kept": 7, "cut": 2}
    assert all(width >= 2 and height >= 1 for group in ("g0", "g1") for _, _, width, height in _bars(svg, group))
    record = _with(distributions=[distribution])
    assert len(save_plots(replace(record, candidates=[], funnel=[]), tmp_path)) == 1


@pytest.mark.parametrize(
    ("edges", "counts"),
    [([], []), ([1.0], []), ([0.0, math.nan], [1]), ([0.0, math.inf], [1]), ([1.0, 0.0], [1]), ([0.0, 1.0], [1, 2])],
)
def test_what_cannot_be_drawn_is_said(edges: list[float], counts: list[int], tmp_path: Path) -> None:
    record = _with(distributions=[Distribution("odd scores", edges, {"kept": counts})])
    html = render(record)
    assert "odd scores" in html and "Not drawn" in html and "histogram" not in html.split("</style>")[1]
    assert save_plots(replace(record, candidates=[], funnel=[]), tmp_path) == []


_FINITE = st.floats(-1e12, 1e12)


@given(
    st.lists(_FINITE, min_size=2, max_size=9).map(sorted),
    st.lists(st.lists(st.integers(0, 10**9), min_size=8, max_size=8), max_size=5),
    st.none() | st.floats(),
)
def test_no_score_breaks_the_picture(edges: list[float], counts: list[list[int]], limit: float | None) -> None:
    series = {f"group{place}": row[: len(edges) - 1] for place, row in enumerate(counts)}
    svg = str(histogram(Distribution("any", edges, series, limit)))
    assert not Reader(svg).open
    places = re.findall(r' (x|y|x1|x2|y1|y2|width|height)="([^"]*)"', svg)
    values = [(name, float(value)) for name, value in places]
    assert all(math.isfinite(value) and 0 <= value <= 340 for _, value in values)
    assert len(re.findall(r'text-anchor="middle"', svg)) <= 5
    assert _counts(svg) == ({name: sum(row) for name, row in series.items()} if any(map(any, series.values())) else {})
