"""Runs of a selection in MLflow on SQLite."""

from __future__ import annotations

import math
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from damoc.errors import DamocError
from damoc.tracking import runs
from damoc.tracking.runs import Tracker, flatten, safe_name

Make = Callable[..., Tracker]

WORKER = """
import sys
from damoc.tracking.runs import Tracker

uri, own = sys.argv[1:]
tracker = Tracker(uri, "shared", "sel-1")
parent = tracker.open_selection("shared", {"seed": 17}, {}, "seed: 17")
common = tracker.open_candidate("common", {}, {})
mine = tracker.open_candidate(own, {}, {})
for step in range(15):
    tracker.log_metrics(mine, {"train_loss": 1.0 / (step + 1)}, step)
    tracker.log_metrics(common, {own: float(step)}, step)
tracker.close(mine, "FINISHED")
print(parent, common)
"""


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new database, migrated once for the whole module."""
    path = tmp_path_factory.mktemp("migrated") / "mlflow.db"
    runs._create_database(path)
    return path


@pytest.fixture(autouse=True)
def no_adoption(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)


@pytest.fixture
def database(migrated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(migrated, tmp_path / "mlflow.db"))


@pytest.fixture
def make(database: Path) -> Iterator[Make]:
    def build(selection_id: str = "sel-1", experiment: str = "task") -> Tracker:
        return Tracker(f"sqlite:///{database}", experiment, selection_id)

    yield build


@pytest.fixture
def tracker(make: Make) -> Tracker:
    tracker = make()
    tracker.open_selection("demo", {"seed": 17, "tuning": {"epochs": 1}}, {"team": "search"}, "seed: 17\n")
    return tracker


def test_the_database_and_its_artifacts_lie_together(tmp_path: Path, migrated: Path) -> None:
    folder = tmp_path / "work space#1" / "deeper"
    folder.mkdir(parents=True)
    shutil.copy(migrated, folder / "mlflow.db")
    tracker = Tracker(f"sqlite:///{folder / 'mlflow.db'}", "task", "sel-1")
    run_id = tracker.open_selection("demo", {}, {}, "seed: 17\n")
    assert (folder / "mlartifacts" / run_id / "artifacts" / "config.yaml").read_text() == "seed: 17\n"
    assert tracker.where_to_look() == f"mlflow ui --backend-store-uri 'sqlite:///{folder}/mlflow.db'"


def test_parent_and_children_are_found_again(make: Make, tracker: Tracker) -> None:
    parent = tracker.parent_run_id()
    child = tracker.open_candidate("tiny", {"layers": {"keep": [0, 1]}}, {"licence": "mit"})
    again = make()
    assert again.parent_run_id() == parent
    assert again.candidate_run_id("tiny") == child
    assert again.open_selection("demo", {"seed": 18, "later": True}, {}, "seed: 17\n") == parent
    assert again.open_candidate("tiny", {}, {}) == child
    params = tracker.client.get_run(parent).data.params
    assert params == {"seed": "17", "tuning.epochs": "1", "later": "true"}
    run = tracker.client.get_run(child)
    assert run.data.params == {"layers.keep": "[0, 1]"}
    assert (
        run.data.tags.items()
        >= {
            "mlflow.parentRunId": parent,
            "damoc.kind": "candidate",
            "damoc.candidate_id": "tiny",
            "damoc.selection_id": "sel-1",
            "licence": "mit",
        }.items()
    )


def test_selections_in_one_experiment_stay_apart(make: Make, tracker: Tracker) -> None:
    other = make("sel-2")
    with pytest.raises(DamocError, match="no run of the selection of selection sel-2"):
        other.parent_run_id()
    assert other.open_selection("demo", {}, {}, "") != tracker.parent_run_id()
    tracker.open_candidate("tiny", {}, {})
    with pytest.raises(DamocError, match="candidate tiny of selection sel-2"):
        other.candidate_run_id("tiny")


def test_a_given_run_is_adopted(make: Make, tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tracker.client.create_experiment("pipeline", artifact_location=tmp_path.as_uri())
    given = tracker.client.create_run(elsewhere, run_name="task-run").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    adopting = make("sel-9")
    assert adopting.open_selection("demo", {}, {}, "") == given
    assert adopting.experiment_id == elsewhere
    run = adopting.client.get_run(given)
    assert run.info.run_name == "task-run"
    assert run.data.tags["damoc.selection_id"] == "sel-9"
    child = adopting.open_candidate("tiny", {}, {})
    assert child != given
    assert make("sel-9").candidate_run_id("tiny") == child
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with pytest.raises(DamocError, match="MLFLOW_RUN_ID"):
        make("sel-9")


def test_closing_leaves_what_has_ended(tracker: Tracker) -> None:
    failed, running = (tracker.open_candidate(name, {}, {}) for name in ("failed", "running"))
    tracker.close(failed, "FAILED")
    tracker.close_selection("FINISHED")
    tracker.close_selection("KILLED")
    states = [tracker.client.get_run(run).info.status for run in (tracker.parent_run_id(), failed, running)]
    assert states == ["FINISHED", "FAILED", "FINISHED"]
    tracker.open_candidate("failed", {}, {})
    assert tracker.client.get_run(failed).info.status == "RUNNING"
    with pytest.raises(ValueError, match="RUNNING"):
        tracker.close(running, "RUNNING")


def test_numbers_that_are_none_become_tags(tracker: Tracker) -> None:
    run_id = tracker.parent_run_id()
    tracker.log_metrics(run_id, {"f1": 0.5, "rougeL@1": math.nan, "loss": math.inf}, step=3)
    run = tracker.client.get_run(run_id)
    assert run.data.metrics == {"f1": 0.5}
    assert run.data.tags["damoc.nonfinite.rougeL_1"] == "nan at step 3"
    assert run.data.tags["damoc.nonfinite.loss"] == "inf at step 3"


def test_a_history_is_logged_once(tracker: Tracker) -> None:
    run_id = tracker.open_candidate("tiny", {}, {})
    history = [{"step": step, "train_loss": 1 / step, "learning_rate": 1e-3} for step in range(1, 1203)]
    tracker.log_history(run_id, history[:1200])
    history[1201]["train_loss"] = math.nan
    tracker.log_history(run_id, history)
    assert len(tracker.client.get_metric_history(run_id, "train_loss")) == 1201
    assert len(tracker.client.get_metric_history(run_id, "learning_rate")) == 1202
    assert tracker.client.get_run(run_id).data.tags["damoc.nonfinite.train_loss"] == "nan at step 1202"


@pytest.mark.parametrize("source", ["data/train.jsonl", "s3://bucket/train.jsonl", "mined: docstrings"])
def test_datasets_can_be_searched(tracker: Tracker, source: str) -> None:
    run_id, fingerprint = tracker.parent_run_id(), "0123456789abcdef" * 4
    for _ in range(2):
        tracker.log_dataset(run_id, "faq", source, fingerprint, {"train": 90, "test": 10}, "f" * 32)
    found = tracker.client.search_runs([tracker.experiment_id], f"dataset.digest = '{fingerprint[:36]}'")
    assert [run.info.run_id for run in found] == [run_id]
    (logged,) = found[0].inputs.dataset_inputs
    assert (logged.dataset.name, source in logged.dataset.source) == ("faq", True)
    assert {tag.key: tag.value for tag in logged.tags} == {"damoc.rows.train": "90", "damoc.rows.test": "10"}
    assert found[0].data.tags["damoc.dataset_sha256"] == fingerprint
    assert found[0].data.tags["damoc.dataset_dvc"] == "f" * 32


def test_artifacts_of_files_folders_and_texts(tracker: Tracker, tmp_path: Path) -> None:
    run_id = tracker.parent_run_id()
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "loss.svg").write_text("<svg/>")
    tracker.log_artifacts(run_id, tmp_path / "plots", "report/plots")
    tracker.log_artifacts(run_id, tmp_path / "plots" / "loss.svg")
    tracker.log_text(run_id, "why", "report/why.txt")
    listed = {item.path for folder in (None, "report", "report/plots") for item in _list(tracker, run_id, folder)}
    assert listed >= {"config.yaml", "loss.svg", "report/why.txt", "report/plots/loss.svg"}
    with pytest.raises(DamocError, match="nothing to upload"):
        tracker.log_artifacts(run_id, tmp_path / "missing")


def _list(tracker: Tracker, run_id: str, folder: str | None) -> list:
    return tracker.client.list_artifacts(run_id, folder)


def test_system_metrics_of_short_work_and_of_its_resume(tracker: Tracker) -> None:
    run_id = tracker.open_candidate("tiny", {}, {})
    for _ in range(2):
        with tracker.system_metrics(run_id):
            pass
    steps = [point.step for point in tracker.client.get_metric_history(run_id, "system/system_memory_usage_percentage")]
    assert steps == [0, 1]


def test_system_metrics_never_fail_the_work(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    with tracker.system_metrics("0" * 32):
        done.append("unknown run")
    monkeypatch.setitem(sys.modules, "mlflow.system_metrics.system_metrics_monitor", None)
    with tracker.system_metrics(tracker.parent_run_id()):
        done.append("no monitor")
    assert done == ["unknown run", "no monitor"]


def test_two_processes_share_a_new_database(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, uri, name], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for name in ("left", "right")
    ]
    outputs = [worker.communicate(timeout=120) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    tracker = Tracker(uri, "shared", "sel-1")
    assert len(tracker._search({})) == 4
    for name in ("left", "right"):
        points = tracker.client.get_metric_history(tracker.candidate_run_id(name), "train_loss")
        assert [point.step for point in points] == list(range(15))
        assert len(tracker.client.get_metric_history(tracker.candidate_run_id("common"), name)) == 15
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["mlartifacts", "mlflow.db", "mlflow.db.lock"]


def test_a_locked_database_is_waited_for_but_not_for_ever(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(runs.time, "sleep", waits.append)

    def locked(until: int) -> str:
        if len(waits) < until:
            raise sqlite3.OperationalError("database is locked")
        return "done"

    assert tracker._call(locked, 3) == "done"
    assert len(waits) == 3
    with pytest.raises(DamocError, match="stays locked"):
        tracker._call(locked, 1000)
    assert len(waits) < 20


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", "sqlite://", "sqlite:///:memory:"])
def test_stores_that_cannot_do_are_refused(uri: str) -> None:
    with pytest.raises(DamocError, match=r"use sqlite:///PATH/mlflow\.db"):
        Tracker(uri, "task", "sel-1")


def test_disk_and_schema_problems_are_named(tmp_path: Path, database: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DamocError, match="the disk refuses"):
        Tracker(f"sqlite:///{tmp_path}/file/mlflow.db", "task", "sel-1")
    (tmp_path / "other.db").write_text("this is text, and rather long text, not a database")
    with pytest.raises(DamocError, match="not a database"):
        Tracker(f"sqlite:///{tmp_path}/other.db", "task", "sel-1")
    with sqlite3.connect(database) as connection:
        connection.execute("update alembic_version set version_num = '451aebb31d03'")
    connection.close()
    with pytest.raises(DamocError, match="mlflow db upgrade"):
        Tracker(f"sqlite:///{database}", "task", "sel-1")


def test_a_deleted_experiment_is_named(make: Make, tracker: Tracker) -> None:
    tracker.client.delete_experiment(tracker.experiment_id)
    with pytest.raises(DamocError, match="'task' was deleted"):
        make()


def test_parameters_are_flattened_and_nothing_is_cut() -> None:
    flat = flatten(
        {"a": {"b": {"c": 1}, "list": [1, "x"]}, "none": None, "r@1": 1, "r_1": 2, "empty": {}, "t": "é" * 501}
    )
    assert flat["a.b.c"] == "1"
    assert flat["a.list"] == '[1, "x"]'
    assert flat["none"] == "null"
    assert flat["empty"] == "{}"
    assert flat["t"].startswith("sha256:")
    assert flat["t"].endswith(" (501 characters)")
    assert sorted(value for name, value in flat.items() if name.startswith("r_1")) == ["1", "2"]
    assert flatten({"uri": "http://me:secret@host/x"}) == {"uri": "http://me:***@host/x"}


@pytest.mark.parametrize("name", ["rougeL@1", "../up", "a//b", "/root", "", ".", "x" * 300, "ünïcode"])
def test_names_are_made_fit_for_mlflow(tracker: Tracker, name: str) -> None:
    tracker.log_metrics(tracker.parent_run_id(), {name: 1.0})
    assert tracker.client.get_run(tracker.parent_run_id()).data.metrics == {safe_name(name): 1.0}


def test_importing_the_module_does_not_import_mlflow() -> None:
    code = "import sys, damoc.tracking.runs, damoc.tracking.registry; assert 'mlflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
