"""The command line: ``damoc select CONFIG`` and what stands around it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

import damoc
from damoc.cli.data import data
from damoc.cli.model import model
from damoc.cli.options import AsJson, Config, Out, Settings
from damoc.cli.zoo import zoo
from damoc.errors import DamocError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Which open LLM will be best after fine-tuning on our data? damoc compresses data and candidates, fine-tunes "
    "the small proxies, ranks them and registers the winner.",
    epilog="Start with: damoc validate examples/cloud-qa.yaml, then damoc select examples/cloud-qa.yaml",
)
app.add_typer(zoo, name="zoo")
app.add_typer(data, name="data")
app.add_typer(model, name="model")


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Prints the version.")] = False) -> None:
    """Common options."""
    if version:
        typer.echo(f"damoc {damoc.__version__}")
        raise typer.Exit


@app.command()
def select(config: Config, settings: Settings = None, out: Out = None, as_json: AsJson = False) -> None:
    """Runs a selection: compress data and candidates, fine-tune proxies, rank, register, report.

    Runs the compiled Kubeflow pipeline on this machine, two candidates at a time. Finished steps lie in the workspace
    and are not done again: the same command resumes what was interrupted, and after a change of the config only what
    depends on the change is done. --out writes report.html, metrics.json and the tables ranking, scores, layers,
    losses, curves and funnel as CSV, for DVC and other programs.

    Exit codes: 0 a winner was chosen, 1 a bug, 2 bad input or a service that fails, 130 interrupted.
    """
    from damoc.exports import export_selection
    from damoc.launch import select as run
    from damoc.terminal import SelectionDisplay, print_selection

    signal.signal(signal.SIGTERM, _interrupt)
    console = Console(stderr=as_json)
    with SelectionDisplay(console) as display:
        selection = run(config, settings or (), display)
    if out is not None:
        export_selection(selection, out)
    if as_json:
        typer.echo(json.dumps(selection.record.to_json(), indent=1))
    else:
        print_selection(console, selection)


@app.command()
def validate(
    config: Annotated[Path | None, typer.Argument(metavar="CONFIG", help="YAML file.")] = None,
    settings: Settings = None,
    schema: Annotated[bool, typer.Option("--schema", help="Prints the JSON schema of a config.")] = False,
) -> None:
    """Explains every error of a config at once, each with file, field and fix; reads local data files too.

    Nothing is written, downloaded or trained.
    """
    from damoc.config import SelectionConfig
    from damoc.launch import read_config
    from damoc.validation import validate as check

    if schema:
        typer.echo(json.dumps(SelectionConfig.model_json_schema(), indent=1))
        return
    if config is None:
        raise DamocError("no config named", "damoc validate", "name a YAML file, or ask for --schema")
    checked, _ = read_config(config, settings or ())
    check(checked, str(config))
    names = ", ".join(candidate.id for candidate in checked.candidates)
    typer.echo(f"{config}: valid; {len(checked.candidates)} candidates ({names})")


@app.command("compile")
def compile_(
    out: Annotated[Path | None, typer.Option("--out", "-o", help="YAML file; default: the committed one.")] = None,
    image: Annotated[str, typer.Option(help="Image of every component, best pinned by digest.")] = "",
) -> None:
    """Compiles the Kubeflow pipeline to the YAML that every Kubeflow installation runs."""
    command = [sys.executable, "-m", "damoc_pipelines.compile", *([str(out)] if out else []), "--image", image]
    code = subprocess.run(command, check=False).returncode
    raise typer.Exit(code)


@app.command()
def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Selection id, its folder, or 'latest'.")] = "latest",
    workspace: Annotated[Path, typer.Option(help="Workspace of the selection.")] = Path(".damoc"),
    out: Annotated[Path | None, typer.Option("--out", "-o", help="HTML file; default: beside the record.")] = None,
) -> None:
    """Renders the report of a selection that was run before, and prints its ranking."""
    from damoc.launch import load_selection
    from damoc.report import render
    from damoc.terminal import print_selection
    from damoc.tracking import storage

    selection = load_selection(_selection_folder(run, workspace))
    target = str(out) if out else selection.report
    storage.write_bytes(target, render(selection.record).encode("utf-8"))
    print_selection(Console(), selection)
    if out:
        typer.echo(f"written to {out}")


def main() -> None:
    """Runs the command line; errors that the user can mend end with code 2."""
    try:
        app()
    except DamocError as error:
        console = Console(stderr=True)
        for problem in error.problems:
            console.print(Text.assemble(("error: ", "bold red"), f"{problem.where}: {problem.what}"), soft_wrap=True)
            console.print(Text.assemble(("  fix: ", "bold"), problem.fix), soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted; finished steps are kept, the same command resumes")
        sys.exit(130)


def _selection_folder(run: str, workspace: Path) -> str:
    if "/" in run:
        return run.rstrip("/")
    folders = sorted((workspace / "selections").glob("*/record.json"), key=lambda path: path.stat().st_mtime)
    if run == "latest":
        if not folders:
            raise DamocError("no finished selection", str(workspace / "selections"), "run damoc select first")
        return str(folders[-1].parent)
    return str(workspace / "selections" / run)


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt
