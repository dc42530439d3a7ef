"""Quality-aware and hybrid filters against plain loops, scikit-learn and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import percentileofscore
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

from damoc.filters import RowSelection, choose, filter_named
from damoc.filters.hybrid.cherry import experience_rows
from damoc.filters.hybrid.clusters import k_means, principal_components
from damoc.filters.hybrid.mods import seed_rows
from damoc.filters.ordering import ranks
from damoc.filters.quality.difficulty import instruction_following_difficulty

small = st.integers(1, 14)
seeds = st.integers(0, 10_000)


def run(name: str, budget: int, options: dict | None = None, seed: int = 0, **signals: np.ndarray) -> RowSelection:
    rows = np.arange(len(next(iter(signals.values()))))
    return choose(filter_named(name), {"rows": rows, **signals}, budget, seed, options)


def coarse(draw: np.random.Generator, *shape: int) -> np.ndarray:
    """Few distinct values, so that ties are common."""
    return draw.integers(-2, 3, shape).astype(np.float32)


def walk_down(scores: np.ndarray, embedding: np.ndarray, budget: int, novelty: float) -> tuple[list[int], float]:
    """Deita's representation filter, one row at a time, every cosine computed anew."""
    order = sorted(range(len(scores)), key=lambda row: (-round(float(scores[row]), 9), row))
    kept: list[int] = []
    limit = novelty
    while True:
        for row in order:
            cosines = [round(cosine(embedding[row], embedding[other]), 9) for other in kept]
            if row not in kept and len(kept) < budget and (limit >= 1 or all(value < limit for value in cosines)):
                kept.append(row)
        if len(kept) == budget:
            return kept, limit
        limit = 1 - (1 - limit) / 2 if (1 - limit) / 2 >= 1e-3 else 1.0


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    lengths = math.hypot(*first.tolist()) * math.hypot(*second.tolist())
    return sum(a * b for a, b in zip(first.tolist(), second.tolist(), strict=True)) / lengths if lengths else 0.0


@given(small, seeds, st.sampled_from([-1.0, -0.3, 0.0, 0.55, 0.9, 1.0]), st.data())
def test_deita_is_the_walk_of_one_row_at_a_time(rows, seed, novelty, data):
    draw = np.random.default_rng(seed)
    budget = data.draw(st.integers(1, rows))
    embedding, quality = coarse(draw, rows, 3), draw.integers(1, 5, rows).astype(float)
    chosen = run(
        "deita", budget, {"novelty": novelty}, embedding=embedding, quality=quality, complexity=np.full(rows, 2.0)
    )
    ids, limit = walk_down(2 * quality, embedding, budget, novelty)
    assert list(chosen.ids) == ids
    assert chosen.facts["novelty used"] == limit


def test_deita_on_many_rows_keeps_every_pair_below_the_limit_and_skips_only_what_is_near_a_better_row():
    draw = np.random.default_rng(0)
    embedding = draw.normal(size=(400, 3))
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    quality = draw.uniform(1, 6, 400)
    chosen = run("deita", 30, embedding=embedding.astype(np.float32), quality=quality, complexity=np.ones(400))
    assert list(chosen.ids) == walk_down(quality, embedding.astype(np.float32), 30, 0.9)[0]
    kept = np.array(chosen.ids)
    cosines = embedding @ embedding[kept].T
    assert (cosines[kept][~np.eye(30, dtype=bool)] < 0.9).all()
    assert np.allclose(chosen.trace[1:], [cosines[kept[place], :place].max() for place in range(1, 30)], atol=1e-6)
    for row in np.flatnonzero(quality > quality[kept[-1]]):
        assert row in kept or cosines[row, quality[kept] > quality[row]].max() >= 0.9


@pytest.mark.parametrize("rows", [20, 200])
@pytest.mark.parametrize("variance", [0.5, 0.95])
def test_principal_components_are_those_of_scikit_learn(rows, variance):
    points = np.random.default_rng(rows).normal(size=(rows, 30)) * np.geomspace(1, 0.01, 30)
    ours, peer = principal_components(points, variance), PCA(variance, svd_solver="full").fit_transform(points)
    assert ours.shape == peer.shape
    assert np.allclose(np.abs(ours), np.abs(peer))


@pytest.mark.parametrize("seed", [0, 2**32 + 5])
def test_k_means_is_that_of_scikit_learn(seed):
    points = np.random.default_rng(1).normal(size=(300, 5)).astype(np.float32)
    peer = KMeans(9, n_init=1, random_state=seed % 2**32).fit(points.astype(np.float64))
    assert (k_means(points, 9, seed) == peer.labels_).all()


