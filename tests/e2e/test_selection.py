"""The whole way: a config in, a registered winner and a report out."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import damoc
from conftest import Finished, small_config
from damoc.errors import DamocError
from damoc.selection.record import SelectionRecord
from damoc.stages.context import Context

pytestmark = pytest.mark.slow


def _tracker(finished: Finished) -> Any:
    return Context.open(finished.config_uri, finished.selection.selection_id).tracker


def test_it_ranks_registers_and_reports(finished: Finished) -> None:
    record = finished.selection.record
    assert record.winner in {"llama", "neox"}
    assert [item.rank for item in record.candidates] == [1, 2]
    assert all(item.status == "ok" and item.zero_shot_rank for item in record.candidates)
    assert all(len(item.kept_layers) < len(item.importance) for item in record.candidates)
    assert {step.name for step in record.funnel} == {"training split", "filtered", "condensed"}
    assert record.evaluation["task"] == "generation"
    assert record.evaluation["rows"] == record.dataset["rows"]["test"]
    for item in record.candidates:
        assert set(item.layer_evidence.order) >= set(range(len(item.importance))) - set(item.kept_layers)
        assert "merged" in item.losses["calibration"] or not item.merge["accepted"]
        assert set(item.zero_shot_intervals) == set(item.zero_shot)
    report = Path(finished.selection.report).read_text(encoding="utf-8")
    assert record.winner in report
    assert record.evidence_sha256 in report


def test_tuning_taught_the_proxies_something(finished: Finished) -> None:
    for item in finished.selection.record.candidates:
        assert item.metrics["bits_per_byte"] < item.zero_shot["bits_per_byte"]


def test_the_first_candidate_is_tuned_whole_as_well(finished: Finished) -> None:
    by_id = {item.candidate_id: item for item in finished.selection.record.candidates}
    whole, proxy = by_id["llama"].control, by_id["llama"].metrics
    assert not by_id["neox"].control
    gap, low, high = whole["difference"]
    assert gap == pytest.approx(whole["metrics"]["bits_per_byte"] - proxy["bits_per_byte"], abs=2e-6)
    assert low <= gap <= high and gap != 0 and whole["seconds"] > 0
    assert {"control_model/llama", "control_tuned/llama", "control/llama"} <= set(finished.selection.record.evidence)
    tracker = _tracker(finished)
    run = tracker.client.get_run(tracker.candidate_run_id("llama"))
    assert run.data.metrics["control/bits_per_byte"] == pytest.approx(whole["metrics"]["bits_per_byte"])
    assert len(tracker.client.get_metric_history(run.info.run_id, "train_loss")) == len(by_id["llama"].history)


def test_the_winner_loads_from_the_registry_and_answers(finished: Finished) -> None:
    tracker = _tracker(finished)
    registered = finished.selection.record.registration
    version = tracker.client.get_model_version_by_alias(registered["model"], "champion")
    tags = version.tags
    record = finished.selection.record
    assert tags["damoc.evidence_sha256"] == record.evidence_sha256
    assert tags["damoc.dataset_sha256"] == record.dataset["fingerprint"]
    assert tags["damoc.config_sha256"] == record.config_sha256
    assert tags["damoc.candidate_id"] == record.winner
    assert tags["damoc.candidate_revision"] and tags["damoc.code_commit"]
    script = (
        "import sys, mlflow\n"
        "mlflow.set_tracking_uri(sys.argv[1])\n"
        "model = mlflow.pyfunc.load_model(sys.argv[2])\n"
        "rows = [{'instruction': 'Which operation of s3 does this?', 'input': 'Adds an object to a bucket.'}]\n"
        "print('ANSWER', model.predict(rows, params={'max_new_tokens': 12})[0])\n"
    )
    uri = f"models:/{registered['model']}@champion"
    done = subprocess.run(
        [sys.executable, "-c", script, tracker.uri, uri], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer = next(line for line in done.stdout.splitlines() if line.startswith("ANSWER"))
    assert len(answer) > len("ANSWER ")


def test_mlflow_holds_parent_children_dataset_curves_and_artifacts(finished: Finished) -> None:
    tracker = _tracker(finished)
    runs = tracker.client.search_runs([tracker.experiment_id])
    parents = [run for run in runs if run.data.tags["damoc.kind"] == "selection"]
    children = [run for run in runs if run.data.tags["damoc.kind"] == "candidate"]
    own = [run for run in parents if run.data.tags["damoc.selection_id"] == finished.selection.selection_id]
    assert len(own) == 1
    assert own[0].inputs.dataset_inputs[0].dataset.digest == finished.selection.record.dataset["fingerprint"][:36]
    artifacts = {item.path for item in tracker.client.list_artifacts(own[0].info.run_id)}
    assert {"report.html", "record.json", "plots", "evidence", "config.yaml"} <= artifacts
    mine = [run for run in children if run.data.tags["mlflow.parentRunId"] == own[0].info.run_id]
    assert {run.info.run_name for run in mine} == {"llama", "neox"}
    assert {run.info.status for run in [*own, *mine]} == {"FINISHED"}
    for run in mine:
        assert len(tracker.client.get_metric_history(run.info.run_id, "train_loss")) >= 3
        assert any(name.startswith("system/") for name in run.data.metrics)
        shown, item = run.data.metrics, finished.selection.record.candidate(run.info.run_name)
        assert "bits_per_byte" in shown and "zero_shot/bits_per_byte" in shown
        assert shown["interval/bits_per_byte_low"] < shown["bits_per_byte"] < shown["interval/bits_per_byte_high"]
        assert shown["interval/zero_shot/bits_per_byte_low"] < shown["zero_shot/bits_per_byte"]
        losses = {state: shown.get(f"calibration/loss_{state}") for state in ("original", "pruned", "merged", "tuned")}
        assert {state: loss for state, loss in losses.items() if loss} == item.losses["calibration"]
    plots = {Path(item.path).name for item in tracker.client.list_artifacts(own[0].info.run_id, "plots")}
    assert {"heatmap.png", "importance.png", "perplexity.png"} <= plots


def test_a_rerun_on_the_command_line_reuses_every_step_and_exports(finished: Finished, tmp_path: Path) -> None:
    out = tmp_path / "out"
    started = time.perf_counter()
    command = [sys.executable, "-m", "damoc", "select", str(finished.config), "--json", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "120"})
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - started < finished.seconds
    record = SelectionRecord.from_json(json.loads(done.stdout))
    costs = [*record.costs.values(), *(cost for item in record.candidates for cost in item.costs.values())]
    assert len(costs) == 4 + 2 * 6
    assert all(cost.reused for cost in costs)
    assert record.evidence == finished.selection.record.evidence
    assert record.registration["version"] == finished.selection.record.registration["version"]
    assert {path.name for path in out.iterdir()} == {
        "metrics.json",
        "ranking.csv",
        "scores.csv",
        "layers.csv",
        "losses.csv",
        "curves.csv",
        "funnel.csv",
        "report.html",
    }
    assert json.loads((out / "metrics.json").read_text())["winner"] == record.winner


def _beside(finished: Finished, folder: Path, **changes: Any) -> Path:
    """The small selection with some changes, in the finished one's workspace, so that only what changed is done."""
    return small_config(folder, **{"workspace": str(finished.config.parent / "work"), **changes})


