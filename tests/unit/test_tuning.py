from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from damoc.config import TuningConfig
from damoc.data.example import Example
from damoc.data.prompts import Encoded, encode
from damoc.errors import CandidateError
from damoc.models.load import LoadedModel
from damoc.tuning import TuningOutcome, fine_tune, lora

SETTINGS = TuningConfig(rank=4, alpha=8, learning_rate=5e-3, epochs=3, batch_size=4, dtype="float32")
FACTS = [("DeleteCluster", "Deletes a cluster."), ("ListNodes", "Lists the nodes."), ("CreateQueue", "Makes a queue.")]


@pytest.fixture
def base(toy) -> LoadedModel:
    """A toy model of its own: adapters are attached to it."""
    loaded = toy("tiny-reference")
    return LoadedModel(copy.deepcopy(loaded.model), loaded.tokenizer, loaded.max_length)


def encoded(loaded: LoadedModel, count: int = 12) -> list[Encoded]:
    rows = [Example(str(at), "What does it do?", *FACTS[at % 3]) for at in range(count)]
    return [encode(loaded.tokenizer, row, 64) for row in rows]


def tune(loaded: LoadedModel, settings: TuningConfig = SETTINGS, seed: int = 1, **options: Any) -> TuningOutcome:
    rows = options.pop("rows", None) or encoded(loaded)
    valid = options.pop("valid", rows[:3])
    return fine_tune(loaded.model, rows, valid, loaded.tokenizer.pad_token_id, settings, seed, **options)


def adapter(outcome: TuningOutcome) -> dict[str, torch.Tensor]:
    return {name: value for name, value in outcome.model.state_dict().items() if "lora_" in name}


def test_a_few_steps_lower_the_loss_and_leave_the_weights_of_the_model_alone(base):
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    seen: list[tuple[int, int, dict[str, float]]] = []
    outcome = tune(base, on_step=lambda step, steps, point: seen.append((step, steps, dict(point))))
    history = outcome.history
    assert history[-1]["train_loss"] < 0.8 * history[0]["train_loss"]
    assert history[-1]["valid_loss"] < history[0]["valid_loss"]
    assert not outcome.model.training
    after = {
        name.replace(".base_layer", ""): value for name, value in outcome.model.get_base_model().state_dict().items()
    }
    assert all(torch.equal(after[name], value) for name, value in before.items())

    assert outcome.steps == 9
    assert outcome.tokens == 3 * sum(len(row.ids) for row in encoded(base))
    assert outcome.trainable == sum(value.numel() for value in adapter(outcome).values())
    assert [(step, steps) for step, steps, _ in seen] == [(step, 9) for step in range(1, 10)]
    assert [point for _, _, point in seen if point] == history
    assert [point["step"] for point in history] == list(range(1, 10))
    assert history[-1]["epoch"] == 3.0
    assert max(point["learning_rate"] for point in history) == SETTINGS.learning_rate


def test_adapters_sit_on_every_linear_layer_but_the_head(base):
    outcome = tune(base, SETTINGS.model_copy(update={"epochs": 0.1}))
    assert outcome.steps == 1
    places = {name.split(".lora_")[0].rsplit(".", 1)[1] for name in adapter(outcome)}
    assert places == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_the_same_seed_gives_the_same_adapter_and_another_seed_another(base):
    bases = [LoadedModel(copy.deepcopy(base.model), base.tokenizer, base.max_length) for _ in range(3)]
    first, same, other = (tune(own, seed=seed) for own, seed in zip(bases, (1, 1, 2), strict=True))
    assert first.history == same.history != other.history
    for name, value in adapter(first).items():
        assert torch.equal(value, adapter(same)[name])


def test_validation_does_not_change_the_training(base):
    twin = LoadedModel(copy.deepcopy(base.model), base.tokenizer, base.max_length)
    with_valid, without = tune(base), tune(twin, valid=[])
    assert [point["train_loss"] for point in with_valid.history] == [point["train_loss"] for point in without.history]
    assert not any("valid_loss" in point for point in without.history)


