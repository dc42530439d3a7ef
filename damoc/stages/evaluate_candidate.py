"""Stage: score a fine-tuned proxy, and the untouched candidate with and without worked examples, on held-out rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from damoc.data.example import Example
from damoc.errors import CandidateError, DamocError
from damoc.evaluation.few_shot import demonstrations
from damoc.evaluation.free_form import BERTSCORE
from damoc.evaluation.registry import Settings, metrics_of, task_of
from damoc.evaluation.row_scores import RowScores
from damoc.hashing import derive_seed
from damoc.models.candidate import load_candidate
from damoc.models.load import LoadedModel, model_identity
from damoc.progress import Progress
from damoc.signals.embedding import encoder_identity
from damoc.stages import control
from damoc.stages.candidate import CandidateState, attempt
from damoc.stages.context import Context, stage
from damoc.stages.rows import read_examples, write_json
from damoc.store import Step, StepResult

NAME = "evaluate_candidate"
ZERO_SHOT = "zero_shot"
FEW_SHOT = "few_shot"
_CODE = (
    "evaluation",
    "models",
    "condense/bertscore.py",
    "condense/windows.py",
    "tuning/weights.py",
    "data/prompts.py",
    "stages/evaluate_candidate.py",
)


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
                trial.done(ZERO_SHOT, measure_untouched(context, candidate.candidate_id, rows))
                if context.config.evaluation.shots:
                    trial.done(FEW_SHOT, measure_untouched(context, candidate.candidate_id, rows, FEW_SHOT))
                trial.done(NAME, evaluate(context, candidate, rows))
                if control.TUNED in candidate.steps:
                    with control.spared(trial):
                        trial.done(control.SCORED, evaluate(control.apart(context), _control(candidate), rows))
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


def _control(state: CandidateState) -> CandidateState:
    """The state of a candidate whose proxy is the whole model."""
    steps = {"compress_model": state.steps[control.WHOLE], "fine_tune": state.steps[control.TUNED]}
    return CandidateState(state.candidate_id, steps=steps)


def measure_untouched(context: Context, candidate_id: str, prepared: StepResult, name: str = ZERO_SHOT) -> StepResult:
    """Scores the untouched candidate, after worked examples where ``name`` says so; writes ``scores.json``."""
    candidate = context.config.candidate(candidate_id)

    def load() -> LoadedModel:
        return load_candidate(candidate, context.config.tuning)

    inputs = {"model": model_identity(candidate.model, candidate.revision)}
    shots = context.config.evaluation.shots if name == FEW_SHOT else 0
    return _score(context, name, candidate_id, load, prepared, inputs, shots)


def _score(
    context: Context,
    name: str,
    candidate_id: str,
    load: Callable[[], LoadedModel],
    prepared: StepResult,
    inputs: Mapping[str, str],
    shots: int = 0,
) -> StepResult:
    config = context.config
    settings = config.evaluation
    task = task_of(config)
    metrics = metrics_of(task, settings)
    encoder = settings.bertscore
    seed = derive_seed(config.seed, "evaluation")

    def work(folder: Path) -> Mapping[str, Any]:
        rows: Sequence[Example] = read_examples(prepared.path() / "test.jsonl")
        shown = demonstrations(read_examples(prepared.path() / "train.jsonl"), shots, seed) if shots else []
        progress = Progress(name, candidate_id, "rows")
        how = Settings(settings, metrics, config.tuning.max_length, shown, seed, progress)
        scores = task.measure(load(), rows, how)
        _check(scores, metrics)
        write_json(
            folder / "scores.json",
            {
                "task": task.name,
                "rows": [] if task.content else [row.id for row in rows],
                "shown": [row.id for row in shown],
                "metrics": {key: values.to_json() for key, values in scores.items()},
            },
        )
        return {"metrics": {key: round(values.score(), 6) for key, values in scores.items()}}

    step = Step(
        name,
        {
            **settings.model_dump(include={"batch_size", "max_new_tokens", "tolerance"}),
            "task": task.name,
            "metrics": metrics,
            "layer": encoder.layer,
            "shots": shots,
            "seed": seed,
            "max_length": config.tuning.max_length,
            "dtype": config.tuning.dtype,
            "template": config.tuning.template,
        },
        {
            **inputs,
            "rows": prepared.content,
            "task": task.content,
            "encoder": encoder_identity(encoder.encoder, encoder.revision) if BERTSCORE in metrics else "",
        },
        code=_CODE,
    )
    return context.run(step, work)


def _check(scores: Mapping[str, RowScores], metrics: Sequence[str]) -> None:
    """Refuses scores that are no numbers, and a task that cannot measure what is wanted on these rows."""
    for key, values in scores.items():
        wrong = int((~np.isfinite(values.records)).any(axis=1).sum())
        if wrong:
            raise CandidateError("diverged", f"{key} is not finite on {wrong} rows")
    if missing := [metric for metric in metrics if metric not in scores]:
        fix = "name another metric; macro_f1 needs the same choices in every row"
        raise DamocError(f"these rows have no {missing[0]}", "field evaluation.metric", fix)


def _metrics(state: CandidateState) -> dict[str, float]:
    found: dict[str, float] = {}
    if NAME in state.steps:
        found |= dict(state.steps[NAME].summary["metrics"])
    for baseline in (ZERO_SHOT, FEW_SHOT, control.SCORED):
        if baseline in state.steps:
            metrics = state.steps[baseline].summary["metrics"]
            found |= {f"{baseline}/{name}": value for name, value in metrics.items()}
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
