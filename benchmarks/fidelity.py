"""What compressing the candidates does to the order they end in, on the toy zoo.

    python -m benchmarks.fidelity cloud-qa science-qa FOLDER-OF-A-SET ... OUT.json --cells FOLDER

The truth about a candidate is its score after the whole model was fine-tuned on all rows for three epochs. A proxy is
the same candidate compressed in some way and tuned on the same rows for one. Each way is judged by how its order of
the candidates agrees with the true one, by what its choice loses against the best candidate, by what it does to the
loss, and by what it costs. A folder holds ``train``, ``valid`` and ``test.jsonl.gz``.

Everything that is measured lies in a file of its own in the folder of ``--cells``: the same command resumes. A proxy
that is bit for bit one that was tuned before (a merge that was not accepted, two policies of one mind) is not tuned
again. Seconds are those of the processor, so that other work on the machine does not count.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.progress import track

from benchmarks.agreement import agreement, scores
from benchmarks.machine import facts, write_results
from damoc.compression import CompressionOutcome, ProxyMaker, rules_of
from damoc.compression.decision import LayerDecision, Rules, WholeModel
from damoc.config import DatasetConfig, EvaluationConfig, ModelCompression, TuningConfig
from damoc.data.dataset import load_dataset
from damoc.data.example import Example
from damoc.data.prompts import Encoded
from damoc.evaluation import Settings, task_named
from damoc.hashing import derive_seed, sha256_json
from damoc.models.batching import length_batches, pad_batch
from damoc.models.likelihood import answer_losses
from damoc.models.load import LoadedModel, load_model, model_identity
from damoc.stages.rows import encode_rows
from damoc.tuning import fine_tune

ROOT = Path(__file__).parent.parent
MINED = ("cloud-qa", "cloud-service", "science-qa")
TASKS = {"cloud-service": "choice", "pubmedqa": "choice", "squad_mini": "short_answer", "web_questions": "short_answer"}
PRESETS = {"pubmedqa": "pubmedqa", "squad_mini": "squad", "web_questions": "web_questions"}
METRICS = {"choice": ["bits_per_byte", "accuracy"], "short_answer": ["bits_per_byte", "f1"]}
ROWS = {"train": 160, "valid": 32, "test": 64}
MAX_LENGTH, CALIBRATION = 224, 24
TUNING = TuningConfig(
    rank=8, alpha=16, dropout=0.0, learning_rate=3e-3, batch_size=8, max_length=MAX_LENGTH, dtype="float32"
)
UNPATCHED = "tiny-gemma2-mixed"
"""Norms stand behind its projections, so no linear patch can be folded into them."""
TRUE_EPOCHS, PROXY_EPOCHS = 3.0, 1.0
_SHARES = {"share of operations": "flops", "share of seconds": "tuning_seconds"}
TRUTH, AGAIN, ZERO_SHOT = "truth", "truth with another seed", "zero-shot"


@dataclass(frozen=True)
class Way:
    """A way to make a proxy.

    Args:
        section: what it names of ``model_compression``; a merge is none unless it is named.
        rows: share of the training rows that the proxy is tuned on.
    """

    section: Mapping[str, Any]
    rows: float = 1.0


def ways() -> dict[str, Way]:
    """All that are compared."""
    found = {"unpruned": Way({"ratio": 0.0}), "unpruned, half the rows": Way({"ratio": 0.0}, 0.5)}
    found |= {f"ratio {ratio}": Way({"ratio": ratio}) for ratio in (0.125, 0.25, 0.375, 0.5)}
    found["0.25, half the rows"] = Way({"ratio": 0.25}, 0.5)
    found |= {f"0.25, {policy}": Way({"ratio": 0.25, "policy": policy}) for policy in ("iterative", "contiguous")}
    found |= {"depth 8": Way({"depth": 8}), "flops 0.2": Way({"flops": 0.2})}
    for ratio in (0.25, 0.5):
        found[f"{ratio}, linear_patch"] = Way({"ratio": ratio, "merge": {"method": "linear_patch"}})
        for density in (0.1, 0.2, 0.5):
            merge = {"method": "rdsc_sparse", "density": density}
            found[f"{ratio}, rdsc_sparse {density}"] = Way({"ratio": ratio, "merge": merge})
    return found


@dataclass(frozen=True)
class Replicate:
    """Rows of one set under one seed, and what is kept of the measurements on them.

    Args:
        name: of the set.
        seed: of the rows and of the tuning.
        splits: rows.
        task: that scores the test rows.
        cells: folder of what was measured.
    """

    name: str
    seed: int
    splits: Mapping[str, Sequence[Example]]
    task: str
    cells: Path

    def kept(self, key: Mapping[str, Any], work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A measurement, made at most once."""
        own = {"rows": [row.id for rows in self.splits.values() for row in rows], "seed": self.seed}
        whole = {"replicate": own, "measured": key}
        path = self.cells / f"{sha256_json(whole)}.json"
        if not path.exists():
            write_results(path, work())
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found


