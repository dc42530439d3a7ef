"""Proxies made and rebuilt."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from damoc.compression import compress, rebuild
from damoc.config import MergeConfig, ModelCompression
from damoc.errors import CandidateError

LAYERS = 8


def build(family: str = "llama", dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(3)
    size = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": LAYERS}
    more = {"vocab_size": 99, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    kinds = {"llama": transformers.LlamaConfig, "gpt_neox": transformers.GPTNeoXConfig}
    return transformers.AutoModelForCausalLM.from_config(kinds[family](**size, **more)).to(dtype).eval()


BATCH = {
    "input_ids": torch.randint(3, 99, (4, 20), generator=torch.Generator().manual_seed(1)),
    "attention_mask": torch.ones(4, 20, dtype=torch.long),
}


def loss(model: Any) -> float:
    with torch.inference_mode():
        return float(model(**BATCH, labels=BATCH["input_ids"]).loss)


def scripted(*losses: float) -> Callable[[Any], float]:
    values = iter(losses)
    return lambda model: next(values)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
@pytest.mark.parametrize("method", ["rdsc_sparse", "linear_patch", "none"])
@pytest.mark.parametrize("sparsifier", ["magnitude", "ties", "dare"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rebuilt_proxy_has_the_same_bits(family: str, method: str, sparsifier: str, dtype: torch.dtype) -> None:
    model = build(family, dtype)
    settings = ModelCompression(
        merge=MergeConfig(method=method, sparsifier=sparsifier, density=0.2, scales=[0.05, 0.1])
    )
    outcome = compress(model, settings, [BATCH], scripted(4.0, 4.5, 4.3, 4.4), 0, 11)
    record = {**outcome.to_json(), "seed": 11, "merge_settings": settings.merge.model_dump()}
    assert record["merge"]["accepted"] is (method != "none")
    again = build(family, dtype)
    rebuild(again, json.loads(json.dumps(record, allow_nan=False)), outcome.patches)
    assert same(weights(again), weights(model))
    assert again.config.to_dict() == model.config.to_dict()


def test_compression_is_deterministic_and_complete() -> None:
    calls: list[tuple[str, int, int]] = []
    records = []
    for _ in range(2):
        calls.clear()
        settings = ModelCompression(merge=MergeConfig(min_gain=0.0))
        outcome = compress(build(), settings, [BATCH, BATCH], loss, 0, 11, lambda *call: calls.append(call))
        records.append(outcome.to_json())
    record = records[0]
    assert records[1] == record
    assert len(record["importance"]) == LAYERS and len(record["plan"]["remove"]) == 2
    assert list(record["merge"]["losses"]) == ["0.0", "0.01", "0.02", "0.05", "0.1", "0.2", "0.3"]
    assert record["losses"]["pruned"] == record["merge"]["losses"]["0.0"]
    assert record["losses"]["merged"] == min(record["merge"]["losses"].values())
    per_layer = (record["parameters"]["original"] - record["parameters"]["proxy"]) / 2
    assert per_layer == sum(weight.numel() for weight in build().model.layers[0].parameters())
    for phase in ("importance", "plan", "merge"):
        last = [call for call in calls if call[0] == phase][-1]
        assert last[1] == last[2]


def test_scale_that_does_not_pay_is_not_a_merge() -> None:
    model, plain = build(), build()
    settings = ModelCompression(merge=MergeConfig(scales=[0.1]))
    record = compress(model, settings, [BATCH], scripted(4.0, 4.5, 4.5), 0, 11).to_json()
    assert record["merge"] == {
        "method": "rdsc_sparse",
        "scale": 0.0,
        "accepted": False,
        "losses": {"0.0": 4.5, "0.1": 4.5},
    }
    rebuild(plain, {**record, "seed": 11, "merge_settings": settings.merge.model_dump()})
    assert same(weights(model), weights(plain))


def test_collapse_gives_layers_back_until_the_loss_holds() -> None:
    settings = ModelCompression(ratio=0.5, merge=MergeConfig(method="none"))
    record = compress(build(), settings, [BATCH], scripted(4.0, 9.0, float("nan"), 5.0), 0, 11).to_json()
    assert len(record["plan"]["given_back"]) == 2 and len(record["plan"]["remove"]) == 2
    assert [attempt["loss"] for attempt in record["attempts"]] == [9.0, None, 5.0]
    assert record["attempts"][-1]["remove"] == record["plan"]["remove"]
    assert record["plan"]["given_back"] == record["order"][:-3:-1]


def test_collapse_without_end_gives_the_whole_model_back() -> None:
    model = build()
    before = weights(model)
    record = compress(model, ModelCompression(), [BATCH], scripted(4.0, 9.0, 9.0), 0, 11).to_json()
    assert record["plan"]["keep"] == list(range(LAYERS)) and record["losses"]["pruned"] == 4.0
    assert record["parameters"]["original"] == record["parameters"]["proxy"]
    assert same(weights(model), before)


def test_ratio_zero_changes_nothing() -> None:
    model = build()
    before = weights(model)
    record = compress(model, ModelCompression(ratio=0.0), [BATCH], loss, 0, 11).to_json()
    assert record["losses"]["original"] == record["losses"]["pruned"] == record["losses"]["merged"]
    assert same(weights(model), before)


def test_whole_model_that_is_not_finite_has_diverged() -> None:
    with pytest.raises(CandidateError) as caught:
        compress(build(), ModelCompression(), [BATCH], scripted(float("nan")), 0, 11)
    assert caught.value.status == "diverged"


def test_record_of_another_depth_is_refused() -> None:
    settings = ModelCompression()
    record = compress(build(), settings, [BATCH], loss, 0, 11).to_json()
    other = copy.deepcopy(record)
    other["plan"]["remove"] = other["plan"]["remove"][1:]
    with pytest.raises(CandidateError, match="the record plans 7 layers, the model has 8"):
        rebuild(build(), {**other, "seed": 11, "merge_settings": settings.merge.model_dump()})
