"""Layer surgery and importance on tiny random models of each family."""

from __future__ import annotations

import gc
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from damoc.compression import check_surgery
from damoc.compression.architecture import LayerSurgery, find_layers
from damoc.compression.importance import measure_layers
from damoc.errors import CandidateError

KEEP = (0, 2, 3, 5)
LAYERS = 6
_COMMON = {"vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_BASE = {
    **_COMMON,
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
}
_GROUPED = {**_BASE, "num_key_value_heads": 2}
_SLIDING = {**_GROUPED, "sliding_window": 8}
_FALCON = {**_COMMON, "hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "mlp_only_layers": [0, 3]}

FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaConfig(**_GROUPED),
    "qwen2": lambda: transformers.Qwen2Config(**_SLIDING, use_sliding_window=True, max_window_layers=3),
    "qwen3": lambda: transformers.Qwen3Config(**_GROUPED, head_dim=8),
    "gemma2": lambda: transformers.Gemma2Config(**_SLIDING, head_dim=8),
    "gemma3": lambda: transformers.Gemma3TextConfig(**_SLIDING, head_dim=8),
    "mistral": lambda: transformers.MistralConfig(**_SLIDING),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**_BASE),
    "gpt2": lambda: transformers.GPT2Config(**_COMMON, n_embd=32, n_layer=LAYERS, n_head=4, n_positions=128),
    "opt": lambda: transformers.OPTConfig(
        **{k: v for k, v in _BASE.items() if k != "intermediate_size"}, ffn_dim=48, word_embed_proj_dim=32
    ),
    "phi3": lambda: transformers.Phi3Config(**_GROUPED),
    "falcon": lambda: transformers.FalconConfig(**_FALCON),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(**_GROUPED, head_dim=8, **_EXPERTS),
}


def build(family: str) -> Any:
    torch.manual_seed(5)
    return transformers.AutoModelForCausalLM.from_config(FAMILIES[family](), attn_implementation="eager").eval()


def ids(length: int = 24) -> torch.Tensor:
    return torch.randint(3, 99, (2, length), generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=FAMILIES)
def pruned(request: pytest.FixtureRequest) -> Any:
    model = build(request.param)
    LayerSurgery(model).keep(KEEP)
    return model


def test_pruned_model_generates_saves_and_loads(pruned: Any, tmp_path: Path) -> None:
    check_surgery(pruned, 0)
    with torch.inference_mode():
        expected = pruned(ids()).logits
        pruned.save_pretrained(tmp_path)
        loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
        assert torch.equal(loaded(ids()).logits, expected)
    check_surgery(loaded, 0)
    assert loaded.config.num_hidden_layers == len(KEEP)


def test_per_layer_lists_of_the_config_shrink(pruned: Any) -> None:
    kinds = getattr(pruned.config, "layer_types", None)
    if kinds is not None:
        whole = FAMILIES[{"gemma3_text": "gemma3"}.get(pruned.config.model_type, pruned.config.model_type)]()
        assert kinds == [whole.layer_types[index] for index in KEEP]
    positions = [part.layer_idx for part in pruned.modules() if hasattr(part, "layer_idx")]
    assert sorted(set(positions)) == list(range(len(KEEP)))


