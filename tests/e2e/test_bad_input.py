"""Bad input on the command line: one clear error that names place and remedy, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import ROOT, small_config
from damoc.stages.context import Context

GOOD = {"instruction": "Name it.", "input": "", "output": "an answer"}


def _run(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "damoc", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, timeout=120)


def _config(folder: Path, **changes: Any) -> Path:
    return small_config(folder, **changes)


def _rows(folder: Path, rows: list[dict[str, Any]]) -> None:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _refused(done: subprocess.CompletedProcess[str], *said: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "fix:" in done.stderr
    for text in said:
        assert text in " ".join(done.stderr.split()), done.stderr


def test_every_error_of_a_config_at_once(tmp_path: Path) -> None:
    path = _config(tmp_path, sed=1, tuning={"rank": 0, "epochs": 1}, evaluation={"task": "generatoin"})
    done = _run("validate", str(path), cwd=tmp_path)
    _refused(done, "field sed", "did you mean 'seed'", "field tuning.rank")
    assert done.stderr.count("error:") == 2


def test_names_models_and_rows_are_checked_together(tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    shutil.copytree(ROOT / "zoo/tiny-llama-cloud", pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    path = _config(
        tmp_path,
        evaluation={"task": "generatoin"},
        data_compression={
            "filter": {"method": "k_centre_greedy"},
            "condense": {"enabled": False},
            "signals": {"encoder": "owner/unpinned"},
        },
        candidates=[{"id": "a", "model": str(pickled)}, {"id": "b", "model": str(tmp_path / "missing")}],
    )
    _rows(tmp_path, [GOOD, {"instruction": "No answer."}])
    done = _run("validate", str(path), cwd=tmp_path)
    _refused(
        done,
        "unknown filter 'k_centre_greedy'",
        "did you mean 'k_center_greedy'",
        "unknown task 'generatoin'",
        "owner/unpinned is a hub id without a pinned revision",
        "set 'encoder_revision' beside it",
        "candidates.0.model (a)",
        "pickled weights",
        "candidates.1.model (b)",
        "rows.jsonl",
        "output",
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"candidates": [{"id": "one", "model": "here"}]}, "at least two candidates"),
        ({"dataset": {"source": "nowhere.jsonl"}}, "nowhere.jsonl"),
        ({"workspace": "my-python3-work"}, "python3"),
        ({"dataset": {"source": "mined:cloud"}}, "mined:cloud-qa"),
    ],
)
def test_configs_that_cannot_run(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    _refused(_run("select", str(_config(tmp_path, **changes)), cwd=tmp_path), said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "rows.jsonl"),
        (json.dumps({"instruction": "Only a question."}).encode() + b"\n", "output"),
        (json.dumps(GOOD).encode() + b"\n\xff\xfe\n", "UTF-8"),
        (b'{"instruction": "Name it."\n', "rows.jsonl:1"),
    ],
    ids=["empty", "no answers", "not UTF-8", "not JSON"],
)
def test_data_that_cannot_be_used(tmp_path: Path, content: bytes, said: str) -> None:
    path = _config(tmp_path)
    (tmp_path / "rows.jsonl").write_bytes(content)
    _refused(_run("data", "prepare", str(path), cwd=tmp_path), said)
    steps = tmp_path / "work" / "steps" / "prepare_data"
    assert not steps.exists() or not any(steps.iterdir())


@pytest.mark.slow
def test_what_a_stage_refuses_reaches_the_terminal_and_closes_the_run(tmp_path: Path) -> None:
    path = _config(tmp_path)
    _rows(tmp_path, [{"instruction": "Only a question."}])
    _refused(_run("select", str(path), cwd=tmp_path), "rows.jsonl", "no row has the column 'output'")
    folder = next((tmp_path / "work" / "selections").iterdir())
    tracker = Context.open(f"{folder}/config.json", folder.name).tracker
    assert {run.info.status for run in tracker.client.search_runs([tracker.experiment_id])} == {"FAILED"}


def test_files_that_are_not_there_or_not_yaml(tmp_path: Path) -> None:
    _refused(_run("select", "missing.yaml", cwd=tmp_path), "missing.yaml")
    (tmp_path / "broken.yaml").write_text("name: [unclosed\n")
    _refused(_run("validate", "broken.yaml", cwd=tmp_path), "broken.yaml:2")
    (tmp_path / "latin.yaml").write_bytes("name: caf\xe9\n".encode("latin-1"))
    _refused(_run("validate", "latin.yaml", cwd=tmp_path), "UTF-8")
    _refused(_run("report", "none", cwd=tmp_path), "no finished selection")
    _refused(_run("data", "inspect", "missing.jsonl", cwd=tmp_path), "missing.jsonl")


def test_an_mlflow_that_does_not_answer(tmp_path: Path) -> None:
    path = _config(tmp_path, tracking={"uri": "http://127.0.0.1:9"})
    _refused(_run("select", str(path), cwd=tmp_path), "cannot be reached", "127.0.0.1:9")
    assert not (tmp_path / "work" / "selections").exists()


def test_a_workspace_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    path = _config(tmp_path, workspace="file/work")
    _refused(_run("select", str(path), cwd=tmp_path), "cannot write", "workspace")


def test_a_full_disk(tmp_path: Path) -> None:
    if not Path("/dev/full").exists() or shutil.which("mount") is None:
        pytest.skip("needs Linux and mount")
    small = tmp_path / "small-disk"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    try:
        path = _config(tmp_path, workspace=str(small))
        done = _run("select", str(path), cwd=tmp_path)
        _refused(done, "small-disk")
        assert not list(small.rglob("_SUCCESS.json"))
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_closed_answer_that_is_no_choice_is_named(tmp_path: Path) -> None:
    path = _config(tmp_path, evaluation={"task": "choice"})
    rows = [{**GOOD, "input": f"case {index}", "output": "yes", "choices": ["yes", "no"]} for index in range(30)]
    _rows(tmp_path, [*rows, {**GOOD, "output": "maybe", "choices": ["yes", "no"]}])
    _refused(_run("validate", str(path), cwd=tmp_path), "rows.jsonl:31", "choices")


def test_settings_replace_values(tmp_path: Path) -> None:
    path = _config(tmp_path)
    done = _run("validate", str(path), "--set", "tuning.rank=0", cwd=tmp_path)
    _refused(done, "tuning.rank")
    assert yaml.safe_load(path.read_text())["tuning"]["rank"] == 8
