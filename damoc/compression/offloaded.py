"""APPLY: saves the proxy of a candidate whose weights are offloaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from damoc.compression.sharded import prune_checkpoint
from damoc.compression.sharded_merge import stored_merge
from damoc.errors import CandidateError
from damoc.models.checkpoint import Checkpoint

if TYPE_CHECKING:
    import torch

    from damoc.config import Candidate


def save_offloaded(
    model: Any, candidate: Candidate, record: Mapping[str, Any], patches: Mapping[str, torch.Tensor], out: Path
) -> None:
    """Writes a proxy straight from its candidate's files, in the shards that the candidate has.

    Its tensors have the dtype and the bits of the model that was measured, whatever dtype the candidate stores. Where
    the candidate's files name the weights in another way than the model does, the model itself is saved: weight by
    weight, through the hooks that bring them in.

    Args:
        model: the proxy; what is not in memory is on disk.
        candidate: what it was made from.
        record: ``compression.json``.
        patches: maps of a linear patch, by anchor.
        out: new folder for weights and config.
    """
    from transformers import AutoConfig

    from damoc.config import MergeConfig

    settings = MergeConfig.model_validate(record["merge_settings"])
    source = Checkpoint(candidate.model, candidate.revision)
    needs_base = candidate.base is not None and settings.method == "instruct_delta"
    base = Checkpoint(str(candidate.base), candidate.base_revision) if needs_base else None
    whole = AutoConfig.from_pretrained(
        candidate.model, revision=candidate.revision, trust_remote_code=candidate.trust_remote_code
    )
    dtypes = {name: weight.dtype for name, weight in model.state_dict().items()}
    out.mkdir()
    try:
        rewrite = stored_merge(source, whole, record, settings, patches, base, dtypes)
        prune_checkpoint(source, whole, record["plan"]["keep"], out, rewrite, dtypes=dtypes)
    except CandidateError:
        model.save_pretrained(out, max_shard_size="4GB")
    else:
        model.config.save_pretrained(out)
        if model.can_generate():
            model.generation_config.save_pretrained(out)
