from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from damoc.config import DataCompression
from damoc.data.example import Example
from damoc.data.prompts import Encoded, encode
from damoc.errors import DamocError
from damoc.models.likelihood import answer_losses
from damoc.signals.adam import AdamDirection, Checkpoint, WarmUp, warm_up
from damoc.signals.gradient import DIMENSIONS, row_vectors
from damoc.signals.per_example import per_example_gradients, row_losses
from damoc.signals.projection import CountSketch
from damoc.signals.registry import SignalContext, measure_signals
from damoc.signals.warm_up import chosen_by_hash, lora

NAMES = ["gradient", "target_gradient", "target_group"]
ROWS = [
    Example(f"row {number}", "Which word comes next?", f"The {word} stands", f"{word} {number}")
    for number, word in enumerate("cache bucket queue node user table key topic task alarm stack".split() * 3)
]
TARGETS = [
    Example("one", "Is it a store?", "bucket", "yes", ("no", "yes")),
    Example("two", "Is it a store?", "alarm", "no", ("no", "yes")),
    Example("three", "Is it a store?", "table", "yes", ("no", "yes")),
]


def context_of(zoo: Path, cache: Path, rows=ROWS, targets=TARGETS, **changes) -> SignalContext:
    config = DataCompression.model_validate({"condense": {"compressor": str(zoo / "tiny-reference")}})
    return SignalContext(rows, targets, config, cache, **changes)


@pytest.fixture(scope="module")
def measured(zoo, tmp_path_factory) -> tuple[dict[str, np.ndarray], SignalContext]:
    context = context_of(zoo, tmp_path_factory.mktemp("signals"))
    return measure_signals(NAMES, context), context


def test_rows_and_validation_rows_get_unit_vectors_and_closed_answers_their_groups(measured):
    found, _ = measured
    assert found["gradient"].shape == (len(ROWS), DIMENSIONS)
    assert found["target_gradient"].shape == (len(TARGETS), DIMENSIONS)
    for name in ("gradient", "target_gradient"):
        assert found[name].dtype == np.float32
        assert np.allclose(np.linalg.norm(found[name], axis=1), 1, atol=1e-5)
    assert found["target_group"].tolist() == [1, 0, 1]
    assert found["target_group"].dtype == np.int64


def test_validation_rows_with_free_answers_are_one_group(measured, zoo):
    _, first = measured
    free = [replace(target, choices=()) for target in TARGETS]
    assert measure_signals(NAMES, context_of(zoo, first.cache, targets=free))["target_group"].tolist() == [0, 0, 0]


def test_the_order_of_the_rows_changes_nothing(measured, zoo, tmp_path):
    found, _ = measured
    order = np.random.default_rng(0).permutation(len(ROWS))
    shuffled = measure_signals(NAMES, context_of(zoo, tmp_path, rows=[ROWS[row] for row in order]))
    assert np.array_equal(shuffled["gradient"], found["gradient"][order])
    assert np.array_equal(shuffled["target_gradient"], found["target_gradient"])


def test_known_gradients_need_no_model(measured, zoo, monkeypatch):
    found, first = measured

    def unwanted(*args: object, **options: object) -> None:
        raise AssertionError("the scorer was loaded")

    monkeypatch.setattr("damoc.models.load.load_model", unwanted)
    again = measure_signals(NAMES, context_of(zoo, first.cache))
    assert all(np.array_equal(again[name], found[name]) for name in NAMES)
    with pytest.raises(AssertionError, match="was loaded"):
        measure_signals(NAMES, context_of(zoo, first.cache, seed=1))


def test_a_killed_measurement_goes_on_and_a_warm_up_that_was_not_renamed_never_counts(measured, zoo, tmp_path):
    found, first = measured
    (warm,) = (first.cache / "tuned-scorer").iterdir()
    folder = tmp_path / "tuned-scorer"
    folder.mkdir()
    (folder / f"{warm.name}.part").write_bytes(warm.read_bytes()[:1000])

    def killed(name: str):
        def at(done: int, total: int) -> None:
            if name == "target gradient":
                raise KeyboardInterrupt

        return at

    with pytest.raises(KeyboardInterrupt):
        measure_signals(NAMES, context_of(zoo, tmp_path, progress=killed))
    (trained,) = folder.glob("*.safetensors")
    assert trained.name == warm.name
    assert trained.read_bytes() == warm.read_bytes()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("**/*.npz")}
    assert kept
    resumed = measure_signals(NAMES, context_of(zoo, tmp_path))
    assert all(np.array_equal(resumed[name], found[name]) for name in NAMES)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())


