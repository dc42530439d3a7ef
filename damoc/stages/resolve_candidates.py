"""Stage: look at the candidates before anything is spent on them, and open a run for each."""

from __future__ import annotations

from damoc.models.load import model_identity
from damoc.stages.context import stage

NAME = "resolve_candidates"


def resolve_candidates(config_uri: str, selection_id: str, prepared: str, data: str) -> list[dict[str, str]]:
    """Opens a tracking run for every candidate.

    Args:
        config_uri: the published config.
        selection_id: the selection.
        prepared: what ``prepare_data`` returned.
        data: what ``compress_data`` returned.

    Returns:
        The loop's items, each with all that its iteration needs: ``candidate_id``, ``prepared_uri`` and ``data_uri``.
        kfp.local 2.17 puts the item in the place of every other task's output inside a loop.
    """
    with stage(NAME, config_uri, selection_id) as context:
        items = []
        for candidate in context.config.candidates:
            context.tracker.open_candidate(
                candidate.id,
                params={
                    "model": candidate.model,
                    "revision": candidate.revision or "",
                    "trust_remote_code": candidate.trust_remote_code,
                },
                tags={
                    "damoc.candidate_revision": candidate.revision or model_identity(candidate.model, None),
                    "damoc.config_sha256": context.config_sha256,
                    "damoc.licence": candidate.licence or "",
                },
            )
            items.append({"candidate_id": candidate.id, "prepared_uri": prepared, "data_uri": data})
        return items
