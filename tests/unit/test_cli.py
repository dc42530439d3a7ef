"""The command line teaches, and the examples run as they are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from damoc.config import SelectionConfig
from damoc.launch import read_config
from damoc.validation import validate

EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
COMMANDS = [
    ["select"],
    ["validate"],
    ["compile"],
    ["report"],
    ["zoo"],
    ["zoo", "train"],
    ["data"],
    ["data", "inspect"],
    ["data", "prepare"],
    ["data", "compress"],
    ["model"],
    ["model", "importance"],
    ["model", "prune"],
    ["model", "merge"],
    ["model", "tune"],
    ["model", "evaluate"],
]


def _run(*args: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "damoc", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, timeout=120)


@pytest.mark.parametrize("command", [[], *COMMANDS], ids=" ".join)
def test_help_teaches(command: list[str]) -> None:
    done = _run(*command, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout
    assert len(done.stdout.split()) > 25


def test_the_schema_is_json_schema() -> None:
    schema = json.loads(_run("validate", "--schema").stdout)
    assert schema == SelectionConfig.model_json_schema()
    assert {"dataset", "candidates", "tuning"} <= set(schema["properties"])


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_valid_without_a_download(path: Path) -> None:
    config, _ = read_config(path)
    validate(config, str(path), read_data=False)
    assert len(config.candidates) >= 4


def test_hub_candidates_are_pinned() -> None:
    config, _ = read_config(ROOT / "examples" / "pubmedqa-7b.yaml")
    assert {candidate.model for candidate in config.candidates} == {
        "meta-llama/Llama-3.1-8B",
        "Qwen/Qwen2.5-7B",
        "mistralai/Mistral-7B-v0.3",
        "google/gemma-2-9b",
    }
    assert all(len(candidate.revision or "") == 40 for candidate in config.candidates)


def test_inspecting_a_file(tmp_path: Path) -> None:
    rows = [
        {
            "instruction": "Is it?",
            "input": f"case {index}",
            "output": "yes" if index % 3 else "no",
            "choices": ["yes", "no"],
        }
        for index in range(60)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    facts = json.loads(_run("data", "inspect", "rows.jsonl", "--json", cwd=tmp_path).stdout)
    assert sum(split["rows"] for split in facts["splits"].values()) == 60
    assert len(facts["fingerprint"]) == 64
    shown = _run("data", "inspect", "rows.jsonl", cwd=tmp_path)
    assert shown.returncode == 0 and "yes:" in shown.stdout and "Is it?" in shown.stdout
