"""Policies, budgets, costs and offload on real models, and decisions replayed from their records."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from damoc.compression import check_surgery, compress, replay
from damoc.compression.architecture import LayerSurgery
from damoc.compression.cost import count_operations, time_layers
from damoc.compression.importance import measure_layers
from damoc.config import ModelCompression
from damoc.errors import CandidateError, DamocError
from damoc.models.batching import pad_batch
from damoc.models.likelihood import answer_losses
from damoc.models.load import LoadedModel, load_model
from damoc.stages.rows import encode_rows

NONE = {"method": "none"}
BATCH = {
    "input_ids": torch.randint(3, 99, (4, 20), generator=torch.Generator().manual_seed(1)),
    "attention_mask": torch.ones(4, 20, dtype=torch.long),
}


def build(layers: int = 8, **more: Any) -> Any:
    torch.manual_seed(3)
    size = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": layers}
    more = {"vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.3, **more}
    return transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**size, **more)).eval()


def loss(model: Any) -> float:
    with torch.inference_mode():
        return float(model(**BATCH, labels=BATCH["input_ids"]).loss)


def scripted(*losses: float) -> Callable[[Any], float]:
    values = iter(losses)
    return lambda model: next(values)


def record_of(settings: ModelCompression, losses: Callable[[Any], float] = loss) -> dict[str, Any]:
    outcome = compress(build(), settings, [BATCH], losses, 0, 11)
    record: dict[str, Any] = json.loads(json.dumps(outcome.to_json(), allow_nan=False))
    return record


@pytest.mark.parametrize("policy", ["lowest", "iterative", "contiguous"])
@pytest.mark.parametrize(
    ("budget", "removed"),
    [({}, 2), ({"ratio": 0.4}, 3), ({"layers": 3}, 3), ({"depth": 4}, 4), ({"flops": 0.2}, 2), ({"latency": 0.2}, 2)],
)
def test_every_policy_and_budget_is_replayed_from_its_record(policy: str, budget: dict[str, Any], removed: int) -> None:
    settings = ModelCompression(policy=policy, collapse_limit=100.0, merge=NONE, **budget)
    record = record_of(settings)
    gone = record["plan"]["remove"]
    if "latency" not in budget:  # how many layers a share of the time is depends on the clock
        assert len(gone) == removed
    assert len(record["rounds"]) == (len(gone) - 1 if policy == "iterative" else 0)
    again = json.loads(json.dumps(replay(record).to_json()))
    assert again == {**{name: record[name] for name in again}, "losses": again["losses"]}
    assert again["losses"].items() <= record["losses"].items()
    if policy == "contiguous":
        assert gone == list(range(gone[0], gone[-1] + 1))
    if policy == "lowest":
        free = [index for index in range(1, 7) if index not in gone]
        assert max(record["importance"][index] for index in gone) <= min(record["importance"][index] for index in free)


def test_iterative_removes_the_least_important_of_what_is_left_each_time() -> None:
    record = record_of(ModelCompression(policy="iterative", layers=4, collapse_limit=100.0, merge=NONE))
    left = list(range(8))
    for removed, importance in zip(
        record["order"], [record["importance"], *(item["importance"] for item in record["rounds"])], strict=True
    ):
        by_layer = dict(zip(left, importance, strict=True))
        model = build()
        surgery = LayerSurgery(model)
        surgery.keep(left)
        measured = measure_layers(model, [surgery.layers[index] for index in left], [BATCH]).influence
        np.testing.assert_array_equal(measured, importance)
        assert removed == min(left[1:-1], key=lambda index: by_layer[index])
        left.remove(removed)
    assert left == record["plan"]["keep"]


@pytest.mark.parametrize("policy", ["lowest", "iterative", "contiguous"])
def test_collapse_gives_back_in_the_reverse_order_of_removal(policy: str) -> None:
    settings = ModelCompression(policy=policy, layers=4, merge=NONE)
    record = record_of(settings, scripted(4.0, 9.0, float("nan"), 5.0))
    assert record["plan"]["given_back"] == record["order"][:-3:-1]
    assert sorted(record["order"][:2]) == record["plan"]["remove"]
    assert list(replay(record).plan.keep) == record["plan"]["keep"]


def test_a_record_whose_measurements_were_changed_leads_elsewhere() -> None:
    record = record_of(ModelCompression(policy="iterative", layers=3, collapse_limit=100.0, merge=NONE))
    first = record["order"][0]
    record["importance"][first] = 2.0
    with pytest.raises(DamocError, match="does not say what was measured"):
        replay(record)


def test_asked_for_layers_stay_and_unknown_ones_are_refused() -> None:
    plain = record_of(ModelCompression(layers=2, collapse_limit=100.0, merge=NONE))
    first = plain["order"][0]
    kept = record_of(ModelCompression(layers=2, protect=[first - 8], collapse_limit=100.0, merge=NONE))
    assert first in kept["plan"]["keep"] and len(kept["plan"]["remove"]) == 2
    with pytest.raises(CandidateError, match="protect names layer 8, but the model has 8"):
        record_of(ModelCompression(protect=[8], merge=NONE))


def test_a_family_that_cannot_lose_a_layer_is_refused_before_it_runs_without_it() -> None:
    config = transformers.DiffLlamaConfig(
        hidden_size=32, intermediate_size=48, num_attention_heads=4, num_hidden_layers=6, vocab_size=99, pad_token_id=0
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(CandidateError, match="depends on its position"):
        compress(model, ModelCompression(merge=NONE), [BATCH], scripted(4.0), 0, 11)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("keys", [4, 2])
def test_operations_of_a_llama_are_those_of_its_matrices_and_its_attention(attention: str, keys: int) -> None:
    model = build(4, num_key_value_heads=keys)
    model.set_attn_implementation(attention)
    costs = count_operations(model, model.model.layers, [BATCH])
    tokens, width, inner, vocabulary = 20, 32, 48, 99
    projections = 2 * tokens * width * (2 * width + 2 * width * keys // 4 + 3 * inner)
    assert costs.layers == (projections + 4 * tokens * tokens * width,) * 4
    assert costs.rest == pytest.approx(2 * tokens * width * vocabulary, rel=0.01)


def test_operations_of_experts_are_those_that_are_picked() -> None:
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 4}
    size = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2}
    model = transformers.AutoModelForCausalLM.from_config(transformers.MixtralConfig(**size, **experts, vocab_size=99))
    costs = count_operations(model.eval(), model.model.layers, [BATCH])
    attention = 2 * 20 * 32 * 4 * 32 + 4 * 20 * 20 * 32
    assert costs.layers == (attention + 2 * 20 * 32 * 4 + 2 * (2 * 20 * 3 * 32 * 48),) * 2


def test_layers_of_one_kind_take_the_same_time() -> None:
    model = build(4)
    costs = time_layers(model, model.model.layers, ("a", "b", "a", "b"), [BATCH])
    assert costs.layers[0] == costs.layers[2] > 0 and costs.layers[1] == costs.layers[3] > 0
    assert costs.rest > 0
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.model.layers)


@pytest.fixture
def on_disk(zoo: Path) -> LoadedModel:
    return load_model(str(zoo / "tiny-llama-cloud"), max_memory={"cpu": "3MiB"})


def test_a_model_larger_than_its_memory_is_measured_to_the_same_bits(
    on_disk: LoadedModel, toy: Callable[[str], LoadedModel]
) -> None:
    whole = toy("tiny-llama-cloud")
    weights = [weight.device.type for weight in on_disk.model.parameters()]
    assert "meta" in weights and sum(place == "meta" for place in weights) > len(weights) / 2
    ids = torch.randint(3, 2000, (4, 30), generator=torch.Generator().manual_seed(2))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    one, other = (measure_layers(m.model, LayerSurgery(m.model).layers, [batch]) for m in (whole, on_disk))
    np.testing.assert_array_equal(one.influence, other.influence)
    np.testing.assert_array_equal(one.distances, other.distances)


def test_a_model_on_disk_is_pruned_and_saved_as_one_in_memory(on_disk: LoadedModel, zoo: Path, tmp_path: Path) -> None:
    from damoc.data.example import Example

    rows = [Example(id=str(n), instruction=f"Say {n} again.", input="", output=f"{n} and {n}") for n in range(4)]
    states, records = [], []
    for name, loaded in (("memory", load_model(str(zoo / "tiny-llama-cloud"))), ("disk", on_disk)):
        encoded = encode_rows(loaded, rows, 64)
        pad_id = loaded.tokenizer.pad_token_id
        settings = ModelCompression(ratio=0.25, collapse_limit=100.0, merge=NONE)

        def calibration_loss(model: Any, encoded: Any = encoded, pad_id: int = pad_id) -> float:
            return float(np.concatenate(answer_losses(model, encoded, pad_id)).mean(dtype=np.float64))

        outcome = compress(loaded.model, settings, [pad_batch(encoded, pad_id, "cpu")], calibration_loss, pad_id, 11)
        records.append(outcome.to_json())
        check_surgery(loaded.model, pad_id)
        loaded.model.save_pretrained(tmp_path / name)
        states.append(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict())
    assert records[0] == records[1] and len(records[0]["plan"]["remove"]) == 3
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"ratio": 0.2, "depth": 8}, "ratio and depth are budgets of their own"),
        ({"layers": 2, "gflops": 1.0}, "layers and gflops are budgets of their own"),
        ({"depth": 3}, "depth 3 is below min_layers 4"),
        ({"max_memory": {"cpu": "much"}}, "'much' is no size"),
        ({"max_memory": {"tpu": "1GiB"}}, "'tpu' is no device"),
        ({"policy": "greedy"}, "lowest"),
    ],
)
def test_settings_that_do_not_fit_are_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ModelCompression(**values)


def test_settings_survive_the_way_through_json() -> None:
    for values in ({}, {"depth": 6}, {"flops": 0.0}, {"max_memory": {0: "1GiB", "cpu": "2.5GB"}}):
        settings = ModelCompression(**values)
        assert ModelCompression.model_validate_json(settings.model_dump_json()) == settings
    assert ModelCompression().budget == ("ratio", 0.25)
    assert ModelCompression(flops=0.0).budget == ("flops", 0.0)
