from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from damoc.tuning.schedule import epoch_batches, learning_rate_factor

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
