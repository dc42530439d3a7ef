"""MLflow runs of a selection: one parent, one child a candidate, every call with an explicit run id."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import posixpath
import random
import re
import shlex
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from damoc.errors import InfrastructureError
from damoc.hashing import sha256_text
from damoc.redaction import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

SELECTION_ID = "damoc.selection_id"
CANDIDATE_ID = "damoc.candidate_id"
KIND = "damoc.kind"
STATUSES = ("FINISHED", "FAILED", "KILLED")

_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_UV_AUTO_DETECT": "false",
}
_LOCK_ATTEMPTS = 7
_PROBE_SECONDS = 8.0
_LONGEST_PARAM = 500
_LONGEST_TAG = 5000
_LONGEST_NAME = 250
_DIGEST = 36
_SAMPLING_SECONDS = 2.0
_FOREIGN = {"mlflow", "sqlalchemy", "sqlite3", "alembic", "requests", "urllib3", "boto3", "botocore"}
_DENIED = {"UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED"}
_DENIED_TEXT = re.compile(r"error code 40[13]\b|\b40[13] Client Error")
_DISK_TEXT = ("unable to open database file", "readonly database", "disk is full", "disk I/O error")

_logger = logging.getLogger(__name__)
T = TypeVar("T")


class Tracker:
    """Records one selection in MLflow; safe to use from several processes at once.

    Retries and resumes find the runs that an earlier process opened. Unless the user set MLflow's environment
    variables, requests to a server get 3 retries and 60 s each, MLflow's telemetry and progress bars are off, and no
    ``uv.lock`` of the working folder slips into the registered model.

    Args:
        uri: ``sqlite:///path``, ``http(s)://server``, or another database that MLflow knows.
        experiment: name of the experiment; with ``MLFLOW_RUN_ID`` set, that run's experiment takes its place.
        selection_id: identity of the selection.

    Raises:
        InfrastructureError: the store cannot be used: unreachable (within 20 s), refused, no space, a file store.
    """

    def __init__(self, uri: str, experiment: str, selection_id: str) -> None:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self.selection_id = selection_id
        self._database = _sqlite_path(uri)
        self.uri = f"sqlite:///{self._database}" if self._database else uri.rstrip("/")
        self._shown = redact(self.uri)
        self._parent: str | None = None
        if self.uri.startswith(("http://", "https://")):
            self._probe()
        elif "://" not in self.uri or self.uri.startswith("file:"):
            raise InfrastructureError(
                "MLflow's file store is not supported (no concurrent writers, no registry)",
                f"tracking URI {self._shown}",
                "use sqlite:///PATH/mlflow.db or the URL of an MLflow server",
            )
        self.client: MlflowClient = self._call(self._connect)
        self.experiment_id: str = self._call(self._find_experiment, experiment)

    def open_selection(self, name: str, params: Mapping[str, Any], tags: Mapping[str, str], config_yaml: str) -> str:
        """Finds or creates the parent run; a run named by ``MLFLOW_RUN_ID`` is adopted.

        Args:
            name: name of the run.
            params: nested; flattened by :func:`flatten`. A parameter that the run already has keeps its value.
            tags: further tags.
            config_yaml: logged as ``config.yaml``, passwords in URLs removed.

        Returns:
            The run id.
        """
        self._parent = self._open("selection", name, tags, {}, params, os.environ.get("MLFLOW_RUN_ID"))
        self.log_text(self._parent, redact(config_yaml), "config.yaml")
        return self._parent

    def open_candidate(self, candidate_id: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Finds or creates the candidate's run below the parent.

        Args:
            candidate_id: its name in the config, and the run's name.
            params: nested; flattened by :func:`flatten`. A parameter that the run already has keeps its value.
            tags: further tags.

        Returns:
            The run id.

        Raises:
            InfrastructureError: the parent run does not exist.
        """
        marks = {CANDIDATE_ID: candidate_id, "mlflow.parentRunId": self.parent_run_id()}
        return self._open("candidate", candidate_id, tags, marks, params, None)

    def parent_run_id(self) -> str:
        """The selection's run id; InfrastructureError when no process opened it."""
        if self._parent is None:
            self._parent = self._find_one("selection", {})
        return self._parent

    def candidate_run_id(self, candidate_id: str) -> str:
        """The candidate's run id; InfrastructureError when no process opened it."""
        return self._find_one("candidate", {CANDIDATE_ID: candidate_id})

    def log_dataset(
        self,
        run_id: str,
        name: str,
        source: str,
        fingerprint: str,
        rows: Mapping[str, int],
        dvc_hash: str | None = None,
    ) -> None:
        """Logs a dataset as an input of a run, without reading it; search with ``dataset.digest = '...'``.

        Args:
            run_id: the run.
            name: name of the dataset.
            source: path, URI or what else the config says.
            fingerprint: SHA-256 (64 hex digits); MLflow's digest is its first 36, a tag holds it whole.
            rows: number of rows by split.
            dvc_hash: as DVC has it.
        """
        from mlflow.data.code_dataset_source import CodeDatasetSource
        from mlflow.data.dataset_source_registry import resolve_dataset_source
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.entities import DatasetInput, InputTag
        from mlflow.exceptions import MlflowException

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                origin = resolve_dataset_source(redact(source))
        except MlflowException:
            origin = CodeDatasetSource({"damoc.source": redact(source)})
        dataset = MetaDataset(origin, name=name, digest=fingerprint[:_DIGEST])  # type: ignore[abstract]
        tags = [InputTag(f"damoc.rows.{split}", str(count)) for split, count in rows.items()]
        self._call(self.client.log_inputs, run_id, [DatasetInput(dataset._to_mlflow_entity(), tags)])
        self.set_tags(
            run_id, {"damoc.dataset_sha256": fingerprint, **({"damoc.dataset_dvc": dvc_hash} if dvc_hash else {})}
        )

    def log_history(self, run_id: str, history: Sequence[Mapping[str, Any]]) -> None:
        """Logs a training history once: steps that the run already has are left alone.

        Args:
            run_id: the run.
            history: mappings with ``step`` and numbers such as ``train_loss``.
        """
        names = {safe_name(name) for row in history for name in row if name != "step"}
        known = self._call(self.client.get_run, run_id).data.metrics
        logged = {
            name: {point.step for point in self._call(self.client.get_metric_history, run_id, name)}
            for name in names & set(known)
        }
        self._log_points(
            run_id,
            [
                (name, value, int(row["step"]))
                for row in history
                for name, value in row.items()
                if name != "step" and int(row["step"]) not in logged.get(safe_name(name), ())
            ],
        )

    def log_metrics(
        self, run_id: str, metrics: Mapping[str, float], step: int | None = None, model_id: str | None = None
    ) -> None:
        """Logs metrics; NaN and infinity become tags ``damoc.nonfinite.<metric>`` instead.

        Args:
            run_id: the run.
            metrics: by name; characters that MLflow refuses become ``_``.
            step: training step; None is 0.
            model_id: the logged model that the metrics describe.
        """
        self._log_points(run_id, [(name, value, step or 0) for name, value in metrics.items()], model_id)

    def log_artifacts(self, run_id: str, path: Path, artifact_path: str | None = None) -> None:
        """Uploads a file, or what a folder contains, to ``artifact_path`` within the run's artifacts."""
        if not path.exists():
            raise InfrastructureError(
                "there is nothing to upload", str(path), "check that the stage before it finished"
            )
        upload = self.client.log_artifacts if path.is_dir() else self.client.log_artifact
        self._call(upload, run_id, str(path), artifact_path)

    def log_text(self, run_id: str, text: str, name: str) -> None:
        """Stores a text as the artifact ``name``."""
        self._call(self.client.log_text, run_id, text, name)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Sets tags; a value of more than 5000 characters is replaced by its SHA-256 and length."""
        from mlflow.entities import RunTag

        entities = [RunTag(safe_name(name), _brief(value, _LONGEST_TAG)) for name, value in tags.items()]
        self._call(self.client.log_batch, run_id, tags=entities, synchronous=True)

    def close(self, run_id: str, status: str) -> None:
        """Ends a run with ``FINISHED``, ``FAILED`` or ``KILLED``."""
        if status not in STATUSES:
            raise ValueError(f"status {status!r} is none of {', '.join(STATUSES)}")
        self._call(self.client.set_terminated, run_id, status)

    def close_selection(self, status: str) -> None:
        """Ends the parent and every child that is still running; runs that have ended stay as they are."""
        for run in self._search({}, "attributes.status = 'RUNNING'"):
            self.close(run.info.run_id, status)

    @contextmanager
    def system_metrics(self, run_id: str) -> Iterator[None]:
        """Samples CPU, memory, disk, network and GPU every 2 s into a run, at least once; never fails the work."""
        monitor = self._start_monitor(run_id)
        try:
            yield
        finally:
            if monitor is not None:
                try:
                    monitor.finish()
                    monitor.publish_metrics(monitor.aggregate_metrics())
                    monitor.mlflow_logger.flush()
                except Exception as error:
                    _logger.warning("the last system metrics were not recorded: %s", redact(str(error)))

    def where_to_look(self) -> str:
        """How to see the selection: a command for SQLite, an address for a server."""
        if not self.uri.startswith(("http://", "https://")):
            return f"mlflow ui --backend-store-uri {shlex.quote(self._shown)}"
        run = self._parent or next((run.info.run_id for run in self._search({KIND: "selection"})), None)
        return f"{self._shown}/#/experiments/{self.experiment_id}" + (f"/runs/{run}" if run else "")

    def _open(
        self,
        kind: str,
        name: str,
        tags: Mapping[str, str],
        marks: Mapping[str, str],
        params: Mapping[str, Any],
        adopted: str | None,
    ) -> str:
        identity = {KIND: kind, SELECTION_ID: self.selection_id, **marks}
        keys = {key: value for key, value in identity.items() if key in (KIND, CANDIDATE_ID)}
        with self._exclusive():
            run = next(iter(self._search(keys)), None)
            if run is None and adopted is None:
                run = self._call(self.client.create_run, self.experiment_id, tags=identity, run_name=name)
            run_id = run.info.run_id if run else str(adopted)
            self.set_tags(run_id, {**tags, **identity})
        run = self._call(self.client.get_run, run_id)
        if run.info.status != "RUNNING":
            self._call(self.client.update_run, run_id, status="RUNNING")
        self._log_new_params(run, flatten(params))
        return run_id

    def _log_new_params(self, run: Run, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        new = [Param(key, value) for key, value in params.items() if key not in run.data.params]
        self._call(self.client.log_batch, run.info.run_id, params=new, synchronous=True)

    def _log_points(self, run_id: str, points: Sequence[tuple[str, Any, int]], model_id: str | None = None) -> None:
        from mlflow.entities import Metric, RunTag

        now = int(time.time() * 1000)
        finite: list[Metric] = []
        strange: dict[str, str] = {}
        for name, value, step in points:
            key, number = safe_name(name), float(value)
            if math.isfinite(number):
                finite.append(Metric(key, number, now, step, model_id=model_id, run_id=run_id))
            else:
                strange.setdefault(safe_name(f"damoc.nonfinite.{key}"), f"{number} at step {step}")
        tags = [RunTag(key, value) for key, value in strange.items()]
        self._call(self.client.log_batch, run_id, metrics=finite, tags=tags, synchronous=True)

    def _find_one(self, kind: str, marks: Mapping[str, str]) -> str:
        runs = self._search({KIND: kind, **marks})
        if not runs:
            wanted = " ".join([kind, *marks.values(), f"of selection {self.selection_id}"])
            raise InfrastructureError(
                f"MLflow has no run of the {wanted}",
                f"experiment {self.experiment_id} at {self._shown}",
                "open it first; check that every step uses the same tracking URI and experiment",
            )
        return str(runs[0].info.run_id)

    def _search(self, tags: Mapping[str, str], condition: str = "") -> list[Run]:
        """Runs of this selection, earliest first."""
        wanted = {SELECTION_ID: self.selection_id, **tags}
        terms = [f"tags.`{key}` = '{value}'" for key, value in wanted.items()] + ([condition] if condition else [])
        order = ["attributes.start_time ASC"]
        return list(self._call(self.client.search_runs, [self.experiment_id], " and ".join(terms), order_by=order))

    def _start_monitor(self, run_id: str) -> Any:
        try:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
            monitor = SystemMetricsMonitor(
                run_id,
                sampling_interval=_SAMPLING_SECONDS,
                samples_before_logging=1,
                resume_logging=True,
                tracking_uri=self.uri,
            )
            monitor.start()
            return monitor
        except Exception as error:
            _logger.warning("system metrics are not recorded: %s", redact(str(error)))
            return None

    def _connect(self) -> MlflowClient:
        from mlflow import MlflowClient

        if self._database:
            self._database.parent.mkdir(parents=True, exist_ok=True)
        with self._exclusive():
            if self._database and not self._database.exists():
                _create_database(self._database)
            client = MlflowClient(self.uri, registry_uri=self.uri)
            client.search_experiments(max_results=1)
        return client

    def _find_experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        if adopted := os.environ.get("MLFLOW_RUN_ID"):
            try:
                return str(self.client.get_run(adopted).info.experiment_id)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                raise InfrastructureError(
                    f"MLFLOW_RUN_ID names the run {adopted}, which does not exist",
                    self._shown,
                    "unset MLFLOW_RUN_ID, or set the tracking URI of the server that has it",
                ) from error
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            location = _artifact_root(self._database) if self._database else None
            try:
                return str(self.client.create_experiment(name, artifact_location=location))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                experiment = self.client.get_experiment_by_name(name)
        if experiment is None or experiment.lifecycle_stage != "active":
            raise InfrastructureError(
                f"the experiment {name!r} was deleted",
                self._shown,
                "restore it with `mlflow experiments restore`, or name another in tracking.experiment",
            )
        return str(experiment.experiment_id)

    def _probe(self) -> None:
        """Any answer will do, twice 8 s at most; what it says is for MLflow to judge."""
        address = re.sub(r"://[^/@]*@", "://", self.uri)
        for last in (False, True):
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=_PROBE_SECONDS):
                    return
            except urllib.error.HTTPError:
                return
            except (OSError, ValueError) as error:
                if "CERTIFICATE" in str(error):
                    return
                if last:
                    raise InfrastructureError(
                        f"the MLflow server cannot be reached ({getattr(error, 'reason', error)})",
                        f"tracking URI {self._shown}",
                        "start the server, or check tracking.uri, the network and the proxy settings",
                    ) from error
                time.sleep(0.5)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """One process at a time, for the database that several share; a server looks after itself."""
        if self._database is None:
            yield
            return
        import fcntl

        with self._database.with_name(f"{self._database.name}.lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Calls MLflow; waits for a locked database (some 30 s at most), says the rest in damoc's words."""
        for attempt in range(_LOCK_ATTEMPTS):
            try:
                return function(*args, **kwargs)
            except Exception as error:
                if type(error).__module__.partition(".")[0] not in _FOREIGN and not isinstance(error, OSError):
                    raise
                if "is locked" not in str(error) or attempt == _LOCK_ATTEMPTS - 1:
                    raise self._explain(error) from error
                time.sleep(random.uniform(0.1, 0.5) * 2**attempt)
        raise AssertionError("unreachable")

    def _explain(self, error: Exception) -> InfrastructureError:
        text = redact(str(error)).strip() or type(error).__name__
        what, where = text.splitlines()[0], f"tracking URI {self._shown}"
        if getattr(error, "error_code", None) in _DENIED or _DENIED_TEXT.search(text):
            fix = "set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and _PASSWORD, and check your rights"
            if "host" in text.lower():
                fix = "list this host name in the server's MLFLOW_SERVER_ALLOWED_HOSTS"
            return InfrastructureError(f"the MLflow server refuses access: {what}", where, fix)
        if "out-of-date database schema" in text:
            return InfrastructureError(
                what, where, f"back it up, then run `mlflow db upgrade {shlex.quote(self._shown)}`"
            )
        if "is locked" in text:
            return InfrastructureError(
                "the database stays locked", where, "stop the process that holds it, or use a server"
            )
        if "failed with exception" in text or "Max retries exceeded" in text:
            return InfrastructureError(
                f"the MLflow server does not answer: {what}", where, "check the server, then resume"
            )
        if getattr(error, "errno", None) == errno.ENOSPC or any(phrase in text for phrase in _DISK_TEXT):
            return InfrastructureError(
                f"the disk refuses: {what}", where, "free space, or choose a folder that can be written"
            )
        if isinstance(error, PermissionError | FileExistsError | NotADirectoryError):
            return InfrastructureError(f"the disk refuses: {what}", where, "choose a folder that can be written")
        return InfrastructureError(f"MLflow failed: {what}", where, "check the server's log and the artifact store")


