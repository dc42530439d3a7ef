"""The prepare_data component, called and run by kfp.local."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from damoc_components.data_processing.prepare_data import prepare_data

from conftest import StageRun

pytestmark = pytest.mark.slow


def _arguments(run: StageRun) -> dict[str, Any]:
    return run.arguments()


def test_the_function(stage_run: StageRun) -> None:
    assert prepare_data.python_func(**_arguments(stage_run)) == stage_run.prepared


def test_a_local_run(stage_run: StageRun, local_runner: Path) -> None:
    assert prepare_data(**_arguments(stage_run)).output == stage_run.prepared
