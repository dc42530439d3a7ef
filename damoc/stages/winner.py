"""The winner as it is registered: an adapter, and the proxy underneath or the recipe that rebuilds it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from damoc.models.load import LoadedModel, load_model
from damoc.stages.candidate import CandidateState
from damoc.stages.context import Context
from damoc.stages.rows import write_json


def write_winner(context: Context, state: CandidateState, folder: Path) -> None:
    """Writes ``adapter/``, ``recipe.json`` and, up to ``tracking.embed_weights_mb``, the proxy as ``base/``."""
    candidate = context.config.candidate(state.candidate_id)
    proxy = state.steps["compress_model"].path()
    shutil.copytree(state.steps["fine_tune"].path() / "adapter", folder / "adapter")
    size = sum(file.stat().st_size for file in (proxy / "model").rglob("*") if file.is_file())
    if size <= context.config.tracking.embed_weights_mb * 2**20:
        shutil.copytree(proxy / "model", folder / "base")
    recipe = {
        "candidate_id": candidate.id,
        "model": candidate.model,
        "revision": candidate.revision,
        "trust_remote_code": candidate.trust_remote_code,
        "dtype": context.config.tuning.dtype,
        "compression": json.loads((proxy / "compression.json").read_text(encoding="utf-8")),
    }
    write_json(folder / "recipe.json", recipe)


def rebuild_base(recipe: Mapping[str, Any]) -> LoadedModel:
    """The proxy made again from its candidate: the same layers removed and merged back.

    Args:
        recipe: what :func:`write_winner` wrote as ``recipe.json``.

    Raises:
        DamocError: the candidate cannot be loaded.
    """
    from damoc.compression import rebuild

    loaded = load_model(recipe["model"], recipe["revision"], recipe["trust_remote_code"], recipe["dtype"])
    rebuild(loaded.model, recipe["compression"])
    return loaded
