from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from damoc.condense.apply import rebuild
from damoc.condense.examples import condense_examples
from damoc.condense.gate import Verdict
from damoc.condense.record import journeys, pack_kept, unpack_kept
from damoc.condense.rules import violations
from damoc.condense.words import split_words
from damoc.config import CondenseConfig
from damoc.data.example import Example

CONTEXT = (
    "The operation deletes a provisioned cluster and then it releases all of the memory that was held by it, "
    "after which the name of the cluster is free to be used again by another account. It takes 5 minutes."
)
LONG_ANSWER = f"{CONTEXT} {CONTEXT.replace('5', '7').replace('cluster', 'queue')}"
ROWS = [
    Example("closed", "Is the memory released by the operation?", CONTEXT, "yes", choices=("yes", "no")),
    Example("span", "When is the name free?", CONTEXT, "after which the name of the cluster is free"),
    Example("open", "Describe the operation in a few plain words, please.", "", LONG_ANSWER),
    Example("short", "Say it.", "too short a text", "fine"),
    Example(
        "unicode", "翻訳してください", "Café naïve — 東京 and the 😀 of the people that were there with us today", "ok"
    ),
]
PARTS = ("instruction", "input", "output")


class Scripted:
    """A chat model that gives the replies it was given, in turn, and None when they are used up."""

    identity = "scripted"

    def __init__(self, *replies: str | None) -> None:
        self.replies = list(replies)
        self.asked: list[str] = []

    def complete(self, prompts, max_tokens, temperature=0.0, seed=0, on_progress=lambda done, total: None):
        self.asked += prompts
        return [self.replies.pop(0) if self.replies else None for _ in prompts]

    def option_probabilities(self, prompts, options, on_progress=lambda done, total: None):
        return np.full((len(prompts), len(options)), 1 / len(options))


def settings(threshold: float, restore: bool = False, rounds: int = 3, **rates: float) -> CondenseConfig:
    return CondenseConfig.model_validate(
        {
            "rates": rates,
            "gate": {"thresholds": dict.fromkeys(PARTS, threshold)},
            "repair": {"restore": restore, "rounds": rounds, "length_slack": 1.6},
        }
    )


def entries(record: list[dict], outcome: str) -> list[tuple[str, str]]:
    return [(entry["id"], entry["part"]) for entry in record if entry["outcome"] == outcome]


def test_condensing_drops_words_and_keeps_numbers_labels_and_gold_spans(loaded):
    condensed, record = condense_examples(ROWS, loaded, settings(0.3, input=0.6), 512)
    assert [row.id for row in condensed] == [row.id for row in ROWS]
    for before, after in zip(ROWS, condensed, strict=True):
        assert (after.instruction, after.output, after.choices) == (before.instruction, before.output, before.choices)
    assert len(condensed[0].input.split()) == round(0.6 * len(CONTEXT.split()))
    assert "5 minutes." in condensed[0].input
    assert ROWS[1].output in condensed[1].input
    assert condensed[3] == ROWS[3]
    assert entries(record, "condensed") == [(name, "input") for name in ("closed", "span", "unicode")]


def test_every_part_that_says_something_has_one_entry_with_a_reason(toy):
    _, record = condense_examples(ROWS, toy("tiny-reference"), settings(0.3, input=0.6, output=0.9), 512)
    given = [(row.id, part) for row in ROWS for part in PARTS if getattr(row, part)]
    assert [(entry["id"], entry["part"]) for entry in record] == given
    why = {(entry["id"], entry["part"]): entry["why"] for entry in record}
    assert why["closed", "output"] == "a closed answer"
    assert why["span", "output"] == "a span of the input"
    assert why["open", "instruction"] == "rate 1"
    assert why["short", "input"] == "too short: 4 of 8 words"
    assert why["short", "output"] == "too short: 1 of 64 words"
    for entry in record:
        if entry["outcome"] == "condensed":
            assert entry["why"] == f"F1 {entry['f1']:.4g} >= 0.3"
    json.dumps(record, allow_nan=False)


