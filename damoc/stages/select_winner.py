"""Stage: rank the candidates on the held-out rows and write the record of the selection."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from damoc.evaluation.registry import Task, metric_of, task_of
from damoc.evaluation.row_scores import RowScores
from damoc.hashing import derive_seed, sha256_json
from damoc.models.load import model_identity
from damoc.selection.bootstrap import difference, interval
from damoc.selection.ranking import Standing, explain, rank
from damoc.selection.record import (
    CandidateRecord,
    DataEvidence,
    FunnelStep,
    LayerEvidence,
    SelectionRecord,
    StageCost,
)
from damoc.stages import control
from damoc.stages.candidate import CandidateState
from damoc.stages.compress_data import FILTER
from damoc.stages.context import Context, stage
from damoc.stages.evaluate_candidate import FEW_SHOT, ZERO_SHOT
from damoc.stages.evaluate_candidate import NAME as PROXY_SCORE
from damoc.stages.layer_evidence import layer_evidence, loss_table, read_compression
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
        for item in record.candidates:
            context.tracker.log_metrics(context.tracker.candidate_run_id(item.candidate_id), _shown_in_run(item))
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
    rankings = {PROXY_SCORE: ranking}
    for baseline in (ZERO_SHOT, FEW_SHOT):
        measured = [state for state in states if baseline in state.steps]
        rankings[baseline] = _rank_step(context, baseline, metric, higher, measured)
    enough = len(standings) >= MIN_FINISHED
    records = [_candidate(context, state, rankings) for state in states]
    order = [candidate.id for candidate in config.candidates]
    records.sort(key=lambda item: (item.rank is None, item.rank or 0, order.index(item.candidate_id)))
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
        evaluation=_evaluation(task, config.evaluation.shots, states),
    )


def _shown_in_run(candidate: CandidateRecord) -> dict[str, float]:
    """What a candidate's run shows beside its scores: their intervals, and the losses on the way to the proxy."""
    scored = {
        "": candidate.intervals,
        f"{ZERO_SHOT}/": candidate.zero_shot_intervals,
        f"{FEW_SHOT}/": candidate.few_shot_intervals,
    }
    ends = {
        f"interval/{prefix}{metric}_{side}": end
        for prefix, intervals in scored.items()
        for metric, bounds in intervals.items()
        for side, end in zip(("low", "high"), bounds, strict=True)
    }
    losses = {f"{rows}/loss_{state}": loss for rows, own in candidate.losses.items() for state, loss in own.items()}
    return ends | losses


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


def _candidate(context: Context, state: CandidateState, rankings: Mapping[str, StepResult]) -> CandidateRecord:
    candidate = context.config.candidate(state.candidate_id)
    standing, zero_shot = (_standing(rankings[scored], candidate.id) for scored in (PROXY_SCORE, ZERO_SHOT))
    compressed, tuned = (state.steps.get(name) for name in ("compress_model", "fine_tune"))
    compression = read_compression(compressed)
    metrics = {name: dict(step.summary["metrics"]) for name, step in state.steps.items() if name in rankings}
    intervals = {name: ranking.summary["intervals"].get(candidate.id, {}) for name, ranking in rankings.items()}
    return CandidateRecord(
        candidate_id=candidate.id,
        model=candidate.model,
        revision=candidate.revision or model_identity(candidate.model, None),
        licence=candidate.licence or "",
        status=state.status,
        reason=state.reason,
        rank=standing.rank if standing else None,
        metrics=metrics.get(PROXY_SCORE, {}),
        interval=(standing.low, standing.high) if standing else None,
        p_best=standing.p_best if standing else None,
        among_best=standing.among_best if standing else False,
        intervals=intervals[PROXY_SCORE],
        zero_shot=metrics.get(ZERO_SHOT, {}),
        zero_shot_intervals=intervals[ZERO_SHOT],
        zero_shot_rank=zero_shot.rank if zero_shot else None,
        few_shot=metrics.get(FEW_SHOT, {}),
        few_shot_intervals=intervals[FEW_SHOT],
        control=_control(context, state),
        importance=compression.get("importance", ()),
        kept_layers=compression.get("plan", {}).get("keep", ()),
        layer_evidence=layer_evidence(compression, compressed.path()) if compressed else LayerEvidence(),
        merge=compression.get("merge", {}),
        losses=loss_table(compression, tuned.summary if tuned else {}),
        parameters={
            **compression.get("parameters", {}),
            **({"trainable": tuned.summary["trainable"]} if tuned else {}),
        },
        history=json.loads((tuned.path() / "history.json").read_text(encoding="utf-8")) if tuned else (),
        costs={name: _cost(step) for name, step in state.steps.items() if name not in control.STEPS},
    )


def _standing(ranking: StepResult, candidate_id: str) -> Standing | None:
    return next((item for item in _standings(ranking) if item.candidate_id == candidate_id), None)


def _evaluation(task: Task, shots: int, states: Sequence[CandidateState]) -> dict[str, Any]:
    scored = [state.steps[name] for state in states for name in (PROXY_SCORE, ZERO_SHOT) if name in state.steps]
    rows = next((len(own.records) for step in scored for own in _scores(step).values()), None)
    return {"task": task.name, "rows": rows, "shots": shots, "higher_is_better": dict(task.higher_is_better)}


def _control(context: Context, state: CandidateState) -> dict[str, Any]:
    """What the whole model scores beside its proxy, where it was tuned as well."""
    if state.control_failure:
        return {"failure": state.control_failure}
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
