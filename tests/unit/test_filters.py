from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from damoc.errors import DamocError
from damoc.filters import Filter, RowSelection, choose, filter_named, filters
from damoc.filters.choice import allocate
from damoc.filters.ordering import best_first, fifths, ranks

ten_rows = {"rows": np.arange(10)}
scored = ("answer_loss", "alone_loss", "experienced_answer_loss", "experienced_alone_loss", "judge", "complexity")
scored += ("quality", "reward", "necessity", "prompt_loss")
kinds_of_scores = st.sampled_from(["distinct", "equal", "some unknown", "all unknown"])


def measured(count: int, kind: str = "distinct", copies: bool = False, seed: int = 0) -> dict[str, np.ndarray]:
    """Every signal that a filter may ask for."""
    draw = np.random.default_rng(seed)
    place = np.zeros(count, dtype=int) if copies else np.arange(count)

    def unit(rows: int, size: int) -> np.ndarray:
        vectors = draw.normal(size=(rows, size))
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    signals = {name: draw.uniform(0.1, 5, count).astype(np.float32)[place] for name in scored}
    signals["gradient"] = unit(count, 6)[place]
    for values in signals.values():
        values[:] = values[0] if kind == "equal" else values
        values[draw.random(count) < {"some unknown": 0.4, "all unknown": 1}.get(kind, 0)] = np.nan
    signals |= {"target_gradient": unit(5, 6), "target_group": np.array([0, 0, 1, 2, 2])}
    signals |= {name: unit(count, 4)[place] for name in ("embedding", "prompt_embedding")}
    words = {name: draw.integers(1, 50, count)[place] for name in ("answer_tokens", "words")}
    return signals | words | {"rows": np.arange(count), "label": np.full(count, -1)}


def test_every_filter_states_its_kind_what_it_does_and_where_it_comes_from():
    found = filters()
    assert {"k_center_greedy", "random", "alpagasus", "superfiltering", "less", "perplexity_band"} <= set(found)
    assert {"mods", "cherry", "deita", "car", "ensemble"} <= set(found)
    for name, method in found.items():
        assert method.name == name
        assert method.kind in {"distribution", "quality", "hybrid", "baseline"}
        assert method.summary.endswith(".")
        assert method.source or method.kind == "baseline"


@pytest.mark.parametrize("name", sorted(filters()))
@settings(max_examples=25)
@given(st.integers(1, 24), kinds_of_scores, st.booleans(), st.data())
def test_every_filter_keeps_the_budget_exactly_repeats_itself_and_gives_reasons(name, rows, kind, copies, data):
    budget = data.draw(st.integers(1, rows))
    method, signals = filter_named(name), measured(rows, kind, copies)
    asked = {key: signals[key] for key in ("rows", "label", "words", *method.needs(method.defaults()))}
    chosen = choose(method, asked, budget, seed=3)
    assert len(set(chosen.ids)) == budget
    assert chosen.ids == choose(method, asked, budget, seed=3).ids
    assert {row for row, reason in enumerate(chosen.why) if reason.startswith("kept: ")} == set(chosen.ids)
    assert {row for row, reason in enumerate(chosen.why) if reason.startswith("cut: ")} == set(range(rows)) - set(
        chosen.ids
    )


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
    assert chosen.ids == choose(filter_named("random"), signals, budget, seed).ids
    assert chosen.ids == choose(filter_named("random"), signals, rows, seed).ids[:budget]


def test_random_depends_on_its_seed_and_is_uniform():
    draws = [choose(filter_named("random"), ten_rows, 3, seed).ids for seed in range(2000)]
    shares = np.bincount(np.ravel(draws), minlength=10) / len(draws)
    assert np.abs(shares - 0.3).max() < 0.05


def broken(chosen: RowSelection) -> Filter:
    return Filter("broken", "baseline", lambda options: (), lambda signals, budget, seed: chosen)


@pytest.mark.parametrize(
    ("ids", "what"),
    [((0, 1), "chose 2 rows"), ((0, 1, 1), "2 of them distinct"), ((0, 1, 10), "2 of them distinct")],
    ids=["too few", "repeated", "out of range"],
)
def test_a_filter_that_breaks_its_promise_is_caught(ids, what):
    with pytest.raises(AssertionError, match=what):
        choose(broken(RowSelection(ids)), ten_rows, 3, 0)


