"""What our fine-tuning loop costs beside a bare PyTorch loop on the same batches.

    python -m benchmarks.tuning [RESULTS.json]

Both train LoRA adapters of the same shape from the same seed on the same batches with AdamW, clipping and the same
learning rates; the bare loop pads each batch, takes the cross-entropy of the answer tokens and steps. Ours does what a
selection needs beside that: micro-batches, finite losses, history, divergence, time limit. Neither validates. The ways
take turns, seven times after one that does not count; times are of the process (one thread), the ratio is the median of
the ratios within a turn.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional

from benchmarks.gradients import big_llama
from benchmarks.machine import facts, write_results
from damoc.config import DatasetConfig, TuningConfig
from damoc.data.dataset import load_dataset
from damoc.data.prompts import Encoded, encode
from damoc.models.batching import pad_batch
from damoc.models.load import load_model
from damoc.tuning import fine_tune
from damoc.tuning.schedule import learning_rate_factor, training_batches

ROOT = Path(__file__).parent.parent
REPEATS, PAD, SEED = 7, 2, 0
SETTINGS = TuningConfig(rank=8, alpha=16, dropout=0.0, learning_rate=1e-3, epochs=1, batch_size=8, dtype="float32")


def bare(model: Any, rows: Sequence[Encoded], steps: int) -> float:
    """The loop that anyone would write; returns the last loss."""
    torch.manual_seed(SEED)
    lora = LoraConfig(r=SETTINGS.rank, lora_alpha=SETTINGS.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    tuned = get_peft_model(model, lora).train()
    parameters = [weight for weight in tuned.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=SETTINGS.learning_rate, weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, steps, SETTINGS.warmup_fraction)
    )
    last = 0.0
    for batch in islice(training_batches([len(row.ids) for row in rows], SETTINGS.batch_size, SEED), steps):
        padded = pad_batch([rows[index] for index in batch], PAD, "cpu")
        labels = padded.pop("labels")
        logits = tuned(**padded, use_cache=False).logits[:, :-1]
        loss = functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        last = loss.item()
    return last


def ours(model: Any, rows: Sequence[Encoded], steps: int) -> float:
    """The loop of the selection; returns the last loss."""
    outcome = fine_tune(model, rows, [], PAD, SETTINGS, SEED)
    assert outcome.steps == steps
    return float(outcome.history[-1]["train_loss"])


def compare(base: Any, rows: Sequence[Encoded]) -> dict[str, Any]:
    """Seconds of both ways on copies of a model, their ratio, and the losses that they end with."""
    steps = -(-len(rows) // SETTINGS.batch_size)
    tokens = sum(len(row.ids) for row in rows)
    ways = {"bare": bare, "ours": ours}
    times: dict[str, list[float]] = {name: [] for name in ways}
    losses: dict[str, float] = {}
    for turn in range(REPEATS + 1):
        for name in list(ways)[:: 1 if turn % 2 else -1]:
            model = copy.deepcopy(base)
            started = time.process_time()
            losses[name] = ways[name](model, rows, steps)
            if turn:
                times[name].append(time.process_time() - started)
    ratios = np.divide(times["ours"], times["bare"])
    return {
        "steps": steps,
        "tokens": tokens,
        "share of padding": round(1 - tokens / _padded(rows), 3),
        "seconds": {name: round(float(np.median(values)), 3) for name, values in times.items()},
        "times the bare loop": round(float(np.median(ratios)), 3),
        "lowest and highest": [round(float(ratios.min()), 3), round(float(ratios.max()), 3)],
        "last loss": {name: round(loss, 4) for name, loss in losses.items()},
    }


def _padded(rows: Sequence[Encoded]) -> int:
    """Tokens of an epoch with their padding."""
    lengths = [len(row.ids) for row in rows]
    batches = islice(training_batches(lengths, SETTINGS.batch_size, SEED), -(-len(rows) // SETTINGS.batch_size))
    return sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)


def main(results: Path = ROOT / "benchmarks/results/tuning.json") -> None:
    """Measures and writes the results."""
    machine = facts()
    torch.set_num_threads(1)
    reference = load_model(str(ROOT / "zoo/tiny-reference"))
    examples = load_dataset(DatasetConfig(source="mined:cloud-qa"), SEED).splits["train"]
    models = {
        "tiny-reference": (reference.model, 320, 256),
        "random Llama, 8 layers of 512": (big_llama(reference.model.config.vocab_size), 32, 128),
    }
    measured: dict[str, Any] = {}
    for name, (base, count, longest) in models.items():
        rows = [encode(reference.tokenizer, example, longest) for example in examples[:count]]
        measured[name] = compare(base, rows)
        print(name, measured[name], flush=True)
        write_results(results, {"machine": machine, "threads": 1, "repeats": REPEATS, "models": measured})


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
