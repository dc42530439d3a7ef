"""``--set a.b=value``: a config changed from the command line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from damoc.errors import DamocError


def override(raw: Any, settings: Sequence[str]) -> Any:
    """A parsed config with some values replaced; new sections are made where they are missing.

    Args:
        raw: what the YAML holds.
        settings: ``a.b=value`` each; the value is YAML, a relative path that exists here becomes absolute.

    Raises:
        DamocError: a setting is not of that form.
    """
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not all(path.split(".")):
            raise DamocError(f"{setting!r} is not of the form key=value", "option --set", "write --set seed=3")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        if isinstance(value, str) and Path(value).exists():
            value = os.path.abspath(value)
        raw = _replaced(raw, path.split("."), value, setting)
    return raw


def _replaced(raw: Any, path: list[str], value: Any, setting: str) -> Any:
    if not path:
        return value
    key, *rest = path
    if isinstance(raw, list):
        if not key.isdigit() or int(key) >= len(raw):
            raise DamocError(
                f"{setting!r} names item {key!r} of a list of {len(raw)}", "option --set", "count items from 0"
            )
        return [_replaced(item, rest, value, setting) if at == int(key) else item for at, item in enumerate(raw)]
    section = raw if isinstance(raw, dict) else {}
    return {**section, key: _replaced(section.get(key), rest, value, setting)}
