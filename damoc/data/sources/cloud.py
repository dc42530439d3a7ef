"""Two domain datasets and a corpus from the service models that botocore installs (Apache-2.0)."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from damoc.data.example import Example
from damoc.data.near_duplicates import near_duplicates
from damoc.data.sources.text import html_to_text, leading_sentences
from damoc.hashing import sha256_text

_MAX_ANSWER = 280
_MIN_ANSWER = 40
_CHOICES = 4
_LETTERS = "ABCD"


@dataclass(frozen=True)
class Operation:
    """One documented operation of a cloud API."""

    service: str
    service_name: str
    name: str
    parameters: tuple[str, ...]
    explanation: str


def service_models() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields ``(service, model)`` of the newest version of every service, in alphabetical order."""
    root = Path(str(resources.files("botocore"))) / "data"
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        versions = sorted(path for path in folder.iterdir() if (path / "service-2.json.gz").is_file())
        if versions:
            with gzip.open(versions[-1] / "service-2.json.gz", "rt", encoding="utf-8") as handle:
                yield folder.name, json.load(handle)


def operations() -> list[Operation]:
    """Every operation whose documentation opens with a sentence worth learning, near-duplicates dropped."""
    found = []
    for service, model in service_models():
        name = model["metadata"].get("serviceFullName", service)
        for operation, spec in sorted(model["operations"].items()):
            explanation = leading_sentences(html_to_text(spec.get("documentation", "")), _MAX_ANSWER)
            if len(explanation) >= _MIN_ANSWER:
                shape = model["shapes"].get(spec.get("input", {}).get("shape", ""), {})
                found.append(Operation(service, name, operation, tuple(shape.get("members", ())), explanation))
    repeats = near_duplicates([_without_name(op.explanation, op) for op in found], threshold=0.7)
    return [op for index, op in enumerate(found) if index not in repeats]


def cloud_qa() -> list[Example]:
    """``cloud-qa``: explain what an API operation does (generation); grouped by service."""
    return [
        Example(
            id=f"cloud-qa/{op.service}/{op.name}",
            instruction="Explain what this cloud API operation does.",
            input=_question(op),
            output=op.explanation,
            group=op.service,
            meta=_provenance(op),
        )
        for op in operations()
    ]


def cloud_service() -> list[Example]:
    """``cloud-service``: to which of four services does a description belong; grouped by service.

    The three wrong choices are drawn by a hash of the row from services with the same hash class, so a
    service that is an answer in one split is never a choice in another.
    """
    ops = operations()
    names = {op.service: op.service_name for op in ops}
    peers: dict[str, list[str]] = {}
    for service in sorted(names):
        peers.setdefault(_peer_class(service), []).append(service)
    rows = []
    for op in ops:
        description = _without_name(op.explanation, op)
        pool = [other for other in peers[_peer_class(op.service)] if names[other] != op.service_name]
        others = _draw(pool, _CHOICES - 1, f"{op.service}/{op.name}")
        if len(others) < _CHOICES - 1:
            continue
        order = sorted([op.service, *others], key=lambda service: sha256_text(f"{op.name}#{service}"))
        choices = tuple(names[service] for service in order)
        if len(set(choices)) < _CHOICES:
            continue
        listing = "\n".join(f"{letter}. {choice}" for letter, choice in zip(_LETTERS, choices, strict=True))
        rows.append(
            Example(
                id=f"cloud-service/{op.service}/{op.name}",
                instruction="Which service does this description belong to?",
                input=f"{description}\n{listing}",
                output=op.service_name,
                choices=choices,
                group=op.service,
                meta=_provenance(op),
            )
        )
    return rows


def cloud_corpus(services: set[str]) -> list[str]:
    """Plain text of the services named: each operation and parameter with its documentation, one text a service."""
    texts = []
    for service, model in service_models():
        if service not in services:
            continue
        lines = [html_to_text(model.get("documentation", ""))]
        for name, spec in sorted(model["operations"].items()):
            lines.append(f"{name}: {html_to_text(spec.get('documentation', ''))}")
        for name, shape in sorted(model["shapes"].items()):
            for member, detail in sorted(shape.get("members", {}).items()):
                if text := html_to_text(detail.get("documentation", "")):
                    lines.append(f"{name}.{member}: {text}")
        texts.append("\n".join(dict.fromkeys(line for line in lines if line)))
    return texts


def _question(op: Operation) -> str:
    parameters = ", ".join(op.parameters[:6]) or "none"
    return f"Service: {op.service_name}\nOperation: {op.name}\nParameters: {parameters}"


def _without_name(text: str, op: Operation) -> str:
    short = re.sub(r"^(Amazon|AWS)\s+", "", op.service_name)
    acronym = re.search(r"\(([A-Z]{2,})\)", op.service_name)
    for name in sorted(
        {op.service_name, short, op.service, *([acronym.group(1)] if acronym else [])}, key=len, reverse=True
    ):
        text = re.sub(rf"\b(?:Amazon |AWS )?{re.escape(name)}\b", "the service", text, flags=re.IGNORECASE)
    return text


def _draw(pool: list[str], count: int, key: str) -> list[str]:
    """At most ``count`` distinct members of the pool, by a hash of the key."""
    left = list(pool)
    picks = range(min(count, len(left)))
    return [left.pop(int(sha256_text(f"{key}/{pick}")[:13], 16) % len(left)) for pick in picks]


@cache
def _peer_class(service: str) -> str:
    from damoc.data.sources.registry import SPLIT_FRACTIONS
    from damoc.data.splits import split_of

    return split_of(service, SPLIT_FRACTIONS)


def _provenance(op: Operation) -> dict[str, str]:
    version = metadata.version("botocore")
    return {"source": f"botocore {version}: {op.service}/service-2.json#{op.name}", "licence": "Apache-2.0"}