def clustered(seed: int, rows: int = 128) -> np.ndarray:
    draw = np.random.default_rng(seed)
    centres = 20 * draw.normal(size=(8, 6))
    return (centres[np.arange(rows) % 8] + draw.normal(size=(rows, 6))).astype(np.float32)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("budget", [1, 3, 8, 20, 128])
def test_car_is_the_union_of_the_best_of_scikit_learns_clusters_and_the_top(seed, budget):
    points, judge = clustered(seed), np.random.default_rng(seed).integers(0, 50, 128) / 10
    order = sorted(range(128), key=lambda row: (-judge[row], row))
    clusters = min(budget, math.floor(math.sqrt(128 / 2)))
    axes = PCA(0.95, svd_solver="full").fit_transform(points.astype(np.float64))
    labels = KMeans(clusters, n_init=1, random_state=seed).fit_predict(axes)
    best = {next(row for row in order if labels[row] == label) for label in range(clusters)}
    unions = [best | set(order[:top]) for top in range(129)]
    expected = next(union for union in unions if len(union) == budget)
    chosen = run("car", budget, seed=seed, judge=judge, embedding=points)
    assert adjusted_rand_score(labels, k_means(principal_components(points), clusters, seed)) == 1
    assert set(chosen.ids) == expected


@given(small, seeds, st.integers(1, 3))
def test_less_is_the_best_mean_of_weighted_cosines_over_checkpoints(rows, seed, checkpoints):
    draw = np.random.default_rng(seed)
    weights = draw.dirichlet(np.ones(checkpoints))
    train, target = draw.normal(size=(checkpoints, rows, 5)), draw.normal(size=(checkpoints, 6, 5))
    groups = draw.integers(0, 3, 6)

    def similarity(row: int, other: int) -> float:
        return sum(weights[at] * cosine(train[at, row], target[at, other]) for at in range(checkpoints))

    def side_by_side(gradients: np.ndarray) -> np.ndarray:
        unit = gradients / np.linalg.norm(gradients, axis=2, keepdims=True)
        return np.concatenate([math.sqrt(weights[at]) * unit[at] for at in range(checkpoints)], axis=1)

    expected = [
        max(np.mean([similarity(row, other) for other in np.flatnonzero(groups == group)]) for group in set(groups))
        for row in range(rows)
    ]
    signals = {"gradient": side_by_side(train), "target_gradient": side_by_side(target), "target_group": groups}
    chosen = run("less", rows, **signals)
    assert np.allclose(chosen.scores, expected)
    assert list(chosen.ids) == sorted(range(rows), key=lambda row: (-round(expected[row], 9), row))


def test_less_scores_rows_alike_in_one_block_and_in_many():
    draw = np.random.default_rng(0)
    gradient = draw.normal(size=(9000, 8)).astype(np.float32)
    target, groups = draw.normal(size=(4, 8)).astype(np.float32), np.array([0, 1, 0, 1])
    chosen = run("less", 10, gradient=gradient, target_gradient=target, target_group=groups)
    means = np.stack([target[groups == group].mean(axis=0, dtype=np.float64) for group in (0, 1)])
    assert np.allclose(chosen.scores, (gradient.astype(np.float64) @ means.T).max(axis=1))


@given(st.integers(1, 30), seeds)
def test_ifd_is_the_ratio_of_perplexities_or_losses(rows, seed):
    answer, alone = np.random.default_rng(seed).uniform(0.1, 6, (2, rows))
    by_hand = [math.exp(a) / math.exp(b) for a, b in zip(answer, alone, strict=True)]
    assert np.allclose(instruction_following_difficulty(answer, alone), by_hand)
    assert np.allclose(instruction_following_difficulty(answer, alone, "loss"), answer / alone)


@given(small, seeds, st.data())
def test_superfiltering_sorts_what_is_below_one(rows, seed, data):
    draw = np.random.default_rng(seed)
    budget = data.draw(st.integers(1, rows))
    answer, alone = draw.integers(1, 5, (2, rows)).astype(float)
    ratio = [round(math.exp(a - b), 9) for a, b in zip(answer, alone, strict=True)]
    order = sorted(range(rows), key=lambda row: (ratio[row] >= 1, ratio[row] if ratio[row] >= 1 else -ratio[row], row))
    assert list(run("superfiltering", budget, answer_loss=answer, alone_loss=alone).ids) == order[:budget]


@given(st.integers(1, 30), seeds)
def test_ranks_are_the_mean_percentiles_of_scipy(rows, seed):
    scores = np.random.default_rng(seed).integers(0, 8, rows).astype(float)
    assert np.allclose(ranks(scores), [percentileofscore(scores, score, kind="mean") / 100 for score in scores])


