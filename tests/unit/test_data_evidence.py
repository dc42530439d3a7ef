from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from damoc.condense.record import journeys, pack_kept
from damoc.config import GateThresholds
from damoc.data.example import Example
from damoc.stages.data_evidence import data_evidence, histogram

IDS = ("a", "b", "c", "d", "e")
CHOICE = {
    "method": "superfiltering",
    "rows": ["a", "b", "c", "d"],
    "scores": [0.9, 0.8, 0.7, 0.6, None],
    "why": {row: f"{'cut' if row == 'e' else 'kept'}: IFD" for row in IDS},
    "signals": {"answer_loss": [1.0, 2.0, 3.0, 4.0, 5.0], "rows": [0, 1, 2, 3, 4], "label": [-1] * 5},
}


def entry(row: str, outcome: str, **more: object) -> dict[str, object]:
    return {"id": row, "part": "input", "outcome": outcome, "why": "said", **more}


TEXTS = [
    entry("a", "condensed", kept=pack_kept(np.array([True, False, True])), first_f1=0.95, f1=0.95),
    entry("b", "restored", kept=pack_kept(np.array([True, True, False])), first_f1=0.5, f1=0.94),
    entry("c", "original", first_f1=0.4, f1=1.0),
    entry("d", "untouched"),
]
BEFORE = [Example(row, "Say.", "one  two three", "answer") for row in "abcd"]
AFTER = [BEFORE[0].with_text("Say.", "one three", "answer"), *BEFORE[1:]]


def evidence(samples: int = 9, texts: list[dict[str, object]] = TEXTS):
    steps = journeys(list(IDS), CHOICE, texts)
    return data_evidence(CHOICE, texts, steps, BEFORE, AFTER, GateThresholds(), samples)


def test_every_training_row_counts_once_by_what_became_of_it_at_last():
    assert evidence().outcomes == {
        "cut by the filter": 1,
        "kept as they are": 1,
        "condensed": 1,
        "condensed and repaired": 1,
        "put back as they were by the gate": 1,
    }


def test_without_condensing_kept_rows_are_kept_as_they_are():
    assert evidence(texts=[]).outcomes == {"cut by the filter": 1, "kept as they are": 4}


def test_scores_and_signals_are_shown_by_what_was_kept_and_what_was_cut():
    shown = {item.name: item for item in evidence().distributions}
    assert set(shown) == {"score of superfiltering", "answer loss", "BERTScore F1 of the condensed input"}
    assert {name: sum(counts) for name, counts in shown["answer loss"].series.items()} == {"kept": 4, "cut": 1}
    assert sum(shown["score of superfiltering"].series["cut"]) == 0


def test_the_gate_is_shown_by_what_the_condensed_text_scored_at_first():
    gate = evidence().distributions[-1]
    assert gate.limit == GateThresholds().input
    assert {name: sum(counts) for name, counts in gate.series.items()} == {"passed at once": 1, "went to repair": 2}


def test_samples_show_each_outcome_before_any_twice_and_lose_no_character():
    samples = evidence().samples
    assert [sample.outcome for sample in samples] == ["condensed", "restored", "original"]
    assert ["".join(text for text, _ in sample.pieces) for sample in samples] == ["one  two three"] * 3
    assert samples[0].pieces == [("one  ", True), ("two ", False), ("three", True)]
    assert samples[0].after == "one three"
    assert [stayed for _, stayed in samples[2].pieces] == [True]


def test_no_sample_is_kept_where_the_data_is_confidential():
    assert not evidence(samples=0).samples


@given(st.lists(st.floats(-5, 5), min_size=1), st.lists(st.floats(-5, 5)))
def test_a_histogram_counts_everything(first, second):
    shown = histogram("x", {"kept": first, "cut": second})
    assert shown is not None
    assert (sum(shown.series["kept"]), sum(shown.series["cut"])) == (len(first), len(second))
    assert len(shown.edges) == len(shown.series["kept"]) + 1
    assert list(shown.edges) == sorted(set(shown.edges))


def test_nothing_to_count_is_no_histogram():
    assert histogram("x", {"kept": [], "cut": []}) is None
