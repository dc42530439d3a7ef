"""The step store: a step is known by what it does and what it was given, and is done once.

A step's key is the SHA-256 of its name, its spec (the part of the config it reads, its seed), the hash of the code
that does it, the versions of the libraries underneath, and the content hashes of its inputs. Its outputs lie in
``steps/NAME/KEY/``; ``_SUCCESS.json`` is written last and lists every file with its SHA-256, so a half-written step is
never taken for a whole one. A rerun or a resume pays only for what changed, on a laptop, in containers and on a
cluster alike; the same layout in an S3 bucket serves pods that share no disk.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

import damoc
from damoc.errors import DamocError, InfrastructureError
from damoc.hashing import canonical_json, hash_tree, sha256_json, sha256_text
from damoc.tracking import storage

MARKER = "_SUCCESS.json"
_LIBRARIES = (
    "torch",
    "transformers",
    "tokenizers",
    "peft",
    "bitsandbytes",
    "sentence-transformers",
    "bert-score",
    "rouge-score",
    "lm-eval",
    "faiss-cpu",
    "scikit-learn",
    "scipy",
    "numpy",
    "regex",
)


@dataclass(frozen=True)
class Step:
    """What a step is.

    Args:
        name: stage name, also the folder in the store.
        spec: JSON-able settings that the outcome depends on.
        inputs: content hash of every input, by name.
        code: sub-packages and modules of damoc whose source decides the outcome.
    """

    name: str
    spec: Mapping[str, Any]
    inputs: Mapping[str, str] = field(default_factory=dict)
    code: Sequence[str] = ()

    def key(self) -> str:
        """SHA-256 (64 hex digits) that names this step's outputs."""
        return sha256_json(
            {
                "name": self.name,
                "spec": dict(self.spec),
                "inputs": dict(self.inputs),
                "code": code_hash(tuple(self.code)),
                "libraries": library_versions(),
            }
        )


