"""Runs a selection on this machine: the compiled pipeline in a child process, followed through its progress events."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from damoc.config import SelectionConfig, parse_config, read_yaml
from damoc.errors import DamocError, Problem
from damoc.overrides import override
from damoc.progress import EVENTS_VARIABLE, new_lines
from damoc.selection.record import CandidateRecord, SelectionRecord
from damoc.stages.candidate import LOOP_WORKERS_VARIABLE
from damoc.stages.context import Context, config_hash, publish_config
from damoc.store import disk_error
from damoc.tracking import storage
from damoc.validation import validate

RUNNER = "damoc_pipelines.local_run"
LOOP_WORKERS = 2
_POLL_SECONDS = 0.15
_GRACE_SECONDS = 15.0

OnEvent = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Selection:
    """A finished selection.

    Args:
        selection_id: name, time and config hash.
        folder: folder or s3:// prefix with ``record.json``, ``report.html`` and ``pipeline.log``.
        record: everything that was measured and decided.
        tracking: how to see it in MLflow.
    """

    selection_id: str
    folder: str
    record: SelectionRecord
    tracking: str

    @property
    def winner(self) -> str:
        """Id of the candidate that was chosen."""
        return self.record.winner or ""

    @property
    def ranking(self) -> Sequence[CandidateRecord]:
        """Candidates, best first, failed ones last."""
        return self.record.candidates

    @property
    def report(self) -> str:
        """Path or URI of the HTML report."""
        return f"{self.folder}/report.html"


def read_config(path: Path, settings: Sequence[str] = ()) -> tuple[SelectionConfig, str]:
    """Reads a config with overrides.

    Args:
        path: YAML file.
        settings: ``a.b=value`` each.

    Returns:
        The validated config and its YAML text.

    Raises:
        DamocError: every problem found.
    """
    raw = read_yaml(path)
    if settings:
        raw = override(raw, settings)
        text = yaml.safe_dump(raw, sort_keys=False, allow_unicode=True)
    else:
        text = path.read_text(encoding="utf-8")
    return parse_config(raw, str(path), path.resolve().parent), text


def select(
    config: SelectionConfig | Mapping[str, Any] | str | Path,
    settings: Sequence[str] = (),
    on_event: OnEvent = lambda event: None,
) -> Selection:
    """Chooses the model that will be best after fine-tuning on a dataset.

    Runs the compiled Kubeflow pipeline on this machine, two candidates at a time. Finished steps are found in the
    workspace and not done again, so calling it once more resumes what was interrupted.

    Args:
        config: a validated config, the same as a mapping (paths start from the current folder), or a YAML file.
        settings: ``a.b=value`` overrides, with a file or a mapping.
        on_event: called with every progress event.

    Returns:
        The finished selection.

    Raises:
        DamocError: bad input, an unreachable service, or fewer than two candidates that finished.
        KeyboardInterrupt: interrupted; the MLflow runs are closed as KILLED.
    """
    if isinstance(config, str | Path):
        where, (checked, text) = str(config), read_config(Path(config), settings)
    elif isinstance(config, SelectionConfig):
        where, checked, text = "config", config, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    else:
        raw = override(dict(config), settings)
        where, checked = "config", parse_config(raw, "config", Path.cwd())
        text = yaml.safe_dump(raw, sort_keys=False, allow_unicode=True)
    validate(checked, where, read_data=False)
    context = _open(checked, text)
    config_uri = f"{context.folder}/config.json"
    with _local_folder(context) as folder:
        log = folder / "pipeline.log"
        code = _run_child(context, config_uri, folder, log, on_event)
    if code != 0:
        context.tracker.close_selection("FAILED")
        raise _failure(context, log)
    record = SelectionRecord.from_json(context.read("record.json"))
    return Selection(context.selection_id, context.folder, record, context.tracker.where_to_look())


def load_selection(folder: str) -> Selection:
    """A selection that was run before.

    Args:
        folder: its folder or s3:// prefix in the workspace.

    Raises:
        DamocError: there is none, or it did not get as far as a ranking.
    """
    if not storage.exists(f"{folder}/record.json"):
        raise DamocError("no finished selection here", folder, "see the folders below WORKSPACE/selections")
    record = SelectionRecord.from_json(json.loads(storage.read_bytes(f"{folder}/record.json")))
    return Selection(record.selection_id, folder, record, "")


def _open(config: SelectionConfig, text: str) -> Context:
    """Connects to MLflow and publishes the config; nothing is written before both services answer."""
    digest = config_hash(config)
    now = datetime.now(timezone.utc)
    selection_id = f"{config.name}-{now:%Y%m%d-%H%M%S-%f}"[:-3] + f"-{digest[:8]}"
    context = Context(config, selection_id, digest, text)
    _make_workspace(config.workspace)
    _ = context.tracker
    publish_config(config, text, selection_id)
    return context


def _make_workspace(workspace: str) -> None:
    if storage.is_remote(workspace):
        return
    try:
        Path(workspace).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workspace):
            pass
    except OSError as error:
        raise disk_error(error, workspace) from error


@contextmanager
def _local_folder(context: Context) -> Iterator[Path]:
    if not storage.is_remote(context.folder):
        yield Path(context.folder)
        return
    yield Path(tempfile.mkdtemp(prefix="damoc-"))


def _run_child(context: Context, config_uri: str, folder: Path, log: Path, on_event: OnEvent) -> int:
    events = folder / "progress.jsonl"
    events.touch()
    command = [sys.executable, "-m", RUNNER, "--config-uri", config_uri, "--selection-id", context.selection_id]
    command += ["--pipeline-root", str(folder / "kfp")]
    environment = {
        **os.environ,
        EVENTS_VARIABLE: str(events),
        LOOP_WORKERS_VARIABLE: str(LOOP_WORKERS),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
    with log.open("wb") as output, events.open(encoding="utf-8") as stream:
        child = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            while child.poll() is None:
                for event in new_lines(stream):
                    on_event(event)
                time.sleep(_POLL_SECONDS)
            for event in new_lines(stream):
                on_event(event)
        except BaseException:
            _stop(child)
            context.tracker.close_selection("KILLED")
            raise
    return child.returncode


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Ends the child and what it started, kindly first."""
    for kind, patience in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, _GRACE_SECONDS)):
        with suppress(ProcessLookupError):
            os.killpg(child.pid, kind)
        with suppress(subprocess.TimeoutExpired):
            child.wait(patience)
            break
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def _failure(context: Context, log: Path) -> DamocError:
    """What a stage said went wrong."""
    if storage.exists(f"{context.folder}/error.json"):
        value = context.read("error.json")
        if "problems" in value:
            return DamocError.from_problems([Problem(**problem) for problem in value["problems"]])
        return DamocError(f"stage {value['stage']} crashed: {value['crash']}", str(log), _CRASH_FIX)
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    return DamocError(f"the pipeline failed: {lines[-1] if lines else 'no output'}", str(log), _CRASH_FIX)


_CRASH_FIX = "read the log; finished steps are kept, the same command resumes"
