"""Stage: score a fine-tuned proxy, and the untouched candidate before any training, on held-out real rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from damoc.data.example import Example
from damoc.errors import CandidateError
from damoc.evaluation.registry import metric_of, task_named
from damoc.models.load import LoadedModel, load_model, model_identity
from damoc.progress import Progress
from damoc.stages.candidate import CandidateState, attempt
from damoc.stages.context import Context, stage
from damoc.stages.rows import read_examples, write_json
from damoc.store import Step, StepResult

NAME = "evaluate_candidate"
ZERO_SHOT = "zero_shot"
_CODE = ("evaluation", "models", "tuning/weights.py", "data/prompts.py", "stages/evaluate_candidate.py")


def evaluate_candidate(
    config_uri: str,
    selection_id: str,
    prepared: str,
    state: str,
    log_metric: Callable[[str, float], None],
    metrics_path: str,
) -> str:
    """Scores a candidate and closes its part of the loop.

    Args:
        config_uri: the published config.
        selection_id: the selection.
        prepared: what ``prepare_data`` returned.
        state: what ``fine_tune`` returned; a failed candidate is only recorded.
        log_metric: called with each metric's name and value.
        metrics_path: file that receives the metrics as JSON.

    Returns:
        URI of the :class:`damoc.stages.candidate.CandidateState`.
    """
    candidate = CandidateState.read(state)
    with stage(NAME, config_uri, selection_id, candidate.candidate_id) as context:
        if candidate.status == "ok":
            with attempt(candidate, NAME) as trial:
                rows = StepResult.read(prepared)
                trial.done(ZERO_SHOT, measure_zero_shot(context, candidate.candidate_id, rows))
                trial.done(NAME, evaluate(context, candidate, rows))
            candidate = trial.state
        metrics = _metrics(candidate)
        for name, value in metrics.items():
            log_metric(name, value)
        Path(metrics_path).parent.mkdir(parents=True, exist_ok=True)
        write_json(Path(metrics_path), metrics)
        track(context, candidate, metrics)
        return candidate.write(context, NAME)


def evaluate(context: Context, state: CandidateState, prepared: StepResult) -> StepResult:
    """Scores the tuned proxy; writes ``scores.json``."""
    proxy, tuned = state.steps["compress_model"], state.steps["fine_tune"]

    def load() -> LoadedModel:
        from damoc.tuning import load_tuned

        return load_tuned(proxy.path() / "model", tuned.path(), context.config.tuning)

    return _score(context, NAME, state.candidate_id, load, prepared, {"proxy": proxy.content, "adapter": tuned.content})


def measure_zero_shot(context: Context, candidate_id: str, prepared: StepResult) -> StepResult:
    """Scores the untouched candidate; writes ``scores.json``."""
    candidate = context.config.candidate(candidate_id)

    def load() -> LoadedModel:
        tuning = context.config.tuning
        return load_model(
            candidate.model,
            candidate.revision,
            candidate.trust_remote_code,
            tuning.dtype,
            template=tuning.template,
        )

    inputs = {"model": model_identity(candidate.model, candidate.revision)}
    return _score(context, ZERO_SHOT, candidate_id, load, prepared, inputs)


def _score(
    context: Context,
    name: str,
    candidate_id: str,
    load: Callable[[], LoadedModel],
    prepared: StepResult,
    inputs: Mapping[str, str],
) -> StepResult:
    config = context.config
    task = task_named(config.evaluation.task)
    metric = metric_of(task, config.evaluation.metric)

    def work(folder: Path) -> Mapping[str, Any]:
        rows: Sequence[Example] = read_examples(prepared.path() / "test.jsonl")
        scores = task.measure(
            load(),
            rows,
            [metric],
            config.evaluation.batch_size,
            config.tuning.max_length,
            Progress(name, candidate_id, "rows"),
        )
        for key, values in scores.items():
            if not np.isfinite(values.numerator).all():
                raise CandidateError(
                    "diverged", f"{key} is not finite on {int((~np.isfinite(values.numerator)).sum())} rows"
                )
        write_json(
            folder / "scores.json",
            {
                "task": task.name,
                "rows": [row.id for row in rows],
                "metrics": {key: values.to_json() for key, values in scores.items()},
            },
        )
        return {"metrics": {key: round(values.score(), 6) for key, values in scores.items()}}

    step = Step(
        name,
        {
            "task": task.name,
            "metric": metric,
            "batch_size": config.evaluation.batch_size,
            "max_length": config.tuning.max_length,
            "dtype": config.tuning.dtype,
            "template": config.tuning.template,
        },
        {**inputs, "rows": prepared.content},
        code=_CODE,
    )
    return context.run(step, work)


def _metrics(state: CandidateState) -> dict[str, float]:
    found: dict[str, float] = {}
    if NAME in state.steps:
        found |= dict(state.steps[NAME].summary["metrics"])
    if ZERO_SHOT in state.steps:
        found |= {f"zero_shot/{name}": value for name, value in state.steps[ZERO_SHOT].summary["metrics"].items()}
    return found


def track(context: Context, state: CandidateState, metrics: Mapping[str, float]) -> None:
    """Logs what the candidate's steps left behind and closes its run."""
    tracker = context.tracker
    run = tracker.candidate_run_id(state.candidate_id)
    costs = {f"cost/{name}_seconds": step.seconds for name, step in state.steps.items()}
    memory = {f"cost/{name}_peak_mb": step.peak_mb for name, step in state.steps.items()}
    tracker.log_metrics(run, {**metrics, **costs, **memory})
    tracker.set_tags(
        run,
        {
            "damoc.status": state.status,
            "damoc.reason": state.reason,
            **{f"damoc.step.{name}": step.key for name, step in state.steps.items()},
            **{f"damoc.reused.{name}": str(step.reused).lower() for name, step in state.steps.items()},
        },
    )
    if (compressed := state.steps.get("compress_model")) is not None:
        tracker.log_artifacts(run, compressed.path() / "compression.json", "evidence")
    if (tuned := state.steps.get("fine_tune")) is not None:
        if tuned.reused:
            tracker.log_history(run, json.loads((tuned.path() / "history.json").read_text(encoding="utf-8")))
        tracker.log_artifacts(run, tuned.path() / "history.json", "evidence")
        if (tuned.path() / "adapter").is_dir():
            tracker.log_artifacts(run, tuned.path() / "adapter", "adapter")
    if (scored := state.steps.get(NAME)) is not None:
        tracker.log_artifacts(run, scored.path() / "scores.json", "evidence")
    tracker.close(run, "FINISHED" if state.status == "ok" else "FAILED")
