"""The winner as it is registered: adapters on a proxy (or the recipe that rebuilds it), or a whole model."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from damoc.compression.outcome import PATCHES
from damoc.config import TuningConfig
from damoc.models.load import LoadedModel, load_model
from damoc.stages.candidate import CandidateState
from damoc.stages.context import Context
from damoc.stages.rows import write_json
from damoc.tuning.weights import ADAPTER, WHOLE, load_tuned, with_adapter


def write_winner(context: Context, state: CandidateState, folder: Path) -> None:
    """Writes what was trained, ``recipe.json`` and, where that is adapters and the proxy is small, ``base/``.

    What was trained is ``adapter/``, or ``model/`` where all weights were. A proxy is small up to
    ``tracking.embed_weights_mb``; of a larger one the maps of a linear patch are written (``patches.safetensors``),
    which the recipe cannot give.
    """
    candidate = context.config.candidate(state.candidate_id)
    proxy, tuned = (state.steps[name].path() for name in ("compress_model", "fine_tune"))
    whole = (tuned / WHOLE).is_dir()
    trained = WHOLE if whole else ADAPTER
    shutil.copytree(tuned / trained, folder / trained)
    size = sum(file.stat().st_size for file in (proxy / "model").rglob("*") if file.is_file())
    if not whole and size <= context.config.tracking.embed_weights_mb * 2**20:
        shutil.copytree(proxy / "model", folder / "base")
    elif (proxy / PATCHES).is_file():
        shutil.copy(proxy / PATCHES, folder)
    recipe = {
        "candidate_id": candidate.id,
        "model": candidate.model,
        "revision": candidate.revision,
        "trust_remote_code": candidate.trust_remote_code,
        "base": candidate.base,
        "base_revision": candidate.base_revision,
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
    base = rebuild_base(folder)
    if settings.method != "qlora":
        return with_adapter(base, folder)
    with tempfile.TemporaryDirectory() as scratch:  # weights become 4 bits when they are loaded
        base.model.save_pretrained(scratch)
        base.tokenizer.save_pretrained(scratch)
        return load_tuned(Path(scratch), folder, settings)


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
    tuning = recipe["tuning"]
    loaded = load_model(
        recipe["model"], recipe["revision"], recipe["trust_remote_code"], tuning["dtype"], template=tuning["template"]
    )
    patches = load_file(folder / PATCHES) if (folder / PATCHES).is_file() else {}
    merge = recipe["compression"]["merge"]
    needs_base = merge["accepted"] and merge["method"] == "instruct_delta"
    base = base_weights(loaded.model, recipe["base"], recipe["base_revision"]) if needs_base else None
    rebuild(loaded.model, recipe["compression"], patches, base)
    return loaded
