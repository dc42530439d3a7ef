"""The winner as it is registered: adapters on a proxy (or the recipe that rebuilds it), or a whole model."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from damoc.config import TuningConfig
from damoc.models.load import LoadedModel, load_model
from damoc.stages.candidate import CandidateState
from damoc.stages.context import Context
from damoc.stages.rows import write_json
from damoc.tuning.weights import ADAPTER, WHOLE, load_tuned, with_adapter


def write_winner(context: Context, state: CandidateState, folder: Path) -> None:
    """Writes what was trained, ``recipe.json`` and, where that is adapters and the proxy is small, ``base/``.

    What was trained is ``adapter/``, or ``model/`` where all weights were. A proxy is small up to
    ``tracking.embed_weights_mb``.
    """
    candidate = context.config.candidate(state.candidate_id)
    proxy, tuned = (state.steps[name].path() for name in ("compress_model", "fine_tune"))
    whole = (tuned / WHOLE).is_dir()
    trained = WHOLE if whole else ADAPTER
    shutil.copytree(tuned / trained, folder / trained)
    size = sum(file.stat().st_size for file in (proxy / "model").rglob("*") if file.is_file())
    if not whole and size <= context.config.tracking.embed_weights_mb * 2**20:
        shutil.copytree(proxy / "model", folder / "base")
    recipe = {
        "candidate_id": candidate.id,
        "model": candidate.model,
        "revision": candidate.revision,
        "trust_remote_code": candidate.trust_remote_code,
        "tuning": context.config.tuning.model_dump(include={"method", "dtype", "template"}),
        "compression": json.loads((proxy / "compression.json").read_text(encoding="utf-8")),
    }
    write_json(folder / "recipe.json", recipe)


def load_winner(folder: Path) -> LoadedModel:
    """The winner as it was evaluated.

    Args:
        folder: what :func:`write_winner` wrote.

    Raises:
        DamocError: the candidate that the proxy is made from cannot be loaded.
    """
    recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    settings = TuningConfig(**recipe["tuning"])
    if (folder / "base").is_dir() or (folder / WHOLE).is_dir():
        return load_tuned(folder / "base", folder, settings)
    base = rebuild_base(recipe)
    if settings.method != "qlora":
        return with_adapter(base, folder)
    with tempfile.TemporaryDirectory() as scratch:  # weights become 4 bits when they are loaded
        base.model.save_pretrained(scratch)
        base.tokenizer.save_pretrained(scratch)
        return load_tuned(Path(scratch), folder, settings)


def rebuild_base(recipe: Mapping[str, Any]) -> LoadedModel:
    """The proxy made again from its candidate: the same layers removed and merged back.

    Args:
        recipe: what :func:`write_winner` wrote as ``recipe.json``.

    Raises:
        DamocError: the candidate cannot be loaded.
    """
    from damoc.compression import rebuild

    tuning = recipe["tuning"]
    loaded = load_model(
        recipe["model"],
        recipe["revision"],
        recipe["trust_remote_code"],
        tuning["dtype"],
        template=tuning["template"],
    )
    rebuild(loaded.model, recipe["compression"])
    return loaded