class Trial:
    """A candidate on the rows of a replicate."""

    def __init__(self, replicate: Replicate, candidate: Path) -> None:
        self._replicate, self._candidate = replicate, candidate
        self._seed = derive_seed(replicate.seed, candidate.name)
        self._key = {
            "candidate": model_identity(str(candidate), None),
            "tuning": TUNING.model_dump(mode="json", exclude_unset=True),
            "calibration_rows": CALIBRATION,
        }
        self._decisions: dict[Rules, LayerDecision] = {}

    def truth(self, turn: int = 0) -> dict[str, Any]:
        """The whole model after the full tuning; another turn has other adapters and another order of the rows."""
        key = {**self._key, "epochs": TRUE_EPOCHS, "turn": turn}
        return self._replicate.kept(key, lambda: self._tuned(self._load(), TRUE_EPOCHS, turn))

    def zero_shot(self) -> dict[str, Any]:
        """The whole model as it is."""
        return self._replicate.kept({**self._key, "epochs": 0}, lambda: {"scores": self._scores(self._load())})

    def proxy(self, way: Way) -> dict[str, Any]:
        """A proxy after its tuning."""
        settings = ModelCompression.model_validate({"merge": {"method": "none"}, **way.section})

        def work() -> dict[str, Any]:
            loaded = self._load()
            started = time.process_time()
            outcome = self._compress(loaded, settings)
            seconds = time.process_time() - started
            merge = settings.merge.model_dump(mode="json") | {"scale": outcome.scale} if outcome.scale else None
            made = {"keep": list(outcome.layers.plan.keep), "merge": merge, "share": way.rows}
            key = {**self._key, "epochs": PROXY_EPOCHS, **made}
            tuned = self._replicate.kept(key, lambda: self._tuned(loaded, PROXY_EPOCHS, rows=way.rows))
            record = outcome.to_json()
            return {
                **tuned,
                "losses": record["losses"],
                "merge": record["merge"],
                "removed": record["plan"]["remove"],
                "given_back": record["plan"]["given_back"],
                "compression_seconds": round(seconds, 2),
            }

        return self._replicate.kept(
            {**self._key, "section": settings.model_dump(mode="json", exclude_unset=True), "share": way.rows}, work
        )

    def _load(self) -> LoadedModel:
        return load_model(str(self._candidate))

    def _compress(self, loaded: LoadedModel, settings: ModelCompression) -> CompressionOutcome:
        """The proxy, in place; what was measured and decided before is not done again."""
        maker, rules = self._maker(loaded), rules_of(settings)
        if rules not in self._decisions:
            self._decisions[rules] = maker.decide(rules, self._whole)
        fitted = self._encoded(loaded, "train")[CALIBRATION : CALIBRATION + settings.merge.fit_rows]
        batches = _batches(fitted, loaded.tokenizer.pad_token_id)
        return maker.merge(self._decisions[rules], settings.merge, self._seed, fit_batches=batches)

    def _maker(self, loaded: LoadedModel) -> ProxyMaker:
        judged, pad_id = self._encoded(loaded, "train")[:CALIBRATION], loaded.tokenizer.pad_token_id
        return ProxyMaker(loaded.model, _batches(judged, pad_id), lambda model: _loss(model, judged, pad_id), pad_id)

    @cached_property
    def _whole(self) -> WholeModel:
        return self._maker(self._load()).measure("flops")

    def _tuned(self, loaded: LoadedModel, epochs: float, turn: int = 0, rows: float = 1.0) -> dict[str, Any]:
        train, valid = self._encoded(loaded, "train"), self._encoded(loaded, "valid")
        pad_id = loaded.tokenizer.pad_token_id
        before = _loss(loaded.model, valid, pad_id)
        started = time.process_time()
        seed = derive_seed(self._seed, str(epochs), str(turn))
        train = train[: round(rows * len(train))]
        outcome = fine_tune(loaded.model, train, [], pad_id, TUNING.model_copy(update={"epochs": epochs}), seed)
        seconds = time.process_time() - started
        tuned = LoadedModel(outcome.model.merge_and_unload().eval(), loaded.tokenizer, loaded.max_length)
        return {
            "scores": self._scores(tuned),
            "valid_loss": [round(value, 6) for value in (before, _loss(tuned.model, valid, pad_id))],
            "steps": outcome.steps,
            "flops": outcome.flops,
            "tuning_seconds": round(seconds, 2),
        }

    def _scores(self, loaded: LoadedModel) -> dict[str, float]:
        metrics = METRICS.get(self._replicate.task, ["bits_per_byte"])
        settings = Settings(EvaluationConfig(), metrics, MAX_LENGTH)
        found = task_named(self._replicate.task).measure(loaded, self._replicate.splits["test"], settings)
        return {metric: round(found[metric].score(), 6) for metric in metrics}

    def _encoded(self, loaded: LoadedModel, split: str) -> list[Encoded]:
        return encode_rows(loaded, self._replicate.splits[split], MAX_LENGTH)


