"""Opens a candidate as a selection measures it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from damoc.models.load import LoadedModel, load_model

if TYPE_CHECKING:
    from damoc.config import Candidate, TuningConfig


def load_candidate(
    candidate: Candidate, tuning: TuningConfig, max_memory: Mapping[str, str] | None = None
) -> LoadedModel:
    """An untouched candidate, in the precision and with the prompts that its proxy is tuned with.

    Args:
        candidate: its entry in the config.
        tuning: ``dtype`` and ``template`` count.
        max_memory: see :func:`damoc.models.load.load_model`.

    Raises:
        DamocError: it cannot be loaded safely.
    """
    return load_model(
        candidate.model,
        candidate.revision,
        candidate.trust_remote_code,
        tuning.dtype,
        template=tuning.template,
        max_memory=max_memory,
    )
