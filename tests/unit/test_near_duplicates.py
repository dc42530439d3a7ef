from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from damoc.data.near_duplicates import near_duplicates, shingles

few_words = st.lists(st.sampled_from("cache key value list server".split()), max_size=7).map(" ".join)


def similarity(left: str, right: str) -> float:
    runs = []
    for text in (left, right):
        words = text.lower().split()
        runs.append({tuple(words[at : at + 3]) for at in range(max(1, len(words) - 2))})
    return len(runs[0] & runs[1]) / len(runs[0] | runs[1])


def brute_force(texts: list[str], threshold: float) -> dict[int, int]:
    repeats: dict[int, int] = {}
    for index, text in enumerate(texts):
        firsts = [other for other in range(index) if other not in repeats]
        match = next((other for other in firsts if similarity(text, texts[other]) >= threshold), None)
        if match is not None:
            repeats[index] = match
    return repeats


@given(st.lists(few_words, max_size=12))
def test_equal_texts_are_found_exactly_as_brute_force_finds_them(texts):
    assert near_duplicates(texts, threshold=1.0) == brute_force(texts, 1.0)


@given(st.lists(few_words, max_size=12), st.sampled_from([0.5, 0.8]))
def test_what_is_reported_is_similar_and_points_to_a_text_that_stays(texts, threshold):
    repeats = near_duplicates(texts, threshold)
    for index, first in repeats.items():
        assert first < index
        assert first not in repeats
        assert similarity(texts[index], texts[first]) >= threshold


def edited(words: list[str], changes: int) -> str:
    """The words with their ends replaced: each replaced word takes one 3-word run with it."""
    return " ".join([*words[: len(words) - changes], *(f"other{at}" for at in range(changes))])


def test_pairs_above_the_threshold_are_found_nearly_always():
    draw = random.Random(3)
    texts = []
    for pair in range(300):
        words = [f"word{draw.randrange(10**6)}p{pair}" for _ in range(60)]
        texts += [" ".join(words), edited(words, 6)]
    assert 0.80 < similarity(texts[0], texts[1]) < 0.83
    repeats = near_duplicates(texts, threshold=0.8)
    assert len(repeats) >= 298
    assert all(first == index - 1 for index, first in repeats.items())


def test_pairs_below_the_threshold_are_left_alone():
    words = [f"w{at}" for at in range(60)]
    assert 0.7 < similarity(" ".join(words), edited(words, 9)) < 0.75
    assert near_duplicates([" ".join(words), edited(words, 9)], threshold=0.8) == {}


def test_case_and_punctuation_do_not_matter():
    assert near_duplicates(["Delete the cache, then restart!", "delete THE cache then; restart"]) == {1: 0}


def test_short_texts_are_one_shingle():
    assert len(shingles("")) == len(shingles("a")) == len(shingles("a b c")) == 1
    assert len(shingles("a b c d")) == 2


def test_no_texts_have_no_repeats():
    assert near_duplicates([]) == {}
