"""Stage: fine-tune a candidate's proxy on the compressed data."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from damoc.data.example import Example
from damoc.errors import DamocError
from damoc.hashing import derive_seed
from damoc.progress import Progress
from damoc.stages import control
from damoc.stages.candidate import CandidateState, attempt
from damoc.stages.context import Context, stage
from damoc.stages.rows import encode_rows, read_examples, write_json
from damoc.stages.tuning_job import TuningJob
from damoc.stages.tuning_launch import processes_of, tune_job
from damoc.store import Step, StepResult

NAME = "fine_tune"
PROBE = "probe_learning_rates"
_VALIDATION_ROWS = 64
_CODE = ("tuning", "models", "data/prompts.py", "stages/fine_tune.py", "stages/tuning_job.py")
_UNDECIDING = {"timeout_minutes", "checkpoint_minutes", "lr_probe", "train_job"}
"""Settings that the outcome of a tuning does not depend on; the rate that a probe finds is in the learning rate."""


def fine_tune(config_uri: str, selection_id: str, prepared: str, data: str, state: str) -> str:
    """Tunes a proxy by the method of the config.

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
            rows = StepResult.read(prepared), StepResult.read(data)
            proxy = candidate.steps["compress_model"]
            if context.config.tuning.lr_probe:
                trial.done(PROBE, probe(context, candidate.candidate_id, *rows, proxy))
            trial.done(NAME, tune(context, candidate.candidate_id, *rows, proxy))
            if candidate.candidate_id in context.config.controls():
                with control.spared(trial):
                    whole = control.whole_model(control.apart(context), candidate.candidate_id)
                    trial.done(control.WHOLE, whole)
                    trial.done(control.TUNED, tune(control.apart(context), candidate.candidate_id, *rows, whole))
        return trial.state.write(context, NAME)


def tune(context: Context, candidate_id: str, prepared: StepResult, data: StepResult, proxy: StepResult) -> StepResult:
    """The step itself, at the rate of the probe if there is one; writes ``adapter/`` or ``model/``, ``history.json``.

    A killed one goes on from its last checkpoint, which lies in :meth:`Context.checkpoints` until it is done.
    """
    settings = context.config.tuning
    if settings.lr_probe:
        rate = probe(context, candidate_id, prepared, data, proxy).summary["learning_rate"]
        settings = settings.model_copy(update={"learning_rate": rate})
    seed = derive_seed(context.config.seed, NAME, candidate_id)
    processes = processes_of(settings)
    calibration_rows = int(proxy.summary.get("calibration_rows", 0))
    step = Step(
        NAME,
        {
            **settings.model_dump(exclude=_UNDECIDING),
            "processes": processes,
            "seed": seed,
            "calibration_rows": calibration_rows,
        },
        {"proxy": proxy.content, "data": data.content, "valid": prepared.content},
        code=_CODE,
    )
    unfinished = context.checkpoints(step)

    def work(folder: Path) -> Mapping[str, Any]:
        run = context.tracker.candidate_run_id(candidate_id)
        progress = Progress(NAME, candidate_id, "steps")

        def on_step(step: int, steps: int, point: Mapping[str, float]) -> None:
            progress(step, steps)
            if point:
                context.tracker.log_history(run, [point])

        job = TuningJob(
            proxy=proxy.path() / "model",
            rows=data.path() / "train.jsonl",
            valid=prepared.path() / "valid.jsonl",
            valid_rows=_VALIDATION_ROWS,
            calibration_rows=calibration_rows,
            settings=settings,
            seed=seed,
            identity=step.key(),
            folder=unfinished,
            out=folder,
        )
        with context.tracker.system_metrics(run):
            summary = tune_job(job, on_step)
        context.tracker.set_tags(run, {"damoc.history": "live"})
        return summary

    result = context.run(step, work)
    shutil.rmtree(unfinished, ignore_errors=True)
    return result


def probe(context: Context, candidate_id: str, prepared: StepResult, data: StepResult, proxy: StepResult) -> StepResult:
    """Finds the learning rate that suits a candidate, a step of its own; writes ``probe.json``."""
    settings = context.config.tuning
    seed = derive_seed(context.config.seed, PROBE, candidate_id)

    def work(folder: Path) -> Mapping[str, Any]:
        from damoc.tuning import best_rate, open_proxy, probe_learning_rates

        held_out = _held_out(prepared)
        if not held_out:
            raise DamocError("a probe of learning rates needs validation rows", "field tuning.lr_probe", "set it to []")
        loaded = open_proxy(proxy.path() / "model", settings)
        rows = encode_rows(loaded, read_examples(data.path() / "train.jsonl"), settings.max_length)
        progress = Progress(NAME, f"{candidate_id} learning rates", "steps")
        probes = probe_learning_rates(
            lambda: open_proxy(proxy.path() / "model", settings).model,
            rows,
            encode_rows(loaded, held_out, settings.max_length),
            sum(len(row.output.encode("utf-8")) for row in held_out),
            loaded.tokenizer.pad_token_id,
            settings,
            seed,
            lambda step, steps, point: progress(step, steps),
        )
        write_json(folder / "probe.json", [found.to_json() for found in probes])
        return {"learning_rate": best_rate(probes), "probes": [found.to_json() for found in probes]}

    step = Step(
        PROBE,
        {
            **settings.model_dump(exclude=_UNDECIDING - {"lr_probe"} | {"learning_rate", "budget", "processes"}),
            "seed": seed,
        },
        {"proxy": proxy.content, "data": data.content, "valid": prepared.content},
        code=_CODE,
    )
    return context.run(step, work)


def _held_out(prepared: StepResult) -> list[Example]:
    """The rows on which the loss is watched."""
    return read_examples(prepared.path() / "valid.jsonl")[:_VALIDATION_ROWS]
