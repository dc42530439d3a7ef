from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from damoc.evaluation.row_scores import RowScores
from damoc.selection.ranking import Standing, explain, rank

Rows = dict[str, RowScores]


def made(seed: int, candidates: int = 4, rows: int = 40) -> Rows:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(5, 60, rows).astype(float)
    hardness = rng.normal(2, 1, rows)
    return {
        f"c{at}": RowScores.ratio(sizes * np.abs(hardness + rng.normal(0.1 * at, 0.3, rows)), sizes + at % 2)
        for at in range(candidates)
    }


def accuracies(*hits: list[int]) -> Rows:
    return {f"c{at}": RowScores.mean(values) for at, values in enumerate(hits)}


def ratio(records: np.ndarray) -> float:
    return records[:, 0].sum() / records[:, 1].sum()


@pytest.mark.parametrize("higher", [True, False])
def test_intervals_and_shares_are_those_of_a_loop_over_the_resamples(higher):
    rows, resamples, confidence = made(3), 700, 0.9
    standings = rank(rows, higher, confidence, resamples, seed=5)
    rng = np.random.default_rng(5)
    ids, scores, best = sorted(rows), {name: [] for name in rows}, dict.fromkeys(rows, 0.0)
    for start in range(0, resamples, 256):
        for weights in rng.multinomial(40, np.full(40, 1 / 40), size=min(256, resamples - start)):
            drawn = np.repeat(np.arange(40), weights)
            now = {name: ratio(rows[name].records[drawn]) for name in ids}
            for name, score in now.items():
                scores[name].append(score)
            best[(max if higher else min)(now, key=now.__getitem__)] += 1 / resamples
    leader = np.array(scores[standings[0].candidate_id])
    for standing in standings:
        own = np.array(scores[standing.candidate_id])
        assert standing.score == pytest.approx(ratio(rows[standing.candidate_id].records))
        assert (standing.low, standing.high) == pytest.approx(tuple(np.quantile(own, [0.05, 0.95])))
        assert standing.p_best == pytest.approx(best[standing.candidate_id])
        low, high = np.quantile(own - leader, [0.05, 0.95])
        assert standing.among_best == (low <= 0 <= high)


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 30), st.booleans())
def test_the_order_follows_the_score(seed, candidates, rows, higher):
    standings = rank(made(seed, candidates, rows), higher, 0.9, 100, seed=1)
    scores = [standing.score for standing in standings]
    assert scores == sorted(scores, reverse=higher)
    assert [standing.rank for standing in standings] == list(range(1, candidates + 1))
    assert standings[0].among_best
    assert sum(standing.p_best for standing in standings) == pytest.approx(1)
    assert all(standing.low <= standing.high for standing in standings)


@given(st.integers(0, 10**6), st.randoms(use_true_random=False))
def test_the_order_of_the_candidates_and_the_direction_of_the_sign_do_not_matter(seed, random):
    rows = made(seed)
    names = list(rows)
    random.shuffle(names)
    ranked = rank(rows, False, 0.9, 100, seed=2)
    assert ranked == rank({name: rows[name] for name in names}, False, 0.9, 100, seed=2)
    turned = rank({name: RowScores(own.records * [-1, 1]) for name, own in rows.items()}, True, 0.9, 100, 2)
    assert [standing.candidate_id for standing in turned] == [standing.candidate_id for standing in ranked]
    assert [standing.p_best for standing in turned] == [standing.p_best for standing in ranked]


def test_candidates_that_score_the_same_stand_in_the_order_of_their_names_and_share_the_first_place():
    standings = rank(accuracies([1, 0, 1, 0], [1, 0, 1, 0]), True, 0.9, 200, seed=0)
    assert [standing.candidate_id for standing in standings] == ["c0", "c1"]
    assert [standing.p_best for standing in standings] == [0.5, 0.5]
    assert all(standing.among_best for standing in standings)


def test_a_clear_leader_stands_alone():
    standings = rank(accuracies([0] * 45 + [1] * 5, [1] * 45 + [0] * 5), True, 0.9, 500, seed=0)
    assert [standing.candidate_id for standing in standings] == ["c1", "c0"]
    assert [standing.among_best for standing in standings] == [True, False]
    assert standings[0].p_best == 1.0


def test_what_makes_a_row_hard_for_everyone_cancels_out():
    """The intervals overlap widely; the paired difference is still clear."""
    hardness = np.random.default_rng(0).normal(10, 5, 60)
    standings = rank({"a": RowScores.mean(hardness), "b": RowScores.mean(hardness + 0.1)}, False, 0.95, 300, seed=0)
    assert standings[1].low < standings[0].high
    assert not standings[1].among_best


def test_one_candidate_is_first_and_none_is_no_ranking():
    (only,) = rank(accuracies([1, 0, 1]), True, 0.9, 100, seed=0)
    assert (only.rank, only.p_best, only.among_best) == (1, 1.0, True)
    assert rank({}, True, 0.9, 100, seed=0) == []


def test_the_seed_decides_the_resamples():
    first, same, other = (rank(made(1), True, 0.9, 150, seed) for seed in (1, 1, 2))
    assert first == same != other


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(9)
    covered = 0
    for seed in range(200):
        (standing,) = rank({"a": RowScores.mean(rng.binomial(1, 0.6, 120))}, True, 0.9, 200, seed)
        covered += standing.low <= 0.6 <= standing.high
    assert 0.82 < covered / 200 < 0.97


def standing(name: str, among_best: bool, p_best: float = 0.25) -> Standing:
    return Standing(name, 1, 0.61234, 0.5, 0.7, p_best, among_best)


@pytest.mark.parametrize(
    ("standings", "confidence", "text"),
    [
        ([standing("a", True, 1.0)], 0.9, "a has the highest accuracy (0.6123) and is best in 100% of the resamples."),
        (
            [standing("a", True, 0.995), standing("b", False)],
            0.9,
            "a has the highest accuracy (0.6123) and is best in 99.5% of the resamples. "
            "At 90% confidence it is better than every other candidate.",
        ),
        (
            [standing("a", True), standing("b", True), standing("c", False), standing("d", True), standing("e", True)],
            0.975,
            "a has the highest accuracy (0.6123) and is best in 25% of the resamples. "
            "At 97.5% confidence these rows cannot tell it from b, d and e.",
        ),
    ],
)
def test_the_explanation_says_who_leads_and_who_cannot_be_told_from_it(standings, confidence, text):
    assert explain(standings, "accuracy", True, confidence) == text


def test_the_explanation_knows_that_less_can_be_better():
    assert explain([standing("a", True)], "bits_per_byte", False, 0.9).startswith("a has the lowest bits_per_byte")
