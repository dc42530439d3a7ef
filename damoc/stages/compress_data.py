"""Stage: choose rows, drop tokens, and check by BERTScore that what is left still says the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from damoc.condense.examples import condense_examples
from damoc.data.example import Example
from damoc.filters.registry import choose, filter_named
from damoc.hashing import derive_seed, sha256_json
from damoc.models.load import LoadedModel, load_model, model_identity
from damoc.progress import Progress
from damoc.selection.record import FunnelStep
from damoc.signals.embedding import embed, encoder_identity
from damoc.stages.context import Context, stage
from damoc.stages.rows import count_words, read_examples, write_examples, write_json
from damoc.store import Step, StepResult

NAME = "compress_data"
FILTER, CONDENSE = "filter_rows", "condense_rows"
_PARTS = ("instruction", "input", "output")


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
        progress = lambda name: Progress(NAME, name, "rows")  # noqa: E731
        signals = measure_signals(
            needs, SignalContext(rows, targets, compression, context.signals, seed, progress)
        )
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
        code=("filters", "signals", "models", "stages/compress_data.py"),
    )
    return context.run(step, work)


def condense_rows(context: Context, filtered: StepResult) -> StepResult:
    """Drops the words that a reader foresees; writes ``train.jsonl`` and ``condense.json``."""
    config = context.config.data_compression.condense
    limit = context.config.tuning.max_length

    def work(folder: Path) -> Mapping[str, Any]:
        rows = read_examples(filtered.path() / "train.jsonl")
        funnel = list(filtered.summary["funnel"])
        if not config.enabled:
            write_examples(folder / "train.jsonl", rows)
            write_json(folder / "condense.json", {"enabled": False})
            return {"funnel": funnel, "filter": _filter_facts(filtered), "condense": {"enabled": False}}
        loaded = load_model(config.compressor, config.revision)
        funnel[-1] = {**funnel[-1], "tokens": _count_tokens(loaded, rows)}
        condensed, record = condense_examples(rows, loaded, config, limit, Progress(NAME, "token perplexity", "texts"))
        write_examples(folder / "train.jsonl", condensed)
        write_json(folder / "condense.json", {"enabled": True, "rows": record})
        funnel.append({**_funnel("condensed", condensed), "tokens": _count_tokens(loaded, condensed)})
        return {"funnel": funnel, "filter": _filter_facts(filtered), "condense": _condense_facts(record)}

    spec = config.model_dump(exclude={"compressor", "gate_encoder", "revision"})
    inputs = {"filtered": filtered.content}
    if config.enabled:
        inputs["compressor"] = model_identity(config.compressor, config.revision)
        inputs["gate_encoder"] = sha256_json(encoder_identity(config.gate_encoder))
    step = Step(
        CONDENSE,
        {**spec, "max_length": limit},
        inputs,
        code=("condense", "models", "stages/compress_data.py"),
    )
    return context.run(step, work)


def _funnel(name: str, rows: Sequence[Example]) -> dict[str, Any]:
    step = FunnelStep(name, len(rows), count_words(rows))
    return {"name": step.name, "rows": step.rows, "words": step.words}


def _count_tokens(loaded: LoadedModel, rows: Sequence[Example]) -> int:
    texts = [getattr(row, part) for row in rows for part in _PARTS]
    return sum(len(ids) for ids in loaded.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"])


def _signal_hash(values: NDArray[Any]) -> str:
    return sha256_json({"shape": list(values.shape), "values": np.round(values.astype(np.float64), 4).ravel().tolist()})


def _filter_facts(filtered: StepResult) -> dict[str, Any]:
    before, after = filtered.summary["funnel"][-2:]
    return {"method": filtered.summary["method"], "rows": before["rows"], "rows kept": after["rows"]}


def _condense_facts(record: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    total = sum(entry["words"] for entry in record)
    scores = [entry["f1"] for entry in record]
    return {
        "enabled": True,
        "texts condensed": sum(entry["passed"] for entry in record),
        "texts put back by the gate": sum(not entry["passed"] for entry in record),
        "share of their words kept": round(sum(len(entry["kept"]) for entry in record) / total, 4) if total else 1.0,
        "median BERTScore F1": round(float(np.median(scores)), 4) if scores else None,
    }
