"""Stage: whatever happened, leave no run open."""

from __future__ import annotations

from damoc.stages.context import Context

NAME = "close_selection"


def close_selection(config_uri: str, selection_id: str, succeeded: bool) -> str:
    """Closes the runs of a selection that are still open; closed ones stay as they are.

    Args:
        config_uri: the published config.
        selection_id: the selection.
        succeeded: whether the pipeline did.

    Returns:
        The status given to open runs: ``FINISHED`` or ``FAILED``.
    """
    status = "FINISHED" if succeeded else "FAILED"
    Context.open(config_uri, selection_id).tracker.close_selection(status)
    return status
