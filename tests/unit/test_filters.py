from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from damoc.errors import DamocError
from damoc.filters import Filter, RowChoice, filter_named, filters
from damoc.filters.registry import choose

ten_rows = {"rows": np.arange(10)}


def test_every_filter_states_its_kind_and_what_it_does():
    found = filters()
    assert {"k_center_greedy", "random"} <= set(found)
    for name, method in found.items():
        assert method.name == name
        assert method.kind in {"distribution", "quality", "hybrid", "baseline"}
        assert method.summary.endswith(".")


def test_an_unknown_filter_names_the_closest_one_and_all_others():
    with pytest.raises(DamocError) as caught:
        filter_named("k_centre_greedy")
    (problem,) = caught.value.problems
    assert problem.where == "field data_compression.filter.method"
    assert "did you mean 'k_center_greedy'?" in problem.fix
    assert "random" in problem.fix


def test_a_name_like_no_other_gets_no_guess():
    with pytest.raises(DamocError) as caught:
        filter_named("zzzzzz")
    assert "did you mean" not in str(caught.value)


@given(st.integers(1, 50), st.integers(0, 2**32 - 1), st.data())
def test_random_repeats_itself_and_nests(rows, seed, data):
    budget = data.draw(st.integers(1, rows))
    signals = {"rows": np.arange(rows)}
    chosen = choose(filter_named("random"), signals, budget, seed)
    assert chosen == choose(filter_named("random"), signals, budget, seed)
    assert chosen.rows == choose(filter_named("random"), signals, rows, seed).rows[:budget]


def test_random_depends_on_its_seed_and_is_uniform():
    draws = [choose(filter_named("random"), ten_rows, 3, seed).rows for seed in range(2000)]
    shares = np.bincount(np.ravel(draws), minlength=10) / len(draws)
    assert np.abs(shares - 0.3).max() < 0.05


@pytest.mark.parametrize(
    ("rows", "what"),
    [((0, 1), "chose 2 rows"), ((0, 1, 1), "2 of them distinct"), ((0, 1, 10), "2 of them distinct")],
    ids=["too few", "repeated", "out of range"],
)
def test_a_filter_that_breaks_its_promise_is_caught(rows, what):
    broken = Filter("broken", "baseline", (), lambda signals, budget, rng: RowChoice(rows))
    with pytest.raises(AssertionError, match=what):
        choose(broken, ten_rows, 3, 0)
