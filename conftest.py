"""A small real selection that component, pipeline and end-to-end tests share."""

from __future__ import annotations

import builtins
import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DVC_NO_ANALYTICS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
for inherited in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "DAMOC_PROGRESS_FILE", "DAMOC_LOOP_WORKERS"):
    os.environ.pop(inherited, None)


def write_rows(path: Path, services: int = 12) -> None:
    """Real rows for tests: which operation of the first services of botocore does this? Grouped by service."""
    from damoc.data.sources.cloud import service_models
    from damoc.data.sources.text import html_to_text, leading_sentences

    with path.open("w", encoding="utf-8") as handle:
        for service, model in islice(service_models(), services):
            for name, spec in sorted(model["operations"].items())[:16]:
                text = leading_sentences(html_to_text(spec.get("documentation", "")), 300)
                if len(text.split()) < 10:
                    continue
                row = {
                    "instruction": f"Which operation of {service} does this?",
                    "input": text,
                    "output": name,
                    "group": service,
                }
                handle.write(json.dumps(row) + "\n")


def small_config(folder: Path, **changes: Any) -> Path:
    """A config of two toy candidates on a few real rows, written into a folder with its data."""
    write_rows(folder / "rows.jsonl")
    config: dict[str, Any] = {
        "name": "small",
        "seed": 3,
        "workspace": "work",
        "dataset": {"source": "rows.jsonl", "splits": {"valid": 0.15, "test": 0.2}},
        "data_compression": {
            "filter": {"method": "k_center_greedy", "budget": 0.3, "min_rows": 24},
            "condense": {"compressor": str(ROOT / "zoo/tiny-reference")},
        },
        "model_compression": {"ratio": 0.25, "calibration_rows": 12},
        "tuning": {
            "rank": 8,
            "alpha": 16,
            "dropout": 0.0,
            "learning_rate": 0.003,
            "epochs": 3,
            "batch_size": 8,
            "max_length": 128,
            "dtype": "float32",
        },
        "evaluation": {"bootstrap": 400},
        "candidates": [
            {"id": "llama", "model": str(ROOT / "zoo/tiny-llama-cloud"), "licence": "Apache-2.0"},
            {"id": "neox", "model": str(ROOT / "zoo/tiny-neox-stdlib"), "licence": "Apache-2.0"},
        ],
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**config, **changes}, sort_keys=False), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Finished:
    """A selection that ran, and what its stages gave each other."""

    config: Path
    selection: Any
    seconds: float
    config_uri: str


@dataclass(frozen=True)
class StageRun:
    """What every stage returned, run in this process in the finished selection's workspace."""

    selection_id: str
    config_uri: str
    prepared: str
    data: str
    items: list[dict[str, str]]
    proxy: str
    tuned: str
    scored: str
    scores: dict[str, float]
    record: str
    registered: str

    def arguments(self, **more: Any) -> dict[str, Any]:
        """Arguments of a component."""
        return {"config_uri": self.config_uri, "selection_id": self.selection_id, **more}


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The small selection, run once by the command line's own path: child process, compiled pipeline, SQLite MLflow."""
    from damoc import select

    folder = tmp_path_factory.mktemp("selection")
    config = small_config(folder)
    started = time.perf_counter()
    selection = select(config)
    seconds = time.perf_counter() - started
    return Finished(
        config=config,
        selection=selection,
        seconds=seconds,
        config_uri=f"{selection.folder}/config.json",
    )


@pytest.fixture(scope="session")
def stage_run(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> StageRun:
    """The stages called one by one under an identity of their own; their steps are found done."""
    from damoc.launch import read_config
    from damoc.stages.compress_data import compress_data
    from damoc.stages.compress_model import compress_model
    from damoc.stages.context import publish_config
    from damoc.stages.evaluate_candidate import evaluate_candidate
    from damoc.stages.fine_tune import fine_tune
    from damoc.stages.prepare_data import prepare_data
    from damoc.stages.register_winner import register_winner
    from damoc.stages.resolve_candidates import resolve_candidates
    from damoc.stages.select_winner import select_winner

    config, text = read_config(finished.config)
    selection_id = "small-stage-by-stage"
    uri = publish_config(config, text, selection_id)
    metrics = tmp_path_factory.mktemp("metrics") / "metrics.json"
    scores: dict[str, float] = {}
    prepared = prepare_data(uri, selection_id)
    data = compress_data(uri, selection_id, prepared)
    items = resolve_candidates(uri, selection_id, prepared, data)
    states = []
    for item in items:
        proxy = compress_model(uri, selection_id, item["candidate_id"], item["data_uri"])
        tuned = fine_tune(uri, selection_id, item["prepared_uri"], item["data_uri"], proxy)
        scores.clear()
        states.append(
            evaluate_candidate(uri, selection_id, item["prepared_uri"], tuned, scores.__setitem__, str(metrics))
        )
    record = select_winner(uri, selection_id, prepared, data, states)
    registered = register_winner(uri, selection_id, record)
    return StageRun(
        selection_id, uri, prepared, data, items, proxy, tuned, states[-1], dict(scores), record, registered
    )


@pytest.fixture
def local_runner(tmp_path: Path) -> Iterator[Path]:
    """KFP's subprocess runner in this environment; puts back what it changes for good. Yields its pipeline root."""
    from kfp import local
    from kfp.local import config as local_config

    root = logging.getLogger()
    saved = (builtins.print, list(root.handlers), root.level)
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "kfp"), raise_on_error=True)
    yield tmp_path / "kfp"
    builtins.print, root.handlers[:] = saved[0], saved[1]
    root.setLevel(saved[2])
    local_config.LocalExecutionConfig.instance = None
