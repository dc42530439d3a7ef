from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from damoc.errors import DamocError
from damoc.filters import RowSelection, choose, filter_named
from damoc.filters.distribution import look_ahead
from damoc.filters.distribution.fixed_point import fixed_point, unit_fixed_point

GREEDY = ["k_center_greedy", "graph_cut", "facility_location", "herding"]
ALL = [*GREEDY, "dq"]

rows_with_ties = st.integers(1, 14).flatmap(
    lambda rows: arrays(np.float32, (rows, 3), elements=st.integers(-3, 3).map(float))
)


def run(name: str, points: np.ndarray, budget: int, seed: int = 0, **options: object) -> RowSelection:
    signals = {"rows": np.arange(len(points)), "embedding": points}
    return choose(filter_named(name), signals, budget, seed, options)


def generic_rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 12)).astype(np.float32)


@pytest.mark.parametrize("name", ALL)
@given(points=rows_with_ties, data=st.data())
@settings(max_examples=30)
def test_repeated_rows_and_zeros_never_give_repeated_choices(name, points, data):
    budget = data.draw(st.integers(1, len(points)))
    selection = run(name, points, budget)
    assert len(set(selection.ids)) == budget
    assert np.isfinite(selection.trace).all()
    assert [reason.startswith("kept: ") for reason in selection.why] == [
        row in selection.ids for row in range(len(points))
    ]


@pytest.mark.parametrize("name", GREEDY)
@given(points=rows_with_ties, data=st.data())
@settings(max_examples=30)
def test_a_smaller_budget_chooses_a_prefix_whatever_the_seed(name, points, data):
    small = data.draw(st.integers(1, len(points)))
    assert run(name, points, len(points), seed=1).ids[:small] == run(name, points, small, seed=2).ids


@pytest.mark.parametrize("name", GREEDY)
@given(order=st.permutations(range(25)), seed=st.integers(0, 5))
@settings(max_examples=20)
def test_the_order_of_the_rows_does_not_matter(name, order, seed):
    points = generic_rows(25, seed)
    shuffled = run(name, points[list(order)], 12)
    assert [order[row] for row in shuffled.ids] == list(run(name, points, 12).ids)


@pytest.mark.parametrize("name", ["graph_cut", "facility_location", "herding"])
def test_the_length_of_a_row_does_not_matter(name):
    points = generic_rows(30)
    assert run(name, points * np.linspace(1, 9, 30, dtype=np.float32)[:, None], 10).ids == run(name, points, 10).ids


@pytest.mark.parametrize("name", ["graph_cut", "facility_location", "k_center_greedy"])
def test_two_clusters_both_give_one_of_the_first_two_rows(name):
    points = np.concatenate([generic_rows(20) * 0.1 + 1, generic_rows(20, 1) * 0.1 - 1])
    first, second = run(name, points, 2, **({"coverage_weight": 0.1} if name == "graph_cut" else {})).ids
    assert (first < 20) != (second < 20)


@pytest.mark.parametrize("name", ALL)
def test_an_embedding_that_is_not_finite_is_named(name):
    points = generic_rows(5)
    points[3, 1] = np.nan
    with pytest.raises(DamocError, match="row 3"):
        run(name, points, 2)


def test_graph_cut_counts_choices_that_lower_the_objective():
    few, all_rows = (run("graph_cut", generic_rows(40), budget) for budget in (5, 40))
    assert few.facts["negative_gains"] == 0
    assert all_rows.facts["negative_gains"] == sum(gain < 0 for gain in all_rows.trace) > 0
    assert all_rows.trace[18] > 0 > all_rows.trace[22]


def test_facility_location_never_gains_more_than_before():
    trace = run("facility_location", generic_rows(80), 80).trace
    assert list(trace) == sorted(trace, reverse=True)


def test_herding_follows_the_mean():
    points = generic_rows(300)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    selection = run("herding", points, 60)
    gaps = [np.linalg.norm(unit[list(selection.ids[:size])].mean(axis=0) - unit.mean(axis=0)) for size in (5, 20, 60)]
    assert gaps[0] > gaps[1] > gaps[2]
    assert np.allclose([selection.trace[size - 1] for size in (5, 20, 60)], gaps, atol=1e-4)
    draws = np.random.default_rng(0)
    random_gaps = [
        np.linalg.norm(unit[draws.permutation(300)[:60]].mean(axis=0) - unit.mean(axis=0)) for _ in range(50)
    ]
    assert gaps[2] < min(random_gaps)


def test_k_center_neither_chooses_nor_covers_outliers():
    points = np.concatenate([generic_rows(18) * 0.1, 50 + generic_rows(2, 1)])
    assert {18, 19} & set(run("k_center_greedy", points, 3).ids)
    selection = run("k_center_greedy", points, 3, outlier_quantile=0.1)
    assert not {18, 19} & set(selection.ids)
    assert selection.facts["outliers"] == 2
    assert selection.facts["radius"] < 2
    assert selection.why[18] == selection.why[19] == "cut: outlier"