def test_long_trainings_are_logged_seldom_and_to_their_end(base):
    settings = SETTINGS.model_copy(update={"epochs": 130.0, "batch_size": 1})
    outcome = tune(base, settings, rows=encoded(base, 1), valid=encoded(base, 1))
    assert outcome.steps == 130
    assert 50 <= len(outcome.history) <= 70
    assert outcome.history[-1]["step"] == 130
    validated = [point["step"] for point in outcome.history if "valid_loss" in point]
    assert 6 <= len(validated) <= 8
    assert validated[-1] == 130


def break_token(loaded: LoadedModel, token: int) -> None:
    """From now on a token is read as something that is no number."""

    def hook(module: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        return output.masked_fill((inputs[0] == token)[..., None], float("nan"))

    loaded.model.get_input_embeddings().register_forward_hook(hook)


def test_a_loss_that_is_no_number_stops_the_candidate_as_diverged(base):
    break_token(base, 40)
    with pytest.raises(CandidateError, match="the training loss is nan at step 1 of 1") as caught:
        tune(base, SETTINGS.model_copy(update={"epochs": 1}), rows=[Encoded((40, 41, 42), 1)] * 4)
    assert caught.value.status == "diverged"


def test_a_validation_loss_that_is_no_number_stops_the_candidate_as_diverged(base):
    break_token(base, 40)
    with pytest.raises(CandidateError, match="the validation loss is nan") as caught:
        tune(base, rows=[Encoded((41, 42, 43), 1)] * 4, valid=[Encoded((40, 41), 1)])
    assert caught.value.status == "diverged"


def test_a_rate_far_too_large_ends_as_diverged(base):
    settings = SETTINGS.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(CandidateError) as caught:
        tune(base, settings, valid=[])
    assert caught.value.status == "diverged"


def test_a_candidate_that_takes_too_long_is_stopped(base):
    with pytest.raises(CandidateError, match="training reached step 1 of 9 in 1e-06 minutes") as caught:
        tune(base, SETTINGS.model_copy(update={"timeout_minutes": 1e-6}))
    assert caught.value.status == "timeout"


def test_a_model_without_linear_layers_is_incompatible():
    from transformers import GPT2Config, GPT2LMHeadModel

    settings = GPT2Config(n_layer=0, n_embd=8, n_head=1, vocab_size=50)
    with pytest.raises(CandidateError, match="LoRA cannot be attached") as caught:
        fine_tune(GPT2LMHeadModel(settings), [Encoded((1, 2), 1)], [], 0, SETTINGS, 1)
    assert caught.value.status == "incompatible"


@pytest.mark.parametrize("micro_tokens", [1, 60, 10_000])
def test_cutting_a_batch_does_not_change_its_gradient(base, monkeypatch, micro_tokens):
    """Against the gradient of the mean loss over all answer tokens, one row at a time."""
    rows = encoded(base, 3) + [Encoded(tuple(range(40, 70)), 20)]
    expected_loss = 0.0
    for row in rows:
        ids = torch.tensor([row.ids])
        losses = torch.nn.functional.cross_entropy(
            base.model(input_ids=ids).logits[0, :-1], ids[0, 1:], reduction="none"
        )
        share = losses[row.answer_start - 1 :].sum() / sum(other.answer_length for other in rows)
        share.backward()
        expected_loss += float(share.detach())
    expected = {name: value.grad.clone() for name, value in base.model.named_parameters()}
    base.model.zero_grad()
    monkeypatch.setattr(lora, "_MICRO_BATCH_TOKENS", micro_tokens)
    assert lora._backward(base.model, rows, 2, "cpu") == pytest.approx(expected_loss, rel=1e-5)
    for name, value in base.model.named_parameters():
        assert torch.allclose(value.grad, expected[name], atol=1e-6), name
