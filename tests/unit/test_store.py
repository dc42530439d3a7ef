"""The step store on a local disk: done once, never half, known by content."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from damoc.errors import InfrastructureError
from damoc.store import MARKER, Step, StepResult, StepStore
from damoc.tracking import storage

STEP = Step("toy", {"size": 3}, {"data": "abc"}, code=("hashing.py",))


class Work:
    """Writes one file and counts how often it was asked to."""

    def __init__(self, text: str = "hello") -> None:
        self.text = text
        self.calls = 0

    def __call__(self, folder: Path) -> Mapping[str, Any]:
        self.calls += 1
        (folder / "inner").mkdir()
        (folder / "inner" / "out.txt").write_text(self.text, encoding="utf-8")
        return {"letters": len(self.text)}


def test_a_step_is_done_once(tmp_path: Path) -> None:
    work = Work()
    first = StepStore(str(tmp_path)).run(STEP, work)
    second = StepStore(f"{tmp_path}/").run(STEP, work)
    assert work.calls == 1
    assert (first.reused, second.reused) == (False, True)
    assert first.content == second.content
    assert second.summary == {"letters": 5}
    assert (second.path() / "inner" / "out.txt").read_text(encoding="utf-8") == "hello"
    assert StepResult.from_json(json.loads(json.dumps(second.to_json()))) == second


@pytest.mark.parametrize(
    "other",
    [
        Step("toy", {"size": 4}, {"data": "abc"}, code=("hashing.py",)),
        Step("toy", {"size": 3}, {"data": "abd"}, code=("hashing.py",)),
        Step("toy", {"size": 3}, {"data": "abc"}, code=("errors.py",)),
        Step("toy2", {"size": 3}, {"data": "abc"}, code=("hashing.py",)),
    ],
)
def test_whatever_changes_gives_another_key(tmp_path: Path, other: Step) -> None:
    store, work = StepStore(str(tmp_path)), Work()
    store.run(STEP, work)
    assert store.find(other) is None
    assert not store.run(other, work).reused
    assert work.calls == 2
    assert store.find(STEP) is not None


def test_a_failed_step_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half.txt").write_text("half", encoding="utf-8")
        raise RuntimeError("stopped in the middle")

    store = StepStore(str(tmp_path))
    with pytest.raises(RuntimeError):
        store.run(STEP, fail)
    assert store.find(STEP) is None
    assert list((tmp_path / "steps" / "toy").iterdir()) == []


def test_a_killed_step_is_done_again(tmp_path: Path) -> None:
    program = (
        "import os, sys\nfrom damoc.store import Step, StepStore\n"
        "def work(folder):\n    (folder / 'out.txt').write_text('half')\n    os._exit(9)\n"
        "StepStore(sys.argv[1]).run(Step('toy', {'size': 3}, {'data': 'abc'}, code=('hashing.py',)), work)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False).returncode == 9
    assert any((tmp_path / "steps" / "toy").iterdir())
    work = Work()
    result = StepStore(str(tmp_path)).run(STEP, work)
    assert work.calls == 1
    assert sorted(path.name for path in result.path().iterdir()) == [MARKER, "inner"]


@pytest.mark.parametrize("loss", [MARKER, "inner/out.txt"])
def test_a_folder_without_marker_or_with_a_lost_file_is_not_taken(tmp_path: Path, loss: str) -> None:
    store = StepStore(str(tmp_path))
    (store.run(STEP, Work()).path() / loss).unlink()
    assert store.find(STEP) is None


def test_a_folder_without_marker_is_replaced(tmp_path: Path) -> None:
    store = StepStore(str(tmp_path))
    (store.run(STEP, Work()).path() / MARKER).unlink()
    again = store.run(STEP, Work("other"))
    assert not again.reused
    assert (again.path() / "inner" / "out.txt").read_text(encoding="utf-8") == "other"


def test_a_workspace_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(InfrastructureError) as caught:
        StepStore(str(tmp_path / "file" / "workspace")).run(STEP, Work())
    assert caught.value.exit_code == 2
    assert "workspace" in caught.value.problems[0].fix


def test_a_full_disk(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        with Path("/dev/full").open("w", encoding="utf-8") as handle:
            handle.write("x")

    with pytest.raises(InfrastructureError, match="No space left"):
        StepStore(str(tmp_path)).run(STEP, fill)
    with pytest.raises(InfrastructureError, match="disk failed"):
        storage.write_bytes("/dev/full/file", b"x")


def test_local_files(tmp_path: Path) -> None:
    name = str(tmp_path / "a" / "b.bin")
    assert not storage.exists(name)
    storage.write_bytes(name, b"one")
    storage.write_bytes(name, b"two")
    assert storage.exists(name)
    assert not storage.exists(str(tmp_path / "a"))
    assert storage.read_bytes(name) == b"two"
    assert storage.list_uris(str(tmp_path)) == [name]
    with pytest.raises(InfrastructureError, match="does not exist"):
        storage.read_bytes(str(tmp_path / "missing"))
