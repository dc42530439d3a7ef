"""APPLY: opens a proxy for tuning, keeps what was trained, and puts both together again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from damoc.config import TuningConfig
from damoc.models.load import LoadedModel, load_model
from damoc.tuning.processes import OneProcess

ADAPTER, WHOLE = "adapter", "model"
"""Folder of what was trained: adapters (safetensors), or a whole model with its tokenizer."""


def open_proxy(proxy: Path, settings: TuningConfig, on_cpu: bool = False) -> LoadedModel:
    """A proxy as its tuning needs it.

    Args:
        proxy: folder of model and tokenizer.
        settings: method, precision and template.
        on_cpu: keeps it off the GPU, where it will be sharded.

    Returns:
        The model, in 4 bits for ``qlora``, in float32 where all weights are trained, else in ``settings.dtype``.
    """
    four_bit = settings.method == "qlora"
    dtype = "float32" if settings.method == "full" else settings.dtype
    return load_model(
        str(proxy), dtype=dtype, four_bit=four_bit, double_quant=four_bit, template=settings.template, on_cpu=on_cpu
    )


def save_tuned(
    model: Any, tokenizer: Any, folder: Path, settings: TuningConfig, processes: OneProcess | None = None
) -> None:
    """Writes what was trained: ``adapter/``, or ``model/`` in ``settings.dtype`` where all weights were.

    Neither holds the folder that the proxy was loaded from.

    Args:
        model: as :func:`damoc.tuning.fine_tune` returned it.
        tokenizer: its tokenizer.
        folder: where to.
        settings: of the tuning.
        processes: those that share the model; all have to call this, and the first writes.
    """
    import torch

    processes = processes or OneProcess()
    if settings.method == "full":
        model.to(getattr(torch, settings.dtype))
    weights = processes.trained(model)
    if processes.rank:
        return
    if settings.method == "full":
        model.config.name_or_path = ""
        model.save_pretrained(folder / WHOLE, state_dict=weights)
        tokenizer.save_pretrained(folder / WHOLE)
        return
    model.save_pretrained(folder / ADAPTER, state_dict=weights)
    (folder / ADAPTER / "README.md").unlink(missing_ok=True)
    path = folder / ADAPTER / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = None
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=1, sort_keys=True, ensure_ascii=False), encoding="utf-8")


def load_tuned(proxy: Path, tuned: Path, settings: TuningConfig) -> LoadedModel:
    """A proxy as it was tuned, for evaluation and for the registered winner.

    Args:
        proxy: folder of the proxy; not read where all weights were trained.
        tuned: folder that :func:`save_tuned` wrote into.
        settings: of the tuning.

    Returns:
        The model in evaluation mode. Adapters are merged into its weights, but stand beside those of 4 bits, which they
        were trained with.
    """
    if (tuned / WHOLE).is_dir():
        return load_model(str(tuned / WHOLE), dtype=settings.dtype, template=settings.template)
    return with_adapter(open_proxy(proxy, settings), tuned)


def with_adapter(loaded: LoadedModel, tuned: Path) -> LoadedModel:
    """A model with the adapters below ``tuned``, see :func:`load_tuned`."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(loaded.model, str(tuned / ADAPTER))
    if not getattr(loaded.model, "is_loaded_in_4bit", False):
        model = model.merge_and_unload()
    return replace(loaded, model=model.eval())