def test_llama_without_layers_is_the_other_layers_run_by_hand() -> None:
    model = build("llama")
    body, layers = model.model, list(model.model.layers)
    with torch.inference_mode():
        hidden = body.embed_tokens(ids())
        position = torch.arange(hidden.shape[1])[None]
        rotary = body.rotary_emb(hidden, position)
        mask = torch.full((hidden.shape[1],) * 2, float("-inf")).triu(1)[None, None]
        for index in KEEP:
            hidden = layers[index](
                hidden, attention_mask=mask, position_ids=position, position_embeddings=rotary, use_cache=False
            )
        expected = model.lm_head(body.norm(hidden))
        LayerSurgery(model).keep(KEEP)
        torch.testing.assert_close(model(ids()).logits, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("family", ["gemma2", "gpt2"])
def test_layers_can_be_given_back(family: str) -> None:
    model = build(family)
    before = model.config.to_dict()
    with torch.inference_mode():
        expected = model(ids()).logits
        surgery = LayerSurgery(model)
        surgery.keep((0, 5))
        surgery.keep(range(LAYERS))
        assert torch.equal(model(ids()).logits, expected)
    assert model.config.to_dict() == before
    check_surgery(model, 0)


def test_multimodal_text_model_is_pruned_alone() -> None:
    text = {k: v for k, v in _SLIDING.items() if k not in ("bos_token_id", "eos_token_id", "pad_token_id")}
    vision = {
        "hidden_size": 16,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "image_size": 28,
        "patch_size": 14,
    }
    tokens = {"image_token_index": 90, "boi_token_index": 91, "eoi_token_index": 92, "mm_tokens_per_image": 4}
    config = transformers.Gemma3Config(text_config={**text, "head_dim": 8}, vision_config=vision, **tokens)
    model = transformers.Gemma3ForConditionalGeneration(config).eval()
    LayerSurgery(model).keep(KEEP)
    assert model.config.text_config.num_hidden_layers == len(KEEP) == len(model.config.text_config.layer_types)
    assert model.config.vision_config.num_hidden_layers == LAYERS
    check_surgery(model, 0)


class _Foreign(torch.nn.Module):
    def __init__(self, config: Any, blocks: int) -> None:
        super().__init__()
        self.config = config
        self.tower = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(blocks))


def test_unknown_paths_are_found_by_their_length() -> None:
    assert find_layers(_Foreign(FAMILIES["llama"](), LAYERS)) == "tower"


def test_model_without_layers_is_refused_with_what_to_add() -> None:
    with pytest.raises(CandidateError, match="LAYER_PATHS") as caught:
        LayerSurgery(_Foreign(FAMILIES["llama"](), LAYERS + 1))
    assert caught.value.status == "incompatible"


def test_check_refuses_layers_that_do_not_know_their_place() -> None:
    model = build("llama")
    del model.model.layers[1]
    with pytest.raises(CandidateError, match="not what its config describes") as caught:
        check_surgery(model, 0)
    assert caught.value.status == "incompatible"


def test_check_refuses_a_broken_cache() -> None:
    model = build("llama")
    for layer in model.model.layers:
        layer.register_forward_pre_hook(_shift_when_cached, with_kwargs=True)
    with pytest.raises(CandidateError, match="does not generate what it predicts"):
        check_surgery(model, 0)


def _shift_when_cached(module: Any, args: Any, kwargs: Any) -> Any:
    return ((args[0] + 1.0 * kwargs.get("use_cache", False), *args[1:]), kwargs)


def test_check_refuses_weights_that_are_not_finite() -> None:
    model = build("llama")
    model.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(CandidateError, match="not finite"):
        check_surgery(model, 0)


