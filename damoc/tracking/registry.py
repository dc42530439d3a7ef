"""Registers the winner: a loadable model without pickles, its evidence, and an alias that moves."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from damoc import __version__
from damoc.errors import DamocError
from damoc.tracking.runs import Tracker, flatten

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.models import ModelSignature

EVIDENCE = "damoc.evidence_sha256"

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_REQUIREMENTS = ("torch", "transformers", "peft", "safetensors", "tokenizers", "numpy", "mlflow")
_CODE = Path(__file__).with_name("pyfunc_model.py")


@dataclass(frozen=True)
class Registration:
    """A registered version.

    Args:
        model: registered model.
        version: its version, counted from 1.
        uri: ``models:/MODEL/VERSION``, which never moves (the alias does).
        run_id: the run that made it.
    """

    model: str
    version: str
    uri: str
    run_id: str


def register(
    tracker: Tracker,
    run_id: str,
    model_name: str,
    alias: str,
    folder: Path,
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
    description: str,
) -> Registration:
    """Registers ``folder`` as a version that ``mlflow.pyfunc.load_model("models:/NAME@ALIAS")`` loads.

    The version's source is the artifact location: MLflow resolves ``models:/ID`` with its global tracking URI, which
    may be another one. A version with the same ``damoc.evidence_sha256`` tag is reused; the alias moves to it.

    Args:
        tracker: where.
        run_id: the winner's run.
        model_name: registered model, created when it is missing.
        alias: moved to the version.
        folder: ``recipe.json`` and ``adapter/`` (peft), optionally with ``base/`` (model and tokenizer), or ``model/``.
        tags: of the version and of the logged model.
        metrics: of the logged model and the run.
        description: of the version.

    Raises:
        DamocError: the folder is not complete or holds pickles, or MLflow fails.
    """
    recipe = _check(folder)
    call, client = tracker._call, tracker.client
    _ensure_model(tracker, model_name)
    found = _find_version(tracker, model_name, tags.get(EVIDENCE))
    if found is None:
        logged = _log_model(tracker, run_id, model_name, folder, recipe, tags)
        tracker.log_metrics(run_id, metrics, model_id=logged.model_id)
        created = call(
            client.create_model_version,
            model_name,
            logged.artifact_location,
            run_id=run_id,
            tags=dict(tags),
            description=description,
            model_id=logged.model_id,
        )
        link = json.dumps([{"name": model_name, "version": str(created.version)}])
        call(client.set_logged_model_tags, logged.model_id, {"mlflow.modelVersions": link})
        found = str(created.version), run_id
    number, source_run = found
    call(client.set_registered_model_alias, model_name, alias, number)
    return Registration(model_name, number, f"models:/{model_name}/{number}", source_run)


def _check(folder: Path) -> dict[str, Any]:
    """The recipe of a folder that can be registered."""
    adapter = ("adapter/adapter_config.json", "adapter/adapter_model.safetensors")
    for name in ("recipe.json", *(("model/config.json",) if (folder / "model").is_dir() else adapter)):
        if not (folder / name).is_file():
            raise DamocError("the file is missing", str(folder / name), "run the winner's stages again")
    for path in sorted(folder.rglob("*")):
        if path.suffix in _PICKLES:
            raise DamocError("pickled weights are refused", str(path), "save them as safetensors")
    recipe: dict[str, Any] = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    return recipe


def _ensure_model(tracker: Tracker, name: str) -> None:
    from mlflow.exceptions import MlflowException

    def ensure() -> None:
        try:
            tracker.client.create_registered_model(name, tags={"damoc.kind": "winner"})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    tracker._call(ensure)


def _find_version(tracker: Tracker, name: str, evidence: str | None) -> tuple[str, str] | None:
    """Version and run of the earliest version that the same evidence made."""
    if evidence is None:
        return None
    condition = f"name = '{name}' and tags.`{EVIDENCE}` = '{evidence}'"
    versions = tracker._call(tracker.client.search_model_versions, condition)
    ready = [found for found in versions if found.status == "READY"]
    first = min(ready, key=lambda found: int(found.version), default=None)
    return (str(first.version), str(first.run_id)) if first else None


def _log_model(
    tracker: Tracker, run_id: str, name: str, folder: Path, recipe: Mapping[str, Any], tags: Mapping[str, str]
) -> LoggedModel:
    """Uploads the model and marks it ready, or failed."""
    from mlflow.entities import LoggedModelOutput

    call, client = tracker._call, tracker.client
    model: LoggedModel = call(
        client.create_logged_model,
        tracker.experiment_id,
        name,
        source_run_id=run_id,
        tags=dict(tags),
        params=flatten(recipe),
        model_type="damoc-selected",
    )
    try:
        with tempfile.TemporaryDirectory() as scratch:
            target = Path(scratch) / "model"
            call(_save, target, _copy(folder, Path(scratch)), model.model_id, run_id)
            call(client.log_model_artifacts, model.model_id, str(target))
    except BaseException:
        call(client.finalize_logged_model, model.model_id, "FAILED")
        raise
    call(client.log_outputs, run_id, [LoggedModelOutput(model.model_id, step=0)])
    return call(client.finalize_logged_model, model.model_id, "READY")


def _copy(folder: Path, scratch: Path) -> Path:
    """What the model needs and nothing else, under a name that MLflow takes."""
    copy = scratch / "winner"
    for part in ("adapter", "base", "model"):
        if (folder / part).is_dir():
            shutil.copytree(folder / part, copy / part)
    for file in (folder / "recipe.json", *folder.glob("*.safetensors")):
        shutil.copy(file, copy)
    return copy


def _save(target: Path, folder: Path, model_id: str, run_id: str) -> None:
    import pandas
    from mlflow import pyfunc
    from mlflow.models import Model

    pyfunc.save_model(
        str(target),
        python_model=str(_CODE),
        artifacts={"model": str(folder)},
        mlflow_model=Model(run_id=run_id, model_id=model_id),
        signature=_signature(),
        input_example=pandas.DataFrame([{"instruction": "What is the capital of France?", "input": ""}]),
        pip_requirements=_requirements(),
    )


def _signature() -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType

    from damoc.tracking.pyfunc_model import MAX_NEW_TOKENS

    anything = AnyType()
    inputs = [ColSpec(DataType.string, name, required=False) for name in ("instruction", "input")]
    return ModelSignature(
        inputs=Schema([*inputs, ColSpec(anything, "choices", required=False)]),
        outputs=Schema([ColSpec(DataType.string)]),
        params=ParamSchema([ParamSpec("max_new_tokens", DataType.long, MAX_NEW_TOKENS)]),
    )


def _requirements() -> list[str]:
    """Pinned; a build label such as ``+cpu`` is dropped, since package indexes do not serve it."""
    pins = [f"damoc=={__version__}"]
    for name in _REQUIREMENTS:
        try:
            pins.append(f"{name}=={version(name).partition('+')[0]}")
        except PackageNotFoundError as error:
            raise DamocError("the package is not installed", name, f"pip install {name}") from error
    return pins
