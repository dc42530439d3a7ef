"""Layer decisions: plan, protection, collapse guard, config values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from damoc.compression.layer_config import kept_values, pattern
from damoc.compression.plan import (
    Bounds,
    LayerPlan,
    Target,
    contiguous,
    give_back,
    lowest,
    next_removal,
    protected_layers,
    target,
)

VALUES = st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.9])
IMPORTANCE = st.lists(VALUES, min_size=1, max_size=40).map(np.array)
RATIO = st.floats(0, 0.99)


def count(number: float, total: int) -> Target:
    return Target(np.ones(total), number)


@given(IMPORTANCE, RATIO, st.integers(1, 12), st.sets(st.integers(-40, 39)))
def test_lowest_removes_the_least_important_and_respects_every_bound(
    importance: np.ndarray, ratio: float, minimum: int, asked: set[int]
) -> None:
    total = len(importance)
    protected = protected_layers(importance, (), [index for index in asked if -total <= index < total])
    order = lowest(importance, target("ratio", ratio, total), Bounds(protected, minimum))
    plan = LayerPlan.without(order, total)
    assert sorted((*plan.keep, *order)) == list(range(total)) and list(plan.keep) == sorted(plan.keep)
    assert not protected & set(order)
    assert len(order) == max(0, min(round(ratio * total), total - minimum, total - len(protected)))
    free = set(plan.keep) - protected
    assert all(importance[gone] <= importance[stays] for gone in order for stays in free)
    assert all(gone > stays for gone in order for stays in free if importance[gone] == importance[stays])
    assert list(order) == sorted(order, key=lambda index: (importance[index], -index))


@given(IMPORTANCE, st.floats(0, 0.49), st.floats(0, 0.5))
def test_a_larger_ratio_removes_the_same_layers_first(importance: np.ndarray, ratio: float, more: float) -> None:
    bounds = Bounds(protected_layers(importance), 1)
    few, many = (lowest(importance, target("ratio", share, len(importance)), bounds) for share in (ratio, ratio + more))
    assert few == many[: len(few)]


@given(st.data(), RATIO)
def test_one_layer_of_each_type_stays(data: st.DataObject, ratio: float) -> None:
    types = data.draw(st.lists(st.sampled_from(["full", "sliding", "linear"]), min_size=1, max_size=20))
    importance = np.array(data.draw(st.lists(st.floats(0, 1), min_size=len(types), max_size=len(types))))
    distances = np.triu(np.add.outer(importance, importance) / 2)
    bounds = Bounds(protected_layers(importance, types), 1)
    goal = target("ratio", ratio, len(types))
    for order in (lowest(importance, goal, bounds), contiguous(distances, goal, bounds)):
        assert {types[index] for index in LayerPlan.without(order, len(types)).keep} == set(types)


def test_ends_are_protected_and_what_is_asked_for_and_the_most_important_of_a_type_they_lack() -> None:
    importance = np.array([0.9, 0.1, 0.4, 0.4, 0.2, 0.9])
    assert protected_layers(importance) == {0, 5}
    assert protected_layers(importance, ["a", "b", "b", "b", "a", "a"]) == {0, 2, 5}
    assert protected_layers(importance, ["a", "b", "b", "b", "a", "a"], [1, -2]) == {0, 1, 4, 5}


@given(st.data(), st.integers(3, 14), st.integers(1, 6))
def test_contiguous_is_the_closest_of_all_blocks_by_brute_force(data: st.DataObject, total: int, minimum: int) -> None:
    size = total * total
    distances = np.array(data.draw(st.lists(VALUES, min_size=size, max_size=size))).reshape(total, total)
    savings = np.array(data.draw(st.lists(st.sampled_from([1.0, 2.0, 5.0]), min_size=total, max_size=total)))
    protected = frozenset({0, total - 1} | data.draw(st.sets(st.integers(0, total - 1), max_size=3)))
    goal = Target(savings, data.draw(st.floats(0.5, savings.sum())))
    found = contiguous(distances, goal, Bounds(protected, minimum))
    block = sorted(found)
    legal = [
        range(start, stop)
        for start in range(total)
        for stop in range(start + 1, total + 1)
        if not protected & set(range(start, stop)) and stop - start <= total - minimum
    ]
    if not legal:
        assert block == []
        return
    enough = [b for b in legal if savings[b].sum() >= goal.amount and savings[b[:-1]].sum() < goal.amount]
    rivals = enough or [b for b in legal if savings[b].sum() == max(savings[c].sum() for c in legal)]
    assert block == list(max(rivals, key=lambda b: (-distances[b[0], b[-1]], b[0])))
    for size in range(2, len(found) + 1):
        first, last = min(found[:size]), max(found[:size])
        ends = {first: distances[first + 1, last], last: distances[first, last - 1]}
        assert ends[found[size - 1]] == min(ends.values())


def test_a_block_gives_the_end_back_without_which_it_is_closest() -> None:
    distances = np.zeros((6, 6))
    distances[1, 3], distances[2, 4], distances[1, 4] = 0.3, 0.2, 0.1
    distances[2, 3], distances[3, 4] = 0.5, 0.6
    assert contiguous(distances, count(4, 6), Bounds(frozenset({0, 5}), 1)) == (3, 2, 4, 1)


@pytest.mark.parametrize(
    ("budget", "amount", "removed"),
    [
        ("ratio", 0.25, 2),
        ("layers", 3, 3),
        ("depth", 5, 3),
        ("depth", 9, 0),
        ("flops", 0.2, 2),
        ("flops", 0.15, 2),
        ("latency", 0.1, 1),
        ("gflops", 8e-9, 2),
        ("gflops", 11e-9, 0),
        ("flops", 0.0, 0),
    ],
)
def test_budgets_of_a_model_of_eight_equal_layers(budget: str, amount: float, removed: int) -> None:
    importance = np.linspace(0.1, 0.8, 8)
    goal = target(budget, amount, 8, [1.0] * 8, 2.0)
    assert lowest(importance, goal, Bounds(frozenset({0, 7}), 1)) == tuple(range(1, 1 + removed))


@given(st.data(), st.sampled_from(["flops", "gflops"]), st.floats(0.05, 0.9))
def test_a_cost_budget_is_met_with_no_layer_to_spare(data: st.DataObject, budget: str, amount: float) -> None:
    importance = data.draw(st.lists(VALUES, min_size=3, max_size=20).map(np.array))
    costs = data.draw(st.lists(st.floats(1, 9), min_size=len(importance), max_size=len(importance)))
    whole = sum(costs) + 2.0
    goal = target(budget, amount if budget == "flops" else whole * (1 - amount) / 1e9, len(costs), costs, 2.0)
    order = lowest(importance, goal, Bounds(frozenset(), 1))
    saved = [sum(costs[index] for index in order[:size]) / whole for size in range(len(order) + 1)]
    assert all(share < amount + 1e-6 for share in saved[:-1])
    assert saved[-1] >= amount - 1e-6 or len(order) == len(costs) - 1


@given(IMPORTANCE, st.integers(0, 10))
def test_one_measurement_asked_again_and_again_is_the_one_shot_plan(importance: np.ndarray, number: int) -> None:
    bounds = Bounds(protected_layers(importance), 2)
    goal = count(number, len(importance))
    removed: list[int] = []
    while (layer := next_removal(importance, removed, goal, bounds)) is not None:
        removed.append(layer)
    assert tuple(removed) == lowest(importance, goal, bounds)


def test_guard_gives_back_what_went_last() -> None:
    order = (1, 4, 3, 2)
    plan = LayerPlan.without(order, 6)
    seen = []
    while (after := give_back(plan, order, 9.0, 2.0, 1.5)) != plan:
        seen.append(after.given_back[-1])
        plan = after
    assert seen == [2, 3, 4, 1]
    assert plan == LayerPlan(tuple(range(6)), (), (2, 3, 4, 1))


@pytest.mark.parametrize(("loss", "held"), [(3.0, True), (3.000001, False), (math.nan, False), (math.inf, False)])
def test_guard_compares_with_the_limit(loss: float, held: bool) -> None:
    plan = LayerPlan((0, 2), (1,))
    assert (give_back(plan, (1,), loss, 2.0, 1.5) == plan) is held


def test_config_values_follow_the_layers() -> None:
    values = {
        "num_hidden_layers": 4,
        "n_heads": 4,
        "layer_types": ["a", "b", "c", "d"],
        "no_rope_layers": (1, 0, 1, 0),
        "eos_token_id": [1, 2, 3, 4],
        "mlp_only_layers": [0, 1, 3],
        "first_k_dense_replace": 2,
        "rope_parameters": {},
    }
    assert kept_values(values, [0, 2, 3], 4) == {
        "num_hidden_layers": 3,
        "layer_types": ["a", "c", "d"],
        "no_rope_layers": (1, 1, 0),
        "mlp_only_layers": [0, 2],
        "first_k_dense_replace": 1,
    }


def test_experts_in_every_second_layer_are_named_one_by_one() -> None:
    values = {"num_hidden_layers": 6, "decoder_sparse_step": 2, "mlp_only_layers": [3]}
    assert kept_values(values, [0, 2, 3, 5], 6) == {
        "num_hidden_layers": 4,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [0, 1, 2],
    }


@pytest.mark.parametrize(
    ("keep", "start", "end"), [([0, 2, 4, 5], 1, 2), ([0, 1, 5], 2, 1), ([2, 3], 0, 1), ([0, 1, 2, 3, 4, 5], 2, 4)]
)
def test_a_range_of_experts_follows_its_layers(keep: list[int], start: int, end: int) -> None:
    values = {"num_hidden_layers": 6, "moe_layer_start_index": 2, "moe_layer_end_index": 4}
    found = kept_values(values, keep, 6)
    assert (found["moe_layer_start_index"], found["moe_layer_end_index"]) == (start, end)


def test_repeated_attention_types_are_written_out() -> None:
    values = {"num_layers": 4, "attention_types": [[["a", "b"], 2]], "attention_layers": ["a", "b", "a", "b"]}
    found = kept_values(values, [0, 2, 3], 4)
    assert found["attention_types"] == [[["a", "a", "b"], 1]]


def test_patterns_are_named_only_where_they_bind() -> None:
    assert pattern({"attn_layer_period": 8}) == "attention comes every so many layers (attn_layer_period)"
    assert pattern({"moe_layer_interval": 1, "num_kv_shared_layers": 0, "kv_source_layers": None}) == ""
