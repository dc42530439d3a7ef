"""The linear patch against what it has to find, and against a direct least-squares solution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from sklearn.linear_model import Ridge

from damoc.compression.architecture import LayerSurgery
from damoc.compression.merge import Ingredients, build_merge
from damoc.compression.merge.linear_patch import fit_patches, residual_projection
from damoc.config import MergeConfig

SIZE = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 6, "vocab_size": 99}
TOKENS = torch.randint(3, 99, (12, 48), generator=torch.Generator().manual_seed(1))
MASK = torch.ones_like(TOKENS)
MASK[::3, 30:] = 0
BATCHES = [{"input_ids": TOKENS[at : at + 4], "attention_mask": MASK[at : at + 4]} for at in (0, 4, 8)]


def build(family: str = "llama", **more: Any) -> Any:
    torch.manual_seed(3)
    kinds = {
        "llama": transformers.LlamaConfig,
        "gpt_neox": transformers.GPTNeoXConfig,
        "gpt2": transformers.GPT2Config,
        "opt": transformers.OPTConfig,
        "phi3": transformers.Phi3Config,
        "gemma2": transformers.Gemma2Config,
        "olmo2": transformers.Olmo2Config,
        "mixtral": transformers.MixtralConfig,
    }
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.2}
    if family == "opt":
        special |= {"ffn_dim": 64, "word_embed_proj_dim": 32}
    if family == "mixtral":
        special |= {"num_key_value_heads": 2}
    if family == "gemma2":
        special |= {"head_dim": 8, "num_key_value_heads": 2}
    return transformers.AutoModelForCausalLM.from_config(kinds[family](**SIZE, **special, **more)).eval()


def streams(model: Any, module: torch.nn.Module) -> torch.Tensor:
    found = []
    handle = module.register_forward_hook(
        lambda _module, _args, output: found.append(output[0] if isinstance(output, tuple) else output)
    )
    with torch.inference_mode():
        for batch in BATCHES:
            model(**batch, use_cache=False)
    handle.remove()
    return torch.cat([value[batch["attention_mask"].bool()] for value, batch in zip(found, BATCHES, strict=True)])


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gpt2", "opt", "phi3"])
def test_projection_that_feeds_the_stream_is_found(family: str) -> None:
    model = build(family)
    surgery = LayerSurgery(model)
    names = {module: name for name, module in model.named_modules()}
    found = residual_projection(model, surgery.layers[2], BATCHES[0])
    assert found is not None
    expected = {"gpt_neox": "mlp.dense_4h_to_h", "gpt2": "mlp.c_proj", "opt": "fc2"}.get(family, "mlp.down_proj")
    assert names[found].endswith(f"2.{expected}")


@pytest.mark.parametrize("family", ["gemma2", "olmo2", "mixtral"])
def test_norm_behind_the_projection_and_experts_are_told(family: str) -> None:
    model = build(family)
    assert residual_projection(model, LayerSurgery(model).layers[2], BATCHES[0]) is None


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gpt2"])
def test_patch_is_the_ridge_solution_on_the_tokens_that_are_not_padding(family: str) -> None:
    model = build(family)
    surgery = LayerSurgery(model)
    projection = residual_projection(model, surgery.layers[1], BATCHES[0])
    assert projection is not None
    added, stream, wanted = (
        streams(model, module).double().numpy() for module in (projection, surgery.layers[1], surgery.layers[3])
    )
    strength = 0.05 * float((added**2).sum(axis=0).mean())
    solution = Ridge(alpha=strength, fit_intercept=False, solver="svd").fit(added, wanted - stream)
    patches = fit_patches(model, surgery, (0, 1, 4, 5), {1: (2, 3)}, BATCHES, 0.05)
    assert patches.keys() == {1}
    np.testing.assert_allclose(patches[1].numpy(), np.eye(32) + solution.coef_.T, atol=2e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_removed_layer_that_is_linear_in_what_its_anchor_adds_is_recovered(family: str) -> None:
    """Layer 2 becomes x + (what layer 1's last projection added) @ A, so a patch of I + A replaces it without loss."""
    model = build(family)
    surgery = LayerSurgery(model)
    projection = residual_projection(model, surgery.layers[1], BATCHES[0])
    assert projection is not None
    seen: list[torch.Tensor] = []
    matrix = 0.3 * torch.randn(32, 32, generator=torch.Generator().manual_seed(5))
    projection.register_forward_hook(lambda _module, _args, output: seen.append(output))

    def linear(_module: Any, args: tuple[Any, ...], output: Any) -> Any:
        stream = args[0] + seen[-1].view_as(args[0]) @ matrix
        return (stream, *output[1:]) if isinstance(output, tuple) else stream

    surgery.layers[2].register_forward_hook(linear)
    with torch.inference_mode():
        whole = [model(**batch).logits for batch in BATCHES]
    settings = MergeConfig(method="linear_patch", ridge=1e-9)
    keep = (0, 1, 3, 4, 5)
    surgery.keep(keep)
    merge = build_merge(model, Ingredients(surgery, keep, (2,), settings, 0), BATCHES)
    torch.testing.assert_close(merge.patches["1"], torch.eye(32) + matrix, atol=1e-4, rtol=0)
    merge.apply(1.0)
    with torch.inference_mode():
        for batch, logits in zip(BATCHES, whole, strict=True):
            real = batch["attention_mask"].bool()
            torch.testing.assert_close(model(**batch).logits[real], logits[real], atol=1e-3, rtol=1e-3)


def test_two_blocks_are_patched_from_the_bottom_up_on_what_really_arrives() -> None:
    model = build()
    surgery = LayerSurgery(model)
    keep, groups = (0, 2, 4, 5), {0: (1,), 2: (3,)}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    both = fit_patches(model, surgery, keep, groups, BATCHES, 0.01)
    surgery.keep(range(6))
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    alone = fit_patches(model, surgery, (0, 1, 2, 4, 5), {2: (3,)}, BATCHES, 0.01)
    first = fit_patches(model, surgery, keep, {0: (1,)}, BATCHES, 0.01)
    torch.testing.assert_close(both[0], first[0])
    assert (both[2] - alone[2]).abs().max() > 1e-3


def test_anchor_above_its_layers_is_skipped() -> None:
    model = build()
    assert not fit_patches(model, LayerSurgery(model), (1, 2, 3, 4, 5), {1: (0,)}, BATCHES, 0.01)
