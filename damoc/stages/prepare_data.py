"""Stage: read, validate, split and fingerprint the dataset; open the selection's run."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from damoc.config import DatasetConfig, SplitSources
from damoc.data.dataset import Dataset, load_dataset
from damoc.errors import DamocError, Problem
from damoc.evaluation.registry import Task, task_of
from damoc.hashing import hash_tree, sha256_file, sha256_json
from damoc.progress import Progress
from damoc.stages.context import Context, stage
from damoc.store import Step, StepResult
from damoc.tracking import storage
from damoc.tracking.dvc import dvc_hash
from damoc.tracking.provenance import code_commit

NAME = "prepare_data"
_SHOWN_PROBLEMS = 20
_MINED_FROM = ("botocore", "numpy", "scipy", "scikit-learn", "pandas")


def prepare_data(config_uri: str, selection_id: str) -> str:
    """Reads the dataset, checks every row, splits it and writes it in canonical form.

    Args:
        config_uri: the config that :func:`damoc.stages.context.publish_config` wrote.
        selection_id: the selection.

    Returns:
        URI of the step's :class:`damoc.store.StepResult`.

    Raises:
        DamocError: the data cannot be read, has bad rows or leaks between splits.
    """
    with stage(NAME, config_uri, selection_id) as context:
        _open_run(context)
        result = prepare(context)
        dataset = result.summary
        run = context.tracker.parent_run_id()
        context.tracker.log_dataset(
            run,
            context.config.name,
            str(dataset["source"]),
            str(dataset["fingerprint"]),
            dict(dataset["rows"]),
            dataset_dvc_hash(context.config.dataset),
        )
        context.tracker.log_metrics(run, {f"data/rows_{name}": float(rows) for name, rows in dataset["rows"].items()})
        return context.write(f"{NAME}.json", result.to_json())


def prepare(context: Context) -> StepResult:
    """The step itself, without a tracker."""
    config = context.config
    task = task_of(config)
    progress = Progress(NAME, unit="datasets")

    def work(folder: Path) -> Mapping[str, Any]:
        progress(0, 1)
        dataset = load_dataset(config.dataset, config.seed)
        check_rows(dataset, task)
        dataset.save(folder)
        progress(1, 1)
        return _summary(dataset)

    spec = config.dataset.model_dump(mode="json", exclude={"source", "splits"})
    splits = config.dataset.splits
    if not isinstance(splits, SplitSources):
        spec["splits"] = splits.model_dump()
    step = Step(
        NAME,
        {
            **spec,
            "seed": config.seed,
            "task": task.name,
            "source_name": Path(config.dataset.source or config.dataset.preset or "").name,
        },
        source_identity(config.dataset),
        code=("data", "evaluation", "hashing.py"),
    )
    return context.run(step, work)


def check_rows(dataset: Dataset, task: Task) -> None:
    """Refuses rows that the evaluation task cannot score.

    Raises:
        DamocError: the first rows that fail, with the reason of each.
    """
    problems = [
        Problem(f"the row {problem}", f"row {row.id!r} ({name})", "mend the row, or set another evaluation.task")
        for name, rows in dataset.splits.items()
        for row in rows
        if (problem := task.check(row)) is not None
    ]
    if problems:
        raise DamocError.from_problems(problems[:_SHOWN_PROBLEMS])


def source_identity(config: DatasetConfig) -> dict[str, str]:
    """Content address of every source of the dataset: file hashes, object listings, package versions or commits."""
    splits = config.splits
    if isinstance(splits, SplitSources):
        named = {key: value for key, value in splits.model_dump().items() if value is not None}
    else:
        named = {"source": config.source or f"preset:{config.preset}"}
    return {key: _identity(value, config.revision) for key, value in named.items()}


def dataset_dvc_hash(config: DatasetConfig) -> str | None:
    """DVC's hash of the dataset's file or folder, when DVC tracks it."""
    if config.source is None or storage.is_remote(config.source) or not Path(config.source).exists():
        return None
    return dvc_hash(Path(config.source))


def _identity(source: str, revision: str | None) -> str:
    if source.startswith("mined:"):
        return sha256_json({"source": source, **{name: metadata.version(name) for name in _MINED_FROM}})
    if storage.is_remote(source):
        return sha256_json({uri: _object_hash(uri) for uri in storage.list_uris(source)})
    path = Path(source)
    if path.is_dir():
        return sha256_json(hash_tree(path))
    if path.is_file():
        return sha256_file(path)
    return sha256_json({"source": source, "revision": revision})


def _object_hash(uri: str) -> str:
    import hashlib

    return hashlib.sha256(storage.read_bytes(uri)).hexdigest()


def _summary(dataset: Dataset) -> dict[str, Any]:
    return {
        "source": dataset.source,
        "fingerprint": dataset.fingerprint,
        "rows": {name: len(rows) for name, rows in dataset.splits.items()},
        "licences": list(dataset.licences),
        "report": dict(dataset.report),
    }


def _open_run(context: Context) -> None:
    context.tracker.open_selection(
        context.selection_id,
        params=context.config.model_dump(mode="json", exclude={"candidates", "workspace"}),
        tags={
            "damoc.config_sha256": context.config_sha256,
            "damoc.code_commit": code_commit(),
            "damoc.seed": str(context.config.seed),
        },
        config_yaml=context.config_yaml,
    )