def test_without_a_validation_split_there_is_one_clear_error(zoo, tmp_path):
    with pytest.raises(DamocError, match="LESS needs a validation split"):
        measure_signals(NAMES, context_of(zoo, tmp_path, targets=[]))
    assert not list(tmp_path.iterdir())


def test_the_scorer_is_left_as_it_was(measured, toy):
    _, context = measured
    untouched, used = toy("tiny-reference"), context.scorer
    rows = [encode(used.tokenizer, row, 128) for row in ROWS[:4]]
    for before, after in zip(answer_losses(untouched.model, rows, 2), answer_losses(used.model, rows, 2), strict=True):
        assert np.array_equal(before, after)
    assert [name for name, _ in used.model.named_parameters()] == [n for n, _ in untouched.model.named_parameters()]
    assert all(weight.requires_grad for weight in used.model.parameters())
    assert not used.model.training


def test_adapters_come_off_when_something_fails_under_them(toy):
    model = toy("tiny-reference").model
    with pytest.raises(RuntimeError, match="in between"), lora(model, 2, 4) as adapted:
        adapted.train()
        raise RuntimeError("in between")
    assert not any(".lora_" in name for name, _ in model.named_parameters())
    assert all(weight.requires_grad for weight in model.parameters())
    assert not model.training


def test_a_row_without_a_gradient_is_a_zero_vector_with_and_without_momentum(toy):
    loaded = toy("tiny-reference")
    row = encode(loaded.tokenizer, ROWS[0], 128)
    silent = Encoded(row.ids, len(row.ids))
    with lora(loaded.model, 2, 4, seed=1) as model:
        (end,) = warm_up(model, [row], 2, WarmUp(rank=2, alpha=4, epochs=2), 0)
        for direction in (None, AdamDirection(end, "cpu")):
            vectors = row_vectors(model, [silent, row], 2, CountSketch(64, 0), direction)
            assert not vectors[0].any()
            assert np.linalg.norm(vectors[1]) == pytest.approx(1, abs=1e-5)


def test_a_checkpoint_is_read_as_it_was_kept():
    tensors = {"a.weight": torch.ones(2, 3)}
    kept = Checkpoint(tensors, {"a.weight": torch.zeros(2, 3)}, {"a.weight": torch.ones(2, 3) * 2}, 7, 0.25)
    read = Checkpoint.from_tensors(kept.tensors())
    assert (read.steps, read.rate) == (7, 0.25)
    assert torch.equal(read.exp_avg_sq["a.weight"], kept.exp_avg_sq["a.weight"])


def test_several_checkpoints_weigh_cosines_by_their_learning_rates(zoo, tmp_path, monkeypatch):
    settings = WarmUp(epochs=2, checkpoints=2, batch_size=2)
    monkeypatch.setattr("damoc.signals.gradient.WARM_UP", settings)
    found = measure_signals(NAMES, context_of(zoo, tmp_path, rows=ROWS[:8]))["gradient"]
    assert found.shape == (8, 2 * DIMENSIONS)
    halves = np.linalg.norm(found.reshape(8, 2, DIMENSIONS), axis=2) ** 2
    assert np.allclose(halves.sum(axis=1), 1, atol=1e-5)
    assert (halves[:, 0] > halves[:, 1]).all()


def test_the_sample_depends_on_what_rows_say_and_on_the_seed():
    sample = chosen_by_hash(ROWS, 0.25, 2, seed=0)
    assert len(sample) == 8
    assert chosen_by_hash(ROWS[::-1], 0.25, 2, seed=0) == sample
    assert chosen_by_hash(ROWS, 0.25, 2, seed=1) != sample
    assert len(chosen_by_hash(ROWS, 0.01, 32, seed=0)) == 32
    assert len(chosen_by_hash(ROWS[:3], 0.01, 32, seed=0)) == 3


def test_a_layer_that_mixes_rows_is_refused():
    class Experts(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lora_A = torch.nn.ModuleDict({"default": torch.nn.Linear(3, 2)})

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return self.lora_A["default"](values.flatten(0, 1))

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = Experts()

    model = Model()
    with pytest.raises(DamocError, match="mixes the rows"), per_example_gradients(model, lambda name, values: None):
        model.experts(torch.zeros(2, 4, 3))


def test_the_loss_of_a_row_is_the_mean_over_its_own_answer(toy):
    from damoc.models.batching import pad_batch

    loaded = toy("tiny-reference")
    rows = [encode(loaded.tokenizer, row, 128) for row in (ROWS[0], TARGETS[0])]
    means = [values.mean() for values in answer_losses(loaded.model, rows, 2)]
    assert row_losses(loaded.model, pad_batch(rows, 2, "cpu")).tolist() == pytest.approx(means, rel=1e-5)
