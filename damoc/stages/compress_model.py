"""Stage: remove a candidate's least important layers and merge them back sparsely."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from damoc.compression.outcome import PATCHES
from damoc.hashing import derive_seed
from damoc.models.batching import length_batches, pad_batch
from damoc.models.likelihood import answer_losses
from damoc.models.load import input_device, load_model, model_identity
from damoc.progress import Progress
from damoc.stages.candidate import CandidateState, attempt
from damoc.stages.context import Context, stage
from damoc.stages.rows import encode_rows, read_examples, write_json
from damoc.store import Step, StepResult

NAME = "compress_model"


def compress_model(config_uri: str, selection_id: str, candidate_id: str, data: str) -> str:
    """Makes a candidate's proxy.

    Args:
        config_uri: the published config.
        selection_id: the selection.
        candidate_id: the candidate.
        data: what ``compress_data`` returned.

    Returns:
        URI of the :class:`damoc.stages.candidate.CandidateState`.
    """
    with stage(NAME, config_uri, selection_id, candidate_id) as context:
        with attempt(CandidateState(candidate_id), NAME) as trial:
            trial.done(NAME, compress(context, candidate_id, StepResult.read(data)))
        return trial.state.write(context, NAME)


def compress(context: Context, candidate_id: str, data: StepResult) -> StepResult:
    """The step itself; writes ``model/`` (safetensors and tokenizer) and ``compression.json``."""
    config = context.config
    candidate = config.candidate(candidate_id)
    settings = config.model_compression
    seed = derive_seed(config.seed, NAME, candidate_id)

    def work(folder: Path) -> Mapping[str, Any]:
        from safetensors.torch import save_file

        from damoc.compression import check_surgery, compress
        from damoc.compression.merge import base_weights

        loaded = load_model(
            candidate.model,
            candidate.revision,
            candidate.trust_remote_code,
            config.tuning.dtype,
            template=config.tuning.template,
            max_memory=settings.max_memory,
        )
        rows = read_examples(data.path() / "train.jsonl")[: settings.calibration_rows]
        encoded = encode_rows(loaded, rows, config.tuning.max_length)
        pad_id = loaded.tokenizer.pad_token_id
        device = input_device(loaded.model)
        batches = [
            pad_batch([encoded[index] for index in batch], pad_id, device)
            for batch in length_batches(encoded, config.tuning.batch_size)
        ]

        def calibration_loss(model: Any) -> float:
            losses = answer_losses(model, encoded, pad_id, config.tuning.batch_size)
            return float(np.concatenate(losses).mean(dtype=np.float64))

        progress: dict[str, Progress] = {}

        def on_progress(phase: str, done: int, total: int) -> None:
            progress.setdefault(phase, Progress(NAME, f"{candidate_id} {phase}", "batches"))(done, total)

        base = (
            base_weights(loaded.model, candidate.base, candidate.base_revision)
            if candidate.base and settings.merge.method == "instruct_delta"
            else None
        )
        outcome = compress(loaded.model, settings, batches, calibration_loss, pad_id, seed, on_progress, base)
        check_surgery(loaded.model, pad_id)
        loaded.model.save_pretrained(folder / "model", max_shard_size="4GB")
        loaded.tokenizer.save_pretrained(folder / "model")
        _forget_origin(folder / "model" / "config.json")
        if outcome.patches:
            save_file(dict(outcome.patches), folder / PATCHES)
        record = outcome.to_json()
        write_json(folder / "compression.json", {**record, "seed": seed, "merge_settings": settings.merge.model_dump()})
        return {"layers_kept": len(record["plan"]["keep"]), "layers": len(record["importance"]), **record["parameters"]}

    inputs = {"model": model_identity(candidate.model, candidate.revision), "data": data.content}
    if candidate.base and settings.merge.method == "instruct_delta":
        inputs["base"] = model_identity(candidate.base, candidate.base_revision)
    step = Step(
        NAME,
        {
            **settings.model_dump(exclude={"max_memory"}),
            "dtype": config.tuning.dtype,
            "template": config.tuning.template,
            "max_length": config.tuning.max_length,
            "batch_size": config.tuning.batch_size,
            "seed": seed,
        },
        inputs,
        code=("compression", "models", "data/prompts.py", "stages/compress_model.py"),
    )
    return context.run(step, work)


def _forget_origin(path: Path) -> None:
    """Takes the folder that a model was loaded from out of its config: it says nothing about the model."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    write_json(path, config)
