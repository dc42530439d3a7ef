"""Stage: rank the candidates on the held-out rows and write the record of the selection."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from damoc.evaluation.registry import metric_of, task_of
from damoc.evaluation.row_scores import RowScores
from damoc.hashing import derive_seed, sha256_json
from damoc.models.load import model_identity
from damoc.selection.bootstrap import difference, interval
from damoc.selection.ranking import Standing, explain, rank
from damoc.selection.record import CandidateRecord, DataEvidence, FunnelStep, SelectionRecord, StageCost
from damoc.stages import control
from damoc.stages.candidate import CandidateState
from damoc.stages.compress_data import FILTER
from damoc.stages.context import Context, stage
from damoc.stages.evaluate_candidate import FEW_SHOT, ZERO_SHOT
from damoc.stages.evaluate_candidate import NAME as PROXY_SCORE
from damoc.stages.prepare_data import dataset_dvc_hash
from damoc.stages.rows import write_json
from damoc.store import Step, StepResult
from damoc.tracking.provenance import code_commit, environment

NAME = "select_winner"
MIN_FINISHED = 2


def select_winner(config_uri: str, selection_id: str, prepared: str, data: str, states: Sequence[str]) -> str:
    """Ranks what the loop left behind.

    Args:
        config_uri: the published config.
        selection_id: the selection.
        prepared: what ``prepare_data`` returned.
        data: what ``compress_data`` returned.
        states: what ``evaluate_candidate`` returned, one a candidate.

    Returns:
        URI of ``record.json``, a :class:`damoc.selection.record.SelectionRecord`.
    """
    with stage(NAME, config_uri, selection_id) as context:
        found = [CandidateState.read(uri) for uri in states]
        filtered = StepResult.from_json(context.read(f"{FILTER}.json"))
        record = make_record(context, StepResult.read(prepared), filtered, StepResult.read(data), found)
        run = context.tracker.parent_run_id()
        context.tracker.log_metrics(
            run,
            {f"cost/{name}_seconds": cost.seconds for name, cost in record.costs.items()}
            | {f"rank/{item.candidate_id}": float(item.rank) for item in record.candidates if item.rank}
            | (
                {f"winner/{record.metric}": record.candidate(record.winner).metrics[record.metric]}
                if record.winner
                else {}
            ),
        )
        context.tracker.set_tags(
            run,
            {
                "damoc.winner": record.winner or "none",
                "damoc.why": record.why,
                "mlflow.note.content": record.why,
                "damoc.evidence_sha256": record.evidence_sha256,
            },
        )
        return context.write("record.json", record.to_json())


def make_record(
    context: Context,
    prepared: StepResult,
    filtered: StepResult,
    data: StepResult,
    states: Sequence[CandidateState],
) -> SelectionRecord:
    """The whole selection in one object, without a tracker."""
    config = context.config
    task = task_of(config)
    metric = metric_of(task, config.evaluation.metric)
    higher = task.higher_is_better[metric]
    confidence = config.evaluation.confidence
    finished = [state for state in states if state.status == "ok"]
    ranking = _rank_step(context, PROXY_SCORE, metric, higher, finished)
    standings = _standings(ranking)
    measured = [state for state in states if ZERO_SHOT in state.steps]
    zero_shot = {
        item.candidate_id: item.rank for item in _standings(_rank_step(context, ZERO_SHOT, metric, higher, measured))
    }
    enough = len(standings) >= MIN_FINISHED
    intervals = ranking.summary["intervals"]
    records = [_candidate(context, state, standings, intervals, zero_shot) for state in states]
    order = [candidate.id for candidate in config.candidates]
    records.sort(key=lambda item: (item.rank or len(records) + 1, order.index(item.candidate_id)))
    shared = (prepared, filtered, data, ranking)
    evidence = _evidence(shared, states)
    return SelectionRecord(
        name=config.name,
        selection_id=context.selection_id,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        config=config.model_dump(mode="json"),
        config_sha256=context.config_sha256,
        metric=metric,
        higher_is_better=higher,
        confidence=confidence,
        dataset={
            **{key: prepared.summary[key] for key in ("source", "fingerprint", "rows", "licences")},
            "dvc_hash": dataset_dvc_hash(config.dataset),
        },
        funnel=[FunnelStep(**step) for step in data.summary["funnel"]],
        data_compression={"filter": data.summary["filter"], "condense": data.summary["condense"]},
        candidates=records,
        winner=standings[0].candidate_id if enough else None,
        why=explain(standings, metric, higher, confidence) if enough else _why_not(states),
        costs={step.name: _cost(step) for step in shared},
        evidence=evidence,
        evidence_sha256=sha256_json(evidence),
        versions={"code_commit": code_commit(), **environment()},
        data_evidence=_data_evidence(data),
    )


def _rank_step(
    context: Context, scored: str, metric: str, higher_is_better: bool, states: Sequence[CandidateState]
) -> StepResult:
    """Decides the order of the candidates by the scores that one of their steps left; writes ``ranking.json``."""
    settings = context.config.evaluation
    seed = derive_seed(context.config.seed, NAME)

    def work(folder: Path) -> Mapping[str, Any]:
        bootstrap = (settings.confidence, settings.bootstrap, seed)
        scores = {state.candidate_id: _scores(state.steps[scored]) for state in states}
        rows = {candidate: values[metric] for candidate, values in scores.items()}
        standings = [asdict(item) for item in rank(rows, higher_is_better, *bootstrap)]
        intervals = {
            candidate: {name: [round(end, 6) for end in interval(own, *bootstrap)] for name, own in values.items()}
            for candidate, values in scores.items()
        }
        write_json(folder / "ranking.json", {"metric": metric, "standings": standings, "intervals": intervals})
        return {"standings": standings, "intervals": intervals}

    step = Step(
        NAME,
        {
            "scored": scored,
            "metric": metric,
            "confidence": settings.confidence,
            "bootstrap": settings.bootstrap,
            "seed": seed,
        },
        {state.candidate_id: state.steps[scored].content for state in states},
        code=("evaluation/row_scores.py", "selection/bootstrap.py", "selection/ranking.py", "stages/select_winner.py"),
    )
    return context.run(step, work)


def _scores(measured: StepResult) -> dict[str, RowScores]:
    value = json.loads((measured.path() / "scores.json").read_text(encoding="utf-8"))
    return {metric: RowScores.from_json(rows) for metric, rows in value["metrics"].items()}


def _standings(ranking: StepResult) -> list[Standing]:
    return [Standing(**item) for item in ranking.summary["standings"]]


def _candidate(
    context: Context,
    state: CandidateState,
    standings: Sequence[Standing],
    intervals: Mapping[str, Mapping[str, tuple[float, float]]],
    zero_shot: Mapping[str, int],
) -> CandidateRecord:
    candidate = context.config.candidate(state.candidate_id)
    standing = next((item for item in standings if item.candidate_id == state.candidate_id), None)
    compression = _read(state, "compress_model", "compression.json")
    scored, before, shown = (state.steps.get(name) for name in (PROXY_SCORE, ZERO_SHOT, FEW_SHOT))
    tuned = state.steps.get("fine_tune")
    return CandidateRecord(
        candidate_id=candidate.id,
        model=candidate.model,
        revision=candidate.revision or model_identity(candidate.model, None),
        licence=candidate.licence or "",
        status=state.status,
        reason=state.reason,
        rank=standing.rank if standing else None,
        metrics=scored.summary["metrics"] if scored else {},
        interval=(standing.low, standing.high) if standing else None,
        p_best=standing.p_best if standing else None,
        among_best=standing.among_best if standing else False,
        intervals=intervals.get(candidate.id, {}),
        zero_shot=before.summary["metrics"] if before else {},
        zero_shot_rank=zero_shot.get(candidate.id),
        few_shot=shown.summary["metrics"] if shown else {},
        control=_control(context, state),
        importance=compression.get("importance", ()),
        kept_layers=compression.get("plan", {}).get("keep", ()),
        merge=compression.get("merge", {}),
        parameters={
            **compression.get("parameters", {}),
            **({"trainable": tuned.summary["trainable"]} if tuned else {}),
        },
        history=_read(state, "fine_tune", "history.json") or (),
        costs={name: _cost(step) for name, step in state.steps.items() if name not in control.STEPS},
    )


def _control(context: Context, state: CandidateState) -> dict[str, Any]:
    """What the whole model scores beside its proxy, where it was tuned as well."""
    if not {PROXY_SCORE, control.SCORED} <= state.steps.keys():
        return {}
    settings = context.config.evaluation
    metric = metric_of(task_of(context.config), settings.metric)
    whole, proxy = (_scores(state.steps[name])[metric] for name in (control.SCORED, PROXY_SCORE))
    seed = derive_seed(context.config.seed, NAME)
    gap = difference(whole, proxy, settings.confidence, settings.bootstrap, seed)
    return {
        "metrics": dict(state.steps[control.SCORED].summary["metrics"]),
        "difference": [round(value, 6) for value in gap],
        "seconds": sum(state.steps[name].seconds for name in control.STEPS),
    }


def _read(state: CandidateState, step: str, name: str) -> Any:
    if step not in state.steps:
        return {}
    return json.loads((state.steps[step].path() / name).read_text(encoding="utf-8"))


def _data_evidence(data: StepResult) -> DataEvidence:
    return DataEvidence.from_json(json.loads((data.path() / "data_evidence.json").read_text(encoding="utf-8")))


def _evidence(shared: Sequence[StepResult], states: Sequence[CandidateState]) -> dict[str, str]:
    found = {step.name: step.content for step in shared}
    for state in states:
        found |= {f"{name}/{state.candidate_id}": step.content for name, step in state.steps.items()}
        found[f"status/{state.candidate_id}"] = sha256_json([state.status, state.failed_in])
    return dict(sorted(found.items()))


def _cost(result: StepResult) -> StageCost:
    return StageCost(result.seconds, result.peak_mb, result.reused)


def _why_not(states: Sequence[CandidateState]) -> str:
    failed = "; ".join(
        f"{state.candidate_id}: {state.status}, {state.reason}" for state in states if state.status != "ok"
    )
    return f"Fewer than {MIN_FINISHED} candidates finished, so there is nothing to choose between. {failed}"
