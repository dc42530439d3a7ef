"""Which code ran, and where."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_LIBRARIES = (
    "damoc",
    "torch",
    "transformers",
    "tokenizers",
    "peft",
    "safetensors",
    "bitsandbytes",
    "sentence-transformers",
    "bert-score",
    "datasets",
    "numpy",
    "scipy",
    "scikit-learn",
    "mlflow",
    "dvc",
    "kfp",
)


def code_commit() -> str:
    """The commit of damoc's code.

    Returns:
        40 hex digits, with ``+dirty`` when files of the package differ from it; without a checkout what
        ``DAMOC_GIT_COMMIT`` says (an image has no git); else ``unknown``.
    """
    tracked = _git("ls-files", "--error-unmatch", "__init__.py")
    commit = _git("rev-parse", "HEAD") if tracked else None
    if not commit:
        return os.environ.get("DAMOC_GIT_COMMIT") or "unknown"
    return f"{commit}+dirty" if _git("status", "--porcelain", "--", ".") else commit


def environment() -> dict[str, str]:
    """Python, platform, CPU count and the versions of the installed libraries that decide outcomes, by name."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "cpus": str(os.cpu_count() or 1)}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _git(*args: str) -> str | None:
    """What git says of the package's folder, or None when it cannot say."""
    try:
        done = subprocess.run(
            ["git", "-C", str(_PACKAGE), *args],
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
