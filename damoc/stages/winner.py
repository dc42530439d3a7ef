"""The winner as it is registered: an adapter, and the proxy underneath or the recipe that rebuilds it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from damoc.compression.outcome import PATCHES
from damoc.models.load import LoadedModel, load_model
from damoc.stages.candidate import CandidateState
from damoc.stages.context import Context
from damoc.stages.rows import write_json


def write_winner(context: Context, state: CandidateState, folder: Path) -> None:
    """Writes ``adapter/``, ``recipe.json`` and, up to ``tracking.embed_weights_mb``, the proxy as ``base/``.

    Of a larger proxy, the maps of a linear patch are written (``patches.safetensors``), which the recipe cannot give.
    """
    candidate = context.config.candidate(state.candidate_id)
    proxy = state.steps["compress_model"].path()
    shutil.copytree(state.steps["fine_tune"].path() / "adapter", folder / "adapter")
    size = sum(file.stat().st_size for file in (proxy / "model").rglob("*") if file.is_file())
    if size <= context.config.tracking.embed_weights_mb * 2**20:
        shutil.copytree(proxy / "model", folder / "base")
    elif (proxy / PATCHES).is_file():
        shutil.copy(proxy / PATCHES, folder)
    recipe = {
        "candidate_id": candidate.id,
        "model": candidate.model,
        "revision": candidate.revision,
        "trust_remote_code": candidate.trust_remote_code,
        "dtype": context.config.tuning.dtype,
        "base": candidate.base,
        "base_revision": candidate.base_revision,
        "compression": json.loads((proxy / "compression.json").read_text(encoding="utf-8")),
    }
    write_json(folder / "recipe.json", recipe)


def rebuild_base(folder: Path) -> LoadedModel:
    """The proxy made again from its candidate: the same layers removed and merged back.

    Args:
        folder: ``recipe.json`` and, where a linear patch was accepted, ``patches.safetensors``.

    Raises:
        DamocError: the candidate cannot be loaded.
    """
    from safetensors.torch import load_file

    from damoc.compression import rebuild
    from damoc.compression.merge import base_weights

    recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    loaded = load_model(recipe["model"], recipe["revision"], recipe["trust_remote_code"], recipe["dtype"])
    patches = load_file(folder / PATCHES) if (folder / PATCHES).is_file() else {}
    merge = recipe["compression"]["merge"]
    needs_base = merge["accepted"] and merge["method"] == "instruct_delta"
    base = base_weights(loaded.model, recipe["base"], recipe["base_revision"]) if needs_base else None
    rebuild(loaded.model, recipe["compression"], patches, base)
    return loaded