def test_scores_or_reasons_of_another_length_are_caught():
    with pytest.raises(AssertionError, match="scored"):
        choose(broken(RowSelection((0, 1, 2), scores=np.zeros(9))), ten_rows, 3, 0)
    with pytest.raises(AssertionError, match="9 reasons for 10 rows"):
        choose(broken(RowSelection((0, 1, 2), why=("cut: no",) * 9)), ten_rows, 3, 0)


def test_a_filter_without_reasons_is_given_plain_ones():
    chosen = choose(broken(RowSelection((4, 2))), ten_rows, 2, 0)
    assert chosen.why[4] == "kept: choice 1"
    assert chosen.why[2] == "kept: choice 2"
    assert chosen.why[0] == "cut: not among the chosen"


def labelled(labels: list[int]) -> dict[str, np.ndarray]:
    return {
        "rows": np.arange(len(labels)),
        "label": np.array(labels),
        "judge": np.linspace(1, 5, len(labels)),
        "target_gradient": np.zeros((2, 3)),
    }


def test_each_label_gets_its_share_of_the_budget_and_the_best_of_its_own_rows():
    signals = labelled([0] * 6 + [1] * 3 + [2] * 3)
    chosen = choose(filter_named("alpagasus"), signals, 4, 0, per_label=True)
    assert sorted(chosen.ids) == [4, 5, 8, 11]
    assert np.allclose(chosen.scores, signals["judge"])
    assert [row for row, reason in enumerate(chosen.why) if reason.startswith("kept")] == [4, 5, 8, 11]
    assert sorted(choose(filter_named("alpagasus"), signals, 4, 0).ids) == [8, 9, 10, 11]


def test_a_label_without_a_share_is_cut_and_says_so():
    chosen = choose(filter_named("alpagasus"), labelled([0] * 9 + [1]), 1, 0, per_label=True)
    assert chosen.ids == (8,)
    assert chosen.why[9] == "cut: its label has no share of the budget"


def test_every_prefix_of_a_choice_within_labels_keeps_their_proportions():
    labels = np.array([0] * 40 + [1] * 20)
    chosen = choose(filter_named("random"), labelled(labels.tolist()), 30, 0, per_label=True)
    for size in (3, 6, 15, 30):
        assert abs(np.mean(labels[list(chosen.ids[:size])] == 0) - 2 / 3) <= 1 / size


def test_validation_rows_are_not_split_by_label():
    seen = []

    def watch(signals, budget, seed):
        seen.append((len(signals["judge"]), len(signals["target_gradient"]), signals["rows"].tolist()))
        return RowSelection(tuple(range(budget)))

    method = Filter("watch", "baseline", lambda options: (), watch)
    choose(method, labelled([0, 0, 0, 1, 1]), 2, 0, per_label=True)
    assert seen == [(3, 2, [0, 1, 2]), (2, 2, [0, 1])]


def test_rows_of_one_label_are_chosen_from_as_a_whole():
    signals = labelled([-1] * 10)
    assert choose(filter_named("random"), signals, 4, 7, per_label=True).ids == (
        choose(filter_named("random"), signals, 4, 7).ids
    )


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.data())
def test_shares_sum_to_the_budget_fit_and_leave_no_stratum_out(counts, data):
    budget = data.draw(st.integers(1, sum(counts)))
    shares = allocate(np.array(counts), budget)
    assert shares.sum() == budget
    assert (shares <= counts).all()
    assert (shares >= (1 if budget >= len(counts) else 0)).all()


@given(st.lists(st.integers(5, 40), min_size=2, max_size=6), st.data())
def test_shares_are_the_largest_remainder_where_no_stratum_needs_help(counts, data):
    sizes = np.array(counts)
    budget = data.draw(st.integers(1, sum(counts)))
    exact = sizes * budget / sizes.sum()
    if exact.min() < 1:
        return
    assert (np.abs(allocate(sizes, budget) - exact) < 1).all()


