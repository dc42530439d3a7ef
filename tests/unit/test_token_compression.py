from __future__ import annotations

import re

import numpy as np
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from damoc.condense.apply import rebuild
from damoc.condense.decide import free_budget, keep_best, keep_words, segment_budget
from damoc.condense.words import Word, split_words

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


texts = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="ab .\n\t東京はカナー。「」ก็้é\u0301\u00a0\U0001f468\u200d\ufe0f1%", max_size=60),
)


def draw_kept(words: list[Word], random) -> np.ndarray:
    return np.array([random.random() < 0.5 for _ in words], dtype=bool)


@given(texts, st.randoms(use_true_random=False))
def test_what_is_rebuilt_is_the_kept_words_in_their_order(text, random):
    words = split_words(text)
    kept = draw_kept(words, random)
    rebuilt = rebuild(text, words, kept)
    stay = [text[word.start : word.end] for word, stays in zip(words, kept, strict=True) if stays]
    assert "".join(rebuilt.split()) == "".join(stay)
    assert rebuilt == rebuilt.strip()
    assert len(rebuilt) <= len(text)


@given(st.text(alphabet="aZ1é\u0301 東のカก.,", max_size=40), st.randoms(use_true_random=False))
def test_dropping_what_stands_between_words_glues_none_together(text, random):
    words = split_words(text)
    kept = draw_kept(words, random)
    stay = [text[word.start : word.end] for word, stays in zip(words, kept, strict=True) if stays]
    spaced = r"(?:[aZ1é]\u0301*)+"
    assert re.findall(spaced, rebuild(text, words, kept)) == [run for word in stay for run in re.findall(spaced, word)]


@given(texts)
def test_a_text_of_which_all_is_kept_is_the_text(text):
    words = split_words(text)
    assert rebuild(text, words, np.ones(len(words), dtype=bool)) == text.strip()


@pytest.mark.parametrize(
    ("text", "dropped", "rebuilt"),
    [
        ("a b c", {1}, "a c"),
        ("a\nb c", {1}, "a\nc"),
        ("a\n\n\nb", set(), "a\n\n\nb"),
        ("a\n\n\nb c", {1}, "a\n\nc"),
        ("a\nb\nc\nd", {1, 2}, "a\n\nd"),
        ("\n a  b\t\tc d e", {3}, "a  b\t\tc e"),
        ("def f():\n    return x", set(), "def f():\n    return x"),
        ("東京は人口が多い", {1, 2}, "東京が多い"),
        ("東京 は人口", {1}, "東京 人口"),
        ("a b", {0, 1}, ""),
        ("使用Python以及Java。", {2}, "使用Python Java。"),
        ("使用Python,以及Java", {2}, "使用Python, Java"),
        ("長3約5倍", {2}, "長3 5倍"),
        ("長3.約5倍", {2}, "長3. 5倍"),
        ("使用Python，以及「Java」", {2}, "使用Python，「Java」"),
        ("한국어中文은행", {1}, "한국어 은행"),
        ("東京は人口", {1}, "東京人口"),
        ("GPU上で速い", {1}, "GPUで速い"),
    ],
)
def test_line_breaks_stay_and_a_gap_becomes_one_space(text, dropped, rebuilt):
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
        ("we counted 12 apples and 3.5% more in 5 minutes", ["12", "3.5%", "more", "5", "minutes"]),
        ("a dose of 5 mg was given", ["5", "mg"]),
        ("a dose (5 mg) and $5 mn here", ["(5", "mg)", "$5", "mn"]),
        ("it does not stop, never, and it doesn't or didn’t start", ["not", "never,", "doesn't", "didn’t"]),
        ("cannot work without power nor light", ["cannot", "without", "nor"]),
        ("costs less than before but lasts longer", ["less", "than"]),
        ("this is what and why we ask? yes", ["what", "why", "ask?", "yes"]),
        ("The gene BRCA1 in Paris codes for mRNA", ["BRCA1", "Paris", "mRNA"]),
        ("This ends. Here begins", []),
        ('he said "this" and `that` or x<y', ['"this"', "`that`", "x<y"]),
        ("plain\n- bullet text\nplain again\nA. option text", ["-", "bullet", "text", "A.", "option", "text"]),
        ("- " + "plain words here " * 5, ["-"]),
        ("so\n# short heading\nit goes", ["#", "short", "heading"]),
        ("so | it\n| a | b |\nx\ty\tz", ["|", "a", "|", "b", "|", "x", "y", "z"]),
        ('he said "in a few words" then', ['"in', "a", "few", 'words"']),
        ("in 2020 the cost of 3 million dollars", ["2020", "3", "million", "dollars"]),
        ("weighs 5 kilograms, or 7 milligrams (per 3 litres)", ["5", "kilograms,", "7", "milligrams", "3", "litres)"]),
        ("for 7 milliseconds then seven weeks and 3 hours", ["7", "milliseconds", "seven", "weeks", "3", "hours"]),
        ("at 20 degrees celsius and 5 per cent", ["20", "degrees", "celsius", "5", "per", "cent"]),
        ("about 5 mmol/l; or 3 kilometers per hour", ["5", "mmol/l;", "3", "kilometers", "per", "hour"]),
        ("about 6 euros, 8 rupees and 9 square metres", ["6", "euros,", "8", "rupees", "9", "square", "metres"]),
        ("a five-year plan for thirteen non-smokers", ["five-year", "thirteen", "non-smokers"]),
        ("er sah drei häuser und kein tier", ["drei", "kein"]),
        ("in 2024年，多くは三十五個", ["2024", "年，", "三十", "五個"]),
        ("then two of them or half", ["two", "half"]),
        ("run ```x = y\nz = w``` now", ["```x", "=", "y", "z", "=", "w```"]),
        ("東京は2024年に多くない", ["2024", "年", "くない"]),
        ("price ٣ or ３ or Ⅳ", ["٣", "３", "Ⅳ"]),
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
def test_words_are_the_runs_without_white_space_where_a_script_writes_spaces(text):
    plain = regex.sub(r"[\p{Han}\p{Hiragana}\p{Katakana}ー\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]", "x", text)
    assert [plain[word.start : word.end] for word in split_words(plain)] == plain.split()


