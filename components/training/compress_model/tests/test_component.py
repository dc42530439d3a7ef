"""The compress_model component, called and run by kfp.local."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from damoc_components.training.compress_model import compress_model

from conftest import StageRun

pytestmark = pytest.mark.slow


def _arguments(run: StageRun) -> dict[str, Any]:
    return run.arguments(candidate_id="neox", data=run.data)


def test_the_function(stage_run: StageRun) -> None:
    assert compress_model.python_func(**_arguments(stage_run)) == stage_run.proxy


def test_a_local_run(stage_run: StageRun, local_runner: Path) -> None:
    assert compress_model(**_arguments(stage_run)).output == stage_run.proxy
