"""DECIDE: what a model's config says once some of its layers are gone; pure functions of plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "num_blocks")
"""Names under which configs say how many layers there are."""

TYPES = ("layer_types", "layers_block_type")
"""Lists of the types of the layers; some configs have no other count."""

INDEX_LISTS = ("mlp_only_layers", "full_attn_idxs", "attn_layer_indices", "moe_layers", "local_layer_ids")
"""Lists that name layers by index (Qwen mixtures of experts, LFM2, Bamba, Llama 4, Inkling)."""

LEADING_COUNTS = ("first_k_dense_replace", "num_dense_layers")
"""Counts of leading layers of another kind (DeepSeek, LFM2 mixtures of experts)."""

RANGES = (("moe_layer_start_index", "moe_layer_end_index"),)
"""First and last index of the layers of another kind (Ernie mixtures of experts)."""

PATTERNS = {
    "attn_layer_period": "attention comes every so many layers",
    "expert_layer_period": "experts come every so many layers",
    "moe_layer_interval": "experts come every so many layers",
    "num_kv_shared_layers": "late layers use the keys and values of earlier ones",
    "kv_source_layers": "layers use the keys and values of earlier ones",
    "hidden_size_per_layer_input": "every token has an embedding for each layer",
    "num_mem_blocks": "its layers share blocks",
    "cross_attention_layers": "some layers read images",
    "H_cycles": "its layers run more than once",
}
"""Values by which configs describe layers that cannot be left out one by one, and why."""

_NOT_PER_LAYER = ("architectures", "bos_token_id", "eos_token_id", "pad_token_id")


def layer_counts(values: Mapping[str, Any]) -> set[int]:
    """The numbers of layers that a config declares; one with an encoder may declare two."""
    counts = {values[name] for name in COUNTS if isinstance(values.get(name), int)}
    return counts | {len(values[name]) for name in TYPES if values.get(name)}


def layer_kinds(values: Mapping[str, Any], total: int) -> list[tuple[Any, ...]]:
    """What a config says of each layer in its lists of one entry a layer; equal where layers are of one kind."""
    lists = [value for name, value in values.items() if _is_per_layer(name, value, total)]
    return [tuple(str(value[index]) for value in lists) for index in range(total)]


def pattern(values: Mapping[str, Any]) -> str:
    """Why layers of this config may not be free to go: the names found and what they mean, or nothing."""
    found = [f"{reason} ({name})" for name, reason in PATTERNS.items() if values.get(name) not in (None, 0, 1, [])]
    return "; ".join(found)


def kept_values(values: Mapping[str, Any], keep: Sequence[int], total: int) -> dict[str, Any]:
    """The values of a config that depend on its layers, as they read when only some layers are kept.

    Args:
        values: attributes of the config of the whole model.
        keep: indices of the kept layers, ascending.
        total: layers of the whole model.

    Returns:
        New values, counts first: every count of layers, every index list, leading count and range of a known name,
        and every other list with one entry a layer (``layer_types``, ``no_rope_layers``, ...).
    """
    counts = {name: len(keep) for name in COUNTS if values.get(name) == total}
    lists: dict[str, Any] = {}
    for name, value in values.items():
        if name in LEADING_COUNTS and isinstance(value, int):
            lists[name] = sum(index < value for index in keep)
        elif name in INDEX_LISTS and isinstance(value, list | tuple):
            lists[name] = type(value)(keep.index(index) for index in value if index in keep)
        elif _is_per_layer(name, value, total):
            lists[name] = type(value)(value[index] for index in keep)
    patterns = {**_ranges(values, keep), **_sparse_steps(values, keep), **_repeated(values, lists, keep)}
    return {**counts, **lists, **patterns}


def _is_per_layer(name: str, value: Any, total: int) -> bool:
    return isinstance(value, list | tuple) and len(value) == total and name not in _NOT_PER_LAYER


def _ranges(values: Mapping[str, Any], keep: Sequence[int]) -> dict[str, int]:
    changed: dict[str, int] = {}
    for first, last in RANGES:
        if isinstance(values.get(first), int) and isinstance(values.get(last), int):
            start = sum(index < values[first] for index in keep)
            inside = sum(values[first] <= index <= values[last] for index in keep)
            changed |= {first: start, last: start + inside - 1}
    return changed


def _sparse_steps(values: Mapping[str, Any], keep: Sequence[int]) -> dict[str, Any]:
    """Experts in every n-th layer of a Qwen model: kept layers without them are named one by one instead."""
    step, named = values.get("decoder_sparse_step"), values.get("mlp_only_layers")
    if not isinstance(step, int) or step < 2:
        return {}
    dense = [place for place, index in enumerate(keep) if (index + 1) % step or index in (named or ())]
    return {"decoder_sparse_step": 1, "mlp_only_layers": dense}


def _repeated(values: Mapping[str, Any], lists: Mapping[str, Any], keep: Sequence[int]) -> dict[str, Any]:
    """Types written as a pattern that repeats (GPT-Neo, RecurrentGemma) are written out."""
    if "attention_layers" in lists:
        return {"attention_types": [[list(lists["attention_layers"]), 1]]}
    if blocks := values.get("block_types"):
        return {"block_types": [blocks[index % len(blocks)] for index in keep]}
    return {}
