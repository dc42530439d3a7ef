"""The publish_report component, called and run by kfp.local."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from damoc_components.deployment.publish_report import publish_report
from kfp import dsl

from conftest import StageRun

pytestmark = pytest.mark.slow


def _arguments(run: StageRun) -> dict[str, Any]:
    return run.arguments(record_uri=run.registered)


def test_the_function(stage_run: StageRun, tmp_path: Path) -> None:
    report = dsl.HTML(uri=str(tmp_path / "report.html"))
    uri = publish_report.python_func(**_arguments(stage_run), report=report)
    assert Path(uri).read_text(encoding="utf-8") == (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_local_run(stage_run: StageRun, local_runner: Path) -> None:
    task = publish_report(**_arguments(stage_run))
    assert "<html" in Path(task.outputs["report"].path).read_text(encoding="utf-8")
