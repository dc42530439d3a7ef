"""The image that every component runs in."""

import os

DEFAULT_IMAGE = "damoc/damoc-python:0.1.0"


def damoc_image() -> str:
    """``DAMOC_IMAGE`` at compile time, best pinned by digest (``repository/damoc-python@sha256:...``)."""
    return os.environ.get("DAMOC_IMAGE", DEFAULT_IMAGE)