def test_family_that_cannot_lose_arbitrary_layers_is_refused() -> None:
    config = transformers.JambaConfig(
        **_GROUPED, attn_layer_period=3, attn_layer_offset=1, num_experts=2, mamba_d_state=4
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    LayerSurgery(model).keep(KEEP)
    with pytest.raises(CandidateError, match="not what its config describes"):
        check_surgery(model, 0)


def batch(rows: list[list[int]], side: str = "right") -> dict[str, torch.Tensor]:
    longest = max(map(len, rows))
    padding = [[0] * (longest - len(row)) for row in rows]
    left = side == "left"
    tokens = [gap + row if left else row + gap for row, gap in zip(rows, padding, strict=True)]
    mask = [
        [0] * len(gap) + [1] * len(row) if left else [1] * len(row) + [0] * len(gap)
        for row, gap in zip(rows, padding, strict=True)
    ]
    return {"input_ids": torch.tensor(tokens), "attention_mask": torch.tensor(mask)}


ROWS = [[5, 9, 11, 40, 3], [7, 8], [60, 61, 62, 63, 64, 65, 66, 67, 68, 69, 70]]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "opt", "falcon"])
def test_block_influence_is_brute_force(family: str) -> None:
    model = build(family)
    layers = LayerSurgery(model).layers
    measured = measure_layers(model, layers, [batch(ROWS[:2]), batch(ROWS[2:])])
    angles = np.zeros((LAYERS, LAYERS))
    cosines: list[list[float]] = [[] for _ in layers]
    for row in ROWS:
        caught: list[tuple[np.ndarray, np.ndarray]] = []
        handles = [layer.register_forward_hook(_catch(caught)) for layer in layers]
        with torch.inference_mode():
            states = model(torch.tensor([row]), output_hidden_states=True, use_cache=False).hidden_states
        for handle in handles:
            handle.remove()
        for index, (before, after) in enumerate(caught):
            np.testing.assert_allclose(before, states[index][0].double().numpy(), atol=1e-6)
            for one, other in zip(before, after, strict=True):
                cosines[index].append(_cosine(one, other))
        for first, last in itertools.combinations_with_replacement(range(LAYERS), 2):
            angles[first, last] += math.acos(_cosine(caught[first][0][-1], caught[last][1][-1])) / math.pi / len(ROWS)
    np.testing.assert_allclose(measured.influence, [1 - np.mean(values) for values in cosines], atol=2e-6)
    np.testing.assert_allclose(measured.distances, angles, atol=2e-6)
    assert angles[0, -1] > 0.05


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def _catch(caught: list[tuple[np.ndarray, np.ndarray]]) -> Callable[[Any, Any, Any], None]:
    def hook(module: Any, args: Any, output: Any) -> None:
        after = output[0] if isinstance(output, tuple) else output
        caught.append((args[0][0].double().numpy(), after[0].double().numpy()))

    return hook


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_batching_change_nothing(side: str) -> None:
    model = build("llama")
    layers = model.model.layers
    calls: list[tuple[int, int]] = []
    alone = measure_layers(model, layers, [batch([row]) for row in ROWS], lambda *call: calls.append(call))
    together = measure_layers(model, layers, [batch(ROWS, side)])
    np.testing.assert_allclose(together.influence, alone.influence, atol=2e-6)
    np.testing.assert_allclose(together.distances, alone.distances, atol=2e-6)
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_layer_that_does_nothing_has_no_influence() -> None:
    model = build("llama")
    idle = model.model.layers[3]
    idle.self_attn.o_proj.weight.data.zero_()
    idle.mlp.down_proj.weight.data.zero_()
    measured = measure_layers(model, model.model.layers, [batch(ROWS)])
    assert measured.influence[3] == 0.0 and measured.influence.argmin() == 3
    assert measured.distances[3, 3] == 0.0
    assert measured.distances[1, 3] == measured.distances[1, 2] > 0
    with torch.inference_mode():
        expected = model(ids()).logits
        LayerSurgery(model).keep((0, 1, 2, 4, 5))
        torch.testing.assert_close(model(ids()).logits, expected)


def test_broken_activations_are_a_divergence_and_hooks_go() -> None:
    model = build("llama")
    model.model.layers[2].mlp.down_proj.weight.data.fill_(float("nan"))
    with pytest.raises(CandidateError) as caught:
        measure_layers(model, model.model.layers, [batch(ROWS)])
    assert caught.value.status == "diverged"
    assert not any(layer._forward_hooks for layer in model.model.layers)


def test_memory_does_not_grow_with_the_rows() -> None:
    model = build("llama")
    held: list[int] = []

    def count(done: int, total: int) -> None:
        tensors = [
            part for part in gc.get_objects() if issubclass(type(part), torch.Tensor)
        ]  # a weak proxy may be dead
        held.append(sum(part.numel() for part in tensors if part.is_floating_point()))

    measure_layers(model, model.model.layers, [batch(ROWS)] * 6, count)
    assert held[-1] <= held[0]


def test_layer_that_does_not_run_is_named() -> None:
    model = build("llama")
    layers = [*model.model.layers, torch.nn.Identity()]
    with pytest.raises(CandidateError, match="layer 6 did not run"):
        measure_layers(model, layers, [batch(ROWS)])


def test_layers_that_know_their_depth_are_refused() -> None:
    config = transformers.GPT2Config(
        **_COMMON, n_embd=32, n_layer=LAYERS, n_head=4, n_positions=128, scale_attn_by_inverse_layer_idx=True
    )
    surgery = LayerSurgery(transformers.AutoModelForCausalLM.from_config(config))
    surgery.keep(range(LAYERS))
    with pytest.raises(CandidateError, match="scale_attn_by_inverse_layer_idx depends on its position"):
        surgery.keep(KEEP)
