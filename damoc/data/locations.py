"""Opens what a config names as data: mined sets, files and folders, objects in a store, hub datasets."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from damoc.data.problems import Problems
from damoc.data.readers import Record, Table, read_table, suffix_of
from damoc.data.sources import mine
from damoc.errors import DamocError
from damoc.tracking import storage

UNSPLIT = "all"
_SPLIT_NAME = re.compile(r"(train|valid|validation|dev|test)(?:[-_.].*)?", re.IGNORECASE)
_HUB_NAME = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:/([\w.-]+))?")


@dataclass(frozen=True)
class Location:
    """Opened data.

    Args:
        name: what the dataset calls it: a URI, or the file's or folder's name.
        tables: by split, or all under :data:`UNSPLIT` where the data does not name its splits.
        left_out: files or hub splits beside the named splits that are none of them.
    """

    name: str
    tables: Mapping[str, list[Table]]
    left_out: int = 0


def open_location(source: str, revision: str | None, problems: Problems) -> Location:
    """Reads every row of a source.

    Args:
        source: ``mined:NAME``, ``hf:owner/name`` or ``hf:owner/name/configuration``, ``s3://bucket/key``, a path.
        revision: commit of a hub dataset.
        problems: gets what is wrong with rows.

    Raises:
        DamocError: the source does not exist or cannot be reached.
    """
    if source.startswith("mined:"):
        rows = [Record(f"{source} row {number}", row.to_json()) for number, row in enumerate(mine(source[6:]), 1)]
        return Location(source, {UNSPLIT: [Table(source, source, rows)]})
    if source.startswith("hf:"):
        return _open_hub(source, revision)
    if storage.is_remote(source):
        with tempfile.TemporaryDirectory(prefix="damoc-data-") as scratch:
            folder = Path(scratch) / "data"
            storage.download_tree(source, folder)
            name = source.rstrip("/").rpartition("/")[2]
            path = folder / name if suffix_of(name) and (folder / name).is_file() else folder
            return _open_path(path, source, source, problems)
    return _open_path(Path(source), source, Path(source).name, problems)


def _open_path(path: Path, where: str, name: str, problems: Problems) -> Location:
    if path.is_file():
        return Location(name, {UNSPLIT: [read_table(path, where, problems)]})
    if not path.is_dir():
        raise DamocError("there is no such file or folder", where, "correct the path; it starts at the config's folder")
    files = sorted(file for file in path.iterdir() if file.is_file() and suffix_of(file.name))
    if not files:
        raise DamocError("the folder has no data files", where, "put .jsonl, .jsonl.gz, .json, .parquet or .csv there")
    splits = _by_split({file.name: file for file in files})
    tables = {
        split: [read_table(file, f"{where.rstrip('/')}/{file.name}", problems) for file in members]
        for split, members in splits.items()
    }
    return Location(name, tables, len(files) - sum(map(len, splits.values())))


def _open_hub(source: str, revision: str | None) -> Location:
    name = _HUB_NAME.fullmatch(source)
    if name is None:
        raise DamocError("this names no hub dataset", source, "write hf:owner/name or hf:owner/name/configuration")
    import datasets

    try:
        found = datasets.load_dataset(name[1], name[2], revision=revision)
    except OSError as error:
        raise DamocError(
            f"the dataset hub cannot be reached, or does not have it ({_brief(error)})",
            source,
            "check the name, the network and proxy (HTTPS_PROXY, HF_ENDPOINT; HF_TOKEN for gated data), or download "
            "the files and set dataset.source to their folder",
        ) from error
    except Exception as error:
        fix = "check the revision and the configuration (hf:owner/name/configuration), or name downloaded files"
        raise DamocError(f"the hub dataset cannot be loaded ({_brief(error)})", source, fix) from error
    splits = _by_split(dict(found))
    if UNSPLIT in splits and "train" not in found:
        fix = "download the files and name a source for each of dataset.splits"
        raise DamocError(f"its splits are {', '.join(found)}: none is called train", source, fix)
    shown = f"{source}@{revision}" if revision else source
    tables = {split: [_hub_table(shown, part) for part in parts] for split, parts in splits.items()}
    return Location(shown, tables, len(found) - sum(map(len, splits.values())))


def _hub_table(where: str, part: Any) -> Table:
    place = f"{where} split {part.split}"
    return Table(place, where, [Record(f"{place} row {number}", row) for number, row in enumerate(part, 1)])


def _by_split(parts: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Parts by the split that their name begins with; a lone train split still has to be split."""
    splits: dict[str, list[Any]] = {}
    for name, part in parts.items():
        if (match := _SPLIT_NAME.fullmatch(name)) is not None:
            split = match[1].lower()
            splits.setdefault("valid" if split in ("validation", "dev") else split, []).append(part)
    return splits if splits.keys() - {"train"} else {UNSPLIT: list(parts.values())}


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
