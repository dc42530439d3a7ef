"""Reads columns of a raw row as text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def lookup(row: Mapping[str, Any], column: str) -> Any:
    """The value of a column, ``a.b`` also inside nested objects; None when there is no such column."""
    if column in row:
        return row[column]
    head, _, tail = column.partition(".")
    inner = row.get(head)
    return lookup(inner, tail) if tail and isinstance(inner, Mapping) else None


def as_text(value: Any) -> str:
    """A value as text: numbers and booleans as JSON writes them, a list's items a line each, null and NaN empty.

    Raises:
        ValueError: it is something else, or holds half a character.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, list | tuple):
        return "\n".join(as_text(_flat(item)) for item in value)
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if not isinstance(value, str):
        raise ValueError(f"is of type {type(value).__name__}, not text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("holds half a character (a lone surrogate)") from None
    return value.strip()


def as_list(value: Any) -> tuple[str, ...]:
    """A list of texts; a text that holds a JSON list (a CSV cell) is read as one, null is the empty list.

    Raises:
        ValueError: it is not a list of texts.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError("is not a JSON list") from None
    if not as_text(value):
        return ()
    if not isinstance(value, list | tuple):
        raise ValueError("is not a list")
    return tuple(as_text(_flat(item)) for item in value)


def _flat(item: Any) -> Any:
    if isinstance(item, list | tuple):
        raise ValueError("is a list of lists, not text")
    return item