def _loss(model: Any, rows: Sequence[Encoded], pad_id: int) -> float:
    return float(np.concatenate(answer_losses(model, rows, pad_id)).mean(dtype=np.float64))


def _batches(rows: Sequence[Encoded], pad_id: int) -> list[dict[str, torch.Tensor]]:
    return [pad_batch([rows[index] for index in own], pad_id, "cpu") for own in length_batches(rows, TUNING.batch_size)]


def replicate(source: str, seed: int, cells: Path) -> Replicate:
    """The rows of a set under a seed.

    Args:
        source: name of a mined set, or folder of another.
        seed: chooses the rows.
        cells: folder of what was measured.
    """
    name = Path(source).name
    if source in MINED:
        where: dict[str, Any] = {"source": f"mined:{source}"}
    else:
        where = {"splits": {split: str(Path(source) / f"{split}.jsonl.gz") for split in ("train", "valid", "test")}}
    config = DatasetConfig.model_validate({**where, "preset": PRESETS.get(name), "limit": ROWS, "on_leak": "drop"})
    return Replicate(name, seed, load_dataset(config, seed).splits, TASKS.get(name, "generation"), cells)


def measured(replicate: Replicate, candidate: Path) -> dict[str, Any]:
    """All that is measured of a candidate on some rows, by way."""
    trial = Trial(replicate, candidate)
    whole = {TRUTH: trial.truth(), AGAIN: trial.truth(1), ZERO_SHOT: trial.zero_shot()}
    return whole | {name: trial.proxy(way) for name, way in ways().items()}


