"""APPLY: a tuning as a file, carried out by one process or by each of those that torchrun starts.

    torchrun --nproc-per-node 2 -m damoc.stages.tuning_job FOLDER/job.json

Beside the job lie what its processes say: ``progress.jsonl`` and ``summary.json`` of the first one, and the failure of
any (``failure-RANK.json``).
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from damoc.config import TuningConfig
from damoc.data.prompts import template_name
from damoc.errors import CandidateError, DamocError, Problem
from damoc.progress import new_lines
from damoc.stages.rows import encode_rows, read_examples, write_json

if TYPE_CHECKING:
    from damoc.tuning.loop import OnStep
    from damoc.tuning.processes import OneProcess

JOB, PROGRESS, SUMMARY, FAILURES = "job.json", "progress.jsonl", "summary.json", "failure-*.json"
_PATIENCE_MINUTES = 5.0
MODULE = "damoc.stages.tuning_job"


@dataclass(frozen=True)
class TuningJob:
    """What a tuning needs, and where it writes.

    Args:
        proxy: folder of model and tokenizer.
        rows: training rows, JSON lines.
        valid: held-out rows, JSON lines.
        valid_rows: the first so many of them are used.
        calibration_rows: so many training rows, the first ones, were those that the layers were chosen by.
        settings: of the tuning.
        seed: of all that is random.
        identity: of the outcome; a checkpoint of another one is ignored.
        folder: for checkpoints and for what the processes say; not part of the outcome.
        out: gets ``adapter/`` or ``model/`` and ``history.json``.
        micro_batch_tokens: padded tokens of a micro-batch at most, where it is known that more do not fit.
    """

    proxy: Path
    rows: Path
    valid: Path
    valid_rows: int
    calibration_rows: int
    settings: TuningConfig
    seed: int
    identity: str
    folder: Path
    out: Path
    micro_batch_tokens: int | None = None

    def write(self) -> Path:
        """Writes ``job.json`` into :attr:`folder`, where nothing that earlier processes said is left, and its path."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for stale in (SUMMARY, FAILURES):
            for path in self.folder.glob(stale):
                path.unlink()
        (self.folder / PROGRESS).write_bytes(b"")
        values = {**asdict(self), "settings": self.settings.model_dump()}
        write_json(self.folder / JOB, {key: str(v) if isinstance(v, Path) else v for key, v in values.items()})
        return self.folder / JOB

    @classmethod
    def read(cls, path: Path) -> TuningJob:
        """Reads what :meth:`write` wrote."""
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        values["settings"] = TuningConfig(**values["settings"])
        return cls(**{**values, **{key: Path(values[key]) for key in ("proxy", "rows", "valid", "folder", "out")}})


def carry_out(job: TuningJob, on_step: OnStep, processes: OneProcess | None = None) -> dict[str, Any]:
    """Trains and writes what was trained.

    Args:
        job: what to do.
        on_step: see :func:`damoc.tuning.fine_tune`.
        processes: those that share it; all have to call this.

    Returns:
        Small facts for logs and tables.

    Raises:
        CandidateError: see :func:`damoc.tuning.fine_tune`.
        DamocError: the proxy cannot be loaded.
    """
    import torch

    from damoc.tuning import Checkpoints, open_proxy, save_tuned
    from damoc.tuning.loop import train
    from damoc.tuning.methods import make_trainable
    from damoc.tuning.processes import OneProcess

    processes, settings = processes or OneProcess(), job.settings
    with processes.in_turn():
        loaded = open_proxy(job.proxy, settings, on_cpu=processes.size > 1)
        torch.manual_seed(job.seed)
        tuned = processes.shard(make_trainable(loaded.model, settings), settings, job.seed)
    outcome = train(
        tuned,
        encode_rows(loaded, read_examples(job.rows), settings.max_length),
        encode_rows(loaded, read_examples(job.valid)[: job.valid_rows], settings.max_length),
        loaded.tokenizer.pad_token_id,
        settings,
        job.seed,
        on_step,
        Checkpoints(job.folder, job.identity, settings.checkpoint_minutes),
        processes,
        job.micro_batch_tokens,
        job.calibration_rows,
    )
    save_tuned(outcome.model, loaded.tokenizer, job.out, settings, processes)
    if processes.rank == 0:
        write_json(job.out / "history.json", outcome.history)
    return {
        "method": settings.method,
        "template": template_name(loaded.tokenizer),
        "learning_rate": settings.learning_rate,
        "processes": processes.size,
        "steps": outcome.steps,
        "tokens": outcome.tokens,
        "flops": outcome.flops,
        "trainable": outcome.trainable,
        "micro_batch_tokens": outcome.micro_batch_tokens,
        "train_loss": outcome.history[-1]["train_loss"],
        "valid_loss_before": outcome.valid_before,
        "valid_loss": outcome.history[-1].get("valid_loss"),
        "calibration_loss": outcome.calibration_loss,
    }


