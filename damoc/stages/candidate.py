"""A candidate on its way through the loop: its steps so far, and the failure that stopped it, if any."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from damoc.errors import CandidateError, DamocError, InfrastructureError
from damoc.progress import emit
from damoc.stages.context import Context
from damoc.store import StepResult
from damoc.tracking import storage

LOOP_WORKERS_VARIABLE = "DAMOC_LOOP_WORKERS"


@dataclass(frozen=True)
class CandidateState:
    """What one loop component hands to the next, as a file.

    Args:
        candidate_id: its id.
        status: one of ``damoc.selection.record.STATUSES``.
        reason: why it failed.
        failed_in: stage that it failed in.
        steps: results of the stages it went through.
        control_failure: why the same candidate, tuned whole, has no score; empty where it has, or was not to.
    """

    candidate_id: str
    status: str = "ok"
    reason: str = ""
    failed_in: str = ""
    steps: Mapping[str, StepResult] = field(default_factory=dict)
    control_failure: str = ""

    def with_step(self, name: str, result: StepResult) -> CandidateState:
        """The state after one more stage."""
        return replace(self, steps={**self.steps, name: result})

    def write(self, context: Context, stage: str) -> str:
        """Writes the state that a stage leaves into the selection's folder and returns its URI."""
        return context.write(f"candidates/{self.candidate_id}/{stage}.json", asdict(self))

    @classmethod
    def read(cls, uri: str) -> CandidateState:
        """Reads what :meth:`write` wrote."""
        value: dict[str, Any] = json.loads(storage.read_bytes(uri))
        value["steps"] = {name: StepResult.from_json(step) for name, step in value["steps"].items()}
        return cls(**value)


class Attempt:
    """Holds the state that a guarded block of work leaves behind."""

    def __init__(self, state: CandidateState) -> None:
        self.state = state

    def done(self, name: str, result: StepResult) -> None:
        """Records a finished stage."""
        self.state = self.state.with_step(name, result)


@contextmanager
def attempt(state: CandidateState, stage: str) -> Iterator[Attempt]:
    """Runs a candidate's work; its failure becomes its status instead of sinking the loop.

    Failures of the workspace or of the tracking server are nobody's fault and pass through.
    """
    _share_cores()
    trial = Attempt(state)
    try:
        yield trial
    except InfrastructureError:
        raise
    except CandidateError as error:
        trial.state = _failed(trial.state, stage, error.status, error.reason)
    except DamocError as error:
        trial.state = _failed(trial.state, stage, "incompatible", error.problems[0].what)
    except MemoryError as error:
        trial.state = _failed(trial.state, stage, "oom", str(error) or "out of memory")
    except Exception as error:
        traceback.print_exc()
        text = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
        trial.state = _failed(trial.state, stage, "oom" if _is_out_of_memory(error) else "error", text[:500])


def _failed(state: CandidateState, stage: str, status: str, reason: str) -> CandidateState:
    emit("failed", stage=stage, label=state.candidate_id, status=status, reason=reason)
    return replace(state, status=status, reason=reason, failed_in=stage)


def _is_out_of_memory(error: Exception) -> bool:
    text = f"{type(error).__name__} {error}".lower()
    return "outofmemory" in text or "out of memory" in text or "can't allocate memory" in text


def _share_cores() -> None:
    """Gives each of the loop's workers on this machine its share of the cores, before torch is imported."""
    if workers := int(os.environ.get(LOOP_WORKERS_VARIABLE, "0")):
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
