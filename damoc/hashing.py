"""Content addresses: canonical JSON, file and folder hashes, and the seeds derived from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_BLOCK = 1 << 20


def canonical_json(value: Any) -> str:
    """One text per value: sorted keys, no spaces, UTF-8 kept; NaN and infinity are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_text(text: str) -> str:
    """SHA-256 (64 hex digits) of the UTF-8 bytes of ``text``."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 (64 hex digits) of the canonical JSON of ``value``."""
    return sha256_text(canonical_json(value))


def sha256_file(path: Path) -> str:
    """SHA-256 (64 hex digits) of a file, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def hash_tree(root: Path, exclude: Iterable[str] = ()) -> dict[str, str]:
    """SHA-256 of every file below ``root``, keyed by its POSIX path relative to ``root``, sorted."""
    skip = set(exclude)
    files = sorted(path for path in root.rglob("*") if path.is_file())
    hashes = {path.relative_to(root).as_posix(): path for path in files}
    return {name: sha256_file(path) for name, path in hashes.items() if name not in skip}


def derive_seed(root: int, *names: str) -> int:
    """A seed in [0, 2**32) for one stage and one candidate, so that the order of work never matters."""
    return int(sha256_json([root, *names])[:8], 16)
