"""What the report shows of the training data: steps, outcomes, scores, and texts before and after."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from damoc.report import charts, text
from damoc.report.histogram import STYLES, drawable, histogram, totals
from damoc.report.passages import Passage, passage, size, unit_of
from damoc.selection.record import Distribution, Sample, SelectionRecord

_BADGES = {"condensed": "good", "rewritten": "info", "restored": "warn", "original": "plain"}


@dataclass(frozen=True)
class _Outcome:
    name: str
    rows: str
    share: str
    bar: Markup


@dataclass(frozen=True)
class _Group:
    name: str
    count: str
    style: str


@dataclass(frozen=True)
class _Scores:
    """A histogram; ``chart`` is None when it cannot be drawn, and ``note`` says why."""

    name: str
    groups: list[_Group]
    chart: Markup | None
    note: str


@dataclass(frozen=True)
class _Text:
    """A text before and after; ``before`` and ``after`` hold all of it."""

    row: str
    part: str
    outcome: str
    badge: str
    why: str
    length: str
    before: Passage
    after: Passage


def data_content(record: SelectionRecord) -> dict[str, Any]:
    """The variables of ``data.html.j2``; those of what the record does not hold are empty.

    Args:
        record: the selection.
    """
    evidence = record.data_evidence
    return {
        "funnel": _funnel(record),
        "outcomes": _outcomes(evidence.outcomes),
        "data_facts": [(str(name), list(text.facts(value))) for name, value in _groups(record.data_compression)],
        "dataset": list(text.facts(record.dataset)),
        "distributions": [_scores(distribution) for distribution in evidence.distributions],
        "samples": [_text(sample) for sample in evidence.samples],
    }


def _funnel(record: SelectionRecord) -> list[dict[str, Any]]:
    steps = []
    for step in record.funnel:
        cells = []
        for unit in ("rows", "words", "tokens"):
            value = getattr(step, unit)
            first = next((getattr(item, unit) for item in record.funnel if getattr(item, unit)), None)
            share = value / first if first and value is not None else None
            cells.append(
                {
                    "unit": unit,
                    "value": text.fact(value),
                    "share": "" if share is None else f"{share:.1%}",
                    "bar": None if share is None else charts.bar(share, f"{unit} after {step.name}: {share:.1%}"),
                }
            )
        steps.append({"name": step.name, "cells": cells})
    return steps


def _groups(value: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    for name, item in value.items():
        yield name, item if isinstance(item, Mapping) else {name: item}


def _outcomes(outcomes: Mapping[str, int]) -> list[_Outcome]:
    total = sum(outcomes.values())
    shares = {name: rows / total if total else 0.0 for name, rows in outcomes.items()}
    return [
        _Outcome(name, f"{rows:,}", f"{shares[name]:.1%}", charts.bar(shares[name], f"{name}: {shares[name]:.1%}"))
        for name, rows in outcomes.items()
    ]


def _scores(distribution: Distribution) -> _Scores:
    groups = [
        _Group(name, f"{total:,}", f"g{place % STYLES}") for place, (name, total) in enumerate(totals(distribution))
    ]
    if not drawable(distribution):
        return _Scores(distribution.name, groups, None, "Not drawn: its bins are not finite, ascending and complete.")
    return _Scores(distribution.name, groups, histogram(distribution), "")


def _text(sample: Sample) -> _Text:
    original = "".join(content for content, _ in sample.pieces)
    unit = unit_of(original)
    before, after = size(original, unit), size(sample.after, unit)
    share = f" ({after / before:.0%})" if before else ""
    return _Text(
        row=sample.row,
        part=sample.part,
        outcome=sample.outcome,
        badge=_BADGES.get(sample.outcome, "plain"),
        why=sample.why,
        length=f"{before:,} → {after:,} {unit}{share}",
        before=passage(sample.pieces),
        after=passage([(sample.after, True)]),
    )
