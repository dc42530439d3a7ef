from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from damoc import tuning
from damoc.config import TuningBudget, TuningConfig
from damoc.data.example import Example
from damoc.data.prompts import Encoded, encode
from damoc.errors import CandidateError
from damoc.models.likelihood import answer_losses
from damoc.models.load import LoadedModel
from damoc.tuning import (
    TuningOutcome,
    best_rate,
    fine_tune,
    load_tuned,
    open_proxy,
    probe_learning_rates,
    save_tuned,
)
from damoc.tuning.cost import flops_per_token
from damoc.tuning.gradients import BatchRunner
from damoc.tuning.methods import make_trainable

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
        tune(base, SETTINGS.model_copy(update={"epochs": 1}), rows=[Encoded((40, 41, 42), 1)] * 4, valid=[])
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
def test_cutting_a_batch_does_not_change_its_gradient(base, micro_tokens):
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
    runner = BatchRunner(base.model, 2, nullcontext)
    runner.micro_batch_tokens = micro_tokens
    assert runner.backward(rows) == pytest.approx(expected_loss, rel=1e-5)
    for name, value in base.model.named_parameters():
        assert torch.allclose(value.grad, expected[name], atol=1e-6), name


def greedy_for_memory(model: torch.nn.Module, rows: int) -> list[int]:
    """From now on the model asks for more memory than there is when it reads more than so many rows at a time."""
    asked: list[int] = []

    def hook(module: Any, inputs: Any, options: dict[str, Any]) -> None:
        asked.append(len(options["input_ids"]))
        if asked[-1] > rows:
            torch.empty(1 << 58)

    model.register_forward_pre_hook(hook, with_kwargs=True)
    return asked


def test_a_step_that_runs_out_of_memory_is_repeated_in_smaller_parts_to_the_same_weights(base):
    twin = LoadedModel(copy.deepcopy(base.model), base.tokenizer, base.max_length)
    asked = greedy_for_memory(twin.model, 1)
    plain, tight = tune(base), tune(twin)
    assert tight.micro_batch_tokens < plain.micro_batch_tokens
    assert asked[0] == 3  # validation before the first step, then the first batch, each only once whole
    assert sum(count > 1 for count in asked) <= 4
    assert [point["step"] for point in tight.history] == list(range(1, 10))
    for point, other in zip(plain.history, tight.history, strict=True):
        assert point == pytest.approx(other, rel=2e-2)


def test_the_repeated_step_draws_the_same_random_numbers(base):
    settings = SETTINGS.model_copy(update={"dropout": 0.5, "epochs": 1})
    twin = LoadedModel(copy.deepcopy(base.model), base.tokenizer, base.max_length)
    greedy_for_memory(twin.model, 1)
    failing = tune(twin, settings, valid=[])
    made = tuning.gradients.MICRO_BATCH_TOKENS
    try:
        tuning.gradients.MICRO_BATCH_TOKENS = 1
        single = tune(base, settings, valid=[])
    finally:
        tuning.gradients.MICRO_BATCH_TOKENS = made
    for name, value in adapter(single).items():
        assert torch.equal(value, adapter(failing)[name]), name


def test_memory_that_does_not_suffice_for_one_row_fails_the_candidate(base):
    greedy_for_memory(base.model, 0)
    for valid in ([], None):
        with pytest.raises(CandidateError, match="does not suffice for a single row") as caught:
            tune(base, **({} if valid is None else {"valid": valid}))
        assert caught.value.status == "oom"


def test_an_error_that_is_no_lack_of_memory_is_not_swallowed(base):
    def hook(module: Any, inputs: Any) -> None:
        raise RuntimeError("something else")

    base.model.register_forward_pre_hook(hook)
    with pytest.raises(RuntimeError, match="something else"):
        tune(base, valid=[])


def test_recomputed_activations_change_nothing(base):
    twin = LoadedModel(copy.deepcopy(base.model), base.tokenizer, base.max_length)
    recomputed = tune(twin, SETTINGS.model_copy(update={"gradient_checkpointing": True}), valid=[])
    assert not any(getattr(module, "gradient_checkpointing", False) for module in twin.model.modules())
    for name, value in adapter(tune(base, valid=[])).items():
        assert torch.allclose(value, adapter(recomputed)[name], atol=1e-6), name


def test_only_the_layers_that_are_named_get_adapters(base):
    outcome = tune(base, SETTINGS.model_copy(update={"epochs": 0.1, "targets": ["q_proj", "down_proj"]}))
    places = {name.split(".lora_")[0].rsplit(".", 1)[1] for name in adapter(outcome)}
    assert places == {"q_proj", "down_proj"}


