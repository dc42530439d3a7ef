"""The control: a candidate tuned whole, on the rows of its proxy, to see what pruning does to the scores.

Pruning hurts some families more than others, so the order of proxies can differ from that of whole models for a reason
that has nothing to do with the data. The control measures that reason, at the cost of one more training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from damoc.errors import CandidateError, DamocError, InfrastructureError
from damoc.models.load import load_model, model_identity
from damoc.stages.compress_model import forget_origin
from damoc.stages.context import Context
from damoc.store import Step, StepResult

WHOLE, TUNED, SCORED = "control_model", "control_tuned", "control"
STEPS = (WHOLE, TUNED, SCORED)


def apart(context: Context) -> Context:
    """The context of a control: it leaves no trace in the candidate's run."""
    return replace(context, tracked=False, label=f"{context.label} control".strip())


@contextmanager
def spared(candidate_id: str) -> Iterator[None]:
    """A control that fails is told of, and leaves its candidate as it is."""
    try:
        yield
    except InfrastructureError:
        raise
    except (CandidateError, DamocError, MemoryError, RuntimeError) as error:
        reason = error.reason if isinstance(error, CandidateError) else error
        print(f"the control of {candidate_id} failed: {reason}", flush=True)


def whole_model(context: Context, candidate_id: str) -> StepResult:
    """The candidate as it is, where its proxy would be; writes ``model/``."""
    candidate, tuning = context.config.candidate(candidate_id), context.config.tuning

    def work(folder: Path) -> Mapping[str, Any]:
        loaded = load_model(
            candidate.model,
            candidate.revision,
            candidate.trust_remote_code,
            tuning.dtype,
            template=tuning.template,
        )
        loaded.model.save_pretrained(folder / "model", max_shard_size="4GB")
        loaded.tokenizer.save_pretrained(folder / "model")
        forget_origin(folder / "model" / "config.json")
        return {"parameters": sum(weight.numel() for weight in loaded.model.parameters())}

    inputs = {"model": model_identity(candidate.model, candidate.revision)}
    spec = tuning.model_dump(include={"dtype", "template"})
    return context.run(Step(WHOLE, spec, inputs, code=("models", "stages/control.py")), work)
