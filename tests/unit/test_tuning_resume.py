"""A killed training goes on to the same weights, and only from a checkpoint that is whole and its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from damoc.config import TuningConfig
from damoc.data.example import Example
from damoc.data.prompts import encode
from damoc.tuning import Checkpoints, TuningOutcome, fine_tune, open_proxy, save_tuned
from damoc.tuning.processes import OneProcess

SETTINGS = TuningConfig(rank=4, alpha=8, dropout=0.2, learning_rate=5e-3, epochs=4, batch_size=4, dtype="float32")
KILLED_AT = 7
EVERY_STEP = 1e-9


def tuned(
    zoo: Path, folder: Path, method: str, checkpoints: Checkpoints | None, kill: bool = False
) -> tuple[TuningOutcome, list[int]]:
    """Tunes a toy and saves it; ``kill`` ends the process at a step as if the power had failed."""
    settings = SETTINGS.model_copy(update={"method": method})
    loaded = open_proxy(zoo / "tiny-reference", settings)
    facts = [("DeleteCluster", "Deletes a cluster."), ("ListNodes", "Lists the nodes."), ("MakeQueue", "Makes one.")]
    rows = [encode(loaded.tokenizer, Example(str(at), "What is it?", *facts[at % 3]), 64) for at in range(13)]
    done: list[int] = []

    def on_step(step: int, steps: int, point: Mapping[str, float]) -> None:
        done.append(step)
        if kill and step == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)

    outcome = fine_tune(loaded.model, rows, rows[:3], 2, settings, 1, on_step, checkpoints)
    save_tuned(outcome.model, loaded.tokenizer, folder, settings)
    return outcome, done


def weights(folder: Path) -> dict[str, bytes]:
    """Every file that was saved."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def facts_of(outcome: TuningOutcome) -> tuple[Any, ...]:
    """What a tuning says about itself."""
    return outcome.history, outcome.steps, outcome.tokens, outcome.flops, outcome.valid_before


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_killed_training_goes_on_to_the_same_bytes(zoo: Path, tmp_path: Path, method: str) -> None:
    whole, done = tuned(zoo, tmp_path / "whole", method, None)
    assert done == list(range(1, 17))

    script = (
        "import sys; from pathlib import Path; import test_tuning_resume as own\n"
        "zoo, folder, method = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]\n"
        "own.tuned(zoo, folder / 'out', method, own.Checkpoints(folder / 'kept', 'own', own.EVERY_STEP), kill=True)\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    killed = subprocess.run(
        [sys.executable, "-c", script, str(zoo), str(tmp_path), method],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        timeout=120,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not (tmp_path / "out").exists()

    again, done = tuned(zoo, tmp_path / "again", method, Checkpoints(tmp_path / "kept", "own", EVERY_STEP))
    assert done == list(range(KILLED_AT, 17))
    assert weights(tmp_path / "again") == weights(tmp_path / "whole")
    assert facts_of(again) == facts_of(whole)


@pytest.fixture(scope="module")
def interrupted(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the last checkpoint of a training, before its last step."""
    folder = tmp_path_factory.mktemp("interrupted")
    tuned(zoo, folder / "out", "lora", Checkpoints(folder / "kept", "own", EVERY_STEP))
    return folder


def copied(source: Path, target: Path) -> Path:
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_one_checkpoint_is_kept_and_holds_no_pickle(interrupted: Path) -> None:
    names = sorted(path.suffix for path in (interrupted / "kept").iterdir())
    assert names == [".json", ".safetensors"]
    marker = json.loads((interrupted / "kept" / "checkpoint.json").read_text())
    assert marker["state"]["step"] == 15


def test_the_checkpoint_is_taken_when_it_is_whole_and_own(interrupted: Path, zoo: Path, tmp_path: Path) -> None:
    kept = copied(interrupted / "kept", tmp_path / "kept")
    _, done = tuned(zoo, tmp_path / "out", "lora", Checkpoints(kept, "own", 60))
    assert done == [16]
    assert weights(tmp_path / "out") == weights(interrupted / "out")


@pytest.mark.parametrize("damage", ["cut", "flipped", "missing", "no json", "a list", "foreign"])
def test_a_damaged_or_foreign_checkpoint_is_ignored(interrupted: Path, tmp_path: Path, damage: str) -> None:
    kept = copied(interrupted / "kept", tmp_path / "kept")
    (tensors,) = kept.glob("*.safetensors")
    marker = kept / "checkpoint.json"
    if damage == "cut":
        tensors.write_bytes(tensors.read_bytes()[:-1])
    elif damage == "flipped":
        data = bytearray(tensors.read_bytes())
        data[-1] ^= 1
        tensors.write_bytes(bytes(data))
    elif damage == "missing":
        tensors.unlink()
    elif damage == "no json":
        marker.write_text(marker.read_text()[:-9])
    elif damage == "a list":
        marker.write_text("[]")
    weight = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.AdamW([weight])
    identity = "other" if damage == "foreign" else "own"
    assert Checkpoints(kept, identity, 60).load({"weight": weight}, optimizer, OneProcess()) is None
    assert weight.tolist() == [0, 0]
