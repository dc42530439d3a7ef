from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from damoc.errors import DamocError
from damoc.filters import RowSelection, choose, filter_named, filters
from damoc.filters.quality.difficulty import difficulty_score, helps, instruction_following_difficulty

losses = st.integers(1, 20).flatmap(lambda rows: arrays(np.float64, (2, rows), elements=st.floats(0, 8)))
unknown = float("nan")


def run(name: str, budget: int, options: dict | None = None, seed: int = 0, **signals: object) -> RowSelection:
    known = {key: np.asarray(values) for key, values in signals.items()}
    rows = np.arange(len(next(iter(known.values()))))
    return choose(filter_named(name), {"rows": rows, **known}, budget, seed, options)


@pytest.mark.parametrize(
    ("name", "signals"),
    [
        ("alpagasus", ("judge",)),
        ("superfiltering", ("answer_loss", "alone_loss")),
        ("perplexity_band", ("answer_loss",)),
        ("cherry", ("experienced_answer_loss", "experienced_alone_loss")),
    ],
)
@given(st.integers(1, 20), st.integers(0, 1000), st.data())
def test_the_order_of_the_rows_does_not_matter_where_scores_differ(name, signals, rows, seed, data):
    draw = np.random.default_rng(seed)
    values = {signal: draw.uniform(0.1, 5, rows) for signal in signals}
    shuffle = draw.permutation(rows)
    budget = data.draw(st.integers(1, rows))
    chosen = run(name, budget, **values)
    shuffled = run(name, budget, **{signal: column[shuffle] for signal, column in values.items()})
    if name == "perplexity_band":  # ranks lie in pairs around the centre, so ties are the rule
        assert sorted(np.abs(chosen.scores[list(chosen.ids)])) == sorted(np.abs(shuffled.scores[list(shuffled.ids)]))
    else:
        assert shuffle[list(shuffled.ids)].tolist() == list(chosen.ids)


def test_alpagasus_takes_the_best_rated_and_breaks_ties_by_the_lowest_index():
    assert run("alpagasus", 3, judge=[4.0, 5.0, 4.8, 4.8, 4.8]).ids == (1, 2, 3)


def test_alpagasus_says_which_rows_are_below_the_threshold():
    chosen = run("alpagasus", 3, judge=[4.9, 4.2, unknown, 3.0])
    assert chosen.ids == (0, 1, 3)
    assert chosen.why == (
        "kept: rating 4.90",
        "kept: fills the budget, rating 4.20 is below the threshold 4.5",
        "cut: could not be scored",
        "kept: fills the budget, rating 3.00 is below the threshold 4.5",
    )
    assert chosen.facts == {"rows not scored": 1, "rows good enough": 1, "rows that fill the budget": 2}


def test_alpagasus_threshold_is_an_option_and_includes_its_own_value():
    chosen = run("alpagasus", 2, {"threshold": 3.0}, judge=[3.0, 2.9, 4.0])
    assert chosen.facts["rows good enough"] == 2
    assert chosen.facts["rows that fill the budget"] == 0
    assert chosen.why[1] == "cut: rating 2.90 is below the threshold 3"


def test_rows_that_could_not_be_scored_are_kept_last_and_say_so():
    chosen = run("alpagasus", 3, judge=[unknown, 1.0, unknown])
    assert chosen.ids == (1, 0, 2)
    assert chosen.why[0] == "kept: fills the budget, could not be scored"


@given(losses)
def test_both_forms_of_ifd_cross_one_at_the_same_rows(pair):
    by_loss, by_perplexity = (instruction_following_difficulty(*pair, form) for form in ("loss", "perplexity"))
    clear = np.abs(pair[0] - pair[1]) > 1e-6
    assert (helps(by_loss) == helps(by_perplexity))[clear].all()
    assert (helps(by_perplexity) == (pair[0] < pair[1]))[clear].all()


def test_ifd_by_hand():
    answer, alone = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 1.5])
    assert np.allclose(instruction_following_difficulty(answer, alone), [np.exp(-1), 1.0, np.exp(1.5)])
    assert np.allclose(instruction_following_difficulty(answer, alone, "loss"), [0.5, 1.0, 2.0])


def test_ifd_is_finite_without_loss_and_nan_without_measurement():
    answer, alone = np.array([0.0, 1.0, unknown, 2.0, 900.0]), np.array([0.0, 0.0, 1.0, np.inf, 0.0])
    for form in ("loss", "perplexity"):
        found = instruction_following_difficulty(answer, alone, form)
        assert np.isnan(found).tolist() == [False, False, True, True, False]
        assert np.isfinite(found[[0, 1, 4]]).all()
        assert found[0] == 1
        assert not helps(found).any()