@pytest.mark.parametrize("restore", [False, True])
def test_the_record_replays_to_the_condensed_text(loaded, restore):
    options = settings(0.9, restore, input=0.5, instruction=0.5, output=0.5)
    condensed, record = condense_examples(ROWS, loaded, options, 512)
    by_id = {row.id: row for row in ROWS}
    after = {row.id: row for row in condensed}
    assert {entry["outcome"] for entry in record} >= {"untouched", "restored" if restore else "original"}
    for entry in record:
        text = getattr(by_id[entry["id"]], entry["part"])
        words = split_words(text)
        assert entry.get("words", len(words)) == len(words)
        kept = unpack_kept(entry["kept"]) if "kept" in entry else np.ones(len(words), dtype=bool)
        expected = rebuild(text, words, kept) if "kept" in entry else text
        assert getattr(after[entry["id"]], entry["part"]) == expected
        assert ("kept" in entry) == (entry["outcome"] in ("condensed", "restored"))


def test_a_strict_gate_puts_every_text_back(toy):
    condensed, record = condense_examples(ROWS, toy("tiny-reference"), settings(1.0, input=0.5, output=0.5), 512)
    assert condensed == ROWS
    assert len(entries(record, "original")) == 4
    assert not entries(record, "condensed")
    refused = next(entry for entry in record if entry["outcome"] == "original")
    assert refused["why"] == f"F1 {refused['first_f1']:.4g} < 1; the original stays"
    assert refused["f1"] == 1.0


def test_the_restorer_puts_back_no_more_than_it_needs_to_pass_the_gate(toy):
    options = settings(0.88, restore=True, input=0.4)
    plain, _ = condense_examples(ROWS, toy("tiny-reference"), settings(0.0, input=0.4), 512)
    condensed, record = condense_examples(ROWS, toy("tiny-reference"), options, 512)
    restored = [entry for entry in record if entry["outcome"] == "restored"]
    assert restored
    for entry in restored:
        row = next(place for place, own in enumerate(ROWS) if own.id == entry["id"])
        less, more, whole = (len(split_words(rows[row].input)) for rows in (plain, condensed, ROWS))
        assert less < more < whole
        assert entry["first_f1"] < 0.88 <= entry["f1"]
        assert entry["restorations"] >= 1
        assert f"{more - less} of {whole - less} dropped words put back, F1 {entry['f1']:.4g}" in entry["why"]


def test_what_the_restorer_cannot_save_stays_as_it_was(toy):
    condensed, record = condense_examples(ROWS, toy("tiny-reference"), settings(1.0, restore=True, input=0.4), 512)
    assert condensed == ROWS
    for entry in record:
        if entry["outcome"] == "original":
            assert entry["why"].endswith(f"{entry['restorations']} restorations failed; the original stays")


REWRITE = (
    "The operation deletes a provisioned cluster and releases all the memory that was held by it, after which the name "
    "of the cluster is free to be used by another account. It takes 5 minutes."
)


def rewritten(toy, chat: Scripted, restore: bool = False, rounds: int = 3):
    """Row "span" with a rewriter."""
    options = settings(0.93, restore, rounds, input=0.6)
    (row,), record = condense_examples(ROWS[1:2], toy("tiny-reference"), options, 512, rewriter=chat)
    return row, next(entry for entry in record if entry["part"] == "input")


def test_a_rewrite_that_passes_is_used(toy):
    chat = Scripted(REWRITE)
    row, entry = rewritten(toy, chat)
    assert row.input == REWRITE
    assert (entry["outcome"], entry["rewrites"]) == ("rewritten", 1)
    assert entry["f1"] >= 0.93 > entry["first_f1"]
    assert entry["why"] == f"F1 {entry['first_f1']:.4g} < 0.93; rewrite 1 passed, F1 {entry['f1']:.4g}"
    assert "kept" not in entry
    assert "refused" not in entry
    assert CONTEXT in chat.asked[0]


