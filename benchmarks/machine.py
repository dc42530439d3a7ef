"""What every benchmark says about where it ran, and how it keeps its results."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

_LIBRARIES = ("numpy", "torch", "transformers", "faiss-cpu")


def facts() -> dict[str, Any]:
    """Cores, versions and the commit measured; ``changed`` says that the tree had uncommitted changes."""
    status = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=False)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "libraries": {name: metadata.version(name) for name in _LIBRARIES},
        "commit": commit.stdout.strip(),
        "changed": bool(status.stdout.strip()),
    }


def write_results(path: Path, results: Any) -> None:
    """Writes JSON beside and renames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(beside, path)
