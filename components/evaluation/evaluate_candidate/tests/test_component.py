"""The evaluate_candidate component, called and run by kfp.local."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from damoc_components.evaluation.evaluate_candidate import evaluate_candidate
from kfp import dsl

from conftest import StageRun

pytestmark = pytest.mark.slow


def _arguments(run: StageRun) -> dict[str, Any]:
    return run.arguments(prepared=run.prepared, state=run.tuned)


def test_the_function(stage_run: StageRun, tmp_path: Path) -> None:
    metrics = dsl.Metrics(uri=str(tmp_path / "metrics.json"))
    assert evaluate_candidate.python_func(**_arguments(stage_run), metrics=metrics) == stage_run.scored
    assert metrics.metadata == stage_run.scores
    assert json.loads((tmp_path / "metrics.json").read_text()) == stage_run.scores


def test_a_local_run(stage_run: StageRun, local_runner: Path) -> None:
    task = evaluate_candidate(**_arguments(stage_run))
    assert task.outputs["Output"] == stage_run.scored
    assert task.outputs["metrics"].metadata == pytest.approx(stage_run.scores)
