"""Tracking and registry on a real MLflow server, started here and stopped by its process id."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import Finished
from damoc.stages.candidate import CandidateState
from damoc.stages.context import Context
from damoc.stages.winner import write_winner
from damoc.tracking import registry
from damoc.tracking.runs import Tracker

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/m.db", "--artifacts-destination", str(folder / "artifacts")]
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=1):
                    break
            except OSError:
                assert child.poll() is None, (folder / "log").read_text()
                time.sleep(0.5)
        else:
            pytest.fail((folder / "log").read_text())
        yield address
    finally:
        os.killpg(child.pid, signal.SIGTERM)
        child.wait(30)


def _winner(finished: Finished, folder: Path) -> CandidateState:
    context = Context.open(finished.config_uri, finished.selection.selection_id)
    uri = f"{finished.selection.folder}/candidates/{finished.selection.winner}/evaluate_candidate.json"
    state = CandidateState.read(uri)
    write_winner(context, state, folder)
    return state


def test_a_winner_is_registered_once_and_answers_from_the_server(
    server: str, finished: Finished, tmp_path: Path
) -> None:
    folder = tmp_path / "winner"
    folder.mkdir()
    state = _winner(finished, folder)
    tracker = Tracker(server, "served", "sel-1")
    tracker.open_selection("demo", {"seed": 1}, {}, "seed: 1\n")
    run = tracker.open_candidate(state.candidate_id, {}, {})
    tags = {registry.EVIDENCE: "e" * 64, "damoc.dataset_sha256": "d" * 64}
    first = registry.register(tracker, run, "served-model", "champion", folder, tags, {"bits_per_byte": 1.5}, "first")
    again = registry.register(tracker, run, "served-model", "champion", folder, tags, {"bits_per_byte": 1.5}, "again")
    assert (first.version, again.version) == ("1", "1")
    other = {**tags, registry.EVIDENCE: "f" * 64}
    third = registry.register(tracker, run, "served-model", "champion", folder, other, {"bits_per_byte": 1.4}, "third")
    assert third.version == "2"
    version = tracker.client.get_model_version_by_alias("served-model", "champion")
    assert version.version == "2" and version.tags["damoc.dataset_sha256"] == "d" * 64
    tracker.close_selection("FINISHED")
    script = (
        "import sys, mlflow\n"
        "mlflow.set_tracking_uri(sys.argv[1])\n"
        "model = mlflow.pyfunc.load_model('models:/served-model@champion')\n"
        "print('ANSWERS', len(model.predict([{'instruction': 'Name it.'}, {'instruction': 'Again.'}])))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, server], capture_output=True, text=True, check=False, timeout=180
    )
    assert "ANSWERS 2" in done.stdout, done.stderr[-2000:]


def test_a_base_that_is_too_large_is_rebuilt_from_its_recipe(finished: Finished, tmp_path: Path) -> None:
    import torch

    from damoc.models.load import load_model
    from damoc.stages.winner import rebuild_base

    folder = tmp_path / "winner"
    folder.mkdir()
    _winner(finished, folder)
    stored = load_model(str(folder / "base")).model.state_dict()
    rebuilt = rebuild_base(folder).model.state_dict()
    assert stored.keys() == rebuilt.keys()
    assert all(torch.equal(stored[name], rebuilt[name]) for name in stored)
