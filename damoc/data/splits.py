"""Decides in which split a row stands, and whether two splits share what they must not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from damoc.data.example import Example
from damoc.hashing import sha256_text

SPLITS = ("train", "valid", "test")


def split_of(group: str, fractions: Mapping[str, float], salt: str = "") -> str:
    """The split of a group, by a stable hash: it depends on nothing but the group's name.

    Args:
        group: name of the document, service or module; every row of it follows.
        fractions: share of ``valid`` and ``test``, each in [0, 1); ``train`` gets the rest.
        salt: another salt gives another split.

    Returns:
        ``"train"``, ``"valid"`` or ``"test"``.
    """
    position = int(sha256_text(f"{salt}\x00{group}")[:13], 16) / float(16**13)
    if position < fractions["test"]:
        return "test"
    if position < fractions["test"] + fractions["valid"]:
        return "valid"
    return "train"


def assign_splits(rows: Sequence[Example], fractions: Mapping[str, float], salt: str = "") -> dict[str, list[Example]]:
    """Splits rows by the hash of their group (of their prompt where they have none), keeping their order."""
    splits: dict[str, list[Example]] = {name: [] for name in SPLITS}
    for row in rows:
        group = row.group or f"{row.instruction}\n{row.input}"
        splits[split_of(group, fractions, salt)].append(row)
    return splits


def find_leaks(splits: Mapping[str, Sequence[Example]]) -> list[tuple[str, str, str, str]]:
    """Training rows whose prompt also stands in a held-out split.

    Returns:
        ``(train id, split, held-out id, what they share)``, in the order of the training rows.
    """
    held_out: dict[str, tuple[str, str]] = {}
    for split in ("valid", "test"):
        for row in splits.get(split, ()):
            held_out.setdefault(_prompt_key(row), (split, row.id))
    leaks = []
    for row in splits.get("train", ()):
        if (hit := held_out.get(_prompt_key(row))) is not None:
            leaks.append((row.id, *hit, "the same instruction and input"))
    return leaks


def _prompt_key(row: Example) -> str:
    return " ".join(f"{row.instruction}\n{row.input}".lower().split())
