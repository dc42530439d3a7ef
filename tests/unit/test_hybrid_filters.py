from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from damoc.filters import RowSelection, choose, filter_named
from damoc.filters.hybrid.cherry import experience_rows
from damoc.filters.hybrid.clusters import k_means, principal_components
from damoc.filters.hybrid.mods import seed_rows

unknown = float("nan")


def run(name: str, budget: int, options: dict | None = None, seed: int = 0, **signals: object) -> RowSelection:
    known = {key: np.asarray(values) for key, values in signals.items()}
    rows = np.arange(len(next(iter(known.values()))))
    return choose(filter_named(name), {"rows": rows, **known}, budget, seed, options)


def directions(rows: int, size: int = 6, seed: int = 0) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=(rows, size))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def mods_signals(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    reward, necessity = draw.normal(size=rows), draw.normal(size=rows)
    return {"reward": reward, "necessity": necessity, "prompt_embedding": directions(rows, seed=seed)}


@given(st.integers(4, 60), st.integers(0, 100), st.data())
def test_mods_chooses_among_the_good_rows_while_there_are_any(rows, seed, data):
    budget = data.draw(st.integers(1, rows))
    signals = mods_signals(rows, seed)
    good = set(np.argsort(-signals["reward"])[: max(1, round(0.7 * rows))].tolist())
    chosen = run("mods", budget, **signals)
    assert set(chosen.ids) <= good if budget <= len(good) else good <= set(chosen.ids)


def test_mods_with_all_rows_good_and_coverage_only_is_k_center_greedy():
    signals = mods_signals(40)
    chosen = run("mods", 12, {"quality_share": 1.0, "coverage_share": 1.0}, **signals)
    assert chosen.ids == run("k_center_greedy", 12, embedding=signals["prompt_embedding"]).ids


def test_mods_without_coverage_takes_the_good_rows_that_are_answered_worst():
    signals = mods_signals(40)
    good = signals["reward"] > 0.2
    chosen = run("mods", 5, {"reward_threshold": 0.2, "coverage_share": 0.0}, **signals)
    assert list(chosen.ids) == sorted(np.flatnonzero(good), key=lambda row: signals["necessity"][row])[:5]


def test_mods_covers_with_the_rows_that_the_answering_model_was_tuned_on():
    signals = mods_signals(400)
    tuned = seed_rows(signals["reward"], signals["prompt_embedding"])
    assert len(tuned) == 20
    assert run("mods", 40, **signals).ids[:20] == tuple(tuned.tolist())
    assert run("mods", 10, **signals).ids[:5] == tuple(tuned[:5].tolist())


def test_mods_reasons_name_the_step():
    chosen = run(
        "mods",
        5,
        {"reward_threshold": 0.0},
        reward=[1.0, 0.5, -1.0, unknown, 0.8, 0.7],
        necessity=[0.3, 0.1, -9.0, -9.0, unknown, 0.2],
        prompt_embedding=np.array([[0.0], [1.0], [5.0], [6.0], [10.0], [4.9]], dtype=np.float32),
    )
    assert chosen.ids == (5, 4, 1, 0, 2)
    assert chosen.why == (
        "kept: good and answered badly (reward of the model's answer 0.300)",
        "kept: good and answered badly (reward of the model's answer 0.100)",
        "kept: fills the budget, reward -1.000 is not good enough",
        "cut: could not be scored",
        "kept: good (reward 0.800), covers prompts as choice 2",
        "kept: good (reward 0.700), covers prompts as choice 1",
    )
    assert chosen.facts == {
        "rows good enough": 4,
        "rows kept for coverage": 2,
        "rows kept for necessity": 2,
        "rows that fill the budget": 1,
        "rows not scored": 2,
    }


def test_mods_keeps_good_rows_of_unknown_necessity_after_the_known_ones():
    signals = mods_signals(10)
    signals["necessity"][:] = unknown
    signals["necessity"][3] = 5.0
    chosen = run("mods", 4, {"quality_share": 1.0, "coverage_share": 0.0}, **signals)
    assert chosen.ids == (3, 0, 1, 2)
    assert chosen.why[0].endswith("its necessity could not be scored")


@given(st.integers(1, 60), st.integers(0, 50))
def test_seed_rows_are_good_distinct_and_as_many_as_asked(rows, seed):
    signals = mods_signals(rows, seed)
    found = seed_rows(signals["reward"], signals["prompt_embedding"], seed_share=0.2, minimum=3)
    good = np.argsort(-signals["reward"])[: max(1, round(0.7 * rows))]
    assert len(found) == min(len(good), max(3, round(0.2 * rows)))
    assert len(set(found.tolist())) == len(found)
    assert set(found.tolist()) <= set(good.tolist())


def test_seed_rows_without_rewards_are_none():
    assert len(seed_rows(np.full(5, unknown), directions(5))) == 0


def blobs(each: int, centres: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    labels = draw.permutation(np.repeat(np.arange(centres), each))
    places = 100 * np.eye(centres)[:, : max(2, centres)]
    return (places[labels] + draw.normal(size=(len(labels), places.shape[1]))).astype(np.float32), labels


def test_experience_draws_the_same_number_from_each_cluster_inside_its_window():
    points, labels = blobs(100, 3)
    loss = np.random.default_rng(5).uniform(1, 4, 300) + 10 * labels
    found = experience_rows(points, loss, seed=0, clusters=3, per_cluster=10)
    assert np.bincount(labels[found]).tolist() == [10, 10, 10]
    for label in range(3):
        own = loss[labels == label]
        drawn = loss[found[labels[found] == label]]
        assert (drawn >= np.percentile(own, 25, method="lower")).all()
        assert (drawn <= np.percentile(own, 75, method="higher")).all()


@given(st.integers(1, 300), st.integers(0, 20))
def test_experience_is_at_most_a_fifth_of_the_rows_sorted_and_never_none(rows, seed):
    draw = np.random.default_rng(seed)
    points, loss = draw.normal(size=(rows, 3)), draw.uniform(0, 5, rows)
    found = experience_rows(points, loss, seed)
    assert 1 <= len(found) <= max(1, rows // 5)
    assert found.tolist() == sorted(set(found.tolist()))
    assert (experience_rows(points, loss, seed) == found).all()


def test_experience_of_few_rows_keeps_the_proportion_of_clusters_to_rows_a_cluster():
    points, _ = blobs(15, 33)
    found = experience_rows(points, np.random.default_rng(0).uniform(0, 5, 495), seed=0)
    clusters = k_means(points, 33, 0)
    assert np.bincount(clusters[found], minlength=33).max() == 3
    assert len(found) == 33 * 3


def test_experience_depends_on_its_seed():
    points, _ = blobs(100, 3)
    loss = np.random.default_rng(5).uniform(1, 4, 300)
    assert experience_rows(points, loss, 0).tolist() != experience_rows(points, loss, 1).tolist()


def test_experience_avoids_rows_of_unknown_perplexity_unless_there_are_no_others():
    points, labels = blobs(20, 2)
    loss = np.where(labels == 0, unknown, 1.0)
    loss[np.flatnonzero(labels == 1)[:10]] = unknown
    found = experience_rows(points, loss, seed=0, clusters=2, per_cluster=4)
    assert np.bincount(labels[found]).tolist() == [4, 4]
    assert np.isfinite(loss[found[labels[found] == 1]]).all()


def deita(budget: int, embedding: np.ndarray, score: np.ndarray, novelty: float = 0.9) -> RowSelection:
    signals = {"complexity": np.asarray(score), "quality": np.ones(len(score)), "embedding": embedding}
    return run("deita", budget, {"novelty": novelty}, **signals)


def test_only_the_best_of_copies_is_kept():
    embedding = np.eye(3, dtype=np.float32)[[0, 0, 1, 1, 2, 2]]
    chosen = deita(3, embedding, [1.0, 2.0, 5.0, 4.0, 3.0, 3.0])
    assert chosen.ids == (2, 4, 1)
    assert chosen.facts["novelty used"] == 0.9
    assert chosen.why[3] == "cut: score 4.000, cosine 1.000 to a row kept before"
    assert chosen.why[2] == "kept: score 5.000, the best"


def test_novelty_of_one_keeps_the_best_rows_copies_included():
    embedding = directions(20)[np.arange(20) // 2]
    score = np.random.default_rng(0).uniform(1, 30, 20)
    chosen = deita(8, embedding, score, novelty=1.0)
    assert list(chosen.ids) == np.argsort(-score)[:8].tolist()
    assert chosen.facts["walks"] == 1


def test_novelty_of_minus_one_keeps_one_row_before_the_limit_moves():
    chosen = deita(1, directions(10), np.arange(10.0), novelty=-1.0)
    assert (chosen.ids, chosen.facts["novelty used"]) == ((9,), -1.0)
    assert deita(2, directions(10), np.arange(10.0), novelty=-1.0).facts["novelty used"] == 0.0


def test_an_exhausted_walk_moves_its_limit_half_way_to_one_and_records_it():
    angles = np.deg2rad([0.0, 20.0, 90.0])
    embedding = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    chosen = deita(3, embedding, [3.0, 2.0, 1.0])
    assert chosen.ids == (0, 2, 1)
    assert np.isclose(np.cos(angles[1]), chosen.trace[2])
    assert np.isclose(chosen.facts["novelty used"], 0.95)
    assert chosen.facts["walks"] == 2


def test_rows_without_a_score_come_after_copies_of_those_with_one():
    embedding = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    chosen = deita(3, embedding, [2.0, 3.0, unknown])
    assert chosen.ids == (1, 0, 2)
    assert chosen.why[2] == "kept: fills the budget, could not be scored"


def test_a_zero_embedding_is_like_no_other_row():
    assert deita(2, np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]), [3.0, 2.0, 1.0]).ids == (0, 2)


def test_deita_multiplies_complexity_and_quality():
    signals = {"complexity": [5.0, 1.0, 3.0], "quality": [1.0, 5.0, 3.0], "embedding": np.eye(3)}
    chosen = run("deita", 1, **signals)
    assert chosen.ids == (2,)
    assert chosen.scores.tolist() == [5.0, 5.0, 9.0]


def test_deita_by_ifd_drops_misaligned_rows_and_needs_no_judge():
    method = filter_named("deita")
    assert method.needs(method.checked({"score": "ifd"})) == ("answer_loss", "alone_loss", "embedding")
    assert method.needs(method.checked({})) == ("complexity", "quality", "embedding")
    signals = {"answer_loss": [1.0, 3.0, 1.9, 1.8], "alone_loss": [2.0] * 4}
    chosen = run("deita", 3, {"score": "ifd"}, embedding=np.eye(4)[[0, 1, 2, 2]], **signals)
    assert chosen.ids == (2, 0, 3)
    assert run("deita", 4, {"score": "ifd"}, embedding=np.eye(4), **signals).ids == (2, 3, 0, 1)


def test_one_cluster_makes_car_the_best_rows():
    judge = np.random.default_rng(0).uniform(0, 5, 7)
    chosen = run("car", 3, judge=judge, embedding=directions(7))
    assert list(chosen.ids) == np.argsort(-judge)[:3].tolist()


def test_car_keeps_the_best_of_every_cluster_and_fills_with_the_best_overall():
    points, labels = blobs(8, 4)
    judge = np.random.default_rng(1).uniform(0, 1, 32) + labels
    best = {int(np.flatnonzero(labels == label)[np.argmax(judge[labels == label])]) for label in range(4)}
    chosen = run("car", 10, judge=judge, embedding=points)
    assert set(chosen.ids[:4]) == best
    rest = [row for row in np.argsort(-judge).tolist() if row not in best]
    assert list(chosen.ids[4:]) == rest[:6]
    assert chosen.facts["clusters"] == 4
    assert chosen.facts["rows kept as best of their cluster"] == 4


def test_a_budget_below_the_number_of_clusters_gives_as_many_clusters():
    points, labels = blobs(8, 2)
    judge = np.arange(16.0)
    chosen = run("car", 2, judge=judge, embedding=points)
    assert chosen.facts["clusters"] == 2
    assert set(labels[list(chosen.ids)].tolist()) == {0, 1}


def test_a_cluster_without_a_scored_row_gets_none():
    points, labels = blobs(8, 4)
    judge = np.where(labels == 3, unknown, np.arange(32.0))
    chosen = run("car", 4, judge=judge, embedding=points)
    assert 3 not in labels[list(chosen.ids)]
    assert chosen.facts["rows kept as best of their cluster"] == 3


def test_car_ranks_by_the_measurement_that_is_named():
    method = filter_named("car")
    assert method.needs(method.checked({})) == ("judge", "embedding")
    assert method.needs(method.checked({"quality": "reward"})) == ("reward", "embedding")
    assert method.needs(method.checked({"quality": "ifd"})) == ("answer_loss", "alone_loss", "embedding")
    embedding = directions(6)
    assert run("car", 1, {"quality": "reward"}, reward=np.arange(6.0), embedding=embedding).ids == (5,)
    losses = {"answer_loss": [1.0, 2.5, 1.9, 1.0, 1.0, 1.0], "alone_loss": [2.0] * 6}
    assert run("car", 1, {"quality": "ifd"}, embedding=embedding, **losses).ids == (2,)


def test_car_repeats_itself_for_a_seed():
    judge = np.random.default_rng(0).uniform(0, 5, 200)
    choices = [run("car", 20, seed=seed, judge=judge, embedding=directions(200)).ids for seed in (1, 1, 2)]
    assert choices[0] == choices[1] != choices[2]


@pytest.mark.parametrize("points", [np.ones((5, 3)), np.zeros((1, 4))], ids=["copies", "one row"])
def test_copies_have_one_axis_and_one_cluster(points):
    assert principal_components(points).shape == (len(points), 1)
    assert len(np.unique(k_means(points, len(points), 0))) == 1
