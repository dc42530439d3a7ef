"""Rows between stages: JSON lines in, token ids out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from damoc.data.example import Example
from damoc.data.prompts import Encoded, encode
from damoc.models.load import LoadedModel


def read_examples(path: Path) -> list[Example]:
    """Rows of a JSON lines file."""
    with path.open(encoding="utf-8") as handle:
        return [Example.from_json(json.loads(line)) for line in handle]


def write_examples(path: Path, rows: Sequence[Example]) -> None:
    """Rows as JSON lines, the same bytes for the same rows."""
    write_lines(path, (row.to_json() for row in rows))


def encode_rows(loaded: LoadedModel, rows: Sequence[Example], max_length: int) -> list[Encoded]:
    """Token ids of prompts and answers, cut to what the model reads."""
    limit = min(max_length, loaded.max_length)
    return [encode(loaded.tokenizer, row, limit) for row in rows]


def count_words(rows: Sequence[Example]) -> int:
    """Whitespace-separated words of instruction, input and output."""
    return sum(len(text.split()) for row in rows for text in (row.instruction, row.input, row.output))


def write_json(path: Path, value: object) -> None:
    """Indented JSON with sorted keys; NaN and infinity are refused."""
    path.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False), encoding="utf-8")


def write_lines(path: Path, values: Iterable[object]) -> None:
    """One JSON value a line, with sorted keys."""
    with path.open("w", encoding="utf-8") as handle:
        for value in values:
            handle.write(json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")
