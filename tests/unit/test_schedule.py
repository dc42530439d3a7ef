from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from damoc.tuning.schedule import (
    blown_up,
    epoch_batches,
    learning_rate_factor,
    steps_of_epochs,
    steps_of_tokens,
    training_batches,
)

lengths_of = st.lists(st.integers(1, 99), min_size=1, max_size=120)


@given(lengths_of, st.integers(1, 7), st.integers(0, 99))
def test_every_row_stands_in_exactly_one_batch(lengths, batch_size, seed):
    batches = epoch_batches(lengths, batch_size, np.random.default_rng(seed))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // batch_size)
    assert sorted((len(batch) for batch in batches), reverse=True)[:-1] == [batch_size] * (len(batches) - 1)


def test_epochs_differ_and_seeds_repeat_them():
    rng = np.random.default_rng(4)
    first, second = (epoch_batches(range(1, 50), 4, rng) for _ in range(2))
    assert first != second
    assert first == epoch_batches(range(1, 50), 4, np.random.default_rng(4))


def test_rows_of_a_batch_have_similar_lengths():
    lengths = np.random.default_rng(0).integers(1, 1000, 256).tolist()
    batches = epoch_batches(lengths, 8, np.random.default_rng(1))
    spread = np.mean([np.ptp([lengths[row] for row in batch]) for batch in batches])
    assert spread < 200 < np.mean([np.ptp(lengths[at : at + 8]) for at in range(0, 256, 8)])


def test_batches_do_not_come_in_the_order_of_their_lengths():
    lengths = list(range(64))
    batches = epoch_batches(lengths, 8, np.random.default_rng(1))
    assert [min(batch) for batch in batches] != sorted(min(batch) for batch in batches)


@given(st.integers(1, 400), st.floats(0, 0.99))
def test_the_rate_rises_to_its_peak_and_then_falls_towards_zero(steps, warmup_fraction):
    factors = [learning_rate_factor(step, steps, warmup_fraction) for step in range(steps)]
    peak = int(np.argmax(factors))
    assert factors[peak] == pytest.approx(1.0)
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


def test_the_warm_up_is_linear_and_the_rest_a_cosine():
    factors = [learning_rate_factor(step, 20, 0.2) for step in range(20)]
    assert factors[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert factors[12] == pytest.approx(0.5)
    assert learning_rate_factor(20, 20, 0.2) == pytest.approx(0.0)
    assert factors[8] == pytest.approx(0.5 * (1 + np.cos(np.pi / 4)))


@pytest.mark.parametrize(
    ("rows", "batch_size", "epochs", "steps"), [(12, 4, 3, 9), (13, 4, 3, 12), (12, 4, 0.5, 2), (12, 4, 0.01, 1)]
)
def test_epochs_are_passes_over_all_batches(rows, batch_size, epochs, steps):
    assert steps_of_epochs(rows, batch_size, epochs) == steps


@given(lengths_of, st.integers(1, 7), st.integers(0, 99), st.floats(0.5, 2000))
def test_no_other_number_of_steps_comes_closer_to_a_budget_of_tokens(lengths, batch_size, seed, tokens):
    steps = steps_of_tokens(lengths, batch_size, seed, tokens)
    taken = islice(training_batches(lengths, batch_size, seed), steps + 1)
    spent = np.cumsum([sum(lengths[row] for row in batch) for batch in taken])
    distance = np.abs(spent - tokens)
    assert steps >= 1
    assert distance[steps - 1] == distance.min()


def test_training_batches_are_those_of_one_epoch_after_another():
    rng = np.random.default_rng(4)
    expected = [*epoch_batches(range(1, 50), 4, rng), *epoch_batches(range(1, 50), 4, rng)]
    assert list(islice(training_batches(range(1, 50), 4, 4), len(expected))) == expected


@pytest.mark.parametrize(
    ("losses", "start", "verdict"),
    [
        ([7, 7, 7], 2.0, True),
        ([7, 7], 2.0, False),
        ([7, 5.9, 7], 2.0, False),
        ([9, 9, 9, 5], 2.0, False),
        ([5, 7, 7, 7], 2.0, True),
        ([0.9, 0.9, 0.9], 0.01, False),
        ([3.1, 3.1, 3.1], 0.01, True),
    ],
)
def test_only_losses_that_stay_far_above_their_start_are_blown_up(losses, start, verdict):
    assert blown_up(losses, start, factor=3.0, patience=3) is verdict
