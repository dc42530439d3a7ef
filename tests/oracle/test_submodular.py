"""Greedy filters against naive greed on the same rows, the optimum of small sets, submodlib and apricot."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from damoc.filters import RowSelection, choose, filter_named
from damoc.filters.distribution import coverage, facility_location, look_ahead
from damoc.filters.distribution.fixed_point import FLOAT32_BITS, unit_fixed_point
from damoc.filters.distribution.graph_cut import graph_cut_terms


def random_rows(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 16)).astype(np.float32)


def clustered_rows(count: int, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    centers = draw.normal(size=(12, 24))
    return (centers[draw.integers(12, size=count)] + 0.4 * draw.normal(size=(count, 24))).astype(np.float32)


def repeated_rows(count: int, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    some = np.concatenate([np.zeros((1, 8)), draw.normal(size=(max(1, count // 6), 8))])
    return some[draw.integers(len(some), size=count)].astype(np.float32)


datasets = pytest.mark.parametrize("rows", [random_rows, clustered_rows, repeated_rows])


def run(name: str, points: np.ndarray, budget: int, **options: object) -> RowSelection:
    signals = {"rows": np.arange(len(points)), "embedding": points}
    return choose(filter_named(name), signals, budget, 0, options)


def on_grid(points: np.ndarray, terms: float, bits: int = 52) -> np.ndarray:
    grid = unit_fixed_point(points, terms, bits)
    return grid.rows * grid.unit


def similarities(rows: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * rows @ rows.T


def graph_cut_kernel(points: np.ndarray, weight: float = 1.0) -> np.ndarray:
    return similarities(on_grid(points, graph_cut_terms(len(points), weight)))


def coverage_kernel(points: np.ndarray) -> np.ndarray:
    return similarities(on_grid(points, 4 * len(points)))


def cut_value(kernel: np.ndarray, chosen: list[int], weight: float = 1.0) -> float:
    return float(weight * kernel[:, chosen].sum() - kernel[np.ix_(chosen, chosen)].sum())


def coverage_value(kernel: np.ndarray, chosen: list[int]) -> float:
    return float(kernel[:, chosen].max(axis=1).sum())


def naive_cut(kernel: np.ndarray, budget: int, weight: float = 1.0) -> list[int]:
    chosen: list[int] = []
    for _ in range(budget):
        gains = weight * kernel.sum(axis=0) - 2 * kernel[:, chosen].sum(axis=1) - np.diag(kernel)
        gains[chosen] = -np.inf
        chosen.append(int(np.argmax(np.round(gains, 8))))
    return chosen


def naive_coverage(kernel: np.ndarray, budget: int) -> list[int]:
    chosen: list[int] = []
    best = np.zeros(len(kernel))
    for _ in range(budget):
        gains = np.maximum(kernel - best[:, None], 0).sum(axis=0)
        gains[chosen] = -np.inf
        chosen.append(int(np.argmax(np.round(gains, 8))))
        best = np.maximum(best, kernel[:, chosen[-1]])
    return chosen


@pytest.fixture
def few_followed(monkeypatch):
    """Small sets take the way of large ones."""
    monkeypatch.setattr(look_ahead, "LEADERS", 24)
    monkeypatch.setattr(facility_location, "TABLE_ROWS", 0)
    monkeypatch.setattr(coverage, "_TILE", 64)


@datasets
@pytest.mark.parametrize("weight", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("count", [1, 2, 60, 300])
def test_graph_cut_is_naive_greed(rows, weight, count):
    points = rows(count, seed=count)
    kernel = graph_cut_kernel(points, weight)
    assert list(run("graph_cut", points, count, coverage_weight=weight).ids) == naive_cut(kernel, count, weight)


@datasets
def test_graph_cut_that_follows_few_rows_is_naive_greed(rows, few_followed):
    points = rows(600, seed=1)
    assert list(run("graph_cut", points, 500).ids) == naive_cut(graph_cut_kernel(points), 500)


@datasets
@pytest.mark.parametrize("count", [1, 2, 60, 300])
def test_facility_location_is_naive_greed(rows, count):
    points = rows(count, seed=count)
    assert list(run("facility_location", points, count).ids) == naive_coverage(coverage_kernel(points), count)


@datasets
@pytest.mark.parametrize("pairs", [0, 5_000, 60_000, 10**9])
def test_facility_location_without_the_table_is_naive_greed(rows, pairs, few_followed, monkeypatch):
    monkeypatch.setattr(facility_location, "_PAIRS", pairs)
    points = rows(400, seed=2)
    assert list(run("facility_location", points, 200).ids) == naive_coverage(coverage_kernel(points), 200)


@pytest.mark.parametrize("seed", range(5))
def test_facility_location_from_a_sample_comes_near_to_exact(seed, few_followed, monkeypatch):
    points = clustered_rows(600, seed)
    exact = run("facility_location", points, 60)
    monkeypatch.setattr(facility_location, "EXACT_ROWS", 100)
    monkeypatch.setattr(facility_location, "WITNESSES", 200)
    monkeypatch.setattr(facility_location, "_PAIRS", 20_000)
    sampled = run("facility_location", points, 60)
    assert exact.facts["exact"] and not sampled.facts["exact"]
    kernel = coverage_kernel(points)
    assert coverage_value(kernel, list(sampled.ids)) >= 0.999 * coverage_value(kernel, list(exact.ids))
    assert sampled.facts["objective"] == pytest.approx(coverage_value(kernel, list(sampled.ids)) / 600, abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_facility_location_of_all_neighbours_is_exact_and_of_some_comes_near(seed):
    points = clustered_rows(300, seed)
    kernel = similarities(on_grid(points, 1, FLOAT32_BITS))
    everything = run("facility_location", points, 30, neighbours=300)
    greedy = coverage_value(kernel, naive_coverage(kernel, 30))
    assert coverage_value(kernel, list(everything.ids)) == pytest.approx(greedy, rel=1e-4)
    some = run("facility_location", points, 30, neighbours=40)
    assert coverage_value(kernel, list(some.ids)) >= 0.98 * greedy
    assert some.facts["objective"] == pytest.approx(coverage_value(kernel, list(some.ids)) / 300, rel=1e-6)


@datasets
@pytest.mark.parametrize("name", ["graph_cut", "facility_location"])
def test_the_trace_has_the_gains_and_the_facts_the_objective(rows, name):
    points = rows(40, seed=3)
    selection = run(name, points, 25)
    kernel = graph_cut_kernel(points) if name == "graph_cut" else coverage_kernel(points)
    value = cut_value if name == "graph_cut" else coverage_value
    values = [value(kernel, list(selection.ids[:size])) for size in range(1, 26)]
    assert np.allclose(np.cumsum(selection.trace), values, rtol=1e-9)
    assert selection.facts["objective"] == pytest.approx(values[-1] / (1 if name == "graph_cut" else 40))


@pytest.mark.parametrize("seed", range(10))
def test_facility_location_reaches_its_share_of_the_optimum(seed):
    points = random_rows(12, seed)
    kernel = coverage_kernel(points)
    optimum = max(coverage_value(kernel, list(subset)) for subset in combinations(range(12), 4))
    selection = run("facility_location", points, 4)
    reached = coverage_value(kernel, list(selection.ids))
    assert reached >= (1 - 1 / math.e) * optimum
    assert selection.facts["of_optimum"] <= reached / optimum + 1e-9


@pytest.mark.parametrize("seed", range(10))
def test_graph_cut_reaches_its_share_of_the_optimum_where_it_is_monotone(seed):
    points = random_rows(12, seed)
    kernel = graph_cut_kernel(points, 2.0)
    optimum = max(cut_value(kernel, list(subset), 2.0) for subset in combinations(range(12), 4))
    selection = run("graph_cut", points, 4, coverage_weight=2.0)
    assert cut_value(kernel, list(selection.ids), 2.0) >= (1 - 1 / math.e) * optimum


@pytest.mark.slow
@pytest.mark.parametrize("rows", [random_rows, clustered_rows])
@pytest.mark.parametrize("weight", [1.0, 2.0])
def test_submodlib_and_apricot_cut_alike(rows, weight):
    apricot = pytest.importorskip("apricot")
    submodlib = pytest.importorskip("submodlib")
    points = rows(150, seed=4)
    kernel = graph_cut_kernel(points, weight)
    ours = list(run("graph_cut", points, 30, coverage_weight=weight).ids)
    theirs = submodlib.GraphCutFunction(n=150, mode="dense", lambdaVal=1 / weight, ggsijs=kernel, separate_rep=False)
    assert [row for row, _ in theirs.maximize(budget=30, optimizer="NaiveGreedy")] == ours
    fitted = apricot.GraphCutSelection(30, metric="precomputed", optimizer="naive", alpha=weight).fit(kernel)
    assert fitted.ranking.tolist() == ours


@pytest.mark.slow
@pytest.mark.parametrize("rows", [random_rows, clustered_rows])
def test_submodlib_and_apricot_cover_alike(rows):
    apricot = pytest.importorskip("apricot")
    submodlib = pytest.importorskip("submodlib")
    points = rows(150, seed=5)
    kernel = coverage_kernel(points)
    ours = list(run("facility_location", points, 30).ids)
    theirs = submodlib.FacilityLocationFunction(n=150, mode="dense", sijs=kernel, separate_rep=False)
    assert [row for row, _ in theirs.maximize(budget=30, optimizer="LazyGreedy")] == ours
    fitted = apricot.FacilityLocationSelection(30, metric="precomputed", optimizer="lazy").fit(kernel)
    assert fitted.ranking.tolist() == ours
