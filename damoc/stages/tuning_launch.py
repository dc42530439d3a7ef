"""APPLY: starts the processes of a tuning, follows them, and says how they ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from damoc.config import TuningConfig
from damoc.errors import CandidateError, DamocError
from damoc.stages.train_job import run_train_job
from damoc.stages.tuning_job import FAILURES, JOB, MODULE, PROGRESS, TuningJob, carry_out, read_summary, report

if TYPE_CHECKING:
    from damoc.tuning.loop import OnStep

LOG = "processes.log"
_POLL_SECONDS, _GRACE_SECONDS, _SHOWN_BYTES = 0.2, 40.0, 8000
_OVERTIME_SECONDS = 300.0
_KILLED = b"(SIGKILL)"

Start = Callable[[TuningJob], None]
"""Starts the processes of a written job and returns when they have ended, however they did."""


def processes_of(settings: TuningConfig) -> int:
    """Processes that share a training; ``auto`` is one a GPU of this machine, at least one.

    Raises:
        DamocError: there are GPUs, but not one for each process.
    """
    if settings.train_job is not None:
        return settings.train_job.nodes * max(1, settings.train_job.gpus)
    if settings.processes is None:
        return 1
    import torch

    gpus = torch.cuda.device_count()
    if settings.processes == "auto":
        return max(1, gpus)
    if 0 < gpus < settings.processes:
        raise DamocError(
            f"{settings.processes} processes need a GPU each, and this machine has {gpus}",
            "field tuning.processes",
            "set it to auto",
        )
    return settings.processes


def tune_job(job: TuningJob, on_step: OnStep) -> dict[str, Any]:
    """Carries a job out: in this process, in several of this machine, or in those of a TrainJob.

    Args:
        job: what to do.
        on_step: called in this process.

    Returns:
        See :func:`damoc.stages.tuning_job.carry_out`.

    Raises:
        CandidateError: the tuning failed.
        DamocError: the proxy cannot be loaded.
        InfrastructureError: the cluster does not answer or refuses.
    """
    if (train_job := job.settings.train_job) is not None:
        return follow(job, lambda written: run_train_job(written, train_job, on_step))
    if (processes := processes_of(job.settings)) > 1:
        return follow(job, lambda written: _torchrun(written, processes, on_step))
    return carry_out(job, on_step)


def follow(job: TuningJob, start: Start) -> dict[str, Any]:
    """Starts a job, and again with half as much at a time where the memory of one process did not suffice."""
    from damoc.tuning.gradients import SmallerParts

    while True:
        job.write()
        start(job)
        try:
            return read_summary(job)
        except SmallerParts as error:
            print(
                f"{error.reason.splitlines()[0]}; again with {error.micro_batch_tokens} tokens",
                file=sys.stderr,
                flush=True,
            )
            job = replace(job, micro_batch_tokens=error.micro_batch_tokens)


def _torchrun(job: TuningJob, processes: int, on_step: OnStep) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += ["-m", MODULE, str(job.folder / JOB)]
    threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1) // processes
    variables = {**os.environ, "OMP_NUM_THREADS": str(max(1, threads))}
    log = job.folder / LOG
    deadline = time.monotonic() + job.settings.timeout_minutes * 60 + _OVERTIME_SECONDS
    with log.open("wb") as output, (job.folder / PROGRESS).open(encoding="utf-8") as lines:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=variables)
        try:
            while child.poll() is None:
                report(lines, on_step)
                if time.monotonic() > deadline:
                    raise CandidateError("timeout", f"no end after {job.settings.timeout_minutes:g} minutes")
                time.sleep(_POLL_SECONDS)
            report(lines, on_step)
        finally:
            _stop(child)
    if child.returncode:
        said = log.read_bytes()[-_SHOWN_BYTES:]
        print(said.decode("utf-8", "replace"), file=sys.stderr, flush=True)
        if _KILLED in said and not any(job.folder.glob(FAILURES)):
            raise CandidateError("oom", "a process of the training was killed, most likely for lack of memory")


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Ends torchrun, which ends its processes."""
    child.terminate()
    try:
        child.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
