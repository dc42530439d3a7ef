"""The close_selection component; as an exit handler it is run by the end-to-end tests."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from damoc_components.deployment.close_selection import close_selection

from conftest import StageRun
from damoc.launch import read_config
from damoc.stages.context import Context, publish_config
from damoc.stages.prepare_data import prepare_data

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("state", "status"), [("SUCCEEDED", "FINISHED"), ("FAILED", "FAILED")])
def test_no_run_stays_open(finished: StageRun, state: str, status: str) -> None:
    config, text = read_config(finished.config)
    selection_id = f"small-closing-{state.lower()}"
    uri = publish_config(config, text, selection_id)
    prepare_data(uri, selection_id)
    tracker = Context.open(uri, selection_id).tracker
    run = tracker.parent_run_id()
    assert tracker.client.get_run(run).info.status == "RUNNING"
    assert close_selection.python_func(uri, selection_id, SimpleNamespace(state=state)) == status
    assert tracker.client.get_run(run).info.status == status
