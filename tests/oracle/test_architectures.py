"""Every causal language model of transformers: two layers of six go, and what is left is what was there without them.

The reference is the whole model in which a hook makes the removed layers pass their input through.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.integrations.heterogeneity.configuration_utils import AmbiguousGlobalPerLayerAttributeError
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from damoc.compression import check_surgery
from damoc.compression.architecture import LayerSurgery
from damoc.compression.plan import protected_layers
from damoc.errors import CandidateError

LAYERS = 6
DOCS = Path(__file__).parents[2] / "docs" / "models.md"

MAINSTREAM = (  # the others take most of a minute together
    *("llama", "llama4_text", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "gemma", "gemma2"),
    *("gemma3", "gemma3_text", "phi", "phi3", "phimoe", "gpt_neox", "gpt2", "opt", "falcon", "olmo", "olmo2", "olmoe"),
    *("stablelm", "internlm3", "bloom", "deepseek_v3", "gpt_oss", "granite", "smollm3", "cohere2"),
)

REFUSED = {
    "beam": "attn_residual_add_idx",
    "big_bird": "attention.seed",
    "blt": "were not found",
    "camembert": "does not generate what it predicts",
    "cpmant": "does not generate what it predicts",
    "data2vec-text": "does not generate what it predicts",
    "diffllama": "depends on its position",
    "gemma3n_text": "late layers use|cannot be built from its own config",
    "hrm_text": "its layers run more than once",
    "jamba": "attention comes every so many layers",
    "longcat_flash": "layer_idx",
    "minicpm3": "depends on its position or on the depth",
    "minimax": "num_hidden_layers",
    "mllama": "some layers read images",
    "moshi": "does not generate what it predicts",
    "prophetnet": "were not found",
    "roberta": "does not generate what it predicts",
    "roberta-prelayernorm": "does not generate what it predicts",
    "xlm": "hold parts of them",
    "xlm-roberta": "does not generate what it predicts",
    "xlm-roberta-xl": "does not generate what it predicts",
    "xlnet": "does not generate what it predicts",
    "xlstm": "fails to generate",
    "xmod": "does not generate what it predicts",
    "zamba2": "fails to generate",
}
"""Families that are refused, and what the refusal says."""

UNTESTED = {
    "cohere_compass_text": "no tiny config was found that its own code accepts",
    "dbrx": "no tiny config was found that its own code accepts",
    "dots3_note": "reads images; its text model is tested",
    "gemma3n": "needs timm",
    "gemma4": "reads images; its text model is tested",
    "gemma4_assistant": "drafts for another model",
    "gemma4_unified": "reads images; its text model is tested",
    "gemma4_unified_assistant": "drafts for another model",
    "kimi_linear": "a tiny one takes most of a minute",
    "musicgen": "makes sound",
    "musicgen_melody": "makes sound",
    "openai-gpt": "no tiny config was found that its own code accepts",
    "qwen4_exp": "no tiny config was found that its own code accepts",
    "qwen4_exp_text": "no tiny config was found that its own code accepts",
    "reformer": "its layers are reversible and share two streams",
    "rwkv": "whole, it does not generate without its state",
    "zaya": "its layers hand a second stream on, which the reference here does not model",
}
"""Families of which no test says anything, and why."""

_SMALL = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim_model", "embedding_size", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers"), LAYERS),
    **dict.fromkeys(("decoder_layers", "num_decoder_layers", "num_encoder_layers"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads", "mamba_n_heads", "mamba_num_heads"), 4),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "dim_ff"), 48),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim"), 48),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 128),
    **dict.fromkeys(("head_dim", "dim_head", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("sliding_window", "window_size", "attention_window_size", "chunk_size", "mamba_chunk_size"), 8),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size"), 8),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "mamba_expand"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "mamba_d_head", "mamba_head_dim"), 16),
    **dict.fromkeys(("n_group", "topk_group", "mamba_n_groups", "n_groups"), 1),
    **dict.fromkeys(("initializer_range", "init_std"), 0.2),
    "num_key_value_heads": 2,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "mamba_d_ssm": 64,
    "lru_width": 32,
    "qk_head_dim": 16,
    "rotary_dim": 4,
    "vocab_size": 99,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_ONE_LATENT = (
    *("axk1", "axk2", "bailing_hybrid", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa"),
    *("longcat_flash", "minicpm3", "youtu", "dots3_note_text"),
)
_CONVOLUTIONS = ["conv", "full_attention", "conv", "conv", "full_attention", "conv"]
_LINEAR = [kind.replace("conv", "linear_attention") for kind in _CONVOLUTIONS]
_ALTERNATING = ["sliding_attention", "full_attention"] * 3
_WINDOWS: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 3}
_OWN: dict[str, dict[str, Any]] = {
    **{name: {"num_key_value_heads": 4} for name in _ONE_LATENT},
    **{name: {"head_dim": 8} for name in ("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral")},
    **{name: {"sliding_window": 8} for name in ("phi3", "mistral", "mixtral")},
    **{name: _WINDOWS for name in ("qwen2", "qwen3")},
    "bamba": {"attn_layer_indices": [2, 4]},
    "big_bird": {"attention_type": "original_full"},
    "deepseek_v2": {"num_key_value_heads": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "gemma3n_text": {"num_kv_shared_layers": 2, "layer_types": _ALTERNATING, "hidden_size_per_layer_input": 8},
    "gemma4_text": {"hidden_size_per_layer_input": 0, "global_head_dim": 16},
    "gpt_neo": {"attention_types": [[["global", "local"], 3]]},
    "granitemoehybrid": {"layer_types": _LINEAR},
    "jamba": {"attn_layer_period": 3, "attn_layer_offset": 1},
    "lfm2": {"layer_types": _CONVOLUTIONS},
    "lfm2_moe": {"layer_types": _CONVOLUTIONS},
    "mamba2": {"head_dim": 16},
    "nemotron": {"num_key_value_heads": 2},
    "nemotron_h": {"layers_block_type": [*_LINEAR[:3], "moe", "mlp", "full_attention"]},
    "qwen2_moe": {"decoder_sparse_step": 2},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 12, "attn_layer_period": 3, "attn_layer_offset": 1, "n_mamba_heads": 2},
    "zamba2": {"layers_block_type": ["mamba", "mamba", "hybrid", "mamba", "hybrid", "mamba"], "num_mem_blocks": 1},
}

FAMILIES = sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - set(UNTESTED))
SUPPORTED = sorted(set(FAMILIES) - set(REFUSED))


def shrunk(kind: type, **own: Any) -> Any:
    """A config of a family with everything that costs made small, in its nested configs too."""
    default = kind()
    values = {name: value for name, value in _SMALL.items() if _is_number(default, name)}
    if getattr(default, "is_decoder", None) is False:
        values["is_decoder"] = True
    for name in default.sub_configs:
        if (nested := getattr(default, name, None)) is not None:
            values[name] = shrunk(type(nested)).to_dict()
    return kind(**{**values, **own})


def _is_number(config: Any, name: str) -> bool:
    if isinstance(getattr(type(config), name, None), property):
        return False
    try:
        value = getattr(config, name, None)
    except AmbiguousGlobalPerLayerAttributeError:
        return True
    return isinstance(value, int | float) and not isinstance(value, bool)


def build(family: str) -> Any:
    torch.manual_seed(0)
    config = shrunk(CONFIG_MAPPING[family], **_OWN.get(family, {}))
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def two_that_may_go(surgery: LayerSurgery) -> list[int]:
    protected = protected_layers(np.zeros(len(surgery.layers)), surgery.layer_types)
    return [index for index in (1, 3, 2, 4) if index not in protected][:2]


def marked(families: list[str]) -> list[Any]:
    return [family if family in MAINSTREAM else pytest.param(family, marks=pytest.mark.slow) for family in families]


IDS = torch.randint(3, 99, (2, 24), generator=torch.Generator().manual_seed(1))


def logits(model: Any) -> torch.Tensor:
    return model(input_ids=IDS, attention_mask=torch.ones_like(IDS), use_cache=False).logits


def generated(model: Any, use_cache: bool) -> torch.Tensor:
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    return model.generate(input_ids=IDS, attention_mask=torch.ones_like(IDS), use_cache=use_cache, **options)


def pass_through(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
    hidden = args[0] if args else kwargs["hidden_states"]
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


@pytest.mark.parametrize("family", marked(SUPPORTED))
@torch.inference_mode()
def test_what_is_left_computes_what_the_other_layers_computed(family: str, tmp_path: Path) -> None:
    model = build(family)
    surgery = LayerSurgery(model)
    gone = two_that_may_go(surgery)
    whole = logits(model)
    handles = [surgery.layers[index].register_forward_hook(pass_through, with_kwargs=True) for index in gone]
    expected = logits(model)
    for handle in handles:
        handle.remove()
    assert len(gone) == 2 and (whole - expected).abs().max() > 0.01

    surgery.keep([index for index in range(len(surgery.layers)) if index not in gone])
    found = logits(model)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    check_surgery(model, 0)
    assert torch.equal(generated(model, True), generated(model, False))

    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert torch.equal(logits(loaded), found)

    surgery.keep(range(len(surgery.layers)))
    assert torch.equal(logits(model), whole)


@pytest.mark.parametrize("family", marked(sorted(REFUSED)))
def test_what_cannot_be_described_or_checked_is_refused(family: str) -> None:
    with pytest.raises(CandidateError, match=REFUSED[family]) as caught:
        model = build(family)
        surgery = LayerSurgery(model)
        gone = two_that_may_go(surgery)
        surgery.keep([index for index in range(len(surgery.layers)) if index not in gone])
        check_surgery(model, 0)
    assert caught.value.status == "incompatible"


def test_the_page_lists_what_is_supported_refused_and_untested() -> None:
    text = DOCS.read_text(encoding="utf-8")
    for title, families in (("Supported", SUPPORTED), ("Refused", sorted(REFUSED)), ("Untested", sorted(UNTESTED))):
        listed = re.search(rf"^\*\*{title}\*\* \((\d+)\): (.+)\.$", text, re.MULTILINE)
        assert listed is not None, title
        assert re.findall(r"`([^`]+)`", listed[2]) == families
        assert int(listed[1]) == len(families)
