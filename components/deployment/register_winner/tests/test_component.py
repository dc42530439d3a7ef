"""The register_winner component, called and run by kfp.local."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from damoc_components.deployment.register_winner import register_winner

from conftest import StageRun

pytestmark = pytest.mark.slow


def _arguments(run: StageRun) -> dict[str, Any]:
    return run.arguments(record_uri=run.record)


def test_the_function(stage_run: StageRun) -> None:
    assert register_winner.python_func(**_arguments(stage_run)) == stage_run.registered


def test_a_local_run(stage_run: StageRun, local_runner: Path) -> None:
    assert register_winner(**_arguments(stage_run)).output == stage_run.registered
