"""What gradients of single rows cost, beside a plain backward pass and a loop over rows; how true the projection is.

    python -m benchmarks.gradients [RESULTS.json]

All ways run in one process on the same LoRA model and the same batches, in turn, five times each; times are of the
process (one thread), ratios are medians of the ratios within a turn. The loop over rows runs once. Cosine errors are
those between the rows' whole gradients and their projections, for ours and two others at as many dimensions, under
the smaller model.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import facts, write_results
from damoc.config import DatasetConfig
from damoc.data.dataset import load_dataset
from damoc.data.prompts import Encoded, encode
from damoc.hashing import derive_seed
from damoc.models.batching import length_batches, pad_batch
from damoc.models.load import load_model
from damoc.signals.adam import AdamDirection, WarmUp, warm_up
from damoc.signals.gradient import DIMENSIONS, row_vectors
from damoc.signals.per_example import per_example_gradients, row_losses
from damoc.signals.projection import CountSketch
from damoc.signals.warm_up import lora, lora_weights

ROOT = Path(__file__).parent.parent
REPEATS, BATCH, RANK, ALPHA = 5, 16, 8, 16
Project = Callable[[str, torch.Tensor], torch.Tensor]


def seconds(run: Callable[[], Any]) -> float:
    """Processor time of one run."""
    started = time.process_time()
    run()
    return time.process_time() - started


def plain(model: Any, rows: Sequence[Encoded], batch_size: int = BATCH) -> None:
    """The gradient of the sum of the rows' losses, as training computes it."""
    for batch in length_batches(rows, batch_size):
        row_losses(model, pad_batch([rows[index] for index in batch], 2, "cpu")).sum().backward()
        model.zero_grad(set_to_none=True)


def row_by_row(model: Any, rows: Sequence[Encoded], project: Project, direction: AdamDirection) -> None:
    """What the reference implementation does: a backward pass a row, then direction and projection."""
    for row in rows:
        row_losses(model, pad_batch([row], 2, "cpu")).sum().backward()
        for name, weight in lora_weights(model).items():
            project(name, direction(name, weight.grad.flatten()[None]))
        model.zero_grad(set_to_none=True)


def cost(model: Any, rows: Sequence[Encoded]) -> dict[str, Any]:
    """Seconds of each way and their ratios to the plain pass."""
    (end,) = warm_up(model, rows[:16], 2, WarmUp(epochs=1), 0)
    project, direction = CountSketch(DIMENSIONS, 0), AdamDirection(end, "cpu")
    ways: dict[str, Callable[[], Any]] = {
        "plain": lambda: plain(model, rows),
        "training rows": lambda: row_vectors(model, rows, 2, project, direction),
        "validation rows": lambda: row_vectors(model, rows, 2, project),
    }
    for run in ways.values():
        run()
    times = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, run in ways.items():
            times[name].append(seconds(run))
    naive = seconds(lambda: row_by_row(model, rows, project, direction))
    ratios = {
        name: round(float(np.median(np.divide(times[name], times["plain"]))), 3) for name in ways if name != "plain"
    }
    return {
        "rows": len(rows),
        "tokens": sum(len(row.ids) for row in rows),
        "adapter parameters": sum(weight.numel() for weight in lora_weights(model).values()),
        "seconds": {name: round(float(np.median(values)), 3) for name, values in times.items()},
        "times the plain pass": ratios,
        "row by row": {
            "seconds": round(naive, 3),
            "times ours": round(naive / float(np.median(times["training rows"])), 3),
        },
    }


class Rademacher:
    """Dense random signs, drawn again for each block of coordinates."""

    def __init__(self, dimensions: int, seed: int) -> None:
        self.dimensions, self.seed = dimensions, seed

    def __call__(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """Projects one block."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, name))
        signs = torch.randint(0, 2, (values.shape[1], self.dimensions), generator=generator).to(values) * 2 - 1
        return values @ signs / self.dimensions**0.5


class HashedCountSketch(CountSketch):
    """The textbook's Count-Sketch: every coordinate draws its bucket, whatever the others drew."""

    def __call__(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """Projects one block."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, name))
        buckets = torch.randint(self.dimensions, (values.shape[1],), generator=generator)
        signs = torch.randint(0, 2, (values.shape[1],), generator=generator).to(values) * 2 - 1
        return torch.zeros(len(values), self.dimensions).index_add_(1, buckets, values * signs)


def cosine_errors(model: Any, rows: Sequence[Encoded]) -> dict[str, Any]:
    """Root mean square and largest error of the cosine of two rows, and seconds of the projection alone."""
    found: dict[str, torch.Tensor] = {}
    with per_example_gradients(model, lambda name, gradients: found.update({name: gradients.clone()})):
        row_losses(model, pad_batch(rows, 2, "cpu")).sum().backward()
    exact = _cosines(torch.cat(list(found.values()), dim=1))
    pairs = np.triu_indices(len(rows), 1)
    ways = {"balanced count-sketch (ours)": CountSketch, "count-sketch": HashedCountSketch, "rademacher": Rademacher}
    results = {}
    for name, way in ways.items():
        errors, spent = [], []
        for seed in range(REPEATS):
            project = way(DIMENSIONS, seed)
            sum(project(block, values) for block, values in found.items())
            started = time.process_time()
            short = sum(project(block, values) for block, values in found.items())
            spent.append(time.process_time() - started)
            errors.append((_cosines(short) - exact)[pairs])
        results[name] = {
            "rms": round(float(np.sqrt(np.mean(np.square(errors)))), 5),
            "largest": round(float(np.max(np.abs(errors))), 5),
            "seconds": round(float(np.median(spent)), 4),
        }
    return {
        "dimensions": DIMENSIONS,
        "1/sqrt(dimensions)": round(DIMENSIONS**-0.5, 5),
        "rms of the exact cosines": round(float(np.sqrt(np.mean(exact[pairs] ** 2))), 4),
        "errors": results,
    }


def _cosines(vectors: Any) -> np.ndarray[Any, Any]:
    unit = torch.nn.functional.normalize(vectors.double(), dim=1)
    return (unit @ unit.T).numpy()


def big_llama(vocabulary: int) -> Any:
    """A Llama of 8 layers and 512 dimensions with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
    )
    return LlamaForCausalLM(config).eval()


def main(results: Path = ROOT / "benchmarks/results/gradients.json") -> None:
    """Measures and writes the results."""
    torch.set_num_threads(1)
    reference = load_model(str(ROOT / "zoo/tiny-reference"))
    examples = load_dataset(DatasetConfig(source="mined:cloud-qa"), 0).splits["train"]
    models = {
        "tiny-reference": (reference.model, 48, 256),
        "random Llama, 8 layers of 512": (big_llama(reference.model.config.vocab_size), 8, 48),
    }
    measured: dict[str, Any] = {}
    for name, (base, count, longest) in models.items():
        rows = [encode(reference.tokenizer, example, longest) for example in examples[:count]]
        with lora(base, RANK, ALPHA, seed=0) as model:
            measured[name] = {"cost": cost(model, rows)}
            if base is reference.model:
                measured[name]["projection"] = cosine_errors(model, rows[:BATCH])
        print(name, measured[name], flush=True)
        write_results(results, {"machine": facts(), "threads": 1, "models": measured})


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