def flatten(params: Mapping[str, Any], limit: int = _LONGEST_PARAM) -> dict[str, str]:
    """Nested parameters as MLflow takes them.

    Args:
        params: mappings within mappings become ``a.b.c``, lists become JSON.
        limit: longest value, in characters; a longer one becomes its SHA-256 and length.

    Returns:
        Text by name; names hold ``[A-Za-z0-9_-. :/]`` only, passwords in URLs are removed.
    """
    flat: dict[str, str] = {}
    for path, value in _leaves(params, ()):
        raw = ".".join(path)
        name = safe_name(raw)
        if name in flat:
            name = f"{name[: _LONGEST_NAME - 9]}_{sha256_text(raw)[:8]}"
        flat[name] = _brief(value if isinstance(value, str) else json.dumps(value, default=str), limit)
    return flat


def safe_name(name: str) -> str:
    """A name that MLflow takes for a parameter, metric or tag: other characters become ``_``."""
    safe = re.sub(r"[^A-Za-z0-9_\-. :/]", "_", name) or "_"
    if posixpath.normpath(safe) != safe or safe.startswith(("/", "..")) or safe == ".":
        safe = safe.replace("/", "_").lstrip(".") or "_"
    if len(safe) > _LONGEST_NAME:
        safe = f"{safe[: _LONGEST_NAME - 9]}_{sha256_text(name)[:8]}"
    return safe


def _leaves(value: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _leaves(item, (*path, str(key)))
        else:
            yield (*path, str(key)), item


def _brief(text: str, limit: int) -> str:
    text = redact(text)
    return text if len(text) <= limit else f"sha256:{sha256_text(text)} ({len(text)} characters)"


def _sqlite_path(uri: str) -> Path | None:
    if not uri.startswith("sqlite:"):
        return None
    path = uri.removeprefix("sqlite:///").partition("?")[0]
    if not uri.startswith("sqlite:///") or path in ("", ":memory:"):
        raise InfrastructureError("this names no database file", f"tracking URI {uri}", "use sqlite:///PATH/mlflow.db")
    return Path(path).absolute()


def _artifact_root(database: Path) -> str:
    return (database.parent / "mlartifacts").as_uri()


def _create_database(database: Path) -> None:
    """Migrates a new database beside its place and renames it, so that a killed process leaves no half of one."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    draft = database.with_name(f".{database.name}.{os.getpid()}")
    try:
        root = _artifact_root(database)
        store = SqlAlchemyStore(f"sqlite:///{draft}", root)
        store.engine.dispose()
        draft.replace(database)
    finally:
        draft.unlink(missing_ok=True)