def test_outliers_fill_a_budget_that_the_others_cannot():
    points = np.concatenate([generic_rows(18) * 0.1, [np.full(12, 60), np.full(12, 50)]]).astype(np.float32)
    selection = run("k_center_greedy", points, 19, outlier_quantile=0.1)
    assert selection.ids[-1] == 19
    assert selection.facts["outliers_kept"] == 1
    assert selection.why[19] == "kept: choice 19, to fill up"


@pytest.mark.parametrize("count", [1, 7, 20])
@pytest.mark.parametrize("bins", [1, 3, 10, 50])
def test_dq_partitions_the_rows_and_hits_every_budget(count, bins):
    points = generic_rows(count)
    for budget in range(1, count + 1):
        selection = run("dq", points, budget, bins=bins)
        sizes, drawn = selection.facts["bin_sizes"], selection.facts["drawn"]
        assert len(sizes) == min(bins, count) and sum(sizes) == count and max(sizes) - min(sizes) <= 1
        assert sum(drawn) == budget
        if budget >= len(sizes):
            assert min(drawn) >= 1
    assert set(run("dq", points, count, bins=bins).ids) == set(range(count))


def test_the_first_bin_of_dq_is_a_graph_cut_and_the_next_one_of_what_is_left():
    points = generic_rows(31)
    why = run("dq", points, 1, bins=3).why
    bins = [[row for row in range(31) if f"bin {number} of 3" in why[row]] for number in (1, 2, 3)]
    assert bins[0] == sorted(run("graph_cut", points, 11).ids)
    rest = sorted({*range(31)} - {*bins[0]})
    assert bins[1] == sorted(rest[row] for row in run("graph_cut", points[rest], 10).ids)


def test_dq_with_one_bin_draws_uniformly():
    points = generic_rows(10)
    draws = [run("dq", points, 3, seed, bins=1).ids for seed in range(1500)]
    assert np.abs(np.bincount(np.ravel(draws), minlength=10) / len(draws) - 0.3).max() < 0.05


def test_dq_draws_the_same_rows_for_the_same_seed_only():
    points = generic_rows(60)
    assert run("dq", points, 20, seed=1).ids == run("dq", points, 20, seed=1).ids
    assert run("dq", points, 20, seed=1).ids != run("dq", points, 20, seed=2).ids


@given(st.lists(st.integers(-1, 3), min_size=1, max_size=40), st.integers(0, 99), st.data())
def test_stratified_random_keeps_the_shares_of_the_strata(labels, seed, data):
    if -1 in labels:
        labels = [-1] * len(labels)
    budget = data.draw(st.integers(1, len(labels)))
    signals = {"rows": np.arange(len(labels)), "label": np.array(labels), "words": np.arange(len(labels)) % 7}
    selection = choose(filter_named("stratified_random"), signals, budget, seed)
    strata = selection.facts["strata"]
    assert len(set(selection.ids)) == sum(strata.values()) == budget
    if -1 not in labels:
        for label in set(labels):
            kept = sum(labels[row] == label for row in selection.ids)
            assert kept == strata[f"label {label}"]
            if budget >= len(set(labels)):
                assert kept >= 1


def test_stratified_random_without_labels_draws_from_every_quartile_of_length():
    signals = {"rows": np.arange(100), "label": np.full(100, -1), "words": np.arange(100)}
    selection = choose(filter_named("stratified_random"), signals, 8, 0)
    assert selection.facts["strata"] == {f"length quartile {number}": 2 for number in (1, 2, 3, 4)}
    assert sorted(row // 25 for row in selection.ids) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert sorted(row // 25 for row in selection.ids[:4]) == [0, 1, 2, 3]


@given(st.integers(1, 30), st.integers(0, 9))
def test_sums_of_products_on_the_grid_have_no_rounding_error(count, seed):
    grid = unit_fixed_point(generic_rows(count, seed), 4 * count)
    whole = [[int(number) for number in row] for row in grid.rows.tolist()]
    total = sum(a * b for one in whole for other in whole for a, b in zip(one, other, strict=True))
    assert total < 2**53
    assert float((grid.rows @ grid.rows.T).sum()) == total


def test_the_grid_keeps_whole_numbers_and_is_fine():
    points = np.array([[3.0, -4.0], [0.0, 0.0]])
    grid = fixed_point(points, 8)
    assert (grid.rows * grid.unit == points).all()
    assert unit_fixed_point(generic_rows(50), 200).unit < 1e-5


def test_leaders_are_the_best_rows_with_ties_to_the_lowest():
    assert look_ahead.leaders(np.array([1.0, 3.0, 2.0, 2.0, 2.0]), 3).tolist() == [1, 2, 3]
    assert look_ahead.leaders(np.array([1.0, 2.0]), 5).tolist() == [0, 1]