def _statuses(selection_folder: Path) -> set[str]:
    context = Context.open(f"{selection_folder}/config.json", selection_folder.name)
    condition = f"tags.`damoc.selection_id` = '{selection_folder.name}'"
    runs = context.tracker.client.search_runs([context.tracker.experiment_id], condition)
    return {run.info.status for run in runs}


def test_a_candidate_that_fails_does_not_sink_the_others(finished: Finished, tmp_path: Path) -> None:
    candidates = yaml.safe_load(finished.config.read_text())["candidates"]
    broken = tmp_path / "broken-model"
    shutil.copytree(candidates[0]["model"], broken)
    weights = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    config = _beside(finished, tmp_path, candidates=[*candidates, {"id": "broken", "model": str(broken)}])
    selection = damoc.select(config)
    failed = selection.record.candidate("broken")
    assert failed.status == "incompatible" and "cannot be loaded" in failed.reason
    assert failed.rank is None
    assert selection.winner in {"llama", "neox"}
    assert "cannot be loaded" in Path(selection.report).read_text(encoding="utf-8")


def test_fewer_than_two_that_finish_is_an_error_with_a_report(finished: Finished, tmp_path: Path) -> None:
    tuning = {**yaml.safe_load(finished.config.read_text())["tuning"], "rank": 2, "timeout_minutes": 1e-9}
    config = _beside(finished, tmp_path, name="too-few", tuning=tuning)
    with pytest.raises(DamocError, match="Fewer than 2 candidates finished") as caught:
        damoc.select(config)
    assert "timeout" in str(caught.value)
    folder = next((finished.config.parent / "work" / "selections").glob("too-few-*"))
    assert "timeout" in (folder / "report.html").read_text(encoding="utf-8")
    assert _statuses(folder) == {"FAILED"}


def test_an_interrupted_selection_is_closed_as_killed_and_resumes(finished: Finished, tmp_path: Path) -> None:
    tuning = {**yaml.safe_load(finished.config.read_text())["tuning"], "rank": 4}
    config = _beside(finished, tmp_path, name="interrupted", tuning=tuning)
    command = [sys.executable, "-m", "damoc", "select", str(config)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert child.stdout is not None
    for line in child.stdout:
        if "compress_model" in line:
            break
    child.send_signal(signal.SIGTERM)
    rest, _ = child.communicate(timeout=60)
    assert child.returncode == 130, rest
    folder = next((finished.config.parent / "work" / "selections").glob("interrupted-*"))
    assert _statuses(folder) == {"KILLED"}
    resumed: list[dict[str, Any]] = []
    selection = damoc.select(config, on_event=lambda event: resumed.append(dict(event)))
    reused = {event["name"] for event in resumed if event["event"] == "step" and event["reused"]}
    assert {"prepare_data", "filter_rows", "condense_rows", "compress_model"} <= reused
    assert _statuses(Path(selection.folder)) == {"FINISHED"}
