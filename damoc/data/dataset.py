"""A dataset: read, validated, split without leakage, fingerprinted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from damoc.config import DatasetConfig, Fields, SplitFractions, SplitSources
from damoc.data.example import Example
from damoc.data.locations import UNSPLIT, Location, open_location
from damoc.data.presets import PRESETS
from damoc.data.problems import Problems
from damoc.data.records import Placed, read_examples
from damoc.data.splits import SPLITS, assign_splits, find_leaks
from damoc.errors import DamocError
from damoc.hashing import sha256_json, sha256_text

_VALID_FROM_TRAIN = {"valid": 0.1, "test": 0.0}


@dataclass(frozen=True)
class Dataset:
    """A dataset that every later stage can trust.

    Args:
        splits: rows of ``train``, ``valid`` (may be empty) and ``test``, in the order of the source.
        source: what it was read from: URIs as they are, local files and folders by name.
        fingerprint: SHA-256 (64 hex digits) over the content of each split's rows; order and row names do not count.
        licences: sorted; what rows or preset name.
        report: counts of what was read, dropped and left out.
    """

    splits: Mapping[str, list[Example]]
    source: str
    fingerprint: str
    licences: tuple[str, ...]
    report: Mapping[str, int]

    def save(self, folder: Path) -> None:
        """Writes ``train.jsonl``, ``valid.jsonl``, ``test.jsonl`` and ``dataset.json``, same bytes for same data.

        Args:
            folder: created when absent.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for split, rows in self.splits.items():
            lines = (json.dumps(row.to_json(), ensure_ascii=False, sort_keys=True) + "\n" for row in rows)
            (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")
        about = {
            "source": self.source,
            "fingerprint": self.fingerprint,
            "rows": {split: len(rows) for split, rows in self.splits.items()},
            "licences": list(self.licences),
            "report": dict(self.report),
        }
        text = json.dumps(about, indent=1, sort_keys=True, ensure_ascii=False)
        (folder / "dataset.json").write_text(text, encoding="utf-8", newline="\n")


def load_dataset(config: DatasetConfig, seed: int) -> Dataset:
    """Reads, checks, splits and fingerprints a dataset.

    Splits that the source names (files ``train*``, ``valid*``, ``test*`` of a folder, splits of a hub dataset) are
    kept; other data is split by the hash of its groups. A missing ``valid`` is taken from ``train`` the same way.
    Repeated rows are dropped and counted; rows with the same prompt and another answer stay. Training rows that share
    their prompt or group with a held-out split are an error or dropped, as ``config.on_leak`` says; validation rows
    whose prompt also stands in ``test`` are dropped.

    Args:
        config: where the data is and how to read it.
        seed: decides which rows ``config.limit`` keeps, and nothing else.

    Raises:
        DamocError: every problem found with the rows (the first 20 in full), or with the source, splits or leaks.
        InfrastructureError: the object store or the disk failed.
    """
    if config.preset is not None and config.fields != Fields.model_validate({}):
        fix = "remove dataset.fields, or remove dataset.preset and name every column"
        raise DamocError("a preset names its own columns", "dataset.fields", fix)
    problems = Problems()
    location = _open(config, problems)
    read = {name: read_examples(tables, config, problems) for name, tables in location.tables.items()}
    report = Counter({"rows read": sum(map(len, read.values())), "files left out": location.left_out})
    unique = {name: _without_repeats(rows) for name, rows in read.items()}
    report["duplicates dropped"] = report["rows read"] - sum(map(len, unique.values()))
    _check_ids(unique, problems)
    problems.raise_any()
    splits = _split(unique, config, location.name)
    leaks = _leaks(splits)
    if leaks and config.on_leak == "error":
        _raise_leaks(leaks, unique)
    tested = {row_id for row_id, *_ in find_leaks({"train": splits["valid"], "test": splits["test"]})}
    dropped = {"train": leaks.keys(), "valid": tested, "test": set()}
    kept = {split: [row for row in rows if row.id not in dropped[split]] for split, rows in splits.items()}
    report["leaks dropped"] = sum(map(len, dropped.values()))
    _check_filled(kept, location.name)
    limited = {split: _limit(rows, getattr(config.limit, split), seed) for split, rows in kept.items()}
    report["rows over the limit"] = sum(len(kept[split]) - len(limited[split]) for split in SPLITS)
    licences = {row.meta["licence"] for rows in limited.values() for row in rows if "licence" in row.meta}
    return Dataset(
        splits=limited,
        source=location.name,
        fingerprint=fingerprint(limited),
        licences=tuple(sorted(licences)),
        report=dict(report),
    )


def fingerprint(splits: Mapping[str, Sequence[Example]]) -> str:
    """SHA-256 (64 hex digits) of the sorted content hashes of each split."""
    return sha256_json({split: sorted(row.content_hash() for row in rows) for split, rows in splits.items()})


def _open(config: DatasetConfig, problems: Problems) -> Location:
    preset = PRESETS.get(config.preset or "")
    if isinstance(config.splits, SplitSources):
        return _open_each({k: v for k, v in config.splits.model_dump().items() if v is not None}, config, problems)
    source = config.source or (preset.source if preset else "")
    if not source:
        fix = "set dataset.source to a file or folder with its rows"
        raise DamocError(f"the preset {config.preset!r} knows no place to read from", "field dataset.source", fix)
    location = open_location(source, config.revision, problems)
    tables = dict(location.tables)
    if preset and preset.valid_is_test and "test" not in tables and "valid" in tables:
        tables["test"] = tables.pop("valid")
    if UNSPLIT not in tables and (missing := {"train", "test"} - tables.keys()):
        what = f"there is a split {', '.join(sorted(tables))}, but no {' and no '.join(sorted(missing))}"
        raise DamocError(what, location.name, "add it, or name a source for each of dataset.splits")
    return Location(location.name, tables, location.left_out)


def _open_each(sources: Mapping[str, str], config: DatasetConfig, problems: Problems) -> Location:
    opened = {split: open_location(source, config.revision, problems) for split, source in sources.items()}
    tables = {}
    for split, location in opened.items():
        found = location.tables.get(split, location.tables.get(UNSPLIT))
        if found is None:
            what = f"it has the splits {', '.join(location.tables)}, but no {split}"
            raise DamocError(what, sources[split], f"correct dataset.splits.{split}")
        tables[split] = found
    return Location(", ".join(location.name for location in opened.values()), tables)


def _without_repeats(rows: Sequence[Placed]) -> list[Placed]:
    first: dict[str, Placed] = {}
    for row in rows:
        first.setdefault(row.example.content_hash(), row)
    return list(first.values())


def _check_ids(sets: Mapping[str, Sequence[Placed]], problems: Problems) -> None:
    """A row name stands for one row; the same row in two splits is a leak, and is judged as one."""
    first: dict[str, Placed] = {}
    for row in (row for rows in sets.values() for row in rows):
        known = first.setdefault(row.example.id, row)
        if known.example.content() != row.example.content():
            what = f"the id {row.example.id[:80]!r} already stands at {known.where}"
            problems.add(what, row.where, "give each row its own id, or point dataset.fields.id at another column")


def _split(sets: Mapping[str, Sequence[Placed]], config: DatasetConfig, name: str) -> dict[str, list[Example]]:
    rows = {split: [placed.example for placed in members] for split, members in sets.items()}
    for split, members in rows.items():
        if not members:
            place = name if split == UNSPLIT else f"{name} split {split}"
            raise DamocError("there are no rows", place, "add rows, or correct dataset.source")
    if UNSPLIT in rows and isinstance(config.splits, SplitFractions):
        return assign_splits(rows[UNSPLIT], config.splits.model_dump())
    if "valid" not in rows:
        rows |= {key: part for key, part in assign_splits(rows["train"], _VALID_FROM_TRAIN).items() if key != "test"}
    return {split: rows[split] for split in SPLITS}


def _leaks(splits: Mapping[str, Sequence[Example]]) -> dict[str, str]:
    """What each training row shares with a held-out split, by row id: its prompt or its group."""
    leaks = {row_id: f"has {shared} as {held!r} in {split}" for row_id, split, held, shared in find_leaks(splits)}
    groups = {row.group: split for split in ("valid", "test") for row in splits[split] if row.group}
    for row in splits["train"]:
        if row.group in groups:
            leaks.setdefault(row.id, f"is of the group {row.group[:80]!r}, which also stands in {groups[row.group]}")
    return leaks


def _raise_leaks(leaks: Mapping[str, str], sets: Mapping[str, Sequence[Placed]]) -> None:
    places = {row.example.id: row.where for row in sets["train" if "train" in sets else UNSPLIT]}
    problems = Problems()
    for row_id, what in leaks.items():
        fix = "remove the row, or set dataset.on_leak: drop to leave such rows out"
        problems.add(f"the training row {row_id[:80]!r} {what}", places[row_id], fix)
    problems.raise_any()


def _check_filled(splits: Mapping[str, Sequence[Example]], name: str) -> None:
    counts = ", ".join(f"{split} {len(rows)}" for split, rows in splits.items())
    for split in ("train", "test"):
        if not splits[split]:
            fix = "add rows (of several groups), change the shares in dataset.splits, or name a source for each split"
            raise DamocError(f"no rows are left for {split} ({counts})", name, fix)


def _limit(rows: list[Example], limit: int | None, seed: int) -> list[Example]:
    if limit is None or len(rows) <= limit:
        return rows
    kept = set(sorted((row.id for row in rows), key=lambda row_id: (sha256_text(f"{seed}\0{row_id}"), row_id))[:limit])
    return [row for row in rows if row.id in kept]