def report(lines: TextIO, on_step: OnStep) -> None:
    """Passes on the steps that the first process has written down since."""
    for step, steps, point in new_lines(lines):
        on_step(step, steps, point)


def read_summary(job: TuningJob) -> dict[str, Any]:
    """What the processes of a job said at their end.

    Raises:
        SmallerParts: the job may be tried again with fewer tokens at a time.
        CandidateError: the tuning failed.
        DamocError: the proxy cannot be loaded.
    """
    from damoc.tuning.gradients import SmallerParts

    said = [json.loads(path.read_text(encoding="utf-8")) for path in job.folder.glob(FAILURES)]
    if said:
        failure = min(said, key=lambda failure: (failure["status"] == "error", failure["at"]))
        if "problems" in failure:
            raise DamocError.from_problems([Problem(**problem) for problem in failure["problems"]])
        if "micro_batch_tokens" in failure:
            raise SmallerParts(failure["reason"], failure["micro_batch_tokens"])
        raise CandidateError(failure["status"], failure["reason"])
    path = job.folder / SUMMARY
    if not path.is_file():
        raise CandidateError("error", "the processes of the training ended without a word; see the log")
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return summary


def main(path: Path) -> None:
    """One of the processes of a job."""
    from damoc.tuning.processes import ShardedProcesses

    job = TuningJob.read(path)
    processes = ShardedProcesses(timedelta(minutes=job.settings.timeout_minutes + _PATIENCE_MINUTES))

    def on_step(step: int, steps: int, point: Mapping[str, float]) -> None:
        if processes.rank == 0:
            with (job.folder / PROGRESS).open("a", encoding="utf-8") as handle:
                handle.write(json.dumps([step, steps, point]) + "\n")

    try:
        summary = carry_out(job, on_step, processes)
    except Exception as error:
        traceback.print_exc()
        write_json(job.folder / FAILURES.replace("*", str(processes.rank)), {**_failure(error), "at": time.time()})
        sys.stderr.flush()
        os._exit(1)  # an orderly exit may wait for the others, which wait for this process
    if processes.rank == 0:
        write_json(job.folder / SUMMARY, summary)
    processes.leave()


def _failure(error: Exception) -> dict[str, Any]:
    """An error as JSON, read by :func:`read_summary`."""
    from damoc.tuning.gradients import SmallerParts, is_out_of_memory

    if isinstance(error, SmallerParts):
        return {"status": error.status, "reason": error.reason, "micro_batch_tokens": error.micro_batch_tokens}
    if isinstance(error, CandidateError):
        return {"status": error.status, "reason": error.reason}
    if isinstance(error, DamocError):
        return {"status": "incompatible", "problems": [asdict(problem) for problem in error.problems]}
    status = "oom" if is_out_of_memory(error) else "error"
    return {"status": status, "reason": f"{type(error).__name__}: {next(iter(str(error).splitlines()), 'no message')}"}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
