"""``damoc model``: each step of a candidate taken alone, on toy candidates and a handful of rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import ROOT
from damoc.compression import replay

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, zoo: Path) -> Path:
    folder = tmp_path_factory.mktemp("model")
    rows = [{"instruction": f"Say {n} twice.", "output": f"{n} and {n}, or {n + 1}."} for n in range(60)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    values = {
        "name": "alone",
        "workspace": "work",
        "dataset": {"source": "rows.jsonl"},
        "data_compression": {"filter": {"method": "random", "budget": 1.0}, "condense": {"enabled": False}},
        "model_compression": {"calibration_rows": 8, "collapse_limit": 50.0, "merge": {"scales": [0.05]}},
        "tuning": {"max_length": 64, "epochs": 1, "dtype": "float32", "rank": 4},
        "evaluation": {"shots": 3},
        "candidates": [
            {"id": "llama", "model": str(zoo / "tiny-llama-cloud")},
            {"id": "qwen", "model": str(zoo / "tiny-qwen3-science")},
        ],
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder / "config.yaml"


def damoc(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "damoc", "model", *map(str, args)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "140", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=300, env=environment)


def told(*args: object) -> Any:
    done = damoc(*args, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_step_alone_takes_what_it_builds_on_from_the_workspace(config, tmp_path):
    measured = told("importance", config)
    assert set(measured) == {"llama", "qwen"}
    whole = measured["llama"]["importance.json"]
    assert len(whole["importance"]) == 12 and not measured["llama"]["steps"]["layer_importance"]["reused"]

    pruned = told("prune", config, "llama", "--out", tmp_path / "pruned")["llama"]["compression.json"]
    assert pruned["importance"] == whole["importance"] and pruned["merge"]["method"] == "none"
    assert len(replay(pruned).plan.keep) == 9
    saved = json.loads((tmp_path / "pruned" / "llama" / "model" / "config.json").read_text(encoding="utf-8"))
    assert saved["num_hidden_layers"] == 9

    merged = told("merge", config, "llama")["llama"]["compression.json"]
    assert set(merged["merge"]["losses"]) == {"0.0", "0.05"} and merged["plan"] == pruned["plan"]

    tuned = told("tune", config, "llama", "--out", tmp_path / "tuned")["llama"]
    assert tuned["steps"]["compress_model"]["reused"] and tuned["history.json"][-1]["valid_loss"] > 0
    assert (tmp_path / "tuned" / "llama" / "adapter" / "adapter_model.safetensors").is_file()

    scored = told("evaluate", config, "llama")["llama"]
    assert {"zero_shot", "few_shot", "compress_model", "fine_tune", "evaluate_candidate"} == set(scored["steps"])
    assert scored["steps"]["fine_tune"]["reused"]
    assert len(scored["scores.json"]["metrics"]["bits_per_byte"]["records"]) == len(scored["scores.json"]["rows"])


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("importance", ("llama", "qwen", "Block Influence")),
        ("prune", ("llama", "removed", "pruned")),
        ("merge", ("llama", "rdsc_sparse", "0.05")),
        ("tune", ("llama", "lora", "validation loss")),
        ("evaluate", ("bits_per_byte", "after 3 examples", "tuned proxy", "prompts lost their start")),
    ],
)
def test_people_get_a_table(config, command, shown):
    chosen = () if command == "importance" else ("llama",)
    done = damoc(command, config, *chosen)
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in shown), done.stdout


def test_a_candidate_that_fails_is_named_and_the_others_go_on(config):
    done = damoc("prune", config, "--set", "model_compression.protect=[11]", "--set", "model_compression.layers=2")
    assert done.returncode == 0, done.stderr
    done = damoc("prune", config, "--set", "model_compression.protect=[12]")
    assert done.returncode == 2
    assert "candidate llama: incompatible: model_compression.protect names layer 12" in done.stderr


def test_an_unknown_candidate_is_refused_before_anything_is_done(config, tmp_path):
    done = damoc("importance", config, "lama", "--set", f"workspace={tmp_path / 'never'}")
    assert done.returncode == 2 and "no candidate 'lama'" in done.stderr and "llama, qwen" in done.stderr
    assert not (tmp_path / "never").exists()