def summary(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Each way over all sets: agreement with the truth by each metric, losses, accepted merges, and cost.

    Args:
        found: results by replicate, candidate and way.
    """
    patchable = {
        name: {candidate: own for candidate, own in results.items() if candidate != UNPATCHED}
        for name, results in found.items()
    }
    return {
        way: {
            "agreement": {metric: _agreement(found, way, metric) for metric in ("bits_per_byte", "accuracy", "f1")},
            f"agreement without {UNPATCHED}": _agreement(patchable, way, "bits_per_byte"),
            **_losses_and_costs([own for results in found.values() for own in results.values()], way),
        }
        for way in (AGAIN, ZERO_SHOT, *ways())
    }


def _agreement(found: Mapping[str, Mapping[str, Mapping[str, Any]]], way: str, metric: str) -> dict[str, Any] | None:
    """Agreement of a way's scores by a metric with the true ones, over the sets that have it."""
    having = [own for own in found.values() if metric in next(iter(own.values()))[TRUTH]["scores"]]
    return agreement([(scores(own, way, metric), scores(own, TRUTH, metric)) for own in having]) if having else None


def _losses_and_costs(results: Sequence[Mapping[str, Mapping[str, Any]]], way: str) -> dict[str, Any]:
    """Means over candidates and sets; losses in nats per answer token."""

    def mean(value: Callable[[Mapping[str, Any]], float], of: str = way) -> float:
        return float(np.mean([value(own[of]) for own in results]))

    told: dict[str, Any] = {"bits_per_byte": round(mean(lambda own: own["scores"]["bits_per_byte"]), 4)}
    if way == ZERO_SHOT:
        return told
    told["valid_loss"] = [round(mean(lambda own, at=at: own["valid_loss"][at]), 4) for at in (0, 1)]
    for share, cost in _SHARES.items():
        told[share] = round(mean(lambda own, cost=cost: own[cost]) / mean(lambda own, cost=cost: own[cost], TRUTH), 3)
    if way == AGAIN:
        return told
    for name in ("original", "pruned", "merged"):
        told[f"{name} loss"] = round(mean(lambda own, name=name: own["losses"][name]), 4)
    return told | {
        "layers removed": round(mean(lambda own: len(own["removed"])), 2),
        "layers given back": round(mean(lambda own: len(own["given_back"])), 2),
        "merges accepted": round(mean(lambda own: own["merge"]["accepted"]), 3),
        "compression_seconds": round(mean(lambda own: own["compression_seconds"]), 2),
    }


def table(told: Mapping[str, Mapping[str, Any]]) -> str:
    """The summary in Markdown, agreement by bits per byte."""
    lines = [
        "| way | tau (90%) | p | Spearman | distortion | without gemma2 | regret | best chosen | merges accepted "
        "| loss pruned, merged | held-out, tuned | operations | seconds |",
        "|---" * 13 + "|",
    ]
    for way, own in told.items():
        agreed = own["agreement"]["bits_per_byte"]
        losses = [own[key] for key in ("pruned loss", "merged loss") if key in own]
        shares = [f"{own[key]:.0%}" if key in own else "" for key in ("merges accepted", *_SHARES)]
        cells = [
            f"{agreed['kendall']:.2f} ({agreed['interval'][0]:.2f} to {agreed['interval'][1]:.2f})",
            f"{agreed['p']:.2g}",
            f"{agreed['spearman']:.2f}",
            f"{agreed['distortion']:.3f}",
            f"{own[f'agreement without {UNPATCHED}']['distortion']:.3f}",
            f"{agreed['regret']:.3f}",
            f"{agreed['hits']:.0%}",
            shares[0],
            ", ".join(f"{loss:.3f}" for loss in losses),
            ", ".join(f"{loss:.3f}" for loss in own.get("valid_loss", [])),
            *shares[1:],
        ]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(
    data: Annotated[list[str], typer.Argument(help="Mined sets, and folders of others.")],
    out: Annotated[Path, typer.Argument(help="JSON of the results.")],
    cells: Annotated[Path, typer.Option(help="Where each measurement is kept.")] = Path(".damoc-bench/fidelity"),
    seeds: Annotated[int, typer.Option(help="Replicates of each set, with other rows.")] = 1,
) -> None:
    """Measures what is not measured yet, and writes how far each way of making proxies is to be trusted."""
    torch.set_num_threads(1)
    about = {
        "machine": facts(),
        "rows": ROWS,
        "calibration_rows": CALIBRATION,
        "max_length": MAX_LENGTH,
        "epochs": {TRUTH: TRUE_EPOCHS, "proxies": PROXY_EPOCHS},
        "tuning": TUNING.model_dump(mode="json", include={"rank", "alpha", "dropout", "learning_rate", "batch_size"}),
        "ways": {name: asdict(way) for name, way in ways().items()},
    }
    zoo = sorted(path for path in (ROOT / "zoo").glob("tiny-*") if path.name != "tiny-reference")
    sets = [replicate(source, seed, cells) for seed in range(seeds) for source in data]
    found: dict[str, dict[str, Any]] = {}
    for own, candidate in track([(own, path) for own in sets for path in zoo], description="candidates on sets"):
        results = found.setdefault(f"{own.name} {own.seed}", {})
        results[candidate.name] = measured(own, candidate)
        if len(results) == len(zoo):
            whole = {name: results for name, results in found.items() if len(results) == len(zoo)}
            told = summary(whole)
            write_results(out, {**about, "summary": told, "measured": whole})
            typer.echo(table(told))


if __name__ == "__main__":
    typer.run(main)
