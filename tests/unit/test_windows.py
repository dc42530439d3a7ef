from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from damoc.condense.apply import rebuild
from damoc.condense.windows import kept_windows, rewritten_windows
from damoc.condense.words import split_words

ROOM = 24
texts = st.lists(st.sampled_from(["a", "bb", "c.", "ddd\n", "ee?", "x" * 70, "東京" * 9]), max_size=90).map(" ".join)


def count(words: list[str]) -> list[int]:
    """Three characters are a token."""
    return [-(-len(word) // 3) for word in words]


def joined(parts: list[str]) -> str:
    return "".join("".join(parts).split())


@given(texts, st.randoms(use_true_random=False))
def test_windows_cover_both_sides_in_their_order_and_fit_the_encoder(text, random):
    words = split_words(text)
    kept = np.array([random.random() < 0.6 for _ in words], dtype=bool)
    windows = kept_windows(text, words, kept, count, ROOM)
    assert joined([window.original for window in windows]) == joined([text])
    assert joined([window.candidate for window in windows]) == joined([rebuild(text, words, kept)])
    assert all(window.candidate_tokens <= window.original_tokens <= 1.4 * ROOM for window in windows)


@given(texts, texts)
def test_a_text_and_its_rewrite_have_as_many_windows(text, candidate):
    windows = rewritten_windows(text, candidate, count, ROOM)
    assert joined([window.original for window in windows]) == joined([text])
    assert joined([window.candidate for window in windows]) == joined([candidate])
    assert all(window.candidate_tokens <= 1.4 * ROOM for window in windows)


@given(texts)
def test_a_text_is_cut_the_same_whatever_became_of_it(text):
    words = split_words(text)
    kept = np.arange(len(words)) % 2 == 0
    of_words = kept_windows(text, words, kept, count, ROOM)
    of_rewrite = rewritten_windows(text, rebuild(text, words, kept), count, ROOM)
    assert [window.original for window in of_words] == [window.original for window in of_rewrite]


def test_a_short_text_is_one_window_whatever_its_words():
    (window,) = rewritten_windows(f"{'x' * 60}  and\nmore", "and more", count, ROOM)
    assert (window.original, window.candidate) == (f"{'x' * 60} and more", "and more")


def test_a_cut_moves_to_a_sentence_end_nearby():
    words = [f"w{place}" for place in range(48)]
    words[24] = "end."
    windows = rewritten_windows(" ".join(words), " ".join(words[:40]), lambda own: [1] * len(own), ROOM)
    assert windows[0].original.endswith("end.")
    assert windows[1].original.startswith("w25")


def test_what_is_scored_is_what_is_rebuilt_where_scripts_mix():
    text = "我們使用Python語言以及Java進行開發, and so on."
    words = split_words(text)
    kept = np.array([not {"語", "言", "以", "及"} & set(text[word.start : word.end]) for word in words])
    (window,) = kept_windows(text, words, kept, count, 200)
    assert "Python Java" in window.candidate
    assert window.candidate == " ".join(rebuild(text, words, kept).split())