@given(texts)
def test_words_cover_all_but_white_space_and_cut_no_grapheme_cluster(text):
    covered = [at for word in split_words(text) for at in range(word.start, word.end)]
    assert covered == [at for at, character in enumerate(text) if not character.isspace()]
    for run in regex.finditer(r"\S+", text):
        clusters = {run.start() + cluster.start() for cluster in regex.finditer(r"\X", run.group())}
        starts = {word.start for word in split_words(text) if run.start() <= word.start < run.end()}
        assert starts <= clusters


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("東京は人口が多い。", ["東京", "は", "人口", "が", "多", "い。"]),
        ("（大阪）のカタカナ", ["（大阪）", "の", "カタカナ"]),
        ("한국어는 띄어쓰기가 있다", ["한국어는", "띄어쓰기가", "있다"]),
        ("GPU上で3倍速い", ["GPU", "上", "で", "3", "倍速", "い"]),
        ("a👨\u200d👩\u200d👧b e\u0301", ["a👨\u200d👩\u200d👧b", "e\u0301"]),
    ],
)
def test_scripts_without_spaces_are_cut_into_short_units(text, words):
    assert [text[word.start : word.end] for word in split_words(text)] == words


def test_a_text_without_spaces_can_be_shortened():
    text = "東京は日本の首都であり世界で最も人口の多い都市の一つとして知られている。" * 3
    words = split_words(text)
    kept = keep_words(np.arange(len(words)) % 3, np.array([word.protected for word in words]), 0.5)
    assert 0.3 * len(text) < len(rebuild(text, words, kept)) < 0.8 * len(text)


@given(word_scores, st.integers(1, 6), rates)
def test_segments_share_the_budget_of_their_text(scores, size, rate):
    importance, protected = columns(scores)
    budget, kept = free_budget(protected, rate), []
    for start in range(0, len(scores), size):
        own = slice(start, start + size)
        share = segment_budget(budget, int((~protected[own]).sum()), int((~protected[start:]).sum()))
        assert 0 <= share <= (~protected[own]).sum() or budget > (~protected[start:]).sum()
        kept.append(keep_best(importance[own], protected[own], share))
        budget -= share
    assert sum(int(part.sum()) for part in kept) == keep_words(importance, protected, rate).sum()