@dataclass(frozen=True)
class StepResult:
    """Where a finished step's outputs lie, and what they are.

    Args:
        name: stage name.
        key: the step's key.
        uri: folder or s3:// prefix of the outputs.
        content: SHA-256 over the outputs' own hashes; what the next step's key takes in.
        seconds: wall time of the work when it was done.
        peak_mb: largest resident memory of the process while it was done, in MiB.
        reused: whether this run found it already done.
        summary: small JSON-able facts for logs and tables.
    """

    name: str
    key: str
    uri: str
    content: str
    seconds: float
    peak_mb: float
    reused: bool
    summary: Mapping[str, Any]

    def path(self) -> Path:
        """Local folder of the outputs; a remote step is fetched once and its hashes checked."""
        if not storage.is_remote(self.uri):
            return Path(self.uri)
        local = Path(tempfile.gettempdir()) / "damoc-steps" / self.name / self.key
        if not (local / MARKER).is_file():
            storage.download_tree(self.uri, local)
            _check(local)
        return local

    def to_json(self) -> dict[str, Any]:
        """A JSON object; :meth:`from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StepResult:
        """Reads what :meth:`to_json` wrote."""
        return cls(**value)

    @classmethod
    def read(cls, uri: str) -> StepResult:
        """Reads :meth:`to_json` from a file or object."""
        return cls.from_json(json.loads(storage.read_bytes(uri)))


class StepStore:
    """Finished steps below one folder or s3:// prefix.

    Args:
        root: the workspace; steps lie in ``root/steps``.
    """

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")

    def run(self, step: Step, work: Callable[[Path], Mapping[str, Any] | None]) -> StepResult:
        """Does a step, or finds it done.

        Args:
            step: what to do.
            work: writes the outputs into the folder it is given and returns a small summary.

        Returns:
            The result; ``reused`` says whether ``work`` ran.

        Raises:
            DamocError: the disk is full or not writable.
        """
        if (found := self.find(step)) is not None:
            return found
        key = step.key()
        uri = f"{self.root}/steps/{step.name}/{key}"
        scratch_root = Path(self.root) / "steps" / step.name if not storage.is_remote(self.root) else None
        try:
            if scratch_root is not None:
                scratch_root.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=scratch_root))
        except OSError as error:
            raise disk_error(error, self.root) from error
        try:
            started = time.perf_counter()
            with PeakMemory() as memory:
                summary = dict(work(scratch) or {})
            files = hash_tree(scratch)
            marker = {
                "name": step.name,
                "key": key,
                "spec": dict(step.spec),
                "inputs": dict(step.inputs),
                "libraries": library_versions(),
                "code": code_hash(tuple(step.code)),
                "files": files,
                "content": sha256_json(files),
                "seconds": round(time.perf_counter() - started, 3),
                "peak_mb": round(memory.peak_mb, 1),
                "summary": summary,
            }
            self._publish(scratch, uri, marker)
        except OSError as error:
            raise disk_error(error, self.root) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return _result(marker, uri, reused=False)

    def find(self, step: Step) -> StepResult | None:
        """The finished step of that key, its marker and file list checked, or None."""
        key = step.key()
        uri = f"{self.root}/steps/{step.name}/{key}"
        if not storage.exists(f"{uri}/{MARKER}"):
            return None
        marker = json.loads(storage.read_bytes(f"{uri}/{MARKER}"))
        if not storage.is_remote(uri) and not all((Path(uri) / name).is_file() for name in marker["files"]):
            return None
        return _result(marker, uri, reused=True)

    def _publish(self, scratch: Path, uri: str, marker: Mapping[str, Any]) -> None:
        text = json.dumps(marker, indent=1, sort_keys=True, allow_nan=False)
        if storage.is_remote(uri):
            storage.upload_tree(scratch, uri)
            storage.write_bytes(f"{uri}/{MARKER}", text.encode("utf-8"))
            return
        storage.write_bytes(str(scratch / MARKER), text.encode("utf-8"))
        target = Path(uri)
        if target.exists() and not (target / MARKER).is_file():
            shutil.rmtree(target)
        try:
            os.rename(scratch, target)
        except OSError:
            if not (target / MARKER).is_file():
                raise


class PeakMemory:
    """Samples this process's resident memory ten times a second; ``peak_mb`` is the largest seen, in MiB."""

    def __enter__(self) -> PeakMemory:
        self._process = psutil.Process()
        self._done = threading.Event()
        self.peak_mb = self._now()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        self._thread.join()
        self.peak_mb = max(self.peak_mb, self._now())

    def _watch(self) -> None:
        while not self._done.wait(0.1):
            self.peak_mb = max(self.peak_mb, self._now())

    def _now(self) -> float:
        return float(self._process.memory_info().rss) / 2**20


@cache
def code_hash(parts: tuple[str, ...]) -> str:
    """SHA-256 of the source of damoc's modules and sub-packages named, e.g. ``("data", "prompts.py")``."""
    root = Path(damoc.__file__).parent
    sources: dict[str, str] = {}
    for part in sorted(parts):
        path = root / part
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        for file in files:
            sources[file.relative_to(root).as_posix()] = sha256_text(file.read_text(encoding="utf-8"))
    return sha256_text(canonical_json(sources))


@cache
def library_versions() -> dict[str, str]:
    """Installed versions of the libraries whose numerics decide outcomes."""
    return {name: metadata.version(name) for name in _LIBRARIES}


def disk_error(error: OSError, where: str) -> InfrastructureError:
    """A file-system error in damoc's terms."""
    return InfrastructureError(
        f"cannot write ({error.strerror or error})",
        where,
        "free space or set 'workspace' to a folder with room and write permission; finished steps are kept",
    )


def _result(marker: Mapping[str, Any], uri: str, reused: bool) -> StepResult:
    return StepResult(
        name=marker["name"],
        key=marker["key"],
        uri=uri,
        content=marker["content"],
        seconds=marker["seconds"],
        peak_mb=marker["peak_mb"],
        reused=reused,
        summary=marker["summary"],
    )


def _check(folder: Path) -> None:
    marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    found = hash_tree(folder, exclude=[MARKER])
    if found != marker["files"]:
        broken = sorted(name for name in {*found, *marker["files"]} if found.get(name) != marker["files"].get(name))
        shutil.rmtree(folder)
        raise DamocError(
            f"stored outputs changed since they were written: {', '.join(broken[:5])}",
            str(folder),
            "delete this step from the store and run again",
        )
