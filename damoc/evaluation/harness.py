"""MEASURE with lm-evaluation-harness: any of its tasks, by name or from a YAML file, as a task of damoc."""

from __future__ import annotations

import inspect
import io
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from functools import cache
from pathlib import Path
from typing import Any

from damoc.data.example import Example
from damoc.errors import DamocError
from damoc.evaluation.registry import HARNESS, Settings, Task
from damoc.evaluation.row_scores import RowScores
from damoc.hashing import sha256_text
from damoc.models.load import LoadedModel


def _mean(values: Sequence[Any]) -> RowScores:
    return RowScores.mean([float(value) for value in values])


def _bits_per_unit(values: Sequence[Any]) -> RowScores:
    return RowScores.ratio([-own / math.log(2) for own, _ in values], [units for _, units in values])


def _weighted_perplexity(values: Sequence[Any]) -> RowScores:
    return RowScores(RowScores.ratio([-own for own, _ in values], [units for _, units in values]).records, "exp_ratio")


def _perplexity(values: Sequence[Any]) -> RowScores:
    return RowScores(_mean([-value for value in values]).records, "exp_ratio")


def _f1(values: Sequence[Any]) -> RowScores:
    """Binary F1 of class 1."""
    pairs = [(gold == 1, found == 1) for gold, found in values]
    return RowScores.ratio([2.0 * (gold and found) for gold, found in pairs], [gold + found for gold, found in pairs])


AGGREGATIONS: Mapping[str, Callable[[Sequence[Any]], RowScores]] = {
    "mean": _mean,
    "bits_per_byte": _bits_per_unit,
    "weighted_perplexity": _weighted_perplexity,
    "perplexity": _perplexity,
    "f1": _f1,
}
"""How the values of a metric become records, by the harness's name of its aggregation."""


@cache
def harness_task(name: str) -> Task:
    """A task of lm-evaluation-harness; it brings its own rows and prompts.

    Only metrics that are a function of sums over rows can be bootstrapped, and only those are offered. Of a task with
    several answer filters each metric is there once a filter, as ``metric/filter``. The rows of a group's tasks are
    put together, so that its score is the mean over all of their rows.

    Args:
        name: a task or group that the harness knows, or a YAML file (its ``!function`` entries run Python code).

    Raises:
        DamocError: there is no such task, its data cannot be read, or none of its metrics can be bootstrapped.
    """
    found = _load(name)
    metrics = _metrics_of(found)
    if not metrics:
        known = ", ".join(AGGREGATIONS)
        raise DamocError(
            f"no metric of {name!r} can be bootstrapped",
            "field evaluation.task",
            f"use a task whose metrics are aggregated by one of {known}",
        )
    title = HARNESS + (",".join(found) if name.endswith(".yaml") else name)

    def measure(loaded: LoadedModel, rows: Sequence[Example], settings: Settings) -> dict[str, RowScores]:
        return _measure(name, loaded, settings)

    directions = {metric: better for metric, (_, better) in metrics.items()}
    return Task(title, next(iter(metrics)), directions, measure, content=_content(found))


def harness_model(loaded: LoadedModel, batch_size: int, max_length: int) -> Any:
    """A loaded model as lm-evaluation-harness wants it.

    Args:
        loaded: model and tokenizer.
        batch_size: rows in a forward pass.
        max_length: longest row that is read, in tokens.
    """
    from lm_eval.models.huggingface import HFLM

    limit = min(max_length, loaded.max_length)
    return HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=batch_size, max_length=limit)


def _measure(name: str, loaded: LoadedModel, settings: Settings) -> dict[str, RowScores]:
    from lm_eval.evaluator import evaluate

    found = _load(name)
    for task in found.values():
        task.set_config("num_fewshot", len(settings.shown) or task.get_config("num_fewshot") or 0)
        task.set_fewshot_seed(settings.seed)
    model = harness_model(loaded, settings.config.batch_size, settings.max_length)
    with redirect_stderr(io.StringIO()):  # its progress bars
        results = evaluate(model, {"tasks": found}, bootstrap_iters=0)
    samples = [sample for name in found for sample in results["samples"][name]]
    settings.on_progress(len(samples), len(samples))
    return {
        metric: make([sample[_bare(metric)] for sample in samples if _belongs(metric, sample["filter"])])
        for metric, (make, _) in _metrics_of(found).items()
    }


def _load(name: str) -> dict[str, Any]:
    """The tasks of that name, by their own names."""
    import lm_eval.tasks

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    is_file = name.endswith(".yaml")
    if is_file and not Path(name).is_file():
        raise DamocError("the task file does not exist", f"field evaluation.task: {name}", "check the path")
    try:
        with redirect_stderr(io.StringIO()):
            return dict(lm_eval.tasks.TaskManager(include_defaults=not is_file).load(name)["tasks"])
    except KeyError:
        raise DamocError(
            f"lm-evaluation-harness knows no task {name!r}",
            "field evaluation.task",
            "see 'lm_eval ls tasks', or name a YAML file",
        ) from None
    except Exception as error:  # a task file may hold, and its code raise, anything
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DamocError(
            f"the task {name!r} cannot be loaded: {reason}",
            "field evaluation.task",
            "check the file, or that the hub can be reached",
        ) from error


def _metrics_of(found: Mapping[str, Any]) -> dict[str, tuple[Callable[[Sequence[Any]], RowScores], bool]]:
    """What every task measures: by metric, how its values become records, and whether higher is better."""
    from lm_eval.api.registry import get_aggregation

    makers = {get_aggregation(name): make for name, make in AGGREGATIONS.items()}
    first, *others = found.values()
    filters = [own["name"] for own in first.get_config("filter_list") or ()]
    directions = first.higher_is_better()
    metrics = {}
    for metric, aggregation in first.aggregation().items():
        if aggregation in makers and all(metric in other.aggregation() for other in others):
            for title in [f"{metric}/{own}" for own in filters] if len(filters) > 1 else [metric]:
                metrics[title] = (makers[aggregation], bool(directions[metric]))
    return metrics


def _bare(metric: str) -> str:
    return metric.partition("/")[0]


def _belongs(metric: str, answer_filter: str) -> bool:
    return metric.partition("/")[2] in ("", answer_filter)


def _content(found: Mapping[str, Any]) -> str:
    """SHA-256 over the config of each task, where its data lie left out, and over its rows."""
    elsewhere = ("dataset_kwargs", "dataset_path", "dataset_name", "metadata")
    described = {
        name: [
            {key: value for key, value in task.dump_config().items() if key not in elsewhere},
            list(task.eval_docs),
        ]
        for name, task in found.items()
    }
    return sha256_text(json.dumps(described, sort_keys=True, default=_source))


def _source(value: Any) -> str:
    """What a config or a row holds beside texts and numbers; of a function, its source."""
    try:
        return inspect.getsource(value)
    except (TypeError, OSError):
        return str(value)
