from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from damoc.condense.restore import dropped_spans, restore

drafts = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.5, 1.0, 9.0])), min_size=1, max_size=40)


def columns(draft: list[tuple[bool, float]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([kept for kept, _ in draft], dtype=bool), np.array([nats for _, nats in draft], dtype=np.float32)


class WordCount:
    """Passes texts that have enough words, and remembers what it was asked."""

    def __init__(self, needed: list[int]) -> None:
        self.needed = needed
        self.rounds: list[dict[int, int]] = []

    def __call__(self, trials):
        self.rounds.append({index: int(trial.sum()) for index, trial in trials.items()})
        return {index: trial.sum() >= self.needed[index] for index, trial in trials.items()}


@given(drafts)
def test_spans_are_the_dropped_words_in_short_runs_the_most_informative_first(draft):
    kept, surprise = columns(draft)
    spans = dropped_spans(kept, surprise)
    words = [word for start, end in spans for word in range(start, end)]
    assert sorted(words) == np.flatnonzero(~kept).tolist()
    assert all(1 <= end - start <= 4 for start, end in spans)
    keys = [(-surprise[start:end].mean(), start) for start, end in spans]
    assert keys == sorted(keys)


def test_a_long_run_is_cut_into_equal_spans():
    assert sorted(dropped_spans(np.arange(12) < 1, np.zeros(12))) == [(1, 4), (4, 8), (8, 12)]


@given(drafts, st.integers(0, 40))
def test_the_result_keeps_what_was_kept_passes_and_is_the_smallest_that_does(draft, needed):
    kept, surprise = columns(draft)
    gate = WordCount([needed])
    (found,) = restore([kept], [surprise], gate)
    sizes = np.cumsum([kept.sum(), *(end - start for start, end in dropped_spans(kept, surprise))])
    passing = [size for size in sizes[1:-1] if size >= needed]
    assert found.rounds == len(gate.rounds)
    if not passing:
        assert found.kept is None
        return
    assert found.kept.sum() == min(passing)
    assert found.kept[kept].all()
    assert not found.kept.all()


@given(st.lists(st.tuples(drafts, st.integers(0, 40)), max_size=5))
def test_texts_advance_together_and_none_changes_another(texts):
    kept, surprise = [list(side) for side in zip(*(columns(draft) for draft, _ in texts), strict=True)] or ([], [])
    gate = WordCount([needed for _, needed in texts])
    together = restore(kept, surprise, gate)
    assert len(gate.rounds) == max((found.rounds for found in together), default=0)
    for index, (own, nats) in enumerate(zip(kept, surprise, strict=True)):
        alone = WordCount([texts[index][1]])
        (found,) = restore([own], [nats], alone)
        assert [sizes[0] for sizes in alone.rounds] == [sizes[index] for sizes in gate.rounds if index in sizes]
        assert (found.kept is None) == (together[index].kept is None)
        assert found.kept is None or np.array_equal(found.kept, together[index].kept)


@given(drafts)
def test_a_gate_that_nothing_passes_is_asked_few_times(draft):
    kept, surprise = columns(draft)
    (found,) = restore([kept], [surprise], WordCount([99]))
    assert found.kept is None
    assert found.rounds <= 2 * np.log2(max(2, len(dropped_spans(kept, surprise))))


def test_the_most_informative_words_go_back_first():
    kept = np.array([True, False, True, False, True, False])
    surprise = np.array([0, 1, 0, 3, 0, 2], dtype=np.float32)
    (found,) = restore([kept], [surprise], WordCount([4]))
    assert found.kept.tolist() == [True, False, True, True, True, False]


@pytest.mark.parametrize("kept", [[True, True], [True, False], [False]])
def test_where_nothing_or_only_one_span_was_dropped_only_the_original_is_left(kept):
    gate = WordCount([0])
    (found,) = restore([np.array(kept)], [np.zeros(len(kept))], gate)
    assert (found.kept, found.rounds, gate.rounds) == (None, 0, [])


def test_the_words_given_are_not_changed():
    kept = np.array([True, False, False, True, False])
    restore([kept], [np.arange(5.0)], WordCount([4]))
    assert kept.tolist() == [True, False, False, True, False]
