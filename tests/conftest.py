"""Shared by all tests: no network, one thread a process, and the toy models."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from damoc.models.load import LoadedModel

for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
    os.environ[name] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("damoc", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("damoc")


@pytest.fixture(scope="session")
def zoo() -> Path:
    """Folder of the toy models."""
    return Path(__file__).parent.parent / "zoo"


@pytest.fixture(scope="session")
def toy(zoo: Path) -> Callable[[str], LoadedModel]:
    """Loads a toy model by name, once; tests leave it as it is."""
    from damoc.models.load import load_model

    return cache(lambda name: load_model(str(zoo / name)))


@pytest.fixture(scope="session", params=["tiny-reference", "tiny-qwen2-cloud"], ids=["byte-level", "metaspace"])
def loaded(request: pytest.FixtureRequest, toy: Callable[[str], LoadedModel]) -> LoadedModel:
    """A toy model of each kind of tokenizer."""
    return toy(request.param)
