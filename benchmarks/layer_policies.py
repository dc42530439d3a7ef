"""What each policy of layer removal costs, beside the best and the usual choice there is.

    python -m benchmarks.layer_policies benchmarks/results/layer_policies.json

Each candidate of the toy zoo loses one to four layers by each policy; the loss that is left is compared with that of
every legal choice (one and two layers) or of 12 random ones (three and four). Losses are nats per answer token: on the
rows that the policies measured, and on held-out rows that they never saw.
"""

from __future__ import annotations

import itertools
import random
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import facts, write_results
from damoc.compression.architecture import LayerSurgery
from damoc.compression.decision import Rules, WholeModel, decide
from damoc.compression.importance import LayerMeasurement, measure_layers
from damoc.compression.plan import LayerPlan, protected_layers
from damoc.config import DatasetConfig
from damoc.data.dataset import load_dataset
from damoc.models.batching import length_batches, pad_batch
from damoc.models.likelihood import answer_losses
from damoc.models.load import load_model
from damoc.stages.rows import encode_rows

POLICIES = ("lowest", "iterative", "contiguous")
ROWS, REMOVED, DRAWS, MAX_LENGTH = 32, (1, 2, 3, 4), 12, 256


class Trial:
    """A candidate that can be measured and scored without some of its layers."""

    def __init__(self, folder: Path, rows: Mapping[str, Sequence[Any]]) -> None:
        self.loaded = load_model(str(folder))
        self.pad_id = self.loaded.tokenizer.pad_token_id
        self.rows = {name: encode_rows(self.loaded, own, MAX_LENGTH) for name, own in rows.items()}
        seen = self.rows["calibration"]
        self.batches = [pad_batch([seen[i] for i in own], self.pad_id, "cpu") for own in length_batches(seen, 8)]
        self.surgery = LayerSurgery(self.loaded.model)
        self.layers = self.surgery.layers
        self._losses: dict[tuple[str, tuple[int, ...]], float] = {}

    def loss(self, keep: Sequence[int], rows: str = "calibration") -> float:
        """Nats per answer token with these layers."""
        key = rows, tuple(keep)
        if key not in self._losses:
            self.surgery.keep(keep)
            losses = answer_losses(self.loaded.model, self.rows[rows], self.pad_id)
            self._losses[key] = round(float(np.concatenate(losses).mean(dtype=np.float64)), 6)
        return self._losses[key]

    def measure(self, keep: Sequence[int]) -> LayerMeasurement:
        """Importance and distances of these layers."""
        self.surgery.keep(keep)
        return measure_layers(self.loaded.model, [self.layers[index] for index in keep], self.batches)

    def both(self, removed: Sequence[int]) -> dict[str, float]:
        """Losses without these layers."""
        keep = LayerPlan.without(removed, len(self.layers)).keep
        return {name: self.loss(keep, name) for name in self.rows}


def compare(trial: Trial) -> dict[str, Any]:
    """All policies at each number of removed layers."""
    total = len(trial.layers)
    everything = tuple(range(total))
    whole = WholeModel(trial.measure(everything), trial.surgery.layer_types, trial.loss(everything))
    importance = whole.measured.influence
    protected = protected_layers(importance, whole.layer_types)
    free = [index for index in everything if index not in protected]
    removals: dict[str, Any] = {}
    for number in REMOVED:
        found: dict[str, Any] = {}
        for policy in POLICIES:
            started = time.perf_counter()
            rules = Rules(policy, "layers", number, 1, (), 1e9)
            plan = decide(rules, whole, trial.measure, trial.loss).plan
            seconds = round(time.perf_counter() - started, 2)
            found[policy] = {"removed": list(plan.remove), **trial.both(plan.remove), "seconds": seconds}
        found["others"] = others(trial, choices(free, number))
        removals[str(number)] = found
    return {
        "layers": total,
        "importance": importance.tolist(),
        "whole": trial.both(()),
        "removals": removals,
    }


def choices(free: Sequence[int], number: int) -> list[tuple[int, ...]]:
    """Every choice of up to two layers, or random ones of more."""
    if number <= 2:
        return list(itertools.combinations(free, number))
    draw = random.Random(number)
    return [tuple(sorted(draw.sample(free, number))) for _ in range(DRAWS)]


def others(trial: Trial, removals: Sequence[Sequence[int]]) -> dict[str, Any]:
    """The least and the median loss over choices of layers."""
    total = len(trial.layers)
    losses: NDArray[np.float64] = np.array([trial.loss(LayerPlan.without(own, total).keep) for own in removals])
    best = removals[int(losses.argmin())]
    return {
        "choices": len(removals),
        "best": {"removed": list(best), **trial.both(best)},
        "median": round(float(np.median(losses)), 6),
    }


def main(target: Path) -> None:
    """Measures and writes."""
    about = facts()
    splits = load_dataset(DatasetConfig(source="mined:cloud-qa", on_leak="drop"), 17).splits
    rows = {"calibration": splits["train"][:ROWS], "held_out": splits["valid"][:ROWS]}
    zoo = sorted(path for path in Path("zoo").glob("tiny-*") if path.name != "tiny-reference")
    results = {"machine": about, "rows": {name: len(own) for name, own in rows.items()}, "models": {}}
    for folder in zoo:
        results["models"][folder.name] = compare(Trial(folder, rows))
        print(folder.name, flush=True)
        write_results(target, results)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
