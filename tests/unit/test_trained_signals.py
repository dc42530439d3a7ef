from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from damoc.config import DataCompression, TuningConfig
from damoc.data.example import Example
from damoc.data.prompts import encode, render_prompt
from damoc.errors import DamocError
from damoc.evaluation.generation import generate
from damoc.filters.hybrid.cherry import experience_rows
from damoc.filters.hybrid.mods import seed_rows
from damoc.models.likelihood import answer_losses
from damoc.models.load import load_model
from damoc.signals import necessity as necessity_module
from damoc.signals.experience import EXPERIENCE
from damoc.signals.likelihood import encode_pair
from damoc.signals.necessity import SEED_TUNING, answer_room
from damoc.signals.registry import SignalContext, measure_signals
from damoc.signals.reward import reward_of
from damoc.signals.warm_up import adapted_scorer, encoded, lora_weights, tuned_adapter
from damoc.tuning import fine_tune

ROWS = [
    Example(f"row {number}", "Which word comes next?", f"The {word} stands", f"{word} {number}")
    for number, word in enumerate("cache bucket queue node user table key topic task alarm stack".split() * 3)
]
TUNING = TuningConfig(rank=4, alpha=8, dropout=0.0, epochs=1, batch_size=8, learning_rate=0.003)
EXPERIENCED = ["experienced_answer_loss", "experienced_alone_loss"]


def context_of(zoo: Path, cache: Path, rows=ROWS, **changes) -> SignalContext:
    """A context whose embeddings and first scores are given, so that the encoder is not needed for them."""
    config = DataCompression.model_validate({"condense": {"compressor": str(zoo / "tiny-reference")}})
    number = {row.id: place for place, row in enumerate(ROWS)}
    places = [number[row.id] for row in rows]
    given = {
        "prompt_embedding": np.random.default_rng(0).standard_normal((len(ROWS), 8))[places],
        "prompt_loss": np.linspace(1, 3, len(ROWS))[places],
        "reward": np.linspace(0, 1, len(ROWS))[places],
    }
    return SignalContext(rows, [], config, cache, measured=given, **changes)


@pytest.fixture(scope="module")
def tuned(zoo, tmp_path_factory) -> tuple[Path, SignalContext]:
    context = context_of(zoo, tmp_path_factory.mktemp("signals"))
    return tuned_adapter(context, "a test", [3, 1, 2, 9, 20, 21], TUNING), context


def test_a_tuned_scorer_is_the_one_that_fine_tune_gives(tuned, zoo):
    adapter, context = tuned
    fresh = load_model(str(zoo / "tiny-reference"))
    rows = sorted((ROWS[row] for row in (3, 1, 2, 9, 20, 21)), key=Example.content_hash)
    given = [encode_pair(fresh.tokenizer, row, 1024) for row in rows]
    direct = fine_tune(fresh.model, given, [], fresh.tokenizer.pad_token_id, TUNING, 0).model
    with adapted_scorer(context, adapter, TUNING) as scorer:
        for name, weight in lora_weights(direct).items():
            assert torch.equal(weight, lora_weights(scorer.model)[name])
        pairs = zip(answer_losses(scorer.model, given, 2), answer_losses(direct, given, 2), strict=True)
        assert all(np.array_equal(kept, told) for kept, told in pairs)


def test_a_tuning_is_known_by_its_rows_and_settings_and_never_done_twice(tuned, monkeypatch):
    adapter, context = tuned

    def unwanted(*args: object, **options: object) -> None:
        raise AssertionError("tuned again")

    monkeypatch.setattr("damoc.tuning.fine_tune", unwanted)
    assert tuned_adapter(context, "a test", [21, 20, 9, 3, 2, 1], TUNING) == adapter
    for ids, settings in (([1, 2, 3], TUNING), ([3, 1, 2, 9, 20, 21], TUNING.model_copy(update={"epochs": 2.0}))):
        with pytest.raises(AssertionError, match="tuned again"):
            tuned_adapter(context, "a test", ids, settings)


def test_a_killed_tuning_leaves_nothing_that_counts(tuned, zoo, tmp_path):
    adapter, _ = tuned

    def killed(name: str) -> Callable[[int, int], None]:
        def at(done: int, total: int) -> None:
            raise KeyboardInterrupt

        return at

    with pytest.raises(KeyboardInterrupt):
        tuned_adapter(context_of(zoo, tmp_path, progress=killed), "a test", [3, 1, 2, 9, 20, 21], TUNING)
    assert not list(tmp_path.rglob("*.safetensors"))
    again = tuned_adapter(context_of(zoo, tmp_path), "a test", [3, 1, 2, 9, 20, 21], TUNING)
    assert again.name == adapter.name
    assert again.read_bytes() == adapter.read_bytes()


def test_a_scorer_that_diverges_is_one_clear_error_and_is_not_used_again(zoo, tmp_path):
    context = context_of(zoo, tmp_path)
    settings = TUNING.model_copy(update={"learning_rate": 1e30, "epochs": 4.0})
    with pytest.raises(DamocError, match="the scorer cannot be tuned"):
        tuned_adapter(context, "a test", range(16), settings)
    assert not any(".lora_" in name for name, _ in context.scorer.model.named_parameters())


