"""What every stage starts from: the config, the workspace and the tracker."""

from __future__ import annotations

import json
import os
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from damoc.config import SelectionConfig
from damoc.errors import DamocError
from damoc.hashing import sha256_json
from damoc.progress import emit
from damoc.store import Step, StepResult, StepStore
from damoc.tracking import storage

if TYPE_CHECKING:
    from damoc.tracking.runs import Tracker


@dataclass(frozen=True)
class Context:
    """A running selection.

    Args:
        config: validated, paths absolute.
        selection_id: name, time and config hash.
        config_sha256: see :func:`config_hash`.
        config_yaml: the config as the user wrote it.
        label: candidate at work, empty in the shared stages.
        tracked: whether the selection is recorded in MLflow.
    """

    config: SelectionConfig
    selection_id: str
    config_sha256: str
    config_yaml: str
    label: str = ""
    tracked: bool = True

    @classmethod
    def open(cls, config_uri: str, selection_id: str, label: str = "") -> Context:
        """Reads what :func:`publish_config` wrote."""
        value = json.loads(storage.read_bytes(config_uri))
        config = SelectionConfig.model_validate(value["config"])
        return cls(config, selection_id, value["config_sha256"], value["config_yaml"], label)

    @property
    def folder(self) -> str:
        """Folder or s3:// prefix of this selection's own files."""
        return f"{self.config.workspace}/selections/{self.selection_id}"

    @cached_property
    def store(self) -> StepStore:
        """Finished steps of the workspace."""
        return StepStore(self.config.workspace)

    @property
    def signals(self) -> Path:
        """Folder of the signal cache."""
        if storage.is_remote(self.config.workspace):
            return Path(tempfile.gettempdir()) / "damoc-signals"
        return Path(self.config.workspace) / "signals"

    def checkpoints(self, step: Step) -> Path:
        """Folder for the checkpoints of a step that is not done; of this machine when the workspace is in a bucket."""
        if storage.is_remote(self.config.workspace):
            return Path(tempfile.gettempdir()) / "damoc-checkpoints" / step.name / step.key()
        return Path(self.config.workspace) / "checkpoints" / step.name / step.key()

    @property
    def tracking_uri(self) -> str:
        """MLflow tracking URI; SQLite in the workspace unless the config or the environment says otherwise."""
        configured = self.config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")
        return configured or f"sqlite:///{self.config.workspace}/mlflow.db"

    @cached_property
    def tracker(self) -> Tracker:
        """MLflow, connected on first use."""
        from damoc.tracking.runs import Tracker
        from damoc.tracking.untracked import Untracked

        if not self.tracked:
            return Untracked()
        return Tracker(self.tracking_uri, self.config.tracking.experiment or self.config.name, self.selection_id)

    def run(self, step: Step, work: Any) -> StepResult:
        """:meth:`StepStore.run`, seen by the progress display."""
        result = self.store.run(step, work)
        emit(
            "step",
            name=step.name,
            label=self.label,
            reused=result.reused,
            seconds=result.seconds,
            peak_mb=result.peak_mb,
        )
        return result

    def write(self, name: str, value: Any) -> str:
        """Writes a JSON file into :attr:`folder` and returns its URI."""
        uri = f"{self.folder}/{name}"
        storage.write_bytes(uri, json.dumps(value, indent=1, sort_keys=True, allow_nan=False).encode("utf-8"))
        return uri

    def read(self, name: str) -> Any:
        """Reads a JSON file of :attr:`folder`."""
        return json.loads(storage.read_bytes(f"{self.folder}/{name}"))


def config_hash(config: SelectionConfig) -> str:
    """SHA-256 of what the config decides, the same in every checkout and on every machine.

    Where results are kept is left out, and local paths count by their last part: what lies there has its own hash.
    """
    return sha256_json(_portable(config.model_dump(mode="json", exclude={"workspace", "tracking"})))


def publish_config(config: SelectionConfig, config_yaml: str, selection_id: str) -> str:
    """Writes the config where every stage can read it and returns its URI."""
    uri = f"{config.workspace}/selections/{selection_id}/config.json"
    value = {
        "config": config.model_dump(mode="json"),
        "config_sha256": config_hash(config),
        "config_yaml": config_yaml,
    }
    storage.write_bytes(uri, json.dumps(value, indent=1).encode("utf-8"))
    return uri


@contextmanager
def stage(name: str, config_uri: str, selection_id: str, label: str = "") -> Iterator[Context]:
    """Opens the context of a stage; an error is left in ``error.json`` for the command line before it goes on up."""
    context = Context.open(config_uri, selection_id, label)
    emit("begin", stage=name, label=label)
    try:
        yield context
    except DamocError as error:
        problems = [{"what": p.what, "where": p.where, "fix": p.fix} for p in error.problems]
        _leave_error(context, {"stage": name, "problems": problems})
        raise
    except Exception as error:
        _leave_error(
            context, {"stage": name, "crash": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        )
        raise
    emit("end", stage=name, label=label)


def _leave_error(context: Context, value: Mapping[str, Any]) -> None:
    try:
        context.write("error.json", value)
    except (DamocError, OSError):
        print(json.dumps(value), flush=True)


def _portable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _portable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_portable(item) for item in value]
    if isinstance(value, str) and value.startswith(("/", "lm_eval:/")):
        return Path(value).name
    return value
