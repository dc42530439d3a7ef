"""A small real selection that component, pipeline and end-to-end tests share."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
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


def write_rows(path: Path, services: int = 14) -> None:
    """Real rows for tests: what the operations of the first services of botocore do, grouped by service."""
    from damoc.data.sources.cloud import service_models
    from damoc.data.sources.text import html_to_text, leading_sentences

    with path.open("w", encoding="utf-8") as handle:
        for service, model in islice(service_models(), services):
            for name, spec in sorted(model["operations"].items())[:16]:
                answer = leading_sentences(html_to_text(spec.get("documentation", "")), 200)
                if len(answer) < 30:
                    continue
                row = {
                    "instruction": "Explain what this operation does.",
                    "input": f"{service} {name}",
                    "output": answer,
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
            "epochs": 1,
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
    prepared: str
    data: str
    record_uri: str

    def arguments(self, *names: str) -> Mapping[str, str]:
        """Arguments of a stage by name."""
        known = {
            "config_uri": self.config_uri,
            "selection_id": self.selection.selection_id,
            "prepared": self.prepared,
            "data": self.data,
            "record_uri": self.record_uri,
            "candidate_id": "llama",
        }
        return {name: known[name] for name in names}


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
        prepared=f"{selection.folder}/prepare_data.json",
        data=f"{selection.folder}/compress_data.json",
        record_uri=f"{selection.folder}/record.json",
    )