@given(losses)
def test_dropped_rows_score_below_all_others_the_nearest_to_one_first(pair):
    found = instruction_following_difficulty(*pair)
    scores, passed = difficulty_score(found), helps(found)
    assert scores[passed].min(initial=0.0) >= 0
    assert scores[~passed].max(initial=-1.0) <= -1 + 1e-9
    dropped = np.flatnonzero(~passed)
    assert sorted(scores[dropped], reverse=True) == [-value for value in sorted(found[dropped])]


@pytest.mark.parametrize("name", ["superfiltering", "cherry"])
def test_the_highest_ifd_below_one_comes_first_and_misaligned_rows_only_fill_up(name):
    prefix = "experienced_" if name == "cherry" else ""
    answer = np.array([1.0, 1.9, 2.5, 0.5, 2.1, unknown])
    signals = {f"{prefix}answer_loss": answer, f"{prefix}alone_loss": np.full(6, 2.0)}
    chosen = run(name, 5, **signals)
    assert chosen.ids == (1, 0, 3, 4, 2)
    assert chosen.facts == {"rows not scored": 1, "rows good enough": 3, "rows that fill the budget": 2}
    assert chosen.why[4].startswith("kept: fills the budget, IFD 1.")
    assert chosen.why[4].endswith("is not below 1")
    assert chosen.why[5] == "cut: could not be scored"
    assert run(name, 3, **signals).why[2].startswith("cut: IFD ")


def test_the_forms_of_ifd_rank_differently_below_one():
    signals = {"answer_loss": [1.0, 0.1], "alone_loss": [2.0, 0.5]}
    assert run("superfiltering", 1, {"ifd_form": "loss"}, **signals).ids == (0,)
    assert run("superfiltering", 1, {"ifd_form": "perplexity"}, **signals).ids == (1,)


