"""The committed toy models are what their records say, and the command that makes them makes the same twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from conftest import ROOT
from damoc.hashing import sha256_file
from damoc.zoo.pretrain import pretrain
from damoc.zoo.recipes import ZooRecipes, load_recipes

RECIPES = load_recipes(ROOT / "zoo" / "recipes.yaml")


@pytest.mark.parametrize("name", RECIPES.models)
def test_a_toy_model_is_what_its_record_says(name: str) -> None:
    folder = ROOT / "zoo" / name
    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    assert record["weights_sha256"] == sha256_file(folder / "model.safetensors")
    assert record["tokenizer_sha256"] == sha256_file(folder / "tokenizer.json")
    assert record["recipe"] == json.loads(RECIPES.models[name].model_dump_json())
    assert record["train_loss_nats"][-1][1] < record["train_loss_nats"][0][1] - 2
    assert record["weights_sha256"] in (folder / "README.md").read_text(encoding="utf-8")


def test_the_zoo_is_small_and_various() -> None:
    weights = [path.stat().st_size for path in (ROOT / "zoo").glob("*/model.safetensors")]
    assert sum(weights) <= 20_000_000
    candidates = [recipe for name, recipe in RECIPES.models.items() if name != "tiny-reference"]
    assert {"llama", "qwen2", "qwen3", "mistral", "gemma2", "gpt_neox"} == {
        recipe.architecture for recipe in candidates
    }
    assert len({recipe.tokenizer for recipe in candidates}) == 2
    assert all(8 <= recipe.config["num_hidden_layers"] <= 16 for recipe in candidates)


@pytest.mark.slow
def test_training_is_reproducible(tmp_path: Path) -> None:
    recipes = ZooRecipes.model_validate(
        yaml.safe_load(
            """
            tokenizers:
              small: {kind: byte_level_bpe, vocab_size: 300, corpora: [stdlib]}
            training:
              {sequence_length: 32, batch_size: 4, learning_rate: 0.002, warmup_fraction: 0.1, weight_decay: 0.1}
            models:
              mini:
                architecture: llama
                tokenizer: small
                corpora: {stdlib: 1.0}
                tokens: 4000
                seed: 1
                config: {hidden_size: 16, intermediate_size: 32, num_hidden_layers: 2, num_attention_heads: 2}
            """
        )
    )
    steps: list[float] = []
    first = pretrain(recipes, "mini", tmp_path / "first", lambda step, total, loss: steps.append(loss))
    second = pretrain(recipes, "mini", tmp_path / "second")
    assert len(steps) == first["steps"] == 31
    assert steps[-1] < steps[0]
    assert first["weights_sha256"] == second["weights_sha256"]
    assert sha256_file(tmp_path / "first" / "mini" / "model.safetensors") == first["weights_sha256"]