def test_rewrites_that_break_a_rule_are_refused_and_counted(toy):
    replies = {
        "numbers changed": REWRITE.replace("5", "50"),
        "negations changed": REWRITE.replace("and releases", "and never releases"),
        "answer lost": REWRITE.replace("name of", "label of"),
        "yes or no changed": f"Yes. {REWRITE}",
        "too long": f"{REWRITE} And there is much more to tell about the memory and the account.",
        "no reply": None,
    }
    rows = [replace(ROWS[1], id=rule) for rule in replies]
    options = settings(0.93, rounds=1, input=0.6)
    chat = Scripted(*replies.values())
    condensed, record = condense_examples(rows, toy("tiny-reference"), options, 512, rewriter=chat)
    assert condensed == rows
    inputs = [entry for entry in record if entry["part"] == "input"]
    for entry, rule in zip(inputs, replies, strict=True):
        assert (entry["outcome"], entry["rewrites"], entry["refused"]) == ("original", 1, {rule: 1})
        assert "; 1 rewrite: " in entry["why"]
        assert rule in entry["why"]


def test_a_refused_rewrite_is_asked_for_again_with_what_was_wrong(toy):
    chat = Scripted(REWRITE.replace("5", "50"), REWRITE)
    row, entry = rewritten(toy, chat)
    assert row.input == REWRITE
    assert entry["refused"] == {"numbers changed": 1}
    assert "missing 5 minutes; new 50 minutes" in chat.asked[1]
    assert "rewrite 2 passed" in entry["why"]


def test_what_the_rewriter_cannot_mend_goes_to_the_restorer(toy):
    row, entry = rewritten(toy, Scripted(*[REWRITE.replace("5", str(at)) for at in (6, 7, 8)]), restore=True)
    assert entry["outcome"] == "restored"
    assert entry["rewrites"] == 3
    assert entry["refused"] == {"numbers changed": 3}
    assert "; 3 rewrites: refused: numbers changed; " in entry["why"]
    assert set(row.input.split()) <= set(CONTEXT.split())


def test_texts_that_pass_are_never_shown_to_the_rewriter(toy):
    chat = Scripted()
    condense_examples(ROWS, toy("tiny-reference"), settings(0.3, input=0.6), 512, rewriter=chat)
    assert chat.asked == []


def test_the_label_of_a_classification_row_never_changes_and_nothing_breaks_a_rule(loaded):
    harsh = settings(0.0, restore=True, input=0.01, output=0.01, instruction=0.01)
    harsh = harsh.model_copy(update={"min_words": 1, "min_answer_words": 1})
    condensed, record = condense_examples(ROWS, loaded, harsh, 16)
    assert condensed[0].output == "yes"
    assert len(condensed[2].output.split()) < len(LONG_ANSWER.split())
    assert entries(record, "condensed")
    for before, after in zip(ROWS, condensed, strict=True):
        for part in PARTS:
            fixed = () if part == "output" else (*before.choices, before.output)
            assert violations(getattr(before, part), getattr(after, part), fixed) == ()


def test_a_draft_that_breaks_a_rule_is_repaired_although_its_score_is_high(toy):
    """The names in Greek letters are protected, and without most of the other words they are the larger part."""
    text = (
        "we came to the town of Θεσσαλονίκη and to the old one of Αλεξανδρούπολη and then on to the sea at Ηγουμενίτσα "
        "with all of them"
    )
    rows = [Example("names", "", text, "fine")]
    condensed, record = condense_examples(rows, toy("tiny-reference"), settings(0.0, restore=True, input=0.3), 512)
    (entry,) = [entry for entry in record if entry["part"] == "input"]
    assert entry["outcome"] == "restored"
    assert entry["first_f1"] > 0.0
    assert "; script changed; " in entry["why"]
    assert len(condensed[0].input) < len(text)
    assert violations(text, condensed[0].input) == ()


def test_negations_and_number_words_of_other_languages_are_never_dropped(toy):
    text = "das haus an der alten strasse war nie leer und war immer für drei von ihnen da und sie waren froh darüber"
    rows = [Example("german", "", text, "gut")]
    condensed, record = condense_examples(rows, toy("tiny-reference"), settings(0.0, input=0.2), 512)
    assert entries(record, "condensed") == [("german", "input")]
    assert {"nie", "drei"} <= set(condensed[0].input.split())


