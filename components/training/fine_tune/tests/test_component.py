"""The fine_tune component, called and run by kfp.local."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from damoc_components.training.fine_tune import fine_tune

from conftest import StageRun

pytestmark = pytest.mark.slow


def _arguments(run: StageRun) -> dict[str, Any]:
    return run.arguments(prepared=run.prepared, data=run.data, state=run.proxy)


def test_the_function(stage_run: StageRun) -> None:
    assert fine_tune.python_func(**_arguments(stage_run)) == stage_run.tuned


def test_a_local_run(stage_run: StageRun, local_runner: Path) -> None:
    assert fine_tune(**_arguments(stage_run)).output == stage_run.tuned
