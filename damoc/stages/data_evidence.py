"""What happened to the training rows, in a form that people look at: outcomes, score distributions, samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from damoc.condense.record import unpack_kept
from damoc.condense.words import split_words
from damoc.config import GateThresholds
from damoc.data.example import Example
from damoc.selection.record import DataEvidence, Distribution, Sample

_BINS = 24
_DECIMALS = 6
_SIGNALS_SHOWN = 4
_SHOWN = {
    "cut": "cut by the filter",
    "untouched": "kept as they are",
    "condensed": "condensed",
    "repaired": "condensed and repaired",
    "put back": "put back as they were by the gate",
}


def data_evidence(
    choice: Mapping[str, Any],
    texts: Sequence[Mapping[str, Any]],
    journeys: Sequence[Mapping[str, str]],
    before: Sequence[Example],
    after: Sequence[Example],
    thresholds: GateThresholds,
    samples: int,
) -> DataEvidence:
    """Sums up both steps of the stage.

    Args:
        choice: the filter's record.
        texts: the condenser's entries, one a part.
        journeys: one object a row and step.
        before: kept rows as the filter left them.
        after: the same rows, condensed.
        thresholds: of the gate.
        samples: texts to show at most.
    """
    last = {step["id"]: step["outcome"] for step in journeys}
    counts = Counter("untouched" if outcome == "kept" else outcome for outcome in last.values())
    return DataEvidence(
        {shown: counts[name] for name, shown in _SHOWN.items() if counts[name]},
        [*_filter_distributions(choice), *_gate_distributions(texts, thresholds)],
        _samples(texts, before, after, samples),
    )


def histogram(name: str, groups: Mapping[str, Sequence[float]], limit: float | None = None) -> Distribution | None:
    """Counts of each group in bins that all share; None where there is nothing to count."""
    rounded = {group: np.round(np.array(own, dtype=np.float64), _DECIMALS) for group, own in groups.items()}
    values = np.concatenate(list(rounded.values()))
    if len(values) == 0:
        return None
    width = 10.0**-_DECIMALS
    bins = min(_BINS, len(np.unique(values)), max(1, int((values.max() - values.min()) / width)))
    edges = np.histogram_bin_edges(values, bins=bins)
    series = {group: np.histogram(own, bins=edges)[0].tolist() for group, own in rounded.items()}
    return Distribution(name, edges.tolist(), series, limit)


def _filter_distributions(choice: Mapping[str, Any]) -> list[Distribution]:
    chosen = set(choice["rows"])
    kept = np.array([row in chosen for row in choice["why"]], dtype=bool)
    scored = {f"score of {choice['method']}": choice["scores"]} if choice["scores"] else {}
    shown = {name: values for name, values in choice["signals"].items() if name not in ("rows", "label")}
    found = []
    for name, values in [*scored.items(), *shown.items()][: _SIGNALS_SHOWN + len(scored)]:
        numbers = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
        known = np.isfinite(numbers)
        groups = {"kept": numbers[known & kept].tolist(), "cut": numbers[known & ~kept].tolist()}
        found.append(histogram(name.replace("_", " "), groups))
    return [item for item in found if item is not None]


def _gate_distributions(texts: Sequence[Mapping[str, Any]], thresholds: GateThresholds) -> list[Distribution]:
    found = []
    for part, limit in thresholds.model_dump().items():
        scored = [entry for entry in texts if entry["part"] == part and entry.get("first_f1") is not None]
        groups = {
            "passed at once": [entry["first_f1"] for entry in scored if entry["outcome"] == "condensed"],
            "went to repair": [entry["first_f1"] for entry in scored if entry["outcome"] != "condensed"],
        }
        found.append(histogram(f"BERTScore F1 of the condensed {part}", groups, limit))
    return [item for item in found if item is not None]


def _samples(
    texts: Sequence[Mapping[str, Any]], before: Sequence[Example], after: Sequence[Example], count: int
) -> list[Sample]:
    """The first texts of each outcome in turn, so that every outcome that occurs is shown."""
    originals, results = ({row.id: row for row in rows} for rows in (before, after))
    by_outcome: dict[str, list[Mapping[str, Any]]] = {
        name: [] for name in ("condensed", "restored", "rewritten", "original")
    }
    for entry in texts:
        if entry["outcome"] in by_outcome:
            by_outcome[entry["outcome"]].append(entry)
    longest = max(map(len, by_outcome.values()))
    in_turn = [own[place] for place in range(longest) for own in by_outcome.values() if place < len(own)]
    return [_sample(entry, originals[entry["id"]], results[entry["id"]]) for entry in in_turn[:count]]


def _sample(entry: Mapping[str, Any], before: Example, after: Example) -> Sample:
    text = getattr(before, entry["part"])
    kept = unpack_kept(entry["kept"]) if "kept" in entry else None
    pieces = [(text, True)] if kept is None else _pieces(text, kept.tolist())
    return Sample(before.id, entry["part"], pieces, getattr(after, entry["part"]), entry["outcome"], entry["why"])


def _pieces(text: str, kept: Sequence[bool]) -> list[tuple[str, bool]]:
    """The text in runs of kept and of dropped words, each with the white space behind it."""
    words = split_words(text)
    pieces: list[tuple[str, bool]] = []
    for place, (word, stays) in enumerate(zip(words, kept, strict=True)):
        start = word.start if place else 0
        end = words[place + 1].start if place + 1 < len(words) else len(text)
        if pieces and pieces[-1][1] == stays:
            pieces[-1] = (pieces[-1][0] + text[start:end], stays)
        else:
            pieces.append((text[start:end], stays))
    return pieces