def test_names_that_the_model_does_not_have_are_incompatible(base):
    with pytest.raises(CandidateError, match="LoRA cannot be attached") as caught:
        tune(base, SETTINGS.model_copy(update={"targets": ["no_such_layer"]}))
    assert caught.value.status == "incompatible"


def test_answers_without_tokens_are_incompatible(base):
    with pytest.raises(CandidateError, match="no token of 1 of 2 answers") as caught:
        tune(base, rows=[Encoded((5, 6), 1), Encoded((5, 6), 2)])
    assert caught.value.status == "incompatible"


def test_a_training_loss_that_stays_far_above_its_start_stops_the_candidate(base):
    settings = SETTINGS.model_copy(update={"learning_rate": 0.2, "epochs": 10, "divergence_factor": 2.0})
    with pytest.raises(CandidateError, match=r"the training loss went from .* above 2 times its start") as caught:
        tune(base, settings, valid=[])
    assert caught.value.status == "diverged"


def test_a_validation_loss_that_stays_far_above_its_start_stops_the_candidate(base):
    valid = [encode(base.tokenizer, Example("0", "What does it do?", "DeleteCluster", "Delete"), 64)]
    settings = SETTINGS.model_copy(update={"epochs": 30, "divergence_factor": 1.2})
    with pytest.raises(CandidateError, match=r"the validation loss went from .* above 1.2 times its start") as caught:
        tune(base, settings, valid=valid)
    assert caught.value.status == "diverged"


@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_what_was_trained_is_kept_and_put_together_again(zoo, tmp_path, method):
    settings = SETTINGS.model_copy(update={"method": method, "learning_rate": 1e-3, "epochs": 1})
    loaded = open_proxy(zoo / "tiny-reference", settings)
    rows = encoded(loaded)
    outcome = tune(loaded, settings, rows=rows)
    assert outcome.history[-1]["valid_loss"] < outcome.valid_before
    save_tuned(outcome.model, loaded.tokenizer, tmp_path, settings)
    again = load_tuned(zoo / "tiny-reference", tmp_path, settings)
    assert not again.model.training
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.safetensors"))
    assert names == (["model/model.safetensors"] if method == "full" else ["adapter/adapter_model.safetensors"])
    assert not list(tmp_path.rglob("*.bin"))
    assert str(zoo) not in "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    losses = [np.concatenate(answer_losses(model, rows, 2)) for model in (outcome.model, again.model)]
    assert np.allclose(*losses, atol=2e-2 if method == "qlora" else 1e-4)


def test_full_tuning_moves_every_weight_and_costs_six_operations_a_weight(zoo, base):
    settings = SETTINGS.model_copy(update={"method": "full", "learning_rate": 1e-3, "epochs": 1})
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    size = sum(value.numel() for value in base.model.parameters())
    outcome = tune(base, settings)
    assert outcome.trainable == size
    assert outcome.flops == 6 * size * outcome.tokens  # the embeddings are the head, too
    assert all(not torch.equal(value, before[name]) for name, value in base.model.named_parameters())


def test_bfloat16_weights_that_are_all_trained_are_kept_in_float32(zoo, tmp_path):
    settings = SETTINGS.model_copy(update={"method": "full", "dtype": "bfloat16", "learning_rate": 1e-4, "epochs": 0.3})
    loaded = open_proxy(zoo / "tiny-reference", settings)
    before = copy.deepcopy(loaded.model.state_dict())
    outcome = tune(loaded, settings)
    moved = [(value - before[name]).abs().max() for name, value in outcome.model.named_parameters() if "norm" in name]
    assert {value.dtype for value in outcome.model.parameters()} == {torch.float32}
    assert min(moved) > 0
    save_tuned(outcome.model, loaded.tokenizer, tmp_path, settings)
    assert {value.dtype for value in load_file(tmp_path / "model" / "model.safetensors").values()} == {torch.bfloat16}


def test_four_bit_weights_are_quantised_twice_and_stay_as_they_are(zoo):
    from bitsandbytes.nn import Params4bit

    settings = SETTINGS.model_copy(update={"method": "qlora", "epochs": 1})
    loaded = open_proxy(zoo / "tiny-reference", settings)
    packed = {name: value for name, value in loaded.model.named_parameters() if isinstance(value, Params4bit)}
    assert len(packed) == 7 * loaded.model.config.num_hidden_layers
    assert all(value.quant_state.nested and value.quant_state.quant_type == "nf4" for value in packed.values())
    before = {name: value.data.clone() for name, value in packed.items()}
    outcome = tune(loaded, settings)
    assert all(torch.equal(packed[name].data, value) for name, value in before.items())
    plain = open_proxy(zoo / "tiny-reference", SETTINGS)
    assert outcome.flops == tune(plain, SETTINGS.model_copy(update={"epochs": 1})).flops


