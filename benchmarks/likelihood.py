"""What a likelihood signal costs beside the bare forward pass of its model, and beside one row at a time.

    python -m benchmarks.likelihood ../shared/data benchmarks/results/likelihood.json [ROWS [ROWS-OF-THE-LARGER-MODEL]]

``raw`` is ``model(input_ids, attention_mask)`` over the very same padded batches, on the device, without a loss;
``unmasked`` is the same without the attention mask, which batches padded on the right can do without.
``signal`` is the whole measurement of ``answer_loss``, ``prompt_loss`` and ``answer_tokens`` from rows to arrays:
rendering, tokenising, batching, padding, the forward pass, the losses, and writing the cache to disk; the model is
loaded before. ``one_row`` is a loop over rows with a batch of one: tokenising, the forward pass and its loss. They take
turns; shares are medians over the turns' ratios, in wall time and in processor time.
"""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from benchmarks.machine import facts, write_results
from damoc.config import DataCompression
from damoc.data.example import Example
from damoc.models.batching import length_batches, pad_batch
from damoc.models.likelihood import _MAX_PADDING, _tokens_at_once
from damoc.models.load import LoadedModel, load_model
from damoc.signals import likelihood
from damoc.signals.registry import SignalContext, measure_signals

ROOT = Path(__file__).parent.parent
SCORER = str(ROOT / "zoo/tiny-reference")
TURNS = 5


def rows_of(path: Path, count: int) -> list[Example]:
    """The first rows of a set."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        raw = [json.loads(line) for line, _ in zip(lines, range(count), strict=False)]
    return [Example(str(at), row["instruction"], row["input"] or "", row["output"]) for at, row in enumerate(raw)]


def larger() -> LoadedModel:
    """A random Llama of 8 layers, 512 wide, with 8,192 words, behind the tokenizer of the toy reference."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=8,
        num_attention_heads=8,
        max_position_embeddings=1024,
    )
    return LoadedModel(LlamaForCausalLM(config).eval(), load_model(SCORER).tokenizer, 1024)


def batches_of(loaded: LoadedModel, rows: Sequence[Example]) -> tuple[list[dict[str, Any]], float]:
    """The padded batches of the signal, and the share of padding in them."""
    portions: list[list[Example]] = []

    def portion(missing: Sequence[Example]) -> Any:
        portions.extend(
            list(missing[start : start + likelihood._STORED_AT_ONCE])
            for start in range(0, len(missing), likelihood._STORED_AT_ONCE)
        )
        yield np.zeros((len(missing), 1))

    with tempfile.TemporaryDirectory() as folder:
        key = likelihood.pair_text
        likelihood.SignalCache(Path(folder), "order", {}).measure(rows, portion, key=key)
    batches = []
    for own in portions:
        encoded = [likelihood.encode_pair(loaded.tokenizer, row, loaded.max_length) for row in own]
        for chosen in length_batches(encoded, likelihood._BATCH, _tokens_at_once(loaded.model), _MAX_PADDING):
            batches.append(pad_batch([encoded[at] for at in chosen], loaded.tokenizer.pad_token_id, "cpu"))
    masks = [batch["attention_mask"] for batch in batches]
    return batches, 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)


def ways(
    loaded: LoadedModel, rows: Sequence[Example], batches: Sequence[dict[str, Any]]
) -> dict[str, Callable[[], Any]]:
    """The ways to run a model over rows."""

    def raw() -> None:
        with torch.inference_mode():
            for batch in batches:
                loaded.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)

    def unmasked() -> None:
        with torch.inference_mode():
            for batch in batches:
                loaded.model(input_ids=batch["input_ids"], use_cache=False)

    def signal() -> None:
        config = DataCompression.model_validate({"signals": {"scorer": {"model": SCORER}}})
        with tempfile.TemporaryDirectory() as folder:
            context = SignalContext(rows, [], config, Path(folder))
            context.__dict__["scorer"] = loaded
            measure_signals(("answer_loss", "prompt_loss", "answer_tokens"), context)

    def one_row() -> None:
        with torch.inference_mode():
            for row in rows:
                ids = torch.tensor([likelihood.encode_pair(loaded.tokenizer, row, loaded.max_length).ids])
                loaded.model(input_ids=ids, labels=ids, use_cache=False)

    return {"raw": raw, "unmasked": unmasked, "signal": signal, "one_row": one_row}


def compare(loaded: LoadedModel, rows: Sequence[Example]) -> dict[str, Any]:
    """Medians of the ways' times, and of their ratios, over turns."""
    batches, padding = batches_of(loaded, rows)
    runs = ways(loaded, rows, batches)
    runs["raw"]()
    wall: dict[str, list[float]] = {name: [] for name in runs}
    work: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(TURNS):
        for name, run in runs.items():
            started, worked = time.perf_counter(), time.process_time()
            run()
            wall[name].append(time.perf_counter() - started)
            work[name].append(time.process_time() - worked)
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    return {
        "rows": len(rows),
        "tokens": tokens,
        "parameters": sum(weights.numel() for weights in loaded.model.parameters()),
        "padding_share": round(padding, 4),
        "turns": TURNS,
        "wall_seconds": {name: round(float(np.median(times)), 3) for name, times in wall.items()},
        "processor_seconds": {name: round(float(np.median(times)), 3) for name, times in work.items()},
        "rows_per_second": round(len(rows) / float(np.median(wall["signal"])), 1),
        **{
            f"share_of_{bare}_throughput_{kind}": round(float(np.median(np.divide(times[bare], times["signal"]))), 3)
            for kind, times in (("wall", wall), ("processor", work))
            for bare in ("raw", "unmasked")
        },
        **{
            f"times_faster_than_one_row_{kind}": round(
                float(np.median(np.divide(times["one_row"], times["signal"]))), 2
            )
            for kind, times in (("wall", wall), ("processor", work))
        },
    }


def main(data: Path, out: Path, rows: int = 256, rows_larger: int = 32) -> None:
    """Measures both models and writes the results."""
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    results = {
        "machine": {**facts(), "torch_threads": torch.get_num_threads()},
        "data": "dolly, train split, from its start",
        "tiny-reference": compare(load_model(SCORER), rows_of(data / "dolly/train.jsonl.gz", rows)),
        "llama-8x512": compare(larger(), rows_of(data / "dolly/train.jsonl.gz", rows_larger)),
    }
    write_results(out, results)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
