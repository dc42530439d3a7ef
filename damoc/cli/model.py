"""``damoc model``: the steps of a candidate, each alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer
from rich.console import Console

from damoc.cli.options import AsJson, Chosen, Config, Out, Settings, alone, export
from damoc.errors import DamocError, Problem

if TYPE_CHECKING:
    from damoc.stages.candidate import CandidateState
    from damoc.stages.context import Context
    from damoc.store import StepResult

model = typer.Typer(
    no_args_is_help=True,
    help="Measure, prune, merge, tune or evaluate candidates. Each command takes one step and those that it builds on; "
    "what is done lies in the workspace and is not done again, here or in damoc select.",
)


class Steps(Protocol):
    """The steps of one candidate, the one that a command is about last."""

    def __call__(
        self, context: Context, state: CandidateState, prepared: StepResult, data: StepResult
    ) -> Iterator[StepResult]:
        """Takes them, one after another."""


@model.command("importance")
def importance(
    config: Config, chosen: Chosen = None, out: Out = None, settings: Settings = None, as_json: AsJson = False
) -> None:
    """Measures how much each layer changes what passes through it, on calibration rows of the config's data.

    Block Influence (1 minus the cosine of a layer's input and output) and the angular distance of every block of
    layers, in one forward pass. Writes importance.json.
    """
    from damoc.stages.compress_model import IMPORTANCE, Bench
    from damoc.terminal.models import print_importance

    def steps(context: Context, state: CandidateState, prepared: StepResult, data: StepResult) -> Iterator[StepResult]:
        yield Bench(context, state.candidate_id, data).importance()

    states = _take(alone(config, settings), chosen, steps)
    _report(states, IMPORTANCE, out, print_importance, "importance.json" if as_json else None)


@model.command("prune")
def prune(
    config: Config, chosen: Chosen = None, out: Out = None, settings: Settings = None, as_json: AsJson = False
) -> None:
    """Removes layers by the config's policy and budget, and merges nothing.

    Writes model/ (safetensors and tokenizer, loadable with transformers) and compression.json: what was measured, in
    which order layers were to go, the loss of each plan that was tried.
    """
    from damoc.stages.compress_model import NAME
    from damoc.terminal.models import print_plans

    states = _proxies(config, chosen, [*(settings or ()), "model_compression.merge.method=none"])
    _report(states, NAME, out, print_plans, "compression.json" if as_json else None)


@model.command("merge")
def merge(
    config: Config, chosen: Chosen = None, out: Out = None, settings: Settings = None, as_json: AsJson = False
) -> None:
    """Removes layers and merges them back by the config's method, where that lowers the calibration loss.

    Shows the loss at each scale that was tried; 0 is plain removal. Writes model/ and compression.json.
    """
    from damoc.stages.compress_model import NAME
    from damoc.terminal.models import print_merges

    states = _proxies(config, chosen, settings)
    _report(states, NAME, out, print_merges, "compression.json" if as_json else None)


@model.command("tune")
def tune(
    config: Config, chosen: Chosen = None, out: Out = None, settings: Settings = None, as_json: AsJson = False
) -> None:
    """Fine-tunes the proxies by the config's method and budget; no tracking server is needed.

    Writes adapter/ (peft) or model/, and history.json. An interrupted training goes on from its last checkpoint.
    """
    from damoc.stages.fine_tune import NAME
    from damoc.terminal.models import print_tunings

    states = _take(alone(config, settings), chosen, _tuned)
    _report(states, NAME, out, print_tunings, "history.json" if as_json else None)


@model.command("evaluate")
def evaluate(
    config: Config,
    chosen: Chosen = None,
    untouched: Annotated[
        bool, typer.Option("--untouched", help="Only the candidates as they are: nothing is pruned or trained.")
    ] = False,
    out: Out = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Scores candidates on the held-out rows: untouched, after worked examples (evaluation.shots), and tuned.

    The task is that of the config, or any of lm-evaluation-harness: --set evaluation.task=lm_eval:arc_easy. Intervals
    are of the bootstrap over rows. Writes scores.json, the records of every row and metric.
    """
    from damoc.stages.evaluate_candidate import FEW_SHOT, NAME, ZERO_SHOT, measure_untouched
    from damoc.stages.evaluate_candidate import evaluate as score
    from damoc.terminal.models import print_scores

    context = alone(config, settings)

    def steps(context: Context, state: CandidateState, prepared: StepResult, data: StepResult) -> Iterator[StepResult]:
        yield measure_untouched(context, state.candidate_id, prepared)
        if context.config.evaluation.shots:
            yield measure_untouched(context, state.candidate_id, prepared, FEW_SHOT)
        if not untouched:
            for result in _tuned(context, state, prepared, data):
                state = state.with_step(result.name, result)
                yield result
            yield score(context, state, prepared)

    def draw(console: Console, states: Sequence[CandidateState]) -> None:
        print_scores(console, states, context.config)

    last = ZERO_SHOT if untouched else NAME
    _report(_take(context, chosen, steps), last, out, draw, "scores.json" if as_json else None)


def _proxies(config: Path, chosen: Sequence[str] | None, settings: list[str] | None) -> list[CandidateState]:
    from damoc.stages.compress_model import Bench

    def steps(context: Context, state: CandidateState, prepared: StepResult, data: StepResult) -> Iterator[StepResult]:
        yield Bench(context, state.candidate_id, data).proxy()

    return _take(alone(config, settings), chosen, steps)


def _tuned(context: Context, state: CandidateState, prepared: StepResult, data: StepResult) -> Iterator[StepResult]:
    from damoc.stages.compress_model import Bench
    from damoc.stages.fine_tune import tune as train

    proxy = Bench(context, state.candidate_id, data).proxy()
    yield proxy
    yield train(context, state.candidate_id, prepared, data, proxy)


def _take(context: Context, chosen: Sequence[str] | None, steps: Steps) -> list[CandidateState]:
    """Takes the steps of each candidate; one that fails does not keep the others from theirs."""
    from damoc.stages.candidate import CandidateState, attempt
    from damoc.stages.compress_data import compress
    from damoc.stages.prepare_data import prepare

    known = [candidate.id for candidate in context.config.candidates]
    if unknown := [name for name in chosen or () if name not in known]:
        raise DamocError(f"no candidate {unknown[0]!r}", "CANDIDATE", f"use one of {', '.join(known)}")
    prepared = prepare(context)
    data = compress(context, prepared)[1]
    states = []
    for name in chosen or known:
        with attempt(CandidateState(name), "damoc model") as trial:
            for result in steps(context, trial.state, prepared, data):
                trial.done(result.name, result)
        states.append(trial.state)
    return states


def _report(
    states: Sequence[CandidateState],
    step: str,
    out: Path | None,
    draw: Callable[[Console, Sequence[CandidateState]], None],
    as_json: str | None,
) -> None:
    """Shows what a step left, copies it to a folder a candidate, and ends with the failures, if any.

    Args:
        states: of the candidates.
        step: what the command is about.
        out: receives its results.
        draw: shows them to people.
        as_json: file of the step that programs get instead, beside the summary of every step that was taken.
    """
    if as_json:
        typer.echo(json.dumps({state.candidate_id: _facts(state, step, as_json) for state in states}, indent=1))
    else:
        draw(Console(), states)
    for state in states:
        if step in state.steps:
            export(state.steps[step], out / state.candidate_id if out else None)
    if failed := [state for state in states if state.status != "ok"]:
        raise DamocError.from_problems(
            [
                Problem(f"{state.status}: {state.reason}", f"candidate {state.candidate_id}", "mend it or leave it out")
                for state in failed
            ]
        )


def _facts(state: CandidateState, step: str, name: str) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "status": state.status,
        "reason": state.reason,
        "steps": {
            name: {"uri": result.uri, "reused": result.reused, "seconds": result.seconds, **result.summary}
            for name, result in state.steps.items()
        },
    }
    if step in state.steps:
        facts[name] = json.loads((state.steps[step].path() / name).read_text(encoding="utf-8"))
    return facts
