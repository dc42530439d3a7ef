"""Farthest-first traversal against an implementation that recomputes every distance, and against the optimum."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import pairwise_distances_argmin_min

from damoc.filters import RowSelection, choose, filter_named
from damoc.filters.distribution import look_ahead

integer_points = st.integers(1, 14).flatmap(
    lambda rows: arrays(np.float32, (rows, 3), elements=st.integers(-4, 4).map(float))
)


def run(points: np.ndarray, budget: int, seed: int = 0) -> RowSelection:
    signals = {"rows": np.arange(len(points)), "embedding": points}
    return choose(filter_named("k_center_greedy"), signals, budget, seed)


def farthest_first(points: np.ndarray, budget: int) -> list[int]:
    points = points.astype(np.float64)
    table = np.round(((points[:, None] - points[None]) ** 2).sum(axis=2), 9)
    to_mean = np.round(((points - points.mean(axis=0)) ** 2).sum(axis=1), 9)
    chosen = [min(range(len(points)), key=lambda row: (to_mean[row], row))]
    while len(chosen) < budget:
        left = [row for row in range(len(points)) if row not in chosen]
        chosen.append(max(left, key=lambda row: (min(table[row, other] for other in chosen), -row)))
    return chosen


def radius(points: np.ndarray, centres: tuple[int, ...]) -> float:
    _, distances = pairwise_distances_argmin_min(points.astype(np.float64), points[list(centres)].astype(np.float64))
    return float(distances.max())


@given(integer_points, st.data())
def test_picks_are_those_of_the_brute_force_even_with_ties_and_repeated_points(points, data):
    budget = data.draw(st.integers(1, len(points)))
    assert list(run(points, budget).ids) == farthest_first(points, budget)


@pytest.mark.parametrize("seed", range(5))
def test_picks_on_unit_embeddings_are_those_of_the_brute_force(seed):
    points = np.random.default_rng(seed).normal(size=(60, 32)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    assert list(run(points, 25).ids) == farthest_first(points, 25)


@given(integer_points, st.data())
def test_the_trace_is_the_covering_radius_after_each_choice_and_never_grows(points, data):
    budget = data.draw(st.integers(1, len(points)))
    choice = run(points, budget)
    assert np.allclose(choice.trace, [radius(points, choice.ids[: size + 1]) for size in range(budget)], atol=1e-4)
    assert list(choice.trace) == sorted(choice.trace, reverse=True)


@pytest.mark.parametrize("seed", range(20))
def test_the_radius_is_at_most_twice_the_optimum(seed):
    points = np.random.default_rng(seed).normal(size=(10, 2)).astype(np.float32)
    optimum = min(radius(points, centres) for centres in combinations(range(10), 3))
    assert run(points, 3).trace[-1] <= 2 * optimum + 1e-6


@given(integer_points, st.data())
def test_a_smaller_budget_chooses_a_prefix_whatever_the_seed(points, data):
    small = data.draw(st.integers(1, len(points)))
    assert run(points, len(points), seed=1).ids[:small] == run(points, small, seed=2).ids


def test_points_on_a_line_are_taken_from_the_middle_to_the_ends():
    line = np.arange(10, dtype=np.float32)[:, None]
    assert run(line, 3).ids == (4, 9, 0)


def test_more_rows_than_distinct_points_are_chosen_in_their_order():
    assert run(np.ones((5, 4), dtype=np.float32), 5).ids == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("repeats", [1, 5])
def test_following_few_rows_gives_the_picks_of_the_brute_force(repeats, monkeypatch):
    monkeypatch.setattr(look_ahead, "LEADERS", 24)
    points = np.random.default_rng(repeats).normal(size=(300 // repeats, 8)).astype(np.float32)
    points = np.repeat(points, repeats, axis=0)
    assert list(run(points, 150).ids) == farthest_first(points, 150)
