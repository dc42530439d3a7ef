"""The compress_data component, called and run by kfp.local."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from damoc_components.data_processing.compress_data import compress_data

from conftest import StageRun

pytestmark = pytest.mark.slow


def _arguments(run: StageRun) -> dict[str, Any]:
    return run.arguments(prepared=run.prepared)


def test_the_function(stage_run: StageRun) -> None:
    assert compress_data.python_func(**_arguments(stage_run)) == stage_run.data


def test_a_local_run(stage_run: StageRun, local_runner: Path) -> None:
    assert compress_data(**_arguments(stage_run)).output == stage_run.data
