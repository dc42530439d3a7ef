"""``dvc repro`` runs the project's dvc.yaml, does nothing the second time, and the data's hash reaches MLflow."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from conftest import ROOT, Finished, small_config
from damoc.stages.context import Context

pytestmark = pytest.mark.slow


def _dvc(folder: Path, *args: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"}
    command = [sys.executable, "-m", "dvc", *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_repro_runs_once_and_the_hash_is_a_tag(finished: Finished, tmp_path: Path) -> None:
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    shutil.copytree(ROOT / "damoc", tmp_path / "damoc", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "zoo").symlink_to(ROOT / "zoo")
    (tmp_path / "examples").mkdir()
    config = small_config(tmp_path / "examples", name="versioned", workspace=str(finished.config.parent / "work"))
    config.rename(tmp_path / "examples" / "cloud-qa.yaml")
    _dvc(tmp_path, "init", "--no-scm")
    _dvc(tmp_path, "add", "examples/rows.jsonl")
    first = _dvc(tmp_path, "repro")
    assert first.count("Running stage") == 3
    results = tmp_path / "results"
    assert {path.name for path in (results / "compressed").iterdir()} == {
        "train.jsonl",
        "choice.json",
        "condense.json",
        "journey.jsonl",
        "data_evidence.json",
    }
    assert "llama" in _dvc(tmp_path, "metrics", "show")
    second = _dvc(tmp_path, "repro")
    assert "Running stage" not in second
    recorded = yaml.safe_load((tmp_path / "examples" / "rows.jsonl.dvc").read_text())["outs"][0]["md5"]
    folder = next((finished.config.parent / "work" / "selections").glob("versioned-*"))
    tracker = Context.open(f"{folder}/config.json", folder.name).tracker
    assert tracker.client.get_run(tracker.parent_run_id()).data.tags["damoc.dataset_dvc"] == recorded
