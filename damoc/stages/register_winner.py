"""Stage: register the winner as a model version that loads back, and move the alias to it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from damoc.selection.record import SelectionRecord
from damoc.stages.candidate import CandidateState
from damoc.stages.context import Context, stage
from damoc.stages.evaluate_candidate import NAME as LAST_STAGE
from damoc.stages.winner import write_winner
from damoc.tracking import registry, storage
from damoc.tracking.provenance import code_commit

NAME = "register_winner"


def register_winner(config_uri: str, selection_id: str, record_uri: str) -> str:
    """Registers the winner; without one, nothing is registered.

    Args:
        config_uri: the published config.
        selection_id: the selection.
        record_uri: what ``select_winner`` returned.

    Returns:
        URI of the record with its registration.
    """
    with stage(NAME, config_uri, selection_id) as context:
        record = SelectionRecord.from_json(json.loads(storage.read_bytes(record_uri)))
        if record.winner is None:
            return record_uri
        state = CandidateState.read(f"{context.folder}/candidates/{record.winner}/{LAST_STAGE}.json")
        value = {**record.to_json(), "registration": register(context, record, state)}
        return context.write("record.json", value)


def register(context: Context, record: SelectionRecord, state: CandidateState) -> dict[str, str]:
    """Registers one candidate and says where it is."""
    tracking = context.config.tracking
    winner = record.candidate(state.candidate_id)
    name = tracking.registered_model or f"damoc-{context.config.name}"
    tags = {
        registry.EVIDENCE: record.evidence_sha256,
        "damoc.dataset_sha256": str(record.dataset["fingerprint"]),
        "damoc.code_commit": code_commit(),
        "damoc.config_sha256": context.config_sha256,
        "damoc.candidate_id": winner.candidate_id,
        "damoc.candidate_revision": winner.revision,
        "damoc.selection_id": context.selection_id,
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "winner"
        folder.mkdir()
        write_winner(context, state, folder)
        done = registry.register(
            context.tracker,
            context.tracker.candidate_run_id(winner.candidate_id),
            name,
            tracking.alias,
            folder,
            tags,
            dict(winner.metrics),
            f"Winner of {context.selection_id}. {record.why}",
        )
    return {
        "model": done.model,
        "version": done.version,
        "alias": tracking.alias,
        "uri": done.uri,
        "tracking_uri": context.tracker.uri,
        "run_id": done.run_id,
    }