def adjustable(
    signals: object,
    budget: int,
    seed: int,
    *,
    weight: float = 1.0,
    rounds: int = 3,
    form: Literal["loss", "perplexity"] = "loss",
    members: dict[str, float] = {"random": 1.0},  # noqa: B006
) -> RowSelection:
    return RowSelection(tuple(range(budget)))


with_options = Filter("adjustable", "baseline", lambda options: (), adjustable)


def test_given_options_are_converted_and_the_others_keep_their_defaults():
    found = with_options.checked({"weight": 2, "form": "perplexity"})
    assert found == {"weight": 2.0, "rounds": 3, "form": "perplexity", "members": {"random": 1.0}}
    assert isinstance(found["weight"], float)


def test_all_wrong_options_are_reported_at_once_with_place_and_mend():
    with pytest.raises(DamocError) as caught:
        with_options.checked({"wieght": 1, "rounds": "many", "form": "entropy", "weight": float("nan")})
    problems = {problem.where.rpartition(".")[2]: problem for problem in caught.value.problems}
    assert set(problems) == {"wieght", "rounds", "form", "weight"}
    assert problems["wieght"].where == "field data_compression.filter.options.wieght"
    assert "did you mean 'weight'?" in problems["wieght"].fix
    assert "the default is 3" in problems["rounds"].fix
    assert "'entropy'" in problems["form"].what


def test_a_value_outside_the_range_of_an_option_is_refused():
    with pytest.raises(DamocError) as caught:
        filter_named("deita").checked({"novelty": 2})
    assert caught.value.problems[0].where == "field data_compression.filter.options.novelty"


def test_a_filter_without_options_says_so():
    with pytest.raises(DamocError, match="options of random: none"):
        filter_named("random").checked({"temperature": 1})


@given(st.lists(st.one_of(st.floats(-5, 5), st.just(float("nan")), st.integers(0, 2).map(float)), max_size=30))
def test_best_first_is_a_stable_descending_sort_with_nan_at_the_end(values):
    rounded = [round(value, 9) for value in values]
    assert best_first(np.array(values)).tolist() == sorted(
        range(len(values)),
        key=lambda row: (np.isnan(rounded[row]), 0 if np.isnan(rounded[row]) else -rounded[row], row),
    )


def test_differences_below_nine_decimals_are_ties():
    assert best_first(np.array([1.0, 1.0 + 1e-12, 1.0 + 1e-6])).tolist() == [2, 0, 1]


def test_ranks_count_lower_rows_and_half_of_the_equal_ones():
    found = ranks(np.array([3.0, 1.0, np.nan, 1.0, 7.0]))
    assert np.allclose(found, [0.625, 0.25, np.nan, 0.25, 0.875], equal_nan=True)


def test_ranks_within_strata_compare_rows_with_their_own():
    found = ranks(np.array([1.0, 2.0, 30.0, 10.0, 5.0]), np.array([0, 0, 1, 1, 2]))
    assert np.allclose(found, [0.25, 0.75, 0.75, 0.25, 0.5])


@given(st.lists(st.integers(1, 10), min_size=1, max_size=40))
def test_fifths_are_ordered_and_keep_equal_sizes_together(sizes):
    found = fifths(np.array(sizes))
    assert set(found.tolist()) <= {0, 1, 2, 3, 4}
    for size, fifth in zip(sizes, found, strict=True):
        assert all(other >= fifth for bigger, other in zip(sizes, found, strict=True) if bigger >= size)


def test_fifths_of_distinct_sizes_are_equally_large():
    assert np.bincount(fifths(np.random.default_rng(0).permutation(50))).tolist() == [10] * 5


@pytest.mark.parametrize("name", ["k_center_greedy", "car", "deita"])
def test_an_embedding_that_is_no_number_is_one_clear_error(name):
    signals = {signal: np.ones((4, 3)) for signal in ("embedding", "prompt_embedding")}
    signals |= {signal: np.ones(4) for signal in ("judge", "complexity", "quality")} | {"rows": np.arange(4)}
    signals["embedding"][2, 1] = signals["prompt_embedding"][2, 1] = np.nan
    with pytest.raises(DamocError, match=r"row 2: the (prompt )?embedding is not finite"):
        choose(filter_named(name), signals, 2, 0)
