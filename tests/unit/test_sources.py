"""Mined data: documentation cleaned to whole sentences, rows grouped, licensed and split without straddling."""

from __future__ import annotations

import pytest

from damoc.config import DatasetConfig
from damoc.data.dataset import Dataset, load_dataset
from damoc.data.example import Example
from damoc.data.sources import MINED, SPLIT_FRACTIONS, mine
from damoc.data.sources.text import html_to_text, leading_sentences, rst_to_text, sentences
from damoc.data.splits import assign_splits, split_of


@pytest.fixture(scope="module")
def rows() -> list[Example]:
    return mine("cloud-qa")


@pytest.fixture(scope="module")
def dataset(rows: list[Example]) -> Dataset:
    return load_dataset(DatasetConfig(source="mined:cloud-qa", on_leak="drop"), 17)


def test_html_becomes_lines_of_plain_text() -> None:
    markup = "<p>Creates a <code>Thing</code> &amp; more.</p><ul><li>One</li><li>Two   words</li></ul>"
    assert html_to_text(markup) == "Creates a Thing & more.\nOne\nTwo words"


def test_restructured_text_loses_its_markup() -> None:
    text = "Uses :func:`~numpy.dot` and ``x`` **now** [1]_.\n\n.. note:: gone\n   too\n"
    assert rst_to_text(text).strip() == "Uses numpy.dot and x now."


def test_sentences_leave_boilerplate_out() -> None:
    text = "Creates a thing. For more information, see the guide. It has a name."
    assert sentences(text) == ["Creates a thing.", "It has a name."]
    assert leading_sentences(text, 40) == "Creates a thing. It has a name."
    assert leading_sentences(text, 20) == "Creates a thing."
    assert leading_sentences(text, 5) == ""


def test_mined_rows_are_whole_grouped_and_licensed(rows: list[Example]) -> None:
    assert len(rows) > 1000
    assert len({row.id for row in rows}) == len(rows)
    assert all(row.instruction and row.input and row.output and row.group for row in rows)
    assert {row.meta["licence"] for row in rows} == {"Apache-2.0"}
    assert not any("<" in row.output and "</" in row.output for row in rows)
    assert all(40 <= len(row.output) <= 280 for row in rows)


def test_no_group_straddles(rows: list[Example]) -> None:
    groups = [{row.group for row in members} for members in assign_splits(rows, SPLIT_FRACTIONS).values()]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]


def test_the_dataset_holds_out_what_the_corpora_hold_out(rows: list[Example], dataset: Dataset) -> None:
    assert dataset.source == "mined:cloud-qa"
    assert dataset.licences == ("Apache-2.0",)
    assert dataset.report["rows read"] == len(rows)
    for split, members in dataset.splits.items():
        assert members
        assert {split_of(row.group, SPLIT_FRACTIONS) for row in members} == {split}
    provenance = {row.id: row.meta for row in rows}
    assert all(row.meta == provenance[row.id] for members in dataset.splits.values() for row in members)


def test_names() -> None:
    assert sorted(MINED) == ["cloud-qa", "cloud-service", "science-qa"]