@pytest.mark.parametrize("budget", [1, 11, 51, 101])
def test_the_band_is_what_lies_between_two_quantiles(budget):
    loss = np.random.default_rng(4).exponential(size=101)
    low, high = np.quantile(loss, [0.5 - (budget - 1) / 200, 0.5 + (budget - 1) / 200], method="nearest")
    chosen = run("perplexity_band", budget, answer_loss=loss)
    assert set(chosen.ids) == set(np.flatnonzero((loss >= low) & (loss <= high)).tolist())


def farthest_first(points: np.ndarray, rows: list[int], count: int) -> list[int]:
    points = points.astype(np.float64)
    mean = points[rows].mean(axis=0)
    chosen = [min(rows, key=lambda row: (round(float(((points[row] - mean) ** 2).sum()), 9), row))]
    while len(chosen) < count:
        left = [row for row in rows if row not in chosen]

        def gap(row: int) -> float:
            return round(min(float(((points[row] - points[other]) ** 2).sum()) for other in chosen), 9)

        chosen.append(max(left, key=lambda row: (gap(row), -row)))
    return chosen


@given(small, seeds, st.data())
def test_mods_is_its_three_steps_one_after_the_other(rows, seed, data):
    draw = np.random.default_rng(seed)
    budget = data.draw(st.integers(1, rows))
    points = draw.integers(-9, 10, (rows, 2)).astype(np.float32)
    reward, necessity = draw.permutation(rows).astype(float), draw.permutation(rows).astype(float)
    ranked = sorted(range(rows), key=lambda row: -reward[row])
    good, others = sorted(ranked[: max(1, round(0.7 * rows))]), ranked[max(1, round(0.7 * rows)) :]
    covering = min(len(good), round(0.5 * budget))
    expected = farthest_first(points, good, covering) if covering else []
    expected += sorted(set(good) - set(expected), key=lambda row: necessity[row]) + others
    chosen = run("mods", budget, reward=reward, necessity=necessity, prompt_embedding=points)
    assert list(chosen.ids) == expected[:budget]
    tuned = seed_rows(reward, points, minimum=3).tolist()
    assert tuned == farthest_first(points, good, min(len(good), 3))


def test_experience_takes_from_each_of_scikit_learns_clusters_what_numpys_percentiles_hold():
    points, loss = clustered(2, rows=800), np.random.default_rng(2).uniform(1, 4, 800)
    found = experience_rows(points, loss, seed=2, clusters=8, per_cluster=60, at_most_share=0.6)
    labels = KMeans(8, n_init=1, random_state=2).fit_predict(points.astype(np.float64))
    for label in range(8):
        own = np.flatnonzero(labels == label)
        low, high = np.percentile(loss[own], 25, method="lower"), np.percentile(loss[own], 75, method="higher")
        inside = own[(loss[own] >= low) & (loss[own] <= high)]
        drawn = found[labels[found] == label]
        assert len(inside) < 60
        assert drawn.tolist() == inside.tolist()


@given(st.integers(1, 20), seeds, st.sampled_from(["reciprocal", "borda"]), st.data())
def test_the_ensemble_fuses_the_places_of_its_members(rows, seed, fusion, data):
    draw = np.random.default_rng(seed)
    budget = data.draw(st.integers(1, rows))
    signals = {"judge": draw.permutation(rows) / 7.0, "answer_loss": draw.uniform(1, 2, rows)}
    signals |= {"alone_loss": np.full(rows, 2.5), "embedding": draw.normal(size=(rows, 3)).astype(np.float32)}
    weights = {"alpagasus": 2.0, "superfiltering": 1.0, "k_center_greedy": 1.0}
    rating = sorted(range(rows), key=lambda row: -signals["judge"][row])
    difficulty = sorted(range(rows), key=lambda row: -signals["answer_loss"][row])
    centres = farthest_first(signals["embedding"], list(range(rows)), budget)

    def places(row: int) -> tuple[float, float, float]:
        behind = (budget + 1 + rows) / 2
        return rating.index(row) + 1, difficulty.index(row) + 1, centres.index(row) + 1 if row in centres else behind

    def credit(row: int) -> float:
        shares = [weight / 4 for weight in weights.values()]
        if fusion == "borda":
            return sum(share * (rows - place) / rows for share, place in zip(shares, places(row), strict=True))
        return sum(share * 61 / (60 + place) for share, place in zip(shares, places(row), strict=True))

    chosen = run("ensemble", budget, {"members": weights, "fusion": fusion}, **signals)
    assert np.allclose(chosen.scores, [credit(row) for row in range(rows)])
    assert list(chosen.ids) == sorted(range(rows), key=lambda row: (-round(credit(row), 9), row))[:budget]
