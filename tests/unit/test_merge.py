"""Anchors, scales, sparse task vectors and the checkpoint of an instruct model's base."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from damoc.compression.architecture import LayerSurgery
from damoc.compression.merge import Ingredients, Merge, base_weights, build_merge, choose_scale
from damoc.compression.merge.anchors import Side, anchors
from damoc.compression.merge.task_vectors import absorbed_delta, instruct_minus_base, removed_minus_anchor
from damoc.config import MergeConfig
from damoc.errors import CandidateError, DamocError
from damoc.models.load import load_model

SIZE = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 6, "vocab_size": 99}


def llama(seed: int = 3, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**SIZE)).to(dtype).eval()


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(before: dict[str, torch.Tensor], model: Any) -> set[str]:
    return {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}


def test_anchor_stands_on_the_wanted_side_and_on_the_other_only_where_it_has_to() -> None:
    assert anchors((0, 3, 6), (1, 2, 4, 5)) == {0: (1, 2), 3: (4, 5)}
    assert anchors((0, 3, 6), (1, 2, 4, 5), "after") == {3: (1, 2), 6: (4, 5)}
    assert anchors((0, 3, 6), (1, 2, 4, 5), "nearest") == {0: (1,), 3: (2, 4), 6: (5,)}
    assert anchors((0, 2), (1,), "nearest") == {0: (1,)}
    assert anchors((2, 3), (0, 1)) == {2: (0, 1)}
    assert anchors((0, 1), (2, 3), "after") == {1: (2, 3)}
    assert anchors((0, 1), ()) == {}


@given(st.sets(st.integers(0, 11), min_size=1), st.sampled_from(["before", "after", "nearest"]))
def test_each_removed_layer_has_one_anchor_with_no_other_kept_layer_between(kept: set[int], side: Side) -> None:
    keep = sorted(kept)
    remove = [layer for layer in range(12) if layer not in kept]
    groups = anchors(keep, remove, side)
    assert sorted(layer for group in groups.values() for layer in group) == remove
    assert set(groups) <= kept
    for anchor, group in groups.items():
        for layer in group:
            low, high = sorted((anchor, layer))
            assert not kept & set(range(low + 1, high))


@pytest.mark.parametrize(
    ("losses", "min_gain", "scale"),
    [
        ({0.0: 2.0, 0.1: 1.9, 0.2: 1.8}, 0.0, 0.2),
        ({0.0: 2.0, 0.1: 2.0, 0.2: 2.1}, 0.0, 0.0),
        ({0.0: 2.0, 0.1: 1.9999999}, 0.0, 0.0),
        ({0.0: 2.0, 0.2: 1.5, 0.1: 1.5}, 0.0, 0.1),
        ({0.0: 2.0, 0.1: math.nan, 0.2: math.inf}, 0.0, 0.0),
        ({0.0: 2.0}, 0.0, 0.0),
        ({0.0: 2.0, 0.1: 1.997, 0.2: 1.998}, 0.002, 0.0),
        ({0.0: 2.0, 0.1: 1.996, 0.2: 1.99}, 0.002, 0.2),
        ({0.0: math.inf, 0.1: 3.0}, 0.002, 0.1),
    ],
)
def test_scale_has_to_earn_its_place(losses: dict[float, float], min_gain: float, scale: float) -> None:
    assert choose_scale(losses, min_gain) == scale


def sparsify(vectors: list[torch.Tensor], sparsifier: str, density: float, seed: int) -> torch.Tensor:
    found = absorbed_delta(torch.zeros_like(vectors[0]), vectors, sparsifier, density, seed)
    if isinstance(found, torch.Tensor):
        return found.view(vectors[0].shape)
    dense = torch.zeros(vectors[0].numel())
    dense[found.where] = found.values
    return dense.view(vectors[0].shape)


@pytest.mark.parametrize("sparsifier", ["magnitude", "ties"])
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("density", [0.1, 0.7, 1.0])
@pytest.mark.filterwarnings("ignore:The density")
def test_vectors_are_put_together_as_peft_does(sparsifier: str, count: int, density: float) -> None:
    from peft.utils import merge_utils

    theirs = {"magnitude": merge_utils.magnitude_prune, "ties": merge_utils.ties}[sparsifier]
    vectors = [torch.randn(31, 47, generator=torch.Generator().manual_seed(seed)) for seed in range(count)]
    expected = theirs(vectors, torch.ones(count), density)
    torch.testing.assert_close(sparsify(vectors, sparsifier, density, 0), expected)


@pytest.mark.parametrize("columns", ["alike", "sorted", "many equal", "mostly zero"])
def test_largest_entries_of_a_long_matrix_are_found_whatever_its_order(columns: str) -> None:
    vector = torch.randn(1500, 1001, generator=torch.Generator().manual_seed(3))
    if columns == "sorted":
        vector = vector.flatten().sort().values.view(vector.shape)
    elif columns == "many equal":
        vector = vector.round()
    elif columns == "mostly zero":
        vector = torch.where(torch.arange(1001) % 12 == 5, vector, 0.0)
    thin = sparsify([vector], "magnitude", 0.1, 0).flatten()
    order = vector.flatten().abs().argsort(descending=True, stable=True)[: int(0.1 * vector.numel())]
    expected = torch.zeros_like(thin)
    expected[order] = vector.flatten()[order]
    assert torch.equal(thin, expected)


@pytest.mark.parametrize("method", ["magnitude", "ties", "dare"])
@pytest.mark.parametrize("density", [0.3, 1.0])
def test_scale_zero_restores_every_bit(method: str, density: float) -> None:
    model = llama(dtype=torch.bfloat16)
    before = weights(model)
    merge = Merge(list(removed_minus_anchor(tuple(model.model.layers), {0: (1, 2), 3: (4,)}, method, density, 7)))
    merge.apply(0.0)
    assert not changed(before, model)
    merge.apply(0.5)
    anchored = {name for name in before if name.startswith(("model.layers.0.", "model.layers.3."))}
    assert changed(before, model) == {name for name in anchored if "norm" not in name}
    merge.apply(0.0)
    assert not changed(before, model)


def test_only_what_changes_is_kept() -> None:
    model = llama()
    (change, *_) = removed_minus_anchor(tuple(model.model.layers), {0: (1,)}, "magnitude", 0.1, 7)
    assert change.where is not None
    assert len(change.where) == len(change.original) == len(change.delta) == int(0.1 * change.weight.numel())


def test_whole_task_vector_at_scale_one_is_the_removed_layer() -> None:
    layers = tuple(llama().model.layers)
    Merge(list(removed_minus_anchor(layers, {0: (1,)}, "magnitude", 1.0, 7))).apply(1.0)
    for name in ("self_attn.q_proj.weight", "mlp.down_proj.weight"):
        torch.testing.assert_close(layers[0].get_parameter(name), layers[1].get_parameter(name))


def test_summed_vectors_are_the_rdsc_equation() -> None:
    vectors = [torch.tensor([[9.0]]), torch.tensor([[99.0]])]
    assert 1.0 + sparsify(vectors, "magnitude", 1.0, 0).item() == 109.0


@pytest.mark.parametrize("method", ["magnitude", "ties", "dare"])
@pytest.mark.parametrize("density", [0.0, 1e-9])
def test_zero_density_is_no_merge(method: str, density: float) -> None:
    assert not sparsify([torch.randn(4, 5), torch.randn(4, 5)], method, density, 1).any()


def test_density_is_an_exact_count_for_magnitude() -> None:
    vector = torch.randn(20, 10, generator=torch.Generator().manual_seed(0))
    thin = sparsify([vector], "magnitude", 0.1, 0)
    kept = thin != 0
    assert kept.sum() == 20 and torch.equal(thin[kept], vector[kept])
    assert vector[kept].abs().min() >= vector[~kept].abs().max()


def test_dare_is_seeded_unbiased_and_leaves_the_global_stream_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    one, again, other = (sparsify([torch.ones(400, 500)], "dare", 0.3, seed) for seed in (5, 5, 6))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert abs(one.mean().item() - 1.0) < 3 * np.sqrt((1 / 0.3 - 1) / one.numel())


def test_routers_and_stacked_experts_are_left_alone() -> None:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
    config = transformers.Qwen3MoeConfig(**{**SIZE, "num_hidden_layers": 2}, **experts, num_key_value_heads=2)
    model = transformers.AutoModelForCausalLM.from_config(config)
    before = weights(model)
    Merge(list(removed_minus_anchor(tuple(model.model.layers), {0: (1,)}, "magnitude", 0.5, 7))).apply(1.0)
    assert changed(before, model) == {f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkvo"}


def test_instruct_delta_goes_further_where_tuning_went(tmp_path: Path) -> None:
    base, tuned = llama(1), llama(1)
    with torch.no_grad():
        tuned.model.layers[2].mlp.up_proj.weight[0, 5] += 1.0
        tuned.model.layers[4].mlp.up_proj.weight[0, 5] += 1.0
    base.save_pretrained(tmp_path)
    before = weights(tuned)
    surgery = LayerSurgery(tuned)
    keep, remove = (0, 1, 2, 3, 5), (4,)
    surgery.keep(keep)
    settings = MergeConfig(method="instruct_delta")
    of = Ingredients(surgery, keep, remove, settings, 7, base_weights(tuned, str(tmp_path), None))
    merge = build_merge(tuned, of, [])
    assert merge
    merge.apply(0.25)
    name = "model.layers.2.mlp.up_proj.weight"
    after = dict(tuned.named_parameters())[name]
    assert after[0, 5].item() == pytest.approx(before[name][0, 5].item() + 0.25)
    assert (after != before[name]).sum() == 1
    merge.apply(0.0)
    assert torch.equal(after, before[name])


def test_instruct_delta_without_a_base_is_no_merge() -> None:
    surgery = LayerSurgery(model := llama())
    assert not build_merge(
        model, Ingredients(surgery, (0, 1), (2, 3, 4, 5), MergeConfig(method="instruct_delta"), 7), []
    )


def test_a_base_of_another_shape_or_family_is_refused(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(**{**SIZE, "intermediate_size": 40})
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "other")
    layers = tuple((model := llama()).model.layers)
    with pytest.raises(CandidateError, match="mlp.gate_proj.weight of layer 0 has the shape"):
        list(instruct_minus_base(layers, (0,), base_weights(model, str(tmp_path / "other"), None), "ties", 0.1, 7))
    with pytest.raises(DamocError, match="model.safetensors is missing"):
        base_weights(model, str(tmp_path), None)


@pytest.mark.parametrize("method", ["rdsc_sparse", "linear_patch"])
def test_a_merge_of_offloaded_weights_is_that_of_weights_in_memory_and_can_be_taken_back(
    zoo: Path, method: str
) -> None:
    ids = torch.randint(3, 2000, (4, 30), generator=torch.Generator().manual_seed(2))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    keep, remove = (0, 1, 3, 4, 7, 8, 10, 11), (2, 5, 6, 9)
    found: dict[str, list[torch.Tensor]] = {"memory": [], "disk": []}
    for place, limit in (("memory", None), ("disk", {"cpu": "3MiB"})):
        model = load_model(str(zoo / "tiny-llama-cloud"), max_memory=limit).model
        surgery = LayerSurgery(model)
        surgery.keep(keep)
        merge = build_merge(model, Ingredients(surgery, keep, remove, MergeConfig(method=method), 7), [batch])
        for scale in (0.0, 0.5, 0.25, 0.0):
            merge.apply(scale)
            with torch.inference_mode():
                found[place].append(model(**batch).logits)
    plain, half, quarter, again = found["memory"]
    assert torch.equal(plain, again) and not torch.equal(plain, half) and not torch.equal(half, quarter)
    assert all(torch.equal(one, other) for one, other in zip(found["memory"], found["disk"], strict=True))
