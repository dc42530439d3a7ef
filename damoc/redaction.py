"""Keeps secrets out of whatever is shown, logged or stored."""

from __future__ import annotations

import re

_PASSWORD = re.compile(r"(://[^/@\s:]*):[^/@\s]*@")


def redact(text: str) -> str:
    """The text with the passwords of its URLs replaced by ``***``."""
    return _PASSWORD.sub(r"\1:***@", text)
