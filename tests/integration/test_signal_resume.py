from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROWS = 600
CHILD = """
import json, sys, time
from pathlib import Path
import numpy as np, torch
torch.set_num_threads(1)
from damoc.config import DataCompression
from damoc.data.example import Example
from damoc.signals.registry import SignalContext, measure_signals

cache, scorer, pause, out = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), Path(sys.argv[4])
rows = [
    Example(str(at), f"Name number {at}.", "x y " * (at % 7), f"Number {at * at} " * (1 + at % 3)) for at in range(600)
]
context = SignalContext(rows, [], DataCompression.model_validate({"signals": {"scorer": {"model": scorer}}}), cache)
forwarded = 0

def count(module, arguments, given):
    global forwarded
    forwarded += len(given["input_ids"])
    time.sleep(pause)

context.scorer.model.register_forward_pre_hook(count, with_kwargs=True)
names = ("answer_loss", "prompt_loss", "answer_tokens")
measured = measure_signals(names, context)
np.save(out, np.stack([measured[name] for name in names]))
print(json.dumps(forwarded))
"""


def start(cache: Path, zoo: Path, out: Path, pause: float = 0.0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(cache), str(zoo / "tiny-reference"), str(pause), str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def finish(cache: Path, zoo: Path, out: Path) -> tuple[np.ndarray, int]:
    child = start(cache, zoo, out)
    told, _ = child.communicate(timeout=150)
    assert child.returncode == 0
    return np.load(out), json.loads(told)


def stored(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.npz"))


def keys(paths: list[Path]) -> list[str]:
    return [key for path in paths for key in np.load(path)["keys"].tolist()]


@pytest.fixture(scope="module")
def uninterrupted(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    values, forwarded = finish(folder / "cache", zoo, folder / "values.npy")
    assert forwarded == ROWS
    return folder / "cache", values


@pytest.mark.slow
def test_a_measurement_that_was_killed_measures_only_what_is_missing_and_ends_the_same(uninterrupted, zoo, tmp_path):
    _, expected = uninterrupted
    killed = start(tmp_path / "cache", zoo, tmp_path / "never.npy", pause=0.2)
    deadline = time.monotonic() + 120
    while not stored(tmp_path / "cache"):
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    known = keys(stored(tmp_path / "cache"))
    assert 0 < len(known) < ROWS
    assert not (tmp_path / "never.npy").exists()
    values, forwarded = finish(tmp_path / "cache", zoo, tmp_path / "values.npy")
    assert forwarded == ROWS - len(known)
    assert np.array_equal(values, expected)
    assert len(set(keys(stored(tmp_path / "cache")))) == ROWS


@pytest.mark.slow
def test_damaged_batches_are_measured_again_and_nothing_else(uninterrupted, zoo, tmp_path):
    cache, expected = uninterrupted
    copied = tmp_path / "cache"
    shutil.copytree(cache, copied)
    cut_short, changed, untouched = stored(copied)
    lost = len(keys([cut_short, changed]))
    cut_short.write_bytes(cut_short.read_bytes()[:2000])
    whole = bytearray(changed.read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    changed.write_bytes(whole)
    values, forwarded = finish(copied, zoo, tmp_path / "values.npy")
    assert forwarded == lost == ROWS - len(keys([untouched]))
    assert np.array_equal(values, expected)
    assert len(set(keys(stored(copied)))) == ROWS


ANY_SIGNAL = """
import json, sys, time
from pathlib import Path
import numpy as np, torch
torch.set_num_threads(1)
from damoc.config import DataCompression
from damoc.data.example import Example
from damoc.signals import gradient, rating
from damoc.signals.registry import SignalContext, measure_signals

gradient._STORED_AT_ONCE = rating._STORED_AT_ONCE = 16
cache, scorer, pause, out, name = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), Path(sys.argv[4]), sys.argv[5]
rows = [Example(str(at), f"Name number {at}.", "x y " * (at % 7), f"Number {at * at}") for at in range(40)]
config = DataCompression.model_validate({"signals": {"scorer": {"model": scorer}, "max_length": 256}})
known = []

def progress(phase):
    def at(done, total):
        if total == len(rows):
            known.append(done)
            time.sleep(pause * (done > 0))
    return at

context = SignalContext(rows, rows[:4], config, cache, progress=progress)
np.save(out, measure_signals([name], context)[name])
print(json.dumps(known[0]))
"""


def measure(name: str, cache: Path, zoo: Path, out: Path, pause: float = 0.0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", ANY_SIGNAL, str(cache), str(zoo / "tiny-reference"), str(pause), str(out), name]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["judge", "gradient"])
def test_every_kind_of_signal_goes_on_where_it_was_killed(name, zoo, tmp_path):
    killed = measure(name, tmp_path / "cache", zoo, tmp_path / "never.npy", pause=60)
    deadline = time.monotonic() + 150
    while not stored(tmp_path / "cache"):
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    known = len(keys(stored(tmp_path / "cache")))
    found = {}
    for cache in ("cache", "fresh"):
        child = measure(name, tmp_path / cache, zoo, tmp_path / f"{cache}.npy")
        told, _ = child.communicate(timeout=300)
        assert child.returncode == 0
        found[cache] = int(told)
    assert found == {"cache": known, "fresh": 0}
    assert 0 < known < 40
    assert np.array_equal(np.load(tmp_path / "cache.npy"), np.load(tmp_path / "fresh.npy"))
