"""Looks for everything that is wrong with a selection before anything is spent on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from damoc.config import DataCompression, LanguageModel, LocalModel, SelectionConfig, SplitSources
from damoc.errors import DamocError, Problem
from damoc.evaluation.registry import metrics_of, task_of
from damoc.filters.registry import filter_named
from damoc.models.load import check_model_files, is_commit
from damoc.signals.embedding import PACKAGED
from damoc.tracking import storage

_REWRITTEN = "python3"
"""kfp.local replaces this word wherever it stands in a task's command line, paths included."""


def validate(config: SelectionConfig, where: str, read_data: bool = True) -> None:
    """Checks names, files, models and, where they are local files, the rows.

    Args:
        config: a config that has its types right.
        where: name of its file, for messages.
        read_data: reads and checks the rows of local data files too.

    Raises:
        DamocError: every problem found, each with place and mend.
    """
    problems = [*_check_names(config, where), *_check_workspace(config, where), *_check_models(config, where)]
    files = [Path(source) for source in _sources(config) if source.startswith("/")]
    missing = [file for file in files if not file.exists()]
    problems += [Problem(f"{file} does not exist", f"{where} field dataset", "check the path") for file in missing]
    if read_data and files and not missing:
        from damoc.data.dataset import load_dataset

        problems += _problems_of(load_dataset, config.dataset, config.seed)
    if problems:
        raise DamocError.from_problems(problems)


def _check_names(config: SelectionConfig, where: str) -> list[Problem]:
    row_filter = config.data_compression.filter
    found = _problems_of(filter_named, row_filter.method)
    if not found:
        method = filter_named(row_filter.method)
        found = _problems_of(lambda: method.needs(method.checked(row_filter.options)))
    task_problems = _problems_of(task_of, config)
    if not task_problems:
        task_problems = _problems_of(metrics_of, task_of(config), config.evaluation)
    source = config.dataset.source or ""
    if source.startswith("mined:"):
        from damoc.data.sources.registry import MINED

        if source.removeprefix("mined:") not in MINED:
            known = ", ".join(f"mined:{name}" for name in sorted(MINED))
            found.append(Problem(f"there is no dataset {source!r}", "field dataset.source", f"use one of {known}"))
    return [Problem(item.what, f"{where} {item.where}", item.fix) for item in (*found, *task_problems)]


def _check_workspace(config: SelectionConfig, where: str) -> list[Problem]:
    place = f"{where} field workspace"
    if storage.is_remote(config.workspace) and not (config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")):
        return [
            Problem(
                f"the workspace {config.workspace} has no place for MLflow's SQLite database",
                f"{where} field tracking.uri",
                "name an MLflow server, or set MLFLOW_TRACKING_URI",
            )
        ]
    if _REWRITTEN in config.workspace:
        return [
            Problem(
                f"the path {config.workspace} contains {_REWRITTEN!r}, which the local runner of KFP rewrites",
                place,
                "choose a folder without it",
            )
        ]
    return [
        Problem(
            f"the id {candidate.id!r} contains {_REWRITTEN!r}, which the local runner of KFP rewrites",
            f"{where} field candidates.{index}.id",
            "choose an id without it",
        )
        for index, candidate in enumerate(config.candidates)
        if _REWRITTEN in candidate.id
    ]


def _check_models(config: SelectionConfig, where: str) -> list[Problem]:
    problems = []
    needs_base = config.model_compression.merge.method == "instruct_delta"
    for index, candidate in enumerate(config.candidates):
        named = {"model": (candidate.model, candidate.revision)}
        if candidate.base and needs_base:
            named["base"] = (candidate.base, candidate.base_revision)
        for field, model in named.items():
            if problem := check_model_files(*model):
                what, _, fix = problem.partition("; ")
                place = f"{where} field candidates.{index}.{field} ({candidate.id})"
                problems.append(Problem(what, place, fix or "mend the folder, or leave this candidate out"))
    if needs_base and not any(candidate.base for candidate in config.candidates):
        what = "instruct_delta needs the checkpoint that a candidate was tuned from, and no candidate names one"
        place = f"{where} field model_compression.merge.method"
        problems.append(Problem(what, place, "name 'base' for the candidates that have one, or choose another method"))
    chosen = config.evaluation.bertscore
    encoders = {"evaluation.bertscore.encoder": (chosen.encoder, chosen.revision, "revision")}
    return [*problems, *_check_data_models(config.data_compression, where), *_check_encoders(encoders, where)]


def _check_data_models(config: DataCompression, where: str) -> list[Problem]:
    condense, signals = config.condense, config.signals
    causal: dict[str, LocalModel | None] = {"signals.scorer": signals.scorer, "signals.judge": signals.judge}
    encoders = {
        "data_compression.signals.encoder": (signals.encoder, signals.encoder_revision, "encoder_revision"),
        "data_compression.signals.reward": (signals.reward, signals.reward_revision, "reward_revision"),
    }
    if condense.enabled:
        causal |= {"condense.compressor": condense.local_model, "condense.repair.rewriter": condense.repair.rewriter}
        encoders["data_compression.condense.gate.encoder"] = (condense.gate.encoder, condense.gate.revision, "revision")
    problems = []
    for field, model in causal.items():
        if model is None or (isinstance(model, LanguageModel) and model.endpoint):
            continue
        if problem := check_model_files(model.model, model.revision):
            what, _, fix = problem.partition("; ")
            place = f"{where} field data_compression.{field}"
            problems.append(Problem(what, place, fix or "name another model"))
    return [*problems, *_check_encoders(encoders, where)]


def _check_encoders(encoders: Mapping[str, tuple[str, str | None, str]], where: str) -> list[Problem]:
    """What is wrong with encoders: by field, id, revision and the key of the revision."""
    problems = []
    for field, (encoder, revision, key) in encoders.items():
        place = f"{where} field {field}"
        if encoder == PACKAGED or Path(encoder).is_dir():
            continue
        if encoder.startswith("/"):
            problems.append(Problem(f"the folder {encoder} does not exist", place, "check the path"))
        elif not is_commit(revision):
            what = f"{encoder} is a hub id without a pinned revision"
            problems.append(Problem(what, place, f"set {key!r} beside it to its 40-digit commit"))
    return problems


def _sources(config: SelectionConfig) -> list[str]:
    splits = config.dataset.splits
    if isinstance(splits, SplitSources):
        return [source for source in (splits.train, splits.valid, splits.test) if source]
    return [config.dataset.source or ""]


def _problems_of(function: Callable[..., Any], *args: Any) -> list[Problem]:
    try:
        function(*args)
    except DamocError as error:
        return list(error.problems)
    return []
