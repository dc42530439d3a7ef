"""The control: a candidate tuned whole, on the rows of its proxy, to see what pruning does to the scores.

Pruning hurts some families more than others, so the order of proxies can differ from that of whole models for a reason
that has nothing to do with the data. The control measures that reason, at the cost of one more training.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from damoc.errors import CandidateError, DamocError, InfrastructureError
from damoc.models.candidate import load_candidate
from damoc.models.load import model_identity
from damoc.stages.candidate import Attempt
from damoc.stages.compress_model import forget_origin
from damoc.stages.context import Context
from damoc.store import Step, StepResult

WHOLE, TUNED, SCORED = "control_model", "control_tuned", "control"
STEPS = (WHOLE, TUNED, SCORED)


def apart(context: Context) -> Context:
    """The context of a control: it leaves no trace in the candidate's run."""
    return replace(context, tracked=False, label=f"{context.label} control".strip())


@contextmanager
def spared(trial: Attempt) -> Iterator[None]:
    """A control that fails is noted in its candidate's state, and leaves the candidate as it is."""
    try:
        yield
    except InfrastructureError:
        raise
    except CandidateError as error:
        trial.state = replace(trial.state, control_failure=f"{error.status}, {error.reason}")
    except DamocError as error:
        trial.state = replace(trial.state, control_failure=error.problems[0].what)
    except Exception as error:  # a library's, as in attempt: told, and no reason to lose the candidate
        traceback.print_exc()
        trial.state = replace(trial.state, control_failure=f"{type(error).__name__}: {error}"[:500])


def whole_model(context: Context, candidate_id: str) -> StepResult:
    """The candidate as it is, where its proxy would be; writes ``model/``."""
    candidate, tuning = context.config.candidate(candidate_id), context.config.tuning

    def work(folder: Path) -> Mapping[str, Any]:
        loaded = load_candidate(candidate, tuning)
        loaded.model.save_pretrained(folder / "model", max_shard_size="4GB")
        loaded.tokenizer.save_pretrained(folder / "model")
        forget_origin(folder / "model" / "config.json")
        return {"parameters": sum(weight.numel() for weight in loaded.model.parameters())}

    inputs = {"model": model_identity(candidate.model, candidate.revision)}
    spec = tuning.model_dump(include={"dtype", "template"})
    return context.run(Step(WHOLE, spec, inputs, code=("models", "stages/control.py")), work)
