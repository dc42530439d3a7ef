"""Metrics over any set of rows, and their bootstrap, against scikit-learn and a loop."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from damoc.evaluation.row_scores import RowScores
from damoc.selection.bootstrap import interval, resample

LABELS = ("yes", "no", "maybe")
PAIRS = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=30)


@given(PAIRS)
def test_macro_f1_is_that_of_scikit_learn(pairs):
    answers, predictions = zip(*pairs, strict=True)
    expected = f1_score(answers, predictions, average="macro", zero_division=0)
    assert RowScores.macro_f1(answers, predictions).score() == pytest.approx(expected)


def test_macro_f1_of_a_majority_answer_on_pubmedqa_is_the_published_one():
    """276 yes, 169 no, 55 maybe in the test split: always yes has accuracy 0.552 and macro-F1 0.237."""
    answers = ["yes"] * 276 + ["no"] * 169 + ["maybe"] * 55
    assert RowScores.macro_f1(answers, ["yes"] * 500).score() == pytest.approx(0.2371, abs=1e-4)


def test_a_resample_of_macro_f1_is_macro_f1_of_the_resampled_rows():
    rng = np.random.default_rng(1)
    answers, predictions = (rng.choice(LABELS, 25).tolist() for _ in range(2))
    draws = resample([RowScores.macro_f1(answers, predictions)], 300, seed=4)[:, 0]
    again = np.random.default_rng(4)
    expected = []
    for size in (256, 44):
        for weights in again.multinomial(25, np.full(25, 1 / 25), size=size):
            drawn = np.repeat(np.arange(25), weights)
            sides = ([side[at] for at in drawn] for side in (answers, predictions))
            expected.append(f1_score(*sides, average="macro", zero_division=0))
    assert draws == pytest.approx(expected)
    low, high = interval(RowScores.macro_f1(answers, predictions), 0.9, 300, seed=4)
    assert (low, high) == pytest.approx(tuple(np.quantile(expected, [0.05, 0.95])))


def test_a_ratio_of_sums_is_no_mean_of_ratios():
    scores = RowScores.ratio([2.0, 30.0], [1.0, 10.0])
    assert scores.score() == pytest.approx(32 / 11)
    assert RowScores(scores.records, "exp_ratio").score() == pytest.approx(math.exp(32 / 11))
    assert RowScores.mean([1, 0, 0, 1]).score() == 0.5
    assert RowScores.ratio([0.0], [0.0]).score() == 0.0


@pytest.mark.parametrize(
    "scores", [RowScores.ratio([1 / 3, 2.0], [1.0, 3.0]), RowScores.macro_f1(LABELS, LABELS[::-1])]
)
def test_scores_survive_json_to_six_decimals(scores):
    again = RowScores.from_json(json.loads(json.dumps(scores.to_json())))
    assert np.abs(again.records - scores.records).max() < 1e-6
    assert again.score() == pytest.approx(scores.score(), abs=1e-6)
