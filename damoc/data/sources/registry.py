"""Domain datasets and corpora mined from installed packages, by name; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable

from damoc.data.example import Example
from damoc.data.sources.cloud import cloud_corpus, cloud_qa, cloud_service, service_models
from damoc.data.sources.docstrings import docstring_corpus, documented, science_qa
from damoc.data.splits import split_of
from damoc.errors import DamocError

SPLIT_FRACTIONS = {"valid": 0.1, "test": 0.15}

MINED: dict[str, Callable[[], list[Example]]] = {
    "cloud-qa": cloud_qa,
    "cloud-service": cloud_service,
    "science-qa": science_qa,
}
"""Datasets by the name that ``dataset.source: mined:NAME`` uses."""


def mine(name: str) -> list[Example]:
    """Rows of a mined dataset, the same for the same installed versions; no two ask the same.

    Raises:
        DamocError: no such dataset.
    """
    if name not in MINED:
        raise DamocError(
            f"there is no mined dataset {name!r}", f"mined:{name}", f"use one of {', '.join(sorted(MINED))}"
        )
    prompts: dict[tuple[str, str], Example] = {}
    for row in MINED[name]():
        prompts.setdefault((row.instruction.lower(), row.input.lower()), row)
    return list(prompts.values())


def corpus(name: str) -> list[str]:
    """Texts of a pre-training corpus; groups of the held-out splits of the mined datasets are left out.

    Args:
        name: ``cloud`` (service models), ``science`` (numpy, scipy, scikit-learn, pandas), ``stdlib``
            (Python's standard library) or ``learning`` (torch and transformers).
    """
    if name == "cloud":
        return cloud_corpus({service for service, _ in service_models() if _in_train(service)})
    packages = {
        "science": ("numpy", "scipy", "sklearn", "pandas"),
        "stdlib": ("stdlib",),
        "learning": ("torch", "transformers"),
    }[name]
    held_out = frozenset(
        item.module for package in packages for item in documented(package) if not _in_train(item.module)
    )
    return docstring_corpus(packages, held_out if name == "science" else frozenset())


def _in_train(group: str) -> bool:
    return split_of(group, SPLIT_FRACTIONS) == "train"
