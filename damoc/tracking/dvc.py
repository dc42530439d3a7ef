"""What DVC knows of a dataset, read from its files; DVC itself is not needed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml


def dvc_hash(path: Path) -> str | None:
    """The hash that DVC recorded for a file or folder.

    Looks at ``PATH.dvc`` beside it, then for an output of that path in the ``dvc.lock`` of every enclosing folder.

    Args:
        path: the dataset.

    Returns:
        MD5 (32 hex digits; a folder's ends in ``.dir``), or None when DVC does not track the path.
    """
    path = Path(os.path.abspath(path))
    for folder, out in _outputs(path):
        if Path(os.path.abspath(folder / str(out.get("path", "")))) == path and out.get("md5"):
            return str(out["md5"])
    return None


def _outputs(path: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Recorded outputs, each with the folder that its path starts from."""
    pointer = _read(path.with_name(f"{path.name}.dvc"))
    for out in pointer.get("outs") or ():
        yield path.parent / pointer.get("wdir", "."), out
    for folder in path.parents:
        stages = _read(folder / "dvc.lock").get("stages") or {}
        recipes = _read(folder / "dvc.yaml").get("stages") or {} if stages else {}
        for name, stage in stages.items():
            recipe = recipes.get(name) or recipes.get(name.partition("@")[0]) or {}
            for out in stage.get("outs") or ():
                yield folder / (recipe.get("wdir") or recipe.get("do", {}).get("wdir") or "."), out


def _read(path: Path) -> Mapping[str, Any]:
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return value if isinstance(value, dict) else {}
