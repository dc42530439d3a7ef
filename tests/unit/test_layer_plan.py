"""Layer decisions: plan, protection, collapse guard, config values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from damoc.compression.layer_config import kept_values
from damoc.compression.plan import LayerPlan, give_back, plan_layers, protected_layers

IMPORTANCE = st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.9]), min_size=1, max_size=40).map(np.array)
RATIO = st.floats(0, 0.99)


@given(IMPORTANCE, RATIO, st.integers(1, 12))
def test_plan_removes_the_least_important_and_respects_every_bound(
    importance: np.ndarray, ratio: float, minimum: int
) -> None:
    total = len(importance)
    protected = protected_layers(importance)
    plan = plan_layers(importance, ratio, minimum, protected)
    assert sorted((*plan.keep, *plan.remove)) == list(range(total))
    assert list(plan.keep) == sorted(plan.keep) and list(plan.remove) == sorted(plan.remove)
    assert not protected & set(plan.remove)
    assert len(plan.remove) == max(0, min(round(ratio * total), total - minimum, total - len(protected)))
    free = set(plan.keep) - protected
    assert all(importance[gone] <= importance[stays] for gone in plan.remove for stays in free)
    assert all(gone > stays for gone in plan.remove for stays in free if importance[gone] == importance[stays])


@given(IMPORTANCE, st.floats(0, 0.49), st.floats(0, 0.5))
def test_a_larger_ratio_removes_a_superset(importance: np.ndarray, ratio: float, more: float) -> None:
    protected = protected_layers(importance)
    few, many = (plan_layers(importance, share, 1, protected) for share in (ratio, ratio + more))
    assert set(few.remove) <= set(many.remove)


@given(st.data(), RATIO)
def test_one_layer_of_each_type_stays(data: st.DataObject, ratio: float) -> None:
    types = data.draw(st.lists(st.sampled_from(["full", "sliding", "linear"]), min_size=1, max_size=20))
    importance = np.array(data.draw(st.lists(st.floats(0, 1), min_size=len(types), max_size=len(types))))
    plan = plan_layers(importance, ratio, 1, protected_layers(importance, types))
    assert {types[index] for index in plan.keep} == set(types)


def test_ends_are_protected_and_the_most_important_of_a_type_they_lack() -> None:
    importance = np.array([0.9, 0.1, 0.4, 0.4, 0.2, 0.9])
    assert protected_layers(importance) == {0, 5}
    assert protected_layers(importance, ["a", "b", "b", "b", "a", "a"]) == {0, 2, 5}


def test_guard_gives_back_the_most_important_layer_first() -> None:
    importance = np.array([0.9, 0.1, 0.3, 0.3, 0.2, 0.9])
    plan = plan_layers(importance, 0.7, 1, {0, 5})
    seen = []
    while (after := give_back(plan, importance, 9.0, 2.0, 1.5)) != plan:
        seen.append(after.given_back[-1])
        plan = after
    assert seen == [2, 3, 4, 1]
    assert plan == LayerPlan(tuple(range(6)), (), (2, 3, 4, 1))


@pytest.mark.parametrize(("loss", "held"), [(3.0, True), (3.000001, False), (math.nan, False), (math.inf, False)])
def test_guard_compares_with_the_limit(loss: float, held: bool) -> None:
    plan = LayerPlan((0, 2), (1,))
    assert (give_back(plan, np.array([0.5, 0.1, 0.5]), loss, 2.0, 1.5) == plan) is held


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
