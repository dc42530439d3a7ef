"""Stage: fine-tune a candidate's proxy on the compressed data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from damoc.hashing import derive_seed
from damoc.models.load import load_model
from damoc.progress import Progress
from damoc.stages.candidate import CandidateState, attempt
from damoc.stages.context import Context, stage
from damoc.stages.rows import encode_rows, read_examples, write_json
from damoc.store import Step, StepResult

NAME = "fine_tune"
_VALIDATION_ROWS = 64


def fine_tune(config_uri: str, selection_id: str, prepared: str, data: str, state: str) -> str:
    """Trains LoRA adapters on a proxy.

    Args:
        config_uri: the published config.
        selection_id: the selection.
        prepared: what ``prepare_data`` returned.
        data: what ``compress_data`` returned.
        state: what ``compress_model`` returned; a failed candidate is passed on as it is.

    Returns:
        URI of the :class:`damoc.stages.candidate.CandidateState`.
    """
    candidate = CandidateState.read(state)
    if candidate.status != "ok":
        return state
    with stage(NAME, config_uri, selection_id, candidate.candidate_id) as context:
        with attempt(candidate, NAME) as trial:
            result = tune(
                context,
                candidate.candidate_id,
                StepResult.read(prepared),
                StepResult.read(data),
                candidate.steps["compress_model"],
            )
            trial.done(NAME, result)
        return trial.state.write(context, NAME)


def tune(context: Context, candidate_id: str, prepared: StepResult, data: StepResult, proxy: StepResult) -> StepResult:
    """The step itself; writes ``adapter/`` (safetensors) and ``history.json``."""
    config = context.config
    seed = derive_seed(config.seed, NAME, candidate_id)

    def work(folder: Path) -> Mapping[str, Any]:
        from damoc.tuning import fine_tune

        run = context.tracker.candidate_run_id(candidate_id)
        progress = Progress(NAME, candidate_id, "steps")

        def on_step(step: int, steps: int, point: Mapping[str, float]) -> None:
            progress(step, steps)
            if point:
                context.tracker.log_history(run, [point])

        loaded = load_model(str(proxy.path() / "model"), dtype=config.tuning.dtype)
        rows = encode_rows(loaded, read_examples(data.path() / "train.jsonl"), config.tuning.max_length)
        held_out = read_examples(prepared.path() / "valid.jsonl")[:_VALIDATION_ROWS]
        valid = encode_rows(loaded, held_out, config.tuning.max_length)
        with context.tracker.system_metrics(run):
            outcome = fine_tune(loaded.model, rows, valid, loaded.tokenizer.pad_token_id, config.tuning, seed, on_step)
        context.tracker.set_tags(run, {"damoc.history": "live"})
        save_adapter(outcome.model, folder / "adapter")
        write_json(folder / "history.json", outcome.history)
        return {
            "steps": outcome.steps,
            "tokens": outcome.tokens,
            "trainable": outcome.trainable,
            "train_loss": outcome.history[-1]["train_loss"],
        }

    step = Step(
        NAME,
        {**config.tuning.model_dump(exclude={"timeout_minutes"}), "seed": seed},
        {"proxy": proxy.content, "data": data.content, "valid": prepared.content},
        code=("tuning", "models", "data/prompts.py", "stages/fine_tune.py"),
    )
    return context.run(step, work)


def save_adapter(model: Any, folder: Path) -> None:
    """Writes LoRA weights (safetensors) and config, without the folder that the base was loaded from."""
    model.save_pretrained(folder, safe_serialization=True)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = None
    config["target_modules"] = sorted(config["target_modules"])
    write_json(path, config)
