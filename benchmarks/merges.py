"""What each merge does to the loss of a pruned model, before any tuning, and what its settings are worth.

    python -m benchmarks.merges benchmarks/results/merges.json

Each candidate of the toy zoo loses a quarter and half of its layers by the default policy. A merge is chosen by the
loss on the rows that judge it, as in a selection, and then measured on held-out rows. A linear patch is fitted to 8 to
128 rows of its own, and once to the rows that judge it, as it must not be. For ``instruct_delta`` the candidate is
tuned on another set first (all weights, one epoch); what it was before is its base. Losses are nats per answer token.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from benchmarks.machine import facts, write_results
from damoc.compression.architecture import LayerSurgery
from damoc.compression.importance import measure_layers
from damoc.compression.merge import Ingredients, build_merge, choose_scale
from damoc.compression.plan import Bounds, LayerPlan, lowest, protected_layers, target
from damoc.config import DatasetConfig, MergeConfig, TuningConfig
from damoc.data.dataset import load_dataset
from damoc.data.example import Example
from damoc.data.prompts import Encoded
from damoc.models.batching import length_batches, pad_batch
from damoc.models.likelihood import answer_losses
from damoc.models.load import LoadedModel, load_model
from damoc.stages.rows import encode_rows
from damoc.tuning import fine_tune

RATIOS, FIT_ROWS, DENSITIES = (0.25, 0.5), (8, 32, 128), (0.1, 0.2, 0.5)
JUDGED, HELD_OUT, MAX_LENGTH, BATCH = 24, 32, 224, 8
INSTRUCTION = TuningConfig(method="full", learning_rate=1e-3, epochs=1, batch_size=8, dtype="float32")
INSTRUCTION_ROWS = 240


def trials() -> Iterator[tuple[str, MergeConfig, int]]:
    """Name and settings of what is tried, and the rows that a patch is fitted to; 0 are those that judge it."""
    for density in DENSITIES:
        yield f"rdsc_sparse, density {density}", MergeConfig(density=density), 0
    for anchor in ("after", "nearest"):
        yield f"rdsc_sparse, anchor {anchor}", MergeConfig(density=0.2, anchor=anchor), 0
    for sparsifier in ("ties", "dare"):
        yield f"rdsc_sparse, {sparsifier}", MergeConfig(density=0.2, sparsifier=sparsifier), 0
    for ridge in (0.01, 0.1):
        for rows in FIT_ROWS:
            yield f"linear_patch, ridge {ridge}, {rows} rows", MergeConfig(method="linear_patch", ridge=ridge), rows
    yield "linear_patch, ridge 0.01, the rows that judge it", MergeConfig(method="linear_patch"), 0


def deltas() -> Iterator[tuple[str, MergeConfig, int]]:
    """What is tried with a tuned candidate, as :func:`trials`."""
    for density in DENSITIES:
        yield f"instruct_delta, density {density}", MergeConfig(method="instruct_delta", density=density), 0


class Trial:
    """A pruned candidate.

    Args:
        loaded: the whole candidate.
        rows: rows that judge, held-out rows, and rows to fit to.
        base: the candidate before its tuning.
    """

    def __init__(self, loaded: LoadedModel, rows: Mapping[str, Sequence[Example]], base: Any = None) -> None:
        self._model, self._pad_id = loaded.model, loaded.tokenizer.pad_token_id
        self._rows = {name: encode_rows(loaded, own, MAX_LENGTH) for name, own in rows.items()}
        self._surgery = LayerSurgery(loaded.model)
        before = [dict(layer.named_parameters()) for layer in LayerSurgery(base).layers] if base else []
        self._base = (lambda layer, name: before[layer][name].detach()) if before else None
        self._importance = measure_layers(self._model, self._surgery.layers, self._batches("judged")).influence

    def compare(self, ratio: float, tried: Sequence[tuple[str, MergeConfig, int]]) -> dict[str, Any]:
        """Losses after plain removal, and per trial the accepted scale and what it gains, in shares of the loss."""
        total = len(self._surgery.layers)
        bounds = Bounds(protected_layers(self._importance, self._surgery.layer_types), 4)
        plan = LayerPlan.without(lowest(self._importance, target("ratio", ratio, total), bounds), total)
        whole = self._losses()
        self._surgery.keep(plan.keep)
        plain = self._losses()
        found: dict[str, Any] = {}
        for name, settings, rows in tried:
            of = Ingredients(self._surgery, plan.keep, plan.remove, settings, 0, self._base)
            merge = build_merge(self._model, of, self._batches("fitted", rows) if rows else self._batches("judged"))
            losses = {0.0: plain["judged"]}
            for scale in settings.grid()[1:] if merge else []:
                merge.apply(scale)
                losses[scale] = self._loss("judged")
            scale = choose_scale(losses, settings.min_gain)
            merge.apply(scale)
            after = self._losses() if scale else plain
            merge.apply(0.0)
            gains = {key: round(1 - after[key] / plain[key], 5) for key in plain}
            found[name] = {"scale": scale, "gain": gains, "losses": {str(key): loss for key, loss in losses.items()}}
        self._surgery.keep(range(total))
        return {"removed": list(plan.remove), "whole": whole, "plain": plain, "merges": found}

    def _batches(self, name: str, rows: int | None = None) -> list[dict[str, torch.Tensor]]:
        own: Sequence[Encoded] = self._rows[name][:rows]
        return [pad_batch([own[index] for index in batch], self._pad_id, "cpu") for batch in length_batches(own, BATCH)]

    def _losses(self) -> dict[str, float]:
        return {name: self._loss(name) for name in ("judged", "held_out")}

    def _loss(self, name: str) -> float:
        losses = answer_losses(self._model, self._rows[name], self._pad_id)
        return round(float(np.concatenate(losses).mean(dtype=np.float64)), 6)


def instructed(loaded: LoadedModel, rows: Sequence[Example]) -> Any:
    """What the candidate was before; it is tuned on the rows, in place."""
    before = copy.deepcopy(loaded.model)
    encoded = encode_rows(loaded, rows, MAX_LENGTH)
    fine_tune(loaded.model, encoded, [], loaded.tokenizer.pad_token_id, INSTRUCTION, 0)
    return before


def summary(models: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Per ratio and trial, over the models: share accepted, mean gains, and share that lost on the held-out rows."""

    def told(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        def mean(values: Sequence[float]) -> float:
            return round(float(np.mean(values)), 4)

        return {
            "accepted": mean([float(own["scale"] != 0) for own in found]),
            "gain": {key: mean([own["gain"][key] for own in found]) for key in ("judged", "held_out")},
            "accepted and worse on held-out rows": mean([float(own["gain"]["held_out"] < 0) for own in found]),
        }

    result: dict[str, Any] = {}
    for ratio in map(str, RATIOS):
        for kind in ("as they are", "instructed"):
            found = [own[kind][ratio]["merges"] for own in models.values()]
            result.setdefault(ratio, {}).update({name: told([own[name] for own in found]) for name in found[0]})
    return result


def main(out: Path) -> None:
    """Measures and writes."""
    torch.set_num_threads(1)
    about = facts()
    sets = {name: load_dataset(DatasetConfig(source=f"mined:{name}"), 17).splits for name in ("cloud-qa", "science-qa")}
    train = sets["cloud-qa"]["train"]
    rows = {
        "judged": train[:JUDGED],
        "fitted": train[JUDGED : JUDGED + max(FIT_ROWS)],
        "held_out": sets["cloud-qa"]["valid"][:HELD_OUT],
    }
    models: dict[str, Any] = {}
    zoo = sorted(path for path in Path("zoo").glob("tiny-*") if path.name != "tiny-reference")
    for folder in track(zoo, description="merges"):
        loaded = load_model(str(folder))
        trial = Trial(loaded, rows)
        models[folder.name] = {"as they are": {str(ratio): trial.compare(ratio, list(trials())) for ratio in RATIOS}}
        before = instructed(loaded, sets["science-qa"]["train"][:INSTRUCTION_ROWS])
        trial = Trial(loaded, rows, before)
        models[folder.name]["instructed"] = {str(ratio): trial.compare(ratio, list(deltas())) for ratio in RATIOS}
        sizes = {name: len(own) for name, own in rows.items()} | {"instruction": INSTRUCTION_ROWS}
        write_results(out, {"machine": about, "rows": sizes, "summary": summary(models), "models": models})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
