"""What each filter is worth: the zoo's proxies tuned on its choice, against random rows and against all rows.

    python -m benchmarks.filter_comparison cloud-qa --out benchmarks/results/filters-cloud-qa.json
    python -m benchmarks.filter_comparison dolly --data PATH-OF-A-FOLDER-WITH-dolly/ ...

Every proxy is pruned once, on all training rows, so that only the rows differ. The score is bits per byte of the
held-out answers (lower is better). Steps lie in the workspace: the same command resumes and pays only for what is new.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import track
from scipy.stats import kendalltau

from benchmarks.machine import facts, write_results
from damoc.config import SelectionConfig, resolve_paths
from damoc.evaluation.registry import Settings, task_of
from damoc.filters import filters
from damoc.hashing import derive_seed
from damoc.models.load import load_model
from damoc.stages.compress_data import filter_rows
from damoc.stages.compress_model import Bench
from damoc.stages.context import Context, config_hash
from damoc.stages.prepare_data import prepare
from damoc.stages.rows import encode_rows, read_examples, write_json
from damoc.store import Step, StepResult
from damoc.tuning import fine_tune

ROOT = Path(__file__).parent.parent
MINED = ("cloud-qa", "science-qa", "cloud-service")
BUDGETS = (0.05, 0.1, 0.2)
RANDOM_SEEDS = 3
METRIC = "bits_per_byte"
TUNING = {"learning_rate": 3e-3, "epochs": 3, "batch_size": 8, "max_length": 256, "dropout": 0.0, "dtype": "float32"}
CANDIDATES = "llama-cloud,qwen3-science,neox-stdlib"
FREE_FORM, CLOSED = "generation", "choice"


def make_config(dataset: str, data: Path | None, candidates: Sequence[str], workspace: Path, rows: int) -> Any:
    """The config that every comparison on a dataset starts from."""
    if dataset in MINED:
        source: dict[str, Any] = {"source": f"mined:{dataset}"}
    elif data is None:
        raise typer.BadParameter(f"{dataset} is not mined: name the folder that holds it with --data")
    else:
        source = {"splits": {name: str(data / dataset / f"{name}.jsonl.gz") for name in ("train", "valid", "test")}}
        source |= {"on_leak": "drop"} | ({"preset": "pubmedqa"} if dataset == "pubmedqa" else {})
    raw = {
        "name": f"filters-{dataset}",
        "seed": 17,
        "workspace": str(workspace),
        "dataset": {**source, "limit": {"train": rows, "valid": 24, "test": 120}},
        "data_compression": {"condense": {"enabled": False, "compressor": str(ROOT / "zoo/tiny-reference")}},
        "model_compression": {"ratio": 0.25},
        "tuning": TUNING,
        "evaluation": {"task": CLOSED if dataset in ("pubmedqa", "cloud-service") else FREE_FORM, "metric": METRIC},
        "candidates": [{"id": name, "model": str(ROOT / "zoo" / f"tiny-{name}")} for name in candidates],
    }
    return resolve_paths(SelectionConfig.model_validate(raw), ROOT)


def choices(methods: Sequence[str]) -> Iterator[tuple[str, float, int]]:
    """(method, budget, repeat) of every choice that is compared, all rows first."""
    yield "random", 1.0, 0
    for method in methods:
        for budget in BUDGETS:
            yield from ((method, budget, repeat) for repeat in range(RANDOM_SEEDS if method == "random" else 1))


def score(context: Context, candidate: str, proxy: StepResult, prepared: StepResult, data: StepResult) -> float:
    """Bits per byte of a proxy tuned on some rows."""
    config = context.config

    def work(folder: Path) -> Mapping[str, Any]:
        loaded = load_model(str(proxy.path() / "model"), dtype=config.tuning.dtype)
        rows = encode_rows(loaded, read_examples(data.path() / "train.jsonl"), config.tuning.max_length)
        seed = derive_seed(config.seed, "filter_comparison", candidate)
        tuned = fine_tune(loaded.model, rows, [], loaded.tokenizer.pad_token_id, config.tuning, seed)
        held_out = read_examples(prepared.path() / "test.jsonl")
        settings = Settings(config.evaluation, [METRIC], config.tuning.max_length)
        model = type(loaded)(tuned.model.merge_and_unload().eval(), loaded.tokenizer, loaded.max_length)
        found = task_of(config).measure(model, held_out, settings)
        write_json(folder / "scores.json", {METRIC: found[METRIC].to_json()})
        return {METRIC: found[METRIC].score()}

    step = Step(
        "filter_comparison",
        {"candidate": candidate, "tuning": config.tuning.model_dump(), "task": config.evaluation.task},
        {"proxy": proxy.content, "data": data.content, "test": prepared.content},
        code=("tuning", "models", "data/prompts.py", "evaluation"),
    )
    return float(context.store.run(step, work).summary[METRIC])


def main(
    dataset: str,
    data: Annotated[Path | None, typer.Option(help="Folder that holds DATASET/{train,valid,test}.jsonl.gz.")] = None,
    only: Annotated[str, typer.Option(help="Comma-separated filters; default: all.")] = "",
    candidates: Annotated[str, typer.Option(help="Comma-separated zoo models.")] = CANDIDATES,
    rows: Annotated[int, typer.Option(help="Training rows there are.")] = 800,
    workspace: Annotated[Path, typer.Option(help="Where finished steps lie.")] = Path(".damoc-bench"),
    out: Annotated[Path | None, typer.Option(help="JSON of the results.")] = None,
) -> None:
    """Compares all filters on one dataset."""
    names = candidates.split(",")
    config = make_config(dataset, data, names, workspace, rows)
    context = Context(config, "", config_hash(config), "")
    prepared = prepare(context)
    proxies = {name: Bench(context, name, prepared).proxy() for name in names}
    methods = only.split(",") if only else list(filters())
    found: list[dict[str, Any]] = []
    machine = facts()
    for method, budget, repeat in track(list(choices(methods)), description=dataset):
        chosen = {"method": method, "budget": budget, "min_rows": 1}
        compression = config.data_compression
        compression = compression.model_copy(update={"filter": compression.filter.model_copy(update=chosen)})
        changed = config.model_copy(update={"data_compression": compression, "seed": config.seed + repeat})
        started = time.perf_counter()
        filtered = filter_rows(Context(changed, "", "", ""), prepared)
        entry = {
            "filter": "all rows" if budget == 1.0 else method,
            "budget": budget,
            "repeat": repeat,
            "rows": filtered.summary["funnel"][-1]["rows"],
            "words": filtered.summary["funnel"][-1]["words"],
            "filter_seconds": round(filtered.seconds if filtered.reused else time.perf_counter() - started, 2),
            METRIC: {name: round(score(context, name, proxies[name], prepared, filtered), 4) for name in names},
        }
        found.append(entry)
        if out is not None:
            write_results(out, {"dataset": dataset, "rows": rows, "machine": machine, "results": found})
    typer.echo(table(found, names))


def table(found: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Markdown: mean bits per byte by filter and budget, and agreement with the order that all rows give."""
    full = next(entry for entry in found if entry["filter"] == "all rows")
    lines = ["| filter | " + " | ".join(f"{budget:.0%}" for budget in BUDGETS) + " | order as with all rows (tau) |"]
    lines.append("|---|" + "---|" * (len(BUDGETS) + 1))
    rows: list[tuple[float, str]] = []
    for method in dict.fromkeys(entry["filter"] for entry in found if entry["filter"] != "all rows"):
        cells, taus = [], []
        for budget in BUDGETS:
            same = [entry for entry in found if entry["filter"] == method and entry["budget"] == budget]
            means = [float(np.mean(list(entry[METRIC].values()))) for entry in same]
            spread = f" ± {np.std(means):.3f}" if len(means) > 1 else ""
            cells.append((float(np.mean(means)), f"{np.mean(means):.3f}{spread}"))
            taus += [
                kendalltau([entry[METRIC][n] for n in names], [full[METRIC][n] for n in names])[0] for entry in same
            ]
        text = " | ".join(cell for _, cell in cells)
        rows.append((float(np.mean([value for value, _ in cells])), f"| {method} | {text} | {np.mean(taus):.2f} |"))
    lines += [line for _, line in sorted(rows)]
    lines.append(f"| all rows | {np.mean(list(full[METRIC].values())):.3f} | | | 1.00 |")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
