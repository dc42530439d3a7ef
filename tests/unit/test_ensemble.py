from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from damoc.errors import DamocError
from damoc.filters import RowSelection, choose, filter_named

ensemble = filter_named("ensemble")


def signals(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {
        "rows": np.arange(rows),
        "judge": draw.uniform(0, 5, rows),
        "answer_loss": draw.uniform(0, 3, rows),
        "alone_loss": draw.uniform(0, 4, rows),
        "embedding": draw.normal(size=(rows, 4)).astype(np.float32),
        "complexity": draw.uniform(1, 6, rows),
        "quality": draw.uniform(1, 6, rows),
    }


def run(members: dict[str, float], budget: int, measured: dict[str, np.ndarray], fusion: str = "reciprocal"):
    options = ensemble.checked({"members": members, "fusion": fusion})
    return choose(ensemble, measured, budget, 5, options)


@pytest.mark.parametrize("member", ["alpagasus", "superfiltering", "k_center_greedy", "deita", "random"])
@pytest.mark.parametrize("fusion", ["reciprocal", "borda"])
@given(st.integers(1, 30), st.data())
def test_one_member_alone_chooses_as_it_would_by_itself(fusion, member, rows, data):
    budget = data.draw(st.integers(1, rows))
    alone = choose(filter_named(member), signals(rows), budget, 5)
    assert run({member: 0.3}, budget, signals(rows), fusion).ids == alone.ids


@pytest.mark.parametrize("fusion", ["reciprocal", "borda"])
def test_a_heavy_member_has_its_way(fusion):
    measured = signals(40)
    alone = choose(filter_named("alpagasus"), measured, 5, 5)
    assert run({"alpagasus": 1e6, "k_center_greedy": 1.0}, 5, measured, fusion).ids == alone.ids


def test_only_the_proportion_of_the_weights_counts_and_not_their_order():
    measured = signals(40)
    first = run({"alpagasus": 1.0, "superfiltering": 3.0}, 10, measured)
    second = run({"superfiltering": 30.0, "alpagasus": 10.0}, 10, measured)
    assert first.ids == second.ids
    assert np.allclose(first.scores, second.scores)


def test_fused_ranks_by_hand():
    measured = {"rows": np.arange(4), "judge": np.array([4.0, 3.0, 2.0, 1.0]), "answer_loss": np.array([1.0, 2, 3, 4])}
    measured["alone_loss"] = np.full(4, 9.0)
    places = {"alpagasus": np.array([1, 2, 3, 4]), "superfiltering": np.array([4, 3, 2, 1])}
    chosen = run({"alpagasus": 1.0, "superfiltering": 3.0}, 4, measured)
    assert np.allclose(
        chosen.scores, 0.25 * 61 / (60 + places["alpagasus"]) + 0.75 * 61 / (60 + places["superfiltering"])
    )
    assert chosen.ids == (3, 2, 1, 0)
    chosen = run({"alpagasus": 1.0, "superfiltering": 3.0}, 4, measured, "borda")
    assert np.allclose(chosen.scores, (4 - 0.25 * places["alpagasus"] - 0.75 * places["superfiltering"]) / 4)
    assert chosen.why[0] == "kept: places alpagasus 1, superfiltering 4"


def test_rows_that_a_member_does_not_tell_apart_share_their_mean_place():
    measured = signals(6)
    chosen = run({"k_center_greedy": 1.0}, 2, measured)
    assert [chosen.why[row] for row in range(6) if row not in chosen.ids] == ["cut: places k_center_greedy 4.5"] * 4


def test_rows_that_a_member_refused_rank_behind_its_choice_whatever_their_score():
    measured = signals(5)
    measured["complexity"], measured["quality"] = np.array([6.0, 5, 3, 2, 1]), np.ones(5)
    measured["embedding"] = np.eye(4, dtype=np.float32)[[0, 0, 1, 2, 3]]
    chosen: RowSelection = run({"deita": 1.0}, 3, measured)
    assert chosen.ids == (0, 2, 3)
    assert chosen.why[1] == "cut: places deita 4"


def test_it_needs_what_its_members_need_each_once():
    options = ensemble.checked({"members": {"superfiltering": 1, "deita": 2, "alpagasus": 1}})
    needs = ensemble.needs(options)
    assert sorted(needs) == ["alone_loss", "answer_loss", "complexity", "embedding", "judge", "quality"]
    assert ensemble.needs(ensemble.defaults()) == ("answer_loss", "alone_loss", "embedding")


@pytest.mark.parametrize(
    ("members", "what"),
    [
        ({}, "the ensemble has no members"),
        ({"superfilter": 1.0}, "did you mean 'superfiltering'?"),
        ({"ensemble": 1.0}, "cannot be a member of itself"),
        ({"alpagasus": 0.0}, "the weight 0 is not above 0"),
        ({"alpagasus": -2.0}, "the weight -2 is not above 0"),
    ],
)
def test_wrong_members_are_refused_with_place_and_mend(members, what):
    for ask in (lambda: ensemble.needs({"members": members}), lambda: run(members, 2, signals(5))):
        with pytest.raises(DamocError) as caught:
            ask()
        assert what in str(caught.value)
        assert caught.value.problems[0].where.startswith("field data_compression.filter.options.members")


def test_all_wrong_members_are_reported_at_once():
    with pytest.raises(DamocError) as caught:
        ensemble.needs({"members": {"nobody": 1.0, "ensemble": -1.0}})
    assert len(caught.value.problems) == 3
