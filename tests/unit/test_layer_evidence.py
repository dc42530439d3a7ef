"""What the record says of a compression, from real compressions of a small model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

from damoc.compression import compress
from damoc.compression.outcome import PATCHES
from damoc.config import MergeConfig, ModelCompression
from damoc.stages.layer_evidence import layer_evidence, loss_table

LAYERS = 8
BATCH = {
    "input_ids": torch.randint(3, 99, (4, 20), generator=torch.Generator().manual_seed(1)),
    "attention_mask": torch.ones(4, 20, dtype=torch.long),
}


def _compression(folder: Path, losses: tuple[float, ...], **settings: Any) -> dict[str, Any]:
    """``compression.json`` of a small llama whose calibration losses are scripted, with its patches beside it."""
    torch.manual_seed(3)
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=48, num_attention_heads=4, num_hidden_layers=LAYERS, vocab_size=99
    )
    merge = MergeConfig(**{"method": "none", **settings.pop("merge", {})})
    chosen = ModelCompression(merge=merge, **settings)
    values = iter(losses)
    loss: Callable[[Any], float] = lambda model: next(values)  # noqa: E731
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    outcome = compress(model, chosen, [BATCH], loss, 0, 11, fit_batches=[BATCH])
    if outcome.patches:
        save_file(dict(outcome.patches), folder / PATCHES)
    record = {**outcome.to_json(), "seed": 11, "merge_settings": merge.model_dump()}
    return dict(json.loads(json.dumps(record, allow_nan=False)))


@pytest.mark.parametrize("method", ["rdsc_sparse", "linear_patch"])
def test_an_accepted_merge_names_what_absorbed_what(tmp_path: Path, method: str) -> None:
    merge = {"method": method, "scales": [0.5]}
    value = _compression(tmp_path, (4.0, 4.5, 4.3), merge=merge, layers=3, protect=[1])
    evidence = layer_evidence(value, tmp_path)
    removed = value["plan"]["remove"]
    assert sorted(layer for layers in evidence.anchors.values() for layer in layers) == removed
    for anchor, layers in evidence.anchors.items():
        assert int(anchor) in value["plan"]["keep"]
        assert layers == list(range(int(anchor) + 1, int(anchor) + 1 + len(layers)))
    assert evidence.protected == [0, 1, LAYERS - 1]
    assert sorted(evidence.order) == removed and evidence.policy == "lowest"
    assert evidence.distances == value["distances"]
    assert [len(row) for row in evidence.distances] == list(range(LAYERS, 0, -1))
    assert loss_table(value, {}) == {"calibration": {"original": 4.0, "pruned": 4.5, "merged": 4.3}}


def test_the_anchor_after_is_the_one_that_the_merge_was_told_to_take(tmp_path: Path) -> None:
    merge = {"method": "rdsc_sparse", "scales": [0.5], "anchor": "after"}
    evidence = layer_evidence(_compression(tmp_path, (4.0, 4.5, 4.3), merge=merge, layers=1), tmp_path)
    ((anchor, layers),) = evidence.anchors.items()
    assert int(anchor) == layers[0] + 1


@pytest.mark.parametrize("losses", [(4.0, 4.5, 4.6), (4.0, 4.5, 4.4999)], ids=["worse", "too little"])
def test_a_merge_that_was_not_accepted_absorbed_nothing(tmp_path: Path, losses: tuple[float, ...]) -> None:
    value = _compression(tmp_path, losses, merge={"method": "linear_patch", "scales": [1.0]})
    assert layer_evidence(value, tmp_path).anchors == {}
    assert loss_table(value, {}) == {"calibration": {"original": 4.0, "pruned": 4.5}}


def test_layers_that_came_back_are_named(tmp_path: Path) -> None:
    value = _compression(tmp_path, (4.0, 40.0, 4.4), layers=2)
    evidence = layer_evidence(value, tmp_path)
    assert evidence.given_back == [evidence.order[-1]]
    assert value["plan"]["remove"] == [evidence.order[0]]


def test_nothing_removed_is_nothing_pruned(tmp_path: Path) -> None:
    value = _compression(tmp_path, (4.0,), layers=0)
    evidence = layer_evidence(value, tmp_path)
    assert (list(evidence.order), evidence.anchors) == ([], {})
    assert loss_table(value, {}) == {"calibration": {"original": 4.0}}


def test_losses_say_which_rows_they_are_from(tmp_path: Path) -> None:
    value = _compression(tmp_path, (4.0,), layers=0)
    tuning = {"valid_loss_before": 4.2, "valid_loss": 3.1, "calibration_loss": 2.9}
    assert loss_table(value, tuning) == {
        "validation": {"untuned": 4.2, "tuned": 3.1},
        "calibration": {"original": 4.0, "tuned": 2.9},
    }
    assert loss_table({}, {}) == {}
    assert loss_table({}, {"valid_loss_before": None, "valid_loss": None}) == {}
