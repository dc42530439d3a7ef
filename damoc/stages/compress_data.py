"""Stage: choose rows, drop tokens, and check by BERTScore that what is left still says the same."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from damoc.chat import open_chat_model
from damoc.condense.examples import PARTS, condense_examples
from damoc.condense.record import journeys
from damoc.condense.words import split_words
from damoc.data.example import Example
from damoc.filters import RowSelection, choose, filter_named
from damoc.hashing import derive_seed, sha256_json
from damoc.models.load import LoadedModel, load_local, model_identity
from damoc.progress import Progress
from damoc.selection.record import FunnelStep
from damoc.signals.embedding import encoder_identity
from damoc.signals.identity import asked_identity, identities
from damoc.signals.registry import SignalContext, measure_signals, models_of
from damoc.stages.context import Context, stage
from damoc.stages.data_evidence import data_evidence
from damoc.stages.rows import count_words, read_examples, write_examples, write_json, write_lines
from damoc.store import Step, StepResult

NAME = "compress_data"
FILTER, CONDENSE = "filter_rows", "condense_rows"
_HASHED_AT_ONCE = 1024
_OUTCOMES = ("condensed", "rewritten", "restored", "original")


def compress_data(config_uri: str, selection_id: str, prepared: str) -> str:
    """Filters the training rows and condenses what is left.

    Args:
        config_uri: the published config.
        selection_id: the selection.
        prepared: what ``prepare_data`` returned.

    Returns:
        URI of the condensing step's :class:`damoc.store.StepResult`.
    """
    with stage(NAME, config_uri, selection_id) as context:
        filtered, result = compress(context, StepResult.read(prepared))
        context.write(f"{FILTER}.json", filtered.to_json())
        run = context.tracker.parent_run_id()
        metrics = {
            f"data/{step['name']}_{unit}": step[unit] for step in result.summary["funnel"] for unit in ("rows", "words")
        }
        context.tracker.log_metrics(run, {name.replace(" ", "_"): float(value) for name, value in metrics.items()})
        return context.write(f"{NAME}.json", result.to_json())


def compress(context: Context, prepared: StepResult) -> tuple[StepResult, StepResult]:
    """Both steps, without a tracker."""
    filtered = filter_rows(context, prepared)
    return filtered, condense_rows(context, filtered)


def filter_rows(context: Context, prepared: StepResult) -> StepResult:
    """Chooses the training rows that stand for all of them; writes ``train.jsonl`` and ``choice.json``."""
    compression = context.config.data_compression
    config = compression.filter
    method = filter_named(config.method)
    options = method.checked(config.options)
    needs = list(method.needs(options))
    seed = derive_seed(context.config.seed, "filter")

    def work(folder: Path) -> Mapping[str, Any]:
        rows = read_examples(prepared.path() / "train.jsonl")
        targets = read_examples(prepared.path() / "valid.jsonl")
        measuring = SignalContext(rows, targets, compression, context.signals, seed, _progress)
        signals = measure_signals(needs, measuring)
        budget = min(len(rows), max(config.min_rows, round(config.budget * len(rows))))
        choice = choose(method, signals, budget, seed, options, config.per_label)
        kept = [rows[index] for index in choice.ids]
        write_examples(folder / "train.jsonl", kept)
        write_json(folder / "choice.json", _choice_record(method.name, options, rows, choice, signals))
        return {"method": method.name, "funnel": [_funnel("training split", rows), _funnel("filtered", kept)]}

    step = Step(
        FILTER,
        {**config.model_dump(exclude={"options"}), "options": options, "seed": seed},
        {"prepared": prepared.content, **identities(models_of(needs), compression)},
        code=(
            "filters",
            "signals",
            "chat",
            "models",
            "tuning",
            "evaluation/generation.py",
            "data/prompts.py",
            "stages/compress_data.py",
        ),
    )
    return context.run(step, work)


def condense_rows(context: Context, filtered: StepResult) -> StepResult:
    """Drops the words that a reader foresees and repairs what suffers from it.

    Writes ``train.jsonl``, ``condense.json`` (one entry a text), ``journey.jsonl`` (what became of every training row
    and why) and ``data_evidence.json`` (:class:`damoc.selection.record.DataEvidence`).
    """
    compression = context.config.data_compression
    config = compression.condense
    limit = context.config.tuning.max_length
    seed = derive_seed(context.config.seed, "condense")

    def work(folder: Path) -> Mapping[str, Any]:
        rows = read_examples(filtered.path() / "train.jsonl")
        choice = json.loads((filtered.path() / "choice.json").read_text(encoding="utf-8"))
        funnel = list(filtered.summary["funnel"])
        condensed, texts = rows, list[dict[str, Any]]()
        if config.enabled:
            loaded = load_local(config.local_model)
            rewriter = open_chat_model(config.repair.rewriter, context.signals) if config.repair.rewriter else None
            condensed, texts = condense_examples(rows, loaded, config, limit, _progress, rewriter, seed)
            funnel[-1] = {**funnel[-1], "tokens": _count_tokens(loaded, rows)}
            funnel.append({**_funnel("condensed", condensed), "tokens": _count_tokens(loaded, condensed)})
        steps = journeys(list(choice["why"]), choice, texts)
        evidence = data_evidence(choice, texts, steps, rows, condensed, config.gate.thresholds, compression.samples)
        write_examples(folder / "train.jsonl", condensed)
        write_json(folder / "condense.json", {"enabled": config.enabled, "texts": texts})
        write_lines(folder / "journey.jsonl", steps)
        write_json(folder / "data_evidence.json", asdict(evidence))
        return {
            "funnel": funnel,
            "filter": _filter_facts(filtered),
            "condense": _condense_facts(texts, condensed) if config.enabled else {"enabled": False},
            "outcomes": dict(evidence.outcomes),
        }

    named: dict[str, Any] = {
        "compressor": True,
        "revision": True,
        "gate": {"encoder", "revision"},
        "repair": {"rewriter"},
    }
    inputs = {"filtered": filtered.content}
    if config.enabled:
        inputs["compressor"] = model_identity(config.compressor, config.revision)
        inputs["gate_encoder"] = sha256_json(encoder_identity(config.gate.encoder, config.gate.revision))
        if config.repair.rewriter:
            inputs["rewriter"] = sha256_json(asked_identity(config.repair.rewriter))
    step = Step(
        CONDENSE,
        {**config.model_dump(exclude=named), "max_length": limit, "samples": compression.samples, "seed": seed},
        inputs,
        code=(
            "condense",
            "chat",
            "models",
            "signals/embedding.py",
            "filters/ordering.py",
            "data/prompts.py",
            "stages/compress_data.py",
            "stages/data_evidence.py",
        ),
    )
    return context.run(step, work)


def _progress(phase: str) -> Progress:
    return Progress(NAME, phase, "rows")


def _choice_record(
    method: str,
    options: Mapping[str, Any],
    rows: Sequence[Example],
    choice: RowSelection,
    signals: Mapping[str, NDArray[Any]],
) -> dict[str, Any]:
    """What was decided about every row, and on what: signals of one number a row are kept whole, others by hash."""
    return {
        "method": method,
        "options": dict(options),
        "budget": len(choice.ids),
        "rows": [rows[index].id for index in choice.ids],
        "trace": [round(value, 6) for value in choice.trace],
        "scores": None if choice.scores is None else _numbers(choice.scores),
        "why": {row.id: reason for row, reason in zip(rows, choice.why, strict=True)},
        "facts": dict(choice.facts),
        "signals": {
            name: _numbers(values) for name, values in signals.items() if values.ndim == 1 and len(values) == len(rows)
        },
        "signal_hashes": {name: _signal_hash(values) for name, values in signals.items()},
    }


def _numbers(values: NDArray[Any]) -> list[float | None]:
    return [round(value, 6) if np.isfinite(value) else None for value in values.astype(np.float64).tolist()]


def _funnel(name: str, rows: Sequence[Example]) -> dict[str, Any]:
    step = FunnelStep(name, len(rows), count_words(rows))
    return {"name": step.name, "rows": step.rows, "words": step.words}


def _count_tokens(loaded: LoadedModel, rows: Sequence[Example]) -> int:
    texts = [getattr(row, part) for row in rows for part in PARTS]
    return sum(len(ids) for ids in loaded.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"])


def _signal_hash(values: NDArray[Any]) -> str:
    """SHA-256 over the shape and the numbers, rounded to four decimals."""
    digest = sha256(repr(values.shape).encode())
    for start in range(0, len(values), _HASHED_AT_ONCE):
        block = np.round(values[start : start + _HASHED_AT_ONCE].astype("<f8"), 4)
        digest.update((np.nan_to_num(block, nan=-1e9) + 0.0).tobytes())
    return digest.hexdigest()


def _filter_facts(filtered: StepResult) -> dict[str, Any]:
    before, after = filtered.summary["funnel"][-2:]
    return {"method": filtered.summary["method"], "rows": before["rows"], "rows kept": after["rows"]}


def _words_left(entry: Mapping[str, Any], row: Example) -> int:
    if entry["outcome"] == "rewritten":
        return len(split_words(getattr(row, entry["part"])))
    return sum(entry["kept"][::2]) if "kept" in entry else int(entry["words"])


def _condense_facts(texts: Sequence[Mapping[str, Any]], condensed: Sequence[Example]) -> dict[str, Any]:
    """Small numbers about the texts that were tried."""
    tried = [entry for entry in texts if entry["outcome"] != "untouched"]
    left = {row.id: row for row in condensed}
    words = sum(entry["words"] for entry in tried)
    kept = sum(_words_left(entry, left[entry["id"]]) for entry in tried)
    scores = [entry["f1"] for entry in tried if entry["outcome"] != "original"]
    refused = Counter[str]()
    for entry in tried:
        refused.update(entry.get("refused", {}))
    return {
        "enabled": True,
        "texts tried": len(tried),
        **{f"texts {outcome}": sum(entry["outcome"] == outcome for entry in tried) for outcome in _OUTCOMES},
        "share of their words kept": round(kept / words, 4) if words else 1.0,
        "median BERTScore F1": round(float(np.median(scores)), 4) if scores else None,
        **{f"rewrites refused: {reason}": count for reason, count in sorted(refused.items())},
    }
