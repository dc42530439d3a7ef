"""APPLY: the one place that knows where a model keeps its layers and how to take some of them out."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from damoc.compression.layer_config import TYPES, kept_values, layer_counts, layer_kinds, pattern
from damoc.errors import CandidateError

if TYPE_CHECKING:
    import torch

LAYER_PATHS = (
    "model.layers",
    "model.language_model.layers",
    "language_model.model.layers",
    "gpt_neox.layers",
    "transformer.h",
    "transformer.blocks",
    "transformer.layers",
    "transformer.encoder.layers",
    "model.decoder.layers",
    "backbone.layers",
)
"""Where causal language models keep their decoder layers; a new family is one more line."""

INDEX_NAMES = ("layer_idx", "layer_id", "layer_number")
"""Attributes by which a layer and its parts know their position; the key-value cache is addressed by them."""

POSITIONAL = ("scale_attn_by_inverse_layer_idx",)
"""Settings that make what a layer computes depend on its position."""


class LayerSurgery:
    """Takes layers out of a causal language model, in place, and puts them back.

    The layers of the whole model stay within reach until the object goes, so that every call of :meth:`keep` starts
    from the whole model: it can give layers back, and a merge can read what was removed.

    Args:
        model: causal language model of transformers, whole.

    Raises:
        CandidateError: ``incompatible``, when its layers cannot be found.
    """

    def __init__(self, model: Any) -> None:
        path = find_layers(model)
        owner = model.get_submodule(path.rpartition(".")[0])
        self._list: torch.nn.ModuleList = model.get_submodule(path)
        self.layers: tuple[torch.nn.Module, ...] = tuple(self._list)
        self._positions = [
            (part, name, index)
            for index, layer in enumerate(self.layers)
            for part in layer.modules()
            for name in INDEX_NAMES
            if getattr(part, name, None) == index
        ]
        configs = {id(config): config for config in _configs(model, owner, self._list)}
        declared = [(config, copy.deepcopy(vars(config))) for config in configs.values()]
        self._configs = [(config, values) for config, values in declared if len(self.layers) in layer_counts(values)]
        if not self._configs:
            raise _unknown(model, f"{path} holds {len(self.layers)} blocks but no config says so")
        types = (self._configs[0][1].get(name) for name in TYPES)
        self.layer_types: tuple[str, ...] = tuple(next(filter(None, types), ()))

    def keep(self, indices: Sequence[int]) -> None:
        """Leaves only these layers in the model.

        Module list, layer counts and per-layer lists of the configs, and the positions that layers know themselves
        by follow. Weights are shared with the whole model, not copied.

        Args:
            indices: layers of the whole model that stay, ascending, at least one.

        Raises:
            CandidateError: ``incompatible``, when what the layers compute depends on their position.
        """
        total = len(self.layers)
        if len(indices) < total and (reason := self._positional()):
            raise CandidateError("incompatible", f"no layer can be left out, because {reason} depends on its position")
        position = {layer: place for place, layer in enumerate(indices)}
        del self._list[:]
        self._list.extend(self.layers[index] for index in indices)
        for part, name, index in self._positions:
            setattr(part, name, position.get(index, index))
        for config, values in self._configs:
            for name, value in kept_values(values, indices, total).items():
                setattr(config, name, value)
            if overrides := getattr(values.get("_heterogeneity_spec"), "per_layer_overrides", None):
                config.per_layer_config = {position[layer]: overrides[layer] for layer in indices if layer in overrides}

    def _positional(self) -> str | None:
        """What depends on a layer's position and would be made anew on loading, or None."""
        import torch

        for _, values in self._configs:
            if named := [name for name in POSITIONAL if values.get(name)]:
                return named[0]
        first: dict[tuple[tuple[Any, ...], str], torch.Tensor] = {}
        kinds = layer_kinds(self._configs[0][1], len(self.layers))
        for layer, kind in zip(self.layers, kinds, strict=True):
            for path, part in layer.named_modules():
                for name in sorted(part._non_persistent_buffers_set):
                    if (value := getattr(part, name)) is not None:
                        where = f"{path}.{name}"
                        if not torch.equal(first.setdefault((kind, where), value), value):
                            return where
        return None


def find_layers(model: Any) -> str:
    """The attribute path of the list of decoder layers.

    Known paths come first; then the shallowest list (ties: the first) of blocks of one class that is as long as the
    config says. Lists inside the layers, such as experts, are deeper and so never win.

    Args:
        model: causal language model.

    Raises:
        CandidateError: ``incompatible``, with what to add.
    """
    from torch.nn import ModuleList

    named: dict[str, torch.nn.Module] = dict(model.named_modules())
    lists = {name: blocks for name, blocks in named.items() if isinstance(blocks, ModuleList) and len(blocks)}
    for path in LAYER_PATHS:
        if path in lists:
            return path
    counts = layer_counts(vars(model.config.get_text_config()))
    alike = [name for name, blocks in lists.items() if len(blocks) in counts and len({type(b) for b in blocks}) == 1]
    if not alike:
        raise _unknown(model, f"no list of {' or '.join(map(str, sorted(counts))) or 'so many'} equal blocks")
    found = min(alike, key=lambda name: name.count("."))
    if beside := [name for name in alike if name != found and name.rpartition(".")[0] == found.rpartition(".")[0]]:
        raise _unknown(model, f"{found} and {beside[0]} hold parts of them")
    return found


def _configs(model: Any, owner: Any, layers: Any) -> Iterator[Any]:
    yield model.config.get_text_config()
    for module in (owner, *layers.modules()):
        if hasattr(config := getattr(module, "config", None), "get_text_config"):
            yield config


def _unknown(model: Any, found: str) -> CandidateError:
    why = pattern(vars(model.config.get_text_config()))
    return CandidateError(
        "incompatible",
        f"the decoder layers of {type(model).__name__} were not found ({found}{f'; {why}' if why else ''}); "
        "add the attribute path of its layer list to damoc.compression.architecture.LAYER_PATHS",
    )
