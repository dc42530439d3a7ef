"""Hashes of datasets as DVC recorded them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from damoc.tracking.dvc import dvc_hash


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DVC project without git: an added file and folder, and a stage that works in a folder of its own."""
    root = tmp_path_factory.mktemp("project")
    home = tmp_path_factory.mktemp("home")
    (root / "raw.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    (root / "folder").mkdir()
    (root / "folder" / "one.txt").write_text("1")
    (root / "work").mkdir()
    stage = {"wdir": "work", "cmd": "cp ../raw.jsonl made.jsonl", "deps": ["../raw.jsonl"], "outs": ["made.jsonl"]}
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"make": stage}}))
    env = {**os.environ, "DVC_NO_ANALYTICS": "1", "HOME": str(home)}
    for args in (["init", "--no-scm"], ["add", "raw.jsonl", "folder"], ["repro"]):
        subprocess.run([sys.executable, "-m", "dvc", *args, "--quiet"], cwd=root, env=env, check=True, timeout=120)
    return root


def test_an_added_file(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = hashlib.md5((project / "raw.jsonl").read_bytes(), usedforsecurity=False).hexdigest()
    assert dvc_hash(project / "raw.jsonl") == expected
    monkeypatch.chdir(project / "folder")
    assert dvc_hash(Path("../raw.jsonl")) == expected


def test_an_added_folder(project: Path) -> None:
    found = dvc_hash(project / "folder")
    assert found is not None
    assert found.endswith(".dir")
    assert len(found) == 36
    assert found == yaml.safe_load((project / "folder.dvc").read_text())["outs"][0]["md5"]


def test_the_output_of_a_stage_with_its_own_working_folder(project: Path) -> None:
    assert dvc_hash(project / "work" / "made.jsonl") == dvc_hash(project / "raw.jsonl")
    assert dvc_hash(project / "made.jsonl") is None


def test_what_dvc_does_not_track(project: Path, tmp_path: Path) -> None:
    assert dvc_hash(project / "dvc.yaml") is None
    assert dvc_hash(tmp_path / "nowhere.jsonl") is None


@pytest.mark.parametrize("text", ["outs: [", "- a list", "outs:\n- path: data\n", "outs: null", "\x00"])
def test_a_broken_pointer_is_no_hash(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.dvc").write_text(text)
    assert dvc_hash(tmp_path / "data") is None
