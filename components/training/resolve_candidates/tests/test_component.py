"""The resolve_candidates component, called and run by kfp.local."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from damoc_components.training.resolve_candidates import resolve_candidates

from conftest import StageRun

pytestmark = pytest.mark.slow


def _arguments(run: StageRun) -> dict[str, Any]:
    return run.arguments(prepared=run.prepared, data=run.data)


def test_the_function(stage_run: StageRun) -> None:
    assert resolve_candidates.python_func(**_arguments(stage_run)) == stage_run.items


def test_a_local_run(stage_run: StageRun, local_runner: Path) -> None:
    assert resolve_candidates(**_arguments(stage_run)).output == stage_run.items
