"""A tuning that two processes share gives what one gives alone, fails as one fails, and goes on after a kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import shared_tuning
from pydantic import ValidationError
from safetensors.torch import load_file

from damoc.config import TuningConfig
from damoc.errors import CandidateError, DamocError
from damoc.stages import tuning_launch
from damoc.stages.tuning_job import TuningJob
from damoc.stages.tuning_launch import processes_of, tune_job

TESTS = Path(__file__).parent.parent
TOLERANCE = {"bfloat16": 5e-4, "full-bfloat16": 4e-3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every scenario left, carried out by two processes."""
    folder = tmp_path_factory.mktemp("shared")
    shared_tuning.write_models(folder)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(TESTS / "shared_tuning.py"), str(folder)]
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    variables = {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=variables, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    return folder


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but the summary."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "summary.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in shared_tuning.SCENARIOS if name != "dropout"])
def test_two_processes_give_the_weights_of_one(folder: Path, name: str) -> None:
    assert shared_tuning.tuned(folder, name, f"{name}-alone") == list(range(1, 9))
    alone, shared = folder / f"{name}-alone", folder / f"{name}-shared"
    (place,) = [path for path in files(alone) if path.endswith(".safetensors")]
    assert files(alone).keys() == files(shared).keys()
    same = {path for path in files(alone) if files(alone)[path] == files(shared)[path]}
    assert same >= files(alone).keys() - {place, "history.json"}

    proxy = load_file(folder / ("tied" if name == "tied" else "model") / "model.safetensors")
    expected, found = load_file(alone / place), load_file(shared / place)
    assert expected.keys() == found.keys()
    tolerance = TOLERANCE.get(name, 1e-5)
    for weight, value in expected.items():
        assert value.dtype == found[weight].dtype
        distance = (value.float() - found[weight].float()).abs().max()
        assert distance < tolerance, weight
        if weight in proxy:
            assert (value.float() - proxy[weight].float()).abs().max() > tolerance, weight

    summaries = [json.loads((path / "summary.json").read_text()) for path in (alone, shared)]
    assert [(summary.pop("processes"), len(summary.pop("done"))) for summary in summaries] == [(1, 8), (2, 8)]
    assert summaries[0].keys() == summaries[1].keys()
    for key, value in summaries[0].items():
        assert summaries[1][key] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-3)), key
    points = [json.loads((path / "history.json").read_text()) for path in (alone, shared)]
    assert len(points[0]) == 8
    for own, other in zip(*points, strict=True):
        assert other == pytest.approx(own, rel=1e-3)


@pytest.mark.slow
def test_a_shared_training_that_is_stopped_goes_on_to_the_same_bytes(folder: Path) -> None:
    whole, again = (
        json.loads((folder / f"dropout-{name}" / "summary.json").read_text()) for name in ("shared", "again")
    )
    assert whole.pop("done") == list(range(1, 9))
    assert again.pop("done") == list(range(shared_tuning.STOPPED_AT, 9))
    assert whole == again
    assert files(folder / "dropout-shared") == files(folder / "dropout-again")


@pytest.mark.slow
def test_a_checkpoint_of_which_one_part_is_damaged_is_ignored_by_all(folder: Path) -> None:
    summary = json.loads((folder / "dropout-damaged" / "summary.json").read_text())
    assert summary["done"] == list(range(1, 9))
    assert files(folder / "dropout-shared") == files(folder / "dropout-damaged")


@pytest.mark.slow
def test_processes_draw_masks_of_their_own(folder: Path) -> None:
    first, second = json.loads((folder / "seeds.json").read_text())
    assert first != second


@pytest.mark.slow
def test_architectures_are_shared_to_the_same_weights(folder: Path) -> None:
    distances = json.loads((folder / "families.json").read_text())
    assert set(distances) == {f"{name}-{method}" for name in shared_tuning.FAMILIES for method in ("lora", "full")}
    assert {name: distance for name, distance in distances.items() if not distance < 1e-5} == {}


@pytest.fixture
def job(tmp_path: Path) -> TuningJob:
    """A job of its own folder."""
    shared_tuning.write_models(tmp_path)
    made = shared_tuning.job_of(tmp_path, "lora", "out")
    return replace(made, settings=made.settings.model_copy(update={"epochs": 0.5, "processes": 2}))


@pytest.mark.slow
def test_memory_that_fails_in_one_process_starts_the_job_again_with_less(
    job: TuningJob, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tuning_launch, "MODULE", "greedy_process")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS.parent), str(TESTS)]))
    seen: list[tuple[int, int, Mapping[str, float]]] = []
    summary = tune_job(job, lambda step, steps, point: seen.append((step, steps, point)))
    assert (summary["steps"], summary["processes"]) == (2, 2)
    assert [(step, steps) for step, steps, _ in seen] == [(1, 2), (2, 2)]
    assert [point["step"] for _, _, point in seen] == [1, 2]
    assert summary["micro_batch_tokens"] < 100
    assert "the memory does not suffice for 2 rows" in capsys.readouterr().err
    assert (job.out / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_a_shared_training_that_diverges_fails_the_candidate(job: TuningJob) -> None:
    settings = job.settings.model_copy(update={"learning_rate": 1e30, "epochs": 3})
    with pytest.raises(CandidateError, match="loss is nan") as caught:
        tune_job(replace(job, settings=settings), lambda step, steps, point: None)
    assert caught.value.status == "diverged"


@pytest.mark.slow
def test_a_process_that_is_killed_counts_as_out_of_memory(job: TuningJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning_launch, "MODULE", "killed_process")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS.parent), str(TESTS)]))
    with pytest.raises(CandidateError, match="was killed, most likely for lack of memory") as caught:
        tune_job(job, lambda step, steps, point: None)
    assert caught.value.status == "oom"


def test_processes_that_do_not_come_to_an_end_are_stopped(job: TuningJob, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def watched(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(start(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", watched)
    monkeypatch.setattr(tuning_launch, "_OVERTIME_SECONDS", -1e6)
    with pytest.raises(CandidateError, match="no end after") as caught:
        tune_job(job, lambda step, steps, point: None)
    assert caught.value.status == "timeout"
    assert started[0].poll() is not None


@pytest.mark.parametrize(
    ("setting", "gpus", "expected"), [(None, 4, 1), ("auto", 0, 1), ("auto", 4, 4), (3, 0, 3), (3, 4, 3)]
)
def test_processes_follow_the_config_and_the_gpus(
    monkeypatch: pytest.MonkeyPatch, setting: Any, gpus: int, expected: int
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    assert processes_of(TuningConfig(processes=setting)) == expected


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(DamocError, match="3 processes need a GPU each, and this machine has 2"):
        processes_of(TuningConfig(processes=3))


@pytest.mark.parametrize("setting", [{"method": "qlora"}, {"lr_probe": [1e-4, 1e-3]}, {"processes": 0}])
def test_what_processes_cannot_share_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="processes"):
        TuningConfig(**{"processes": 2, **setting})