def test_experienced_losses_are_those_under_the_tuned_scorer_which_is_then_as_it_was(zoo, tmp_path, toy):
    context = context_of(zoo, tmp_path)
    found = measure_signals(EXPERIENCED, context)
    fresh = load_model(str(zoo / "tiny-reference"))
    rows = sorted(ROWS, key=Example.content_hash)
    order = [ROWS.index(row) for row in rows]
    embedding, loss = (context.measured[name][order] for name in ("prompt_embedding", "prompt_loss"))
    rows = [rows[row] for row in experience_rows(embedding, loss, 0)]
    direct = fine_tune(
        fresh.model, [encode_pair(fresh.tokenizer, row, 1024) for row in rows], [], 2, EXPERIENCE, 0
    ).model
    expected = losses_of(direct, fresh.tokenizer)
    assert np.allclose(found["experienced_answer_loss"], expected, atol=1e-4)
    before = losses_of(toy("tiny-reference").model, fresh.tokenizer)
    assert np.abs(before - expected).max() > 1e-4
    assert np.array_equal(losses_of(context.scorer.model, fresh.tokenizer), before)
    assert np.isfinite(found["experienced_alone_loss"]).all()
    assert np.abs(found["experienced_alone_loss"] - found["experienced_answer_loss"]).min() > 1e-4


@pytest.mark.slow
def test_the_order_of_the_rows_does_not_matter_to_experience(zoo, tmp_path):
    order = np.random.default_rng(1).permutation(len(ROWS))
    found = measure_signals(EXPERIENCED, context_of(zoo, tmp_path / "one"))
    shuffled = measure_signals(EXPERIENCED, context_of(zoo, tmp_path / "two", [ROWS[row] for row in order]))
    assert all(np.array_equal(shuffled[name], found[name][order]) for name in EXPERIENCED)


@pytest.mark.slow
def test_necessity_is_the_reward_of_what_the_tuned_scorer_answers(zoo, tmp_path, toy):
    context = context_of(zoo, tmp_path)
    found = measure_signals(["necessity"], context)["necessity"]
    assert found.shape == (len(ROWS),)
    seed = seed_rows(context.measured["reward"], context.measured["prompt_embedding"])
    room = answer_room([row.answer_length for row in encoded(context, ROWS)])
    with adapted_scorer(
        context, tuned_adapter(context, "necessity", seed.tolist(), SEED_TUNING), SEED_TUNING
    ) as scorer:
        prompts = [render_prompt(row.instruction, row.input) for row in ROWS[:5]]
        answers = [generate(scorer.model, scorer.tokenizer, [prompt], room)[0] for prompt in prompts]
    questions = [f"{row.instruction}\n{row.input}" for row in ROWS[:5]]
    assert np.allclose(found[:5], reward_of(questions, answers, context), atol=1e-4)
    given = [encode(context.scorer.tokenizer, row, 128) for row in ROWS[:3]]
    models = (context.scorer.model, toy("tiny-reference").model)
    pairs = zip(*(answer_losses(model, given, 2) for model in models), strict=True)
    assert all(np.array_equal(after, before) for after, before in pairs)


@pytest.mark.slow
def test_killed_generation_goes_on_where_it_was(zoo, tmp_path, monkeypatch):
    asked: list[str] = []

    def counting(model, tokenizer, prompts, max_new_tokens):
        if len(asked) >= 8 and not resumed:
            raise KeyboardInterrupt
        asked.extend(prompts)
        return generate(model, tokenizer, prompts, max_new_tokens)

    monkeypatch.setattr(necessity_module, "_STORED_AT_ONCE", 8)
    monkeypatch.setattr(necessity_module, "generate", counting)
    resumed = False
    with pytest.raises(KeyboardInterrupt):
        measure_signals(["necessity"], context_of(zoo, tmp_path))
    assert len(asked) == 8
    resumed = True
    measure_signals(["necessity"], context_of(zoo, tmp_path))
    assert sorted(asked) == sorted({render_prompt(row.instruction, row.input) for row in ROWS})


def test_without_any_reward_there_is_one_clear_error(zoo, tmp_path):
    context = context_of(zoo, tmp_path)
    context.measured["reward"] = np.full(len(ROWS), np.nan)
    with pytest.raises(DamocError, match="no row has a reward"):
        measure_signals(["necessity"], context)


@pytest.mark.parametrize(
    ("lengths", "room"), [([1], 8), ([9] * 20, 16), ([16] * 20, 16), ([10] * 99 + [900], 16), ([900], 256)]
)
def test_an_answer_has_room_for_what_answers_usually_need(lengths, room):
    assert answer_room(lengths) == room


def losses_of(model, tokenizer) -> np.ndarray:
    given = [encode_pair(tokenizer, row, 1024) for row in ROWS]
    return np.array([values.mean() for values in answer_losses(model, given, 2)])
