"""The steps of candidates in a terminal: layers, plans, merges, trainings, scores."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from damoc.config import SelectionConfig
from damoc.evaluation.row_scores import RowScores
from damoc.hashing import derive_seed
from damoc.selection.bootstrap import interval
from damoc.stages.candidate import CandidateState
from damoc.stages.compress_model import IMPORTANCE
from damoc.stages.compress_model import NAME as PROXY
from damoc.stages.evaluate_candidate import FEW_SHOT, ZERO_SHOT
from damoc.stages.evaluate_candidate import NAME as TUNED
from damoc.stages.fine_tune import NAME as TUNING

_BARS = "▁▂▃▄▅▆▇█"
_CUT = 0.1


def print_importance(console: Console, states: Sequence[CandidateState]) -> None:
    """A bar for every layer of every candidate; of a single one, every number."""
    measured = {state.candidate_id: _read(state, IMPORTANCE, "importance.json") for state in _ok(states)}
    if len(measured) == 1:
        (whole,) = measured.values()
        _print_layers(console, whole)
        return
    table = _table("candidate", "layers:", "perplexity:", "Block Influence, first layer to last", "least:")
    for name, whole in measured.items():
        values = whole["importance"]
        least = sorted(range(len(values)), key=lambda index: (values[index], -index))[:3]
        table.add_row(
            name, str(len(values)), _perplexity(whole["loss"]), _bars(values), ", ".join(str(index) for index in least)
        )
    console.print(table)


def _print_layers(console: Console, whole: Mapping[str, Any]) -> None:
    values, kinds = whole["importance"], whole["layer_types"]
    costs = whole["costs"]
    headings = [
        "layer:",
        *(["type"] if kinds else []),
        "Block Influence:",
        "",
        *([f"{costs['unit']}:"] if costs else []),
    ]
    table = _table(*headings)
    for index, value in enumerate(values):
        bar = "█" * max(1, round(24 * value / max(values))) if max(values) > 0 else ""
        table.add_row(
            str(index),
            *([kinds[index]] if kinds else []),
            f"{value:.6f}",
            bar,
            *([f"{costs['layers'][index]:,.0f}"] if costs else []),
        )
    console.print(table)
    console.print(f"perplexity of the whole model on the calibration rows: {_perplexity(whole['loss'])}")


def print_plans(console: Console, states: Sequence[CandidateState]) -> None:
    """Which layers stay (█), go (·) and came back (▒), and what that costs."""
    table = _table("candidate", "layers", "kept:", "removed", "perplexity:", "pruned:", "parameters:")
    for state in _ok(states):
        record = _read(state, PROXY, "compression.json")
        plan, losses, parameters = record["plan"], record["losses"], record["parameters"]
        total = len(record["importance"])
        table.add_row(
            state.candidate_id,
            "".join(
                "·" if index in plan["remove"] else "▒" if index in plan["given_back"] else "█"
                for index in range(total)
            ),
            f"{len(plan['keep'])}/{total}",
            ", ".join(str(index) for index in plan["remove"]) or "none",
            _perplexity(losses["original"]),
            _perplexity(losses["pruned"]),
            f"{parameters['proxy'] / parameters['original']:.0%}",
        )
    console.print(table)


def print_merges(console: Console, states: Sequence[CandidateState]) -> None:
    """What the pruned models lose at each scale of the merge, and which scale was taken."""
    table = _table("candidate", "method", "verdict", "perplexity:", "pruned:", "merged:", "nats per token by scale")
    for state in _ok(states):
        record = _read(state, PROXY, "compression.json")
        merge, losses = record["merge"], record["losses"]
        table.add_row(
            state.candidate_id,
            merge["method"],
            f"accepted at {merge['scale']:g}" if merge["accepted"] else "not merged",
            _perplexity(losses["original"]),
            _perplexity(losses["pruned"]),
            _perplexity(losses["merged"]) if merge["accepted"] else "",
            "  ".join(
                f"{float(scale):g}: {'-' if loss is None else f'{loss:.3f}'}" for scale, loss in merge["losses"].items()
            ),
        )
    console.print(table)


def print_tunings(console: Console, states: Sequence[CandidateState]) -> None:
    """What the trainings cost, and what they changed on the validation rows."""
    headings = ("candidate", "method", "steps:", "tokens:", "petaflops:", "seconds:", "validation loss:", "after:")
    table = _table(*headings)
    for state in _ok(states):
        step = state.steps[TUNING]
        found = step.summary
        table.add_row(
            state.candidate_id,
            found["method"],
            f"{found['steps']:,}",
            f"{found['tokens']:,}",
            f"{found['flops'] / 1e15:.3g}",
            f"{step.seconds:.1f}",
            *("" if found[name] is None else f"{found[name]:.3f}" for name in ("valid_loss_before", "valid_loss")),
        )
    console.print(table)


def print_scores(console: Console, states: Sequence[CandidateState], config: SelectionConfig) -> None:
    """Every metric with its bootstrap interval, of every state that a candidate was scored in."""
    settings = config.evaluation
    seed = derive_seed(config.seed, "select_winner")
    shown = {ZERO_SHOT: "untouched", FEW_SHOT: f"after {settings.shots} examples", TUNED: "tuned proxy"}
    scored = [name for name in shown if any(name in state.steps for state in states)]
    table = _table("candidate", "metric", *(f"{shown[name]}:" for name in scored))
    for state in _ok(states):
        scores = {name: _read(state, name, "scores.json")["metrics"] for name in scored if name in state.steps}
        for row, metric in enumerate(next(iter(scores.values()), {})):
            cells = []
            for name in scored:
                own = scores.get(name, {}).get(metric)
                cells.append("" if own is None else _with_interval(RowScores.from_json(own), config, seed))
            table.add_row("" if row else state.candidate_id, metric, *cells)
        table.add_section()
    console.print(table)
    console.print(f"intervals: {settings.confidence:.0%}, bootstrap over the rows")
    for name in scored:
        cut = [state.steps[name].summary["metrics"].get("cut_prompts", 0.0) for state in _ok(states)]
        if max(cut, default=0.0) > _CUT:
            fix = "a larger tuning.max_length" + (" or fewer evaluation.shots" if name == FEW_SHOT else "")
            console.print(
                f"{shown[name]}: up to {max(cut):.0%} of the prompts lost their start; {fix} reads them whole"
            )


def _with_interval(scores: RowScores, config: SelectionConfig, seed: int) -> str:
    settings = config.evaluation
    low, high = interval(scores, settings.confidence, settings.bootstrap, seed)
    return f"{scores.score():.4f} [{low:.4f}, {high:.4f}]"


def _table(*headings: str) -> Table:
    """A table; columns whose heading ends with a colon hold numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        number = heading.endswith(":")
        table.add_column(heading.removesuffix(":"), justify="right" if number else "left", overflow="fold")
    return table


def _ok(states: Sequence[CandidateState]) -> list[CandidateState]:
    return [state for state in states if state.status == "ok"]


def _bars(values: Sequence[float]) -> Text:
    """A bar a layer, on a logarithmic scale: importances differ by orders of magnitude."""
    positive = [value for value in values if value > 0]
    if not positive:
        return Text(_BARS[0] * len(values))
    low, high = math.log(min(positive)), math.log(max(positive))
    steps = (
        0 if value <= 0 else round((len(_BARS) - 1) * ((math.log(value) - low) / (high - low) if high > low else 1.0))
        for value in values
    )
    return Text("".join(_BARS[step] for step in steps))


def _perplexity(loss: float | None) -> str:
    return "" if loss is None else f"{math.exp(min(loss, 700.0)):,.2f}"


def _read(state: CandidateState, step: str, name: str) -> Any:
    return json.loads((state.steps[step].path() / name).read_text(encoding="utf-8"))