def test_condensing_twice_gives_the_same(toy):
    options = settings(0.85, restore=True, input=0.5, output=0.7)
    first, second = (condense_examples(ROWS, toy("tiny-reference"), options, 512) for _ in range(2))
    assert first == second


def test_a_text_fares_the_same_alone_and_among_others(toy):
    options = settings(0.88, restore=True, input=0.5)
    together, _ = condense_examples(ROWS, toy("tiny-reference"), options, 512)
    assert condense_examples(ROWS[1:2], toy("tiny-reference"), options, 512)[0] == together[1:2]


def test_words_may_be_measured_given_only_what_was_kept(toy):
    options = settings(0.3, input=0.6, output=0.6).model_copy(update={"context": "kept", "segment_tokens": 16})
    condensed, record = condense_examples(ROWS, toy("tiny-reference"), options, 512)
    assert ("open", "output") in entries(record, "condensed")
    assert len(condensed[0].input.split()) == round(0.6 * len(CONTEXT.split()))


def test_nothing_to_condense_is_no_error(toy):
    assert condense_examples([], toy("tiny-reference"), settings(0.6), 512) == ([], [])
    rows, record = condense_examples(ROWS, toy("tiny-reference"), settings(0.6, input=1.0), 512)
    assert rows == ROWS
    assert {entry["outcome"] for entry in record} == {"untouched"}


def test_phases_report_their_progress(toy):
    seen: dict[str, tuple[int, int]] = {}
    options = settings(1.0, input=0.5, output=0.5)
    progress = lambda phase: lambda done, total: seen.update({phase: (done, total)})  # noqa: E731
    condense_examples(ROWS, toy("tiny-reference"), options, 512, progress, Scripted())
    assert list(seen) == ["token perplexity", "token perplexity given the question", "BERTScore", "rewriting"]
    assert all(done == total > 0 for done, total in seen.values())


@pytest.mark.parametrize(
    ("f1", "broken", "passed", "said"),
    [
        (0.6, (), True, "F1 0.6 >= 0.6"),
        (0.5999, (), False, "F1 0.5999 < 0.6"),
        (0.9, ("empty",), False, "F1 0.9 >= 0.6; empty"),
        (math.nan, (), False, "F1 nan < 0.6"),
    ],
)
def test_the_gate_opens_at_its_threshold_unless_a_rule_is_broken(f1, broken, passed, said):
    verdict = Verdict(f1, 0.6, broken)
    assert (verdict.passed, str(verdict)) == (passed, said)


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_packed_words_are_unpacked_again(kept):
    runs = pack_kept(np.array(kept))
    assert unpack_kept(runs).tolist() == kept
    assert sum(runs[::2]) == sum(kept)
    assert all(length > 0 for length in runs[1:])


def test_the_way_of_a_row_names_each_step_its_outcome_and_why():
    filtered = {"rows": ["b", "a"], "why": {"a": "kept: near", "b": "kept: far", "c": "cut: like a"}}
    texts = [
        {"id": "a", "part": "instruction", "outcome": "untouched", "why": "rate 1"},
        {"id": "a", "part": "input", "outcome": "restored", "why": "F1 0.5 < 0.6; 2 of 4 dropped words put back"},
        {"id": "b", "part": "input", "outcome": "original", "why": "F1 0.5 < 0.6; the original stays"},
        {"id": "b", "part": "output", "outcome": "condensed", "why": "F1 0.8 >= 0.6"},
    ]
    steps = journeys(["a", "b", "c"], filtered, texts)
    assert [tuple(step.values()) for step in steps] == [
        ("a", "filter", "kept", "near"),
        (
            "a",
            "condense",
            "repaired",
            "instruction untouched: rate 1; input restored: F1 0.5 < 0.6; 2 of 4 dropped words put back",
        ),
        ("b", "filter", "kept", "far"),
        (
            "b",
            "condense",
            "condensed",
            "input original: F1 0.5 < 0.6; the original stays; output condensed: F1 0.8 >= 0.6",
        ),
        ("c", "filter", "cut", "like a"),
    ]