def test_by_length_takes_the_same_share_of_every_fifth():
    draw = np.random.default_rng(0)
    tokens = draw.permutation(100) + 1
    signals = {"answer_loss": 1 + tokens / 100, "alone_loss": np.full(100, 2.5), "answer_tokens": tokens}
    plain = run("superfiltering", 20, answer_loss=signals["answer_loss"], alone_loss=signals["alone_loss"])
    assert (tokens[list(plain.ids)] > 80).all()
    by_length = run("superfiltering", 20, {"by_length": True}, **signals)
    assert np.bincount((tokens[list(by_length.ids)] - 1) // 20).tolist() == [4] * 5


def test_misaligned_rows_still_come_last_by_length():
    signals = {"answer_loss": [3.0, 1.0, 1.0, 1.0], "alone_loss": [2.0] * 4, "answer_tokens": [1, 50, 60, 70]}
    chosen = run("superfiltering", 3, {"by_length": True}, **signals)
    assert 0 not in chosen.ids
    assert chosen.why[0] == "cut: IFD 2.718 is not below 1"


def test_misaligned_rows_do_not_lift_or_lower_the_ranks_of_their_fifth():
    difficulty = np.array([0.5, 2.0, 2.0, 2.0, 0.3, 0.4, 0.5, 0.6])
    signals = {"answer_loss": 2 + np.log(difficulty), "alone_loss": np.full(8, 2.0), "answer_tokens": [1] * 4 + [9] * 4}
    assert run("superfiltering", 3, {"by_length": True}, **signals).ids == (7, 6, 0)


def test_a_filter_asks_only_for_the_signals_that_its_options_use():
    method = filter_named("superfiltering")
    assert method.needs(method.checked({})) == ("answer_loss", "alone_loss")
    assert method.needs(method.checked({"by_length": True})) == ("answer_loss", "alone_loss", "answer_tokens")
    band = filter_named("perplexity_band")
    assert band.needs(band.checked({})) == ("answer_loss",)
    assert band.needs(band.checked({"by_length": True})) == ("answer_loss", "answer_tokens")


with_facility_location = pytest.mark.skipif("facility_location" not in filters(), reason="no facility location")


@with_facility_location
def test_diverse_superfiltering_takes_one_row_of_each_topic_where_plain_takes_copies():
    embedding = np.repeat(np.eye(4, dtype=np.float32), 5, axis=0)
    answer = np.tile([1.9, 1.8, 1.7, 1.0, 1.0], 4) - np.repeat([0.0, 0.001, 0.002, 0.5], 5)
    signals = {"answer_loss": answer, "alone_loss": np.full(20, 2.0), "embedding": embedding}
    plain = run("superfiltering", 4, answer_loss=answer, alone_loss=signals["alone_loss"])
    assert {row // 5 for row in plain.ids} != {0, 1, 2, 3}
    diverse = run("superfiltering", 4, {"diverse_pool": 5.0}, **signals)
    assert {row // 5 for row in diverse.ids} == {0, 1, 2, 3}
    assert diverse.facts["rows in the pool"] == 20
    method = filter_named("superfiltering")
    assert "embedding" in method.needs(method.checked({"diverse_pool": 5}))


@with_facility_location
def test_the_diverse_pool_holds_no_misaligned_row_and_the_reasons_tell_pool_from_rest():
    draw = np.random.default_rng(1)
    signals = {"answer_loss": draw.uniform(1, 3, 40), "alone_loss": np.full(40, 2.0)}
    signals["embedding"] = draw.normal(size=(40, 4)).astype(np.float32)
    chosen = run("superfiltering", 5, {"diverse_pool": 3.0}, **signals)
    best = run("superfiltering", 15, answer_loss=signals["answer_loss"], alone_loss=signals["alone_loss"])
    assert set(chosen.ids) <= set(best.ids)
    for row, reason in enumerate(chosen.why):
        assert ("among the 15 of highest IFD" in reason) == (row in best.ids)


@with_facility_location
def test_the_diverse_pool_ends_where_ifd_reaches_one():
    signals = {"answer_loss": np.linspace(1, 3, 40), "alone_loss": np.full(40, 2.0)}
    signals["embedding"] = np.random.default_rng(1).normal(size=(40, 4)).astype(np.float32)
    chosen = run("superfiltering", 5, {"diverse_pool": 8.0}, **signals)
    assert chosen.facts["rows in the pool"] == 20
    assert max(chosen.ids) < 20


@with_facility_location
@given(st.integers(1, 15), st.floats(0.5, 3.5), st.data())
def test_diverse_superfiltering_keeps_the_budget_however_few_rows_help(rows, level, data):
    budget = data.draw(st.integers(1, rows))
    signals = {"answer_loss": np.full(rows, level), "alone_loss": np.linspace(1, 3, rows)}
    signals["embedding"] = np.ones((rows, 2), dtype=np.float32)
    assert len(run("superfiltering", budget, {"diverse_pool": 2.0}, **signals).ids) == budget


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_less_puts_a_copy_of_a_validation_row_first():
    draw = np.random.default_rng(2)
    gradient, target = unit(draw.normal(size=(30, 20))), unit(draw.normal(size=(1, 20)))
    gradient[17] = target[0]
    chosen = run("less", 5, gradient=gradient, target_gradient=target, target_group=[0])
    assert chosen.ids[0] == 17
    assert np.isclose(chosen.scores[17], 1)


def test_less_takes_the_best_group_not_the_mean_of_all_rows():
    gradient = unit(np.array([[1.0, 0.0], [1.0, 1.0], [-1.0, -1.0]]))
    target = unit(np.array([[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]]))
    chosen = run("less", 1, gradient=gradient, target_gradient=target, target_group=[4, 9, 9])
    assert chosen.ids == (0,)
    assert np.allclose(chosen.scores, [1.0, np.sqrt(0.5), np.sqrt(0.5)])


def test_less_leaves_validation_rows_without_a_gradient_out_and_rows_without_one_last():
    gradient = np.array([[unknown, unknown], [-1.0, 0.0], [1.0, 0.0]], dtype=np.float32)
    target = np.array([[1.0, 0.0], [unknown, unknown]], dtype=np.float32)
    chosen = run("less", 3, gradient=gradient, target_gradient=target, target_group=[0, 0])
    assert chosen.ids == (2, 1, 0)
    assert chosen.why[0] == "kept: fills the budget, could not be scored"


@pytest.mark.parametrize("rows", [0, 3], ids=["no rows", "no gradients"])
def test_less_without_validation_rows_says_what_to_do(rows):
    target = np.full((rows, 2), unknown, dtype=np.float32)
    with pytest.raises(DamocError, match="set dataset.splits.valid above 0"):
        run("less", 1, gradient=np.eye(2), target_gradient=target, target_group=np.zeros(rows, dtype=int))


@given(st.integers(1, 25), st.integers(0, 500), st.data())
def test_any_monotone_function_of_the_loss_gives_the_same_band(rows, seed, data):
    loss = np.random.default_rng(seed).uniform(0.1, 5, rows)
    budget = data.draw(st.integers(1, rows))
    chosen = run("perplexity_band", budget, answer_loss=loss)
    for monotone in (np.exp(loss), 3 * loss - 7, loss**3):
        assert run("perplexity_band", budget, answer_loss=monotone).ids == chosen.ids


def test_the_band_lies_where_its_centre_is():
    loss = np.random.default_rng(3).permutation(101).astype(float)
    for centre, inside in ((0.0, range(0, 11)), (0.5, range(45, 56)), (1.0, range(90, 101))):
        chosen = run("perplexity_band", 11, {"centre": centre}, answer_loss=loss)
        assert sorted(loss[list(chosen.ids)]) == list(inside)


def test_the_band_by_length_is_the_middle_of_every_fifth():
    tokens = np.repeat([5, 10, 20, 40, 80], 9)
    loss = np.tile(np.arange(9.0), 5) / tokens
    chosen = run("perplexity_band", 5, {"by_length": True}, answer_loss=loss, answer_tokens=tokens)
    assert sorted(chosen.ids) == [4, 13, 22, 31, 40]
