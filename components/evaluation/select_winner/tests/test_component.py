"""The select_winner component, called and run by kfp.local."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from damoc_components.evaluation.select_winner import select_winner

from conftest import StageRun

pytestmark = pytest.mark.slow


def _arguments(run: StageRun) -> dict[str, Any]:
    return run.arguments(
        prepared=run.prepared,
        data=run.data,
        states=[run.scored, run.scored.replace("neox", "llama")],
    )


def test_the_function(stage_run: StageRun) -> None:
    assert select_winner.python_func(**_arguments(stage_run)) == stage_run.record


def test_a_local_run(stage_run: StageRun, local_runner: Path) -> None:
    assert select_winner(**_arguments(stage_run)).output == stage_run.record
