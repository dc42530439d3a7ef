"""DECIDE: what a model's config says once some of its layers are gone; pure functions of plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
"""Names under which configs say how many layers there are."""

INDEX_LISTS = ("mlp_only_layers", "full_attn_idxs")
"""Lists that name layers by index (Qwen mixtures of experts, LFM2)."""

LEADING_COUNTS = ("first_k_dense_replace", "num_dense_layers")
"""Counts of leading layers of another kind (DeepSeek, LFM2 mixtures of experts)."""

_NOT_PER_LAYER = ("architectures", "bos_token_id", "eos_token_id", "pad_token_id")


def layer_count(values: Mapping[str, Any]) -> int | None:
    """The number of layers that a config declares, or None."""
    return next((values[name] for name in COUNTS if isinstance(values.get(name), int)), None)


def kept_values(values: Mapping[str, Any], keep: Sequence[int], total: int) -> dict[str, Any]:
    """The values of a config that depend on its layers, as they read when only some layers are kept.

    Args:
        values: attributes of the config of the whole model.
        keep: indices of the kept layers, ascending.
        total: layers of the whole model.

    Returns:
        New values, counts first: every count of layers, every index list and leading count of a known name, and
        every other list with one entry a layer (``layer_types``, ``no_rope_layers``, ...).
    """
    counts = {name: len(keep) for name in COUNTS if values.get(name) == total}
    lists: dict[str, Any] = {}
    for name, value in values.items():
        if name in LEADING_COUNTS and isinstance(value, int):
            lists[name] = sum(index < value for index in keep)
        elif name in INDEX_LISTS and isinstance(value, list | tuple):
            lists[name] = type(value)(keep.index(index) for index in value if index in keep)
        elif isinstance(value, list | tuple) and len(value) == total and name not in _NOT_PER_LAYER:
            lists[name] = type(value)(value[index] for index in keep)
    return {**counts, **lists}
