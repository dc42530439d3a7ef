from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from damoc.condense.apply import rebuild
from damoc.condense.bertscore import windowed_pairs
from damoc.condense.decide import keep_words, passes_gate
from damoc.condense.examples import condense_examples
from damoc.condense.words import split_words
from damoc.config import CondenseConfig, TokenRates
from damoc.data.example import Example

word_scores = st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0, 2.5, 9.0]), st.booleans()), max_size=30)
rates = st.floats(0, 1)


def columns(scores: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    surprise = np.array([value for value, _ in scores], dtype=np.float32)
    return surprise, np.array([protected for _, protected in scores], dtype=bool)


@given(word_scores, rates)
def test_protected_words_stay_and_the_count_is_the_share_or_the_protected_words(scores, rate):
    surprise, protected = columns(scores)
    kept = keep_words(surprise, protected, rate)
    assert kept[protected].all()
    assert kept.sum() == max(int(protected.sum()), round(rate * len(scores)), min(1, len(scores)))


@given(word_scores, rates, rates)
def test_a_smaller_rate_keeps_a_subset(scores, first, second):
    surprise, protected = columns(scores)
    fewer, more = (keep_words(surprise, protected, rate) for rate in sorted((first, second)))
    assert not (fewer & ~more).any()


@given(word_scores, rates)
def test_no_dropped_word_is_more_surprising_than_a_kept_one_and_ties_keep_the_earlier(scores, rate):
    surprise, protected = columns(scores)
    kept = keep_words(surprise, protected, rate)
    places = range(len(scores))
    free = [(-surprise[at], at) for at in places if kept[at] and not protected[at]]
    dropped = [(-surprise[at], at) for at in places if not kept[at]]
    assert not free or not dropped or max(free) < min(dropped)


def test_at_least_one_word_stays():
    assert keep_words(np.array([1.0, 3.0, 2.0]), np.zeros(3, dtype=bool), 0.1).tolist() == [False, True, False]


def test_protected_words_are_not_touched_by_the_decision():
    protected = np.array([False, True])
    keep_words(np.array([1.0, 2.0]), protected, 1.0)
    assert protected.tolist() == [False, True]


@pytest.mark.parametrize(("f1", "passed"), [(0.6, True), (0.5999, False), (1.0, True), (float("nan"), False)])
def test_the_gate_opens_at_its_threshold(f1, passed):
    assert passes_gate(f1, 0.6) is passed


@given(st.text(alphabet="ab .\n\t東é\u00a0", max_size=60), st.randoms(use_true_random=False))
def test_what_is_rebuilt_is_the_kept_words_in_their_order(text, random):
    words = split_words(text)
    kept = np.array([random.random() < 0.5 for _ in words], dtype=bool)
    rebuilt = rebuild(text, words, kept)
    assert rebuilt.split() == [text[word.start : word.end] for word, stays in zip(words, kept, strict=True) if stays]
    assert rebuilt == rebuilt.strip()


@pytest.mark.parametrize(
    ("text", "dropped", "rebuilt"),
    [
        ("a b c", {1}, "a c"),
        ("a\nb c", {1}, "a\nc"),
        ("a\n\n\nb", set(), "a\n\nb"),
        ("a\nb\nc\nd", {1, 2}, "a\n\nd"),
        ("\n a  b\t\tc \n", set(), "a b c"),
        ("a b", {0, 1}, ""),
    ],
)
def test_line_breaks_stay_and_other_white_space_becomes_one_space(text, dropped, rebuilt):
    words = split_words(text)
    assert rebuild(text, words, np.array([at not in dropped for at in range(len(words))])) == rebuilt


def test_a_rebuilt_text_is_rebuilt_to_itself():
    text = "First line here.\n\nThen another one,\nand more."
    words = split_words(text)
    once = rebuild(text, words, np.array([at % 3 != 1 for at in range(len(words))]))
    again = split_words(once)
    assert rebuild(once, again, np.ones(len(again), dtype=bool)) == once


def protected_words(text: str, *spans: str) -> list[str]:
    return [text[word.start : word.end] for word in split_words(text, spans) if word.protected]


@pytest.mark.parametrize(
    ("text", "protected"),
    [
        ("we counted 12 apples and 3.5% more", ["12", "3.5%", "more"]),
        ("a dose of 5 mg was given", ["5", "mg"]),
        ("a dose (5 mg) and $5 mn here", ["(5", "mg)", "$5", "mn"]),
        ("it does not stop, never, and it doesn't or didn’t start", ["not", "never,", "doesn't", "didn’t"]),
        ("cannot work without power nor light", ["cannot", "without", "nor"]),
        ("costs less than before but lasts longer", ["less", "than"]),
        ("this is what and why we ask? yes", ["what", "why", "ask?"]),
        ("The gene BRCA1 in Paris codes for mRNA", ["BRCA1", "Paris", "mRNA"]),
        ("One ends. Two begins", []),
        ('he said "this" and `that` or x<y', ['"this"', "`that`", "x<y"]),
        ("plain\n- bullet text\nplain again\nA. option text", ["-", "bullet", "text", "A.", "option", "text"]),
    ],
)
def test_words_that_carry_the_meaning_are_protected(text, protected):
    assert protected_words(text) == protected


def test_the_words_of_a_span_are_protected_whatever_their_case():
    assert protected_words("they ran the Big Red test", "big red TEST") == ["Big", "Red", "test"]


def test_a_span_inside_a_longer_word_protects_nothing():
    assert protected_words("we know another eyes test", "no", "yes") == []
    assert protected_words("so (no) and no, then no-one", "no") == ["(no)", "no,", "no-one"]


def test_a_span_is_read_literally():
    assert protected_words("use a.b or acb", "a.b", "(", " ") == ["a.b"]


@given(st.text(max_size=80))
def test_words_are_the_runs_without_white_space(text):
    words = split_words(text)
    assert [text[word.start : word.end] for word in words] == text.split()


def test_stretches_align_both_sides_and_cover_all_words():
    text = " ".join(f"w{at}" for at in range(310))
    words = split_words(text)
    kept = np.arange(310) % 2 == 0
    pairs = windowed_pairs(text, words, kept)
    assert [pair[2:] for pair in pairs] == [(150, 75), (150, 75), (10, 5)]
    assert " ".join(pair[0] for pair in pairs) == text
    assert " ".join(pair[1] for pair in pairs) == " ".join(text.split()[::2])


CONTEXT = (
    "The operation deletes a provisioned cluster and then it releases all of the memory that was held by it, "
    "after which the name of the cluster is free to be used again by another account. It takes 5 minutes."
)
ROWS = [
    Example("closed", "Is the memory released by the operation?", CONTEXT, "yes", choices=("yes", "no")),
    Example("span", "When is the name free?", CONTEXT, "after which the name of the cluster is free"),
    Example("open", "Describe the operation in a few plain words, please.", "", CONTEXT),
    Example("short", "Say it.", "too short a text", "fine"),
    Example(
        "unicode", "翻訳してください", "Café naïve — 東京 and the 😀 of the people that were there with us today", "ok"
    ),
]


def settings(threshold: float, **parts: float) -> CondenseConfig:
    return CondenseConfig(gate_threshold=threshold, rates=TokenRates(**parts))


def test_condensing_drops_words_and_keeps_numbers_labels_and_gold_spans(loaded):
    condensed, record = condense_examples(ROWS, loaded, settings(0.3, input=0.6), 512)
    assert [row.id for row in condensed] == [row.id for row in ROWS]
    for before, after in zip(ROWS, condensed, strict=True):
        assert (after.instruction, after.output, after.choices) == (before.instruction, before.output, before.choices)
    assert len(condensed[0].input.split()) == round(0.6 * len(CONTEXT.split()))
    assert "5 minutes." in condensed[0].input
    assert ROWS[1].output in condensed[1].input
    assert condensed[3] == ROWS[3]
    assert [(entry["id"], entry["part"]) for entry in record] == [
        (name, "input") for name in ("closed", "span", "unicode")
    ]
    assert all(entry["passed"] for entry in record)


def test_the_record_replays_to_the_condensed_text(loaded):
    condensed, record = condense_examples(ROWS, loaded, settings(0.3, input=0.5, instruction=0.5), 512)
    by_id = {row.id: row for row in ROWS}
    after = {row.id: row for row in condensed}
    for entry in record:
        text = getattr(by_id[entry["id"]], entry["part"])
        words = split_words(text)
        assert entry["words"] == len(words)
        kept = np.isin(np.arange(len(words)), entry["kept"])
        expected = rebuild(text, words, kept) if entry["passed"] else text
        assert getattr(after[entry["id"]], entry["part"]) == expected


def test_a_strict_gate_puts_every_text_back(toy):
    condensed, record = condense_examples(ROWS, toy("tiny-reference"), settings(1.0, input=0.5, output=0.5), 512)
    assert condensed == ROWS
    assert len(record) == 5
    assert not any(entry["passed"] for entry in record)


def test_answers_shrink_only_where_they_are_free_and_nothing_is_ever_emptied(loaded):
    harsh = settings(0.0, input=0.01, output=0.01, instruction=0.01).model_copy(update={"min_words": 1})
    condensed, _ = condense_examples(ROWS, loaded, harsh, 16)
    assert condensed[0].output == "yes"
    assert len(condensed[2].output.split()) < len(CONTEXT.split())
    for before, after in zip(ROWS, condensed, strict=True):
        for part in ("instruction", "input", "output"):
            assert bool(getattr(before, part).strip()) == bool(getattr(after, part).strip())


def test_condensing_twice_gives_the_same(toy):
    options = settings(0.3, input=0.5, output=0.7)
    first, second = (condense_examples(ROWS, toy("tiny-reference"), options, 512) for _ in range(2))
    assert first == second


def test_nothing_to_condense_is_no_error(toy):
    assert condense_examples([], toy("tiny-reference"), settings(0.6), 512) == ([], [])
    assert condense_examples(ROWS, toy("tiny-reference"), settings(0.6, input=1.0), 512) == (ROWS, [])