def test_a_validation_leaves_the_gradients_through_four_bit_weights_right(zoo):
    """Against the same adapters on the weights that the four bits stand for."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn.modules import Linear4bit

    settings = SETTINGS.model_copy(update={"method": "qlora"})
    loaded, whole = open_proxy(zoo / "tiny-llama-cloud", settings), open_proxy(zoo / "tiny-llama-cloud", SETTINGS)
    rows = encoded(loaded, 4)
    for path, module in loaded.model.named_modules():
        if isinstance(module, Linear4bit):
            weight = dequantize_4bit(module.weight.data, module.weight.quant_state)
            whole.model.get_submodule(path).weight.data = weight
    gradients = []
    for model, own in ((loaded.model, settings), (whole.model, SETTINGS)):
        torch.manual_seed(0)
        tuned = make_trainable(model, own)
        with torch.no_grad():
            for name, value in tuned.named_parameters():
                if "lora_B" in name:
                    value.normal_(std=0.02)
        runner = BatchRunner(tuned, 2, nullcontext)
        runner.mean_loss(rows)
        runner.backward(rows)
        gradients.append({name: value.grad for name, value in tuned.named_parameters() if "lora_" in name})
    for name, value in gradients[1].items():
        cosine = torch.cosine_similarity(value.flatten(), gradients[0][name].flatten(), dim=0)
        assert cosine > 0.99, name


@pytest.mark.parametrize("unit", ["tokens", "flops"])
def test_a_budget_takes_the_place_of_epochs(base, unit):
    twin = LoadedModel(copy.deepcopy(base.model), base.tokenizer, base.max_length)
    whole = tune(base)
    amount = {"tokens": whole.tokens, "flops": whole.flops}[unit] / 3
    outcome = tune(twin, SETTINGS.model_copy(update={"epochs": 99, "budget": TuningBudget(unit=unit, amount=amount)}))
    assert outcome.steps == 3
    assert outcome.tokens == pytest.approx(whole.tokens / 3, rel=0.1)


def test_rates_are_compared_on_fresh_models_and_the_better_one_is_chosen(zoo):
    settings = SETTINGS.model_copy(update={"lr_probe": [1e-6, 5e-3, 1e30]})
    loaded = open_proxy(zoo / "tiny-reference", settings)
    rows = encoded(loaded, 60)
    opened: list[Any] = []

    def open_model() -> Any:
        opened.append(open_proxy(zoo / "tiny-reference", settings).model)
        return opened[-1]

    probes = probe_learning_rates(open_model, rows, rows[:3], 51, 2, settings, 5)
    assert len({id(model) for model in opened}) == 3
    assert [probe.learning_rate for probe in probes] == settings.lr_probe
    assert probes[1].bits_per_byte < probes[0].bits_per_byte
    assert probes[2].bits_per_byte is None or probes[2].bits_per_byte > probes[0].bits_per_byte
    assert best_rate(probes) == 5e-3
    nats = np.concatenate(answer_losses(loaded.model, rows[:3], 2)).sum(dtype=np.float64)
    assert probes[0].bits_per_byte == pytest.approx(nats / np.log(2) / 51, rel=0.01)


def test_a_probe_in_which_every_rate_fails_fails_the_candidate(zoo):
    settings = SETTINGS.model_copy(update={"lr_probe": [1e30, 1e31]})
    loaded = open_proxy(zoo / "tiny-reference", settings)
    break_token(loaded, 40)
    rows = [Encoded((40, 41, 42), 1)] * 4
    with pytest.raises(CandidateError, match="no learning rate of the probe works") as caught:
        probe_learning_rates(lambda: loaded.model, rows, rows, 9, 2, settings, 5)
    assert caught.value.status == "diverged"


def test_experts_that_a_token_does_not_meet_cost_nothing():
    from transformers import MixtralConfig, MixtralForCausalLM

    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape |= {"num_key_value_heads": 2, "vocab_size": 50}
    two, four = (
        flops_per_token(MixtralForCausalLM(MixtralConfig(**shape, num_local_experts=4, num_experts_per_tok=count)))
        for count in (2, 4)
    )
    assert four - two == 6 * 2 * 3 * 16 * 32
