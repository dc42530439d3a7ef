"""The command line: ``damoc select CONFIG`` and what stands around it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

import damoc
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
zoo = typer.Typer(no_args_is_help=True, help="Toy candidates that let the pipeline run anywhere in minutes.")
data = typer.Typer(no_args_is_help=True, help="Look at data, or run the data stages alone.")
app.add_typer(zoo, name="zoo")
app.add_typer(data, name="data")

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file; see examples/ and damoc validate --schema.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replaces one value of the config: --set dataset.source=my.jsonl"),
]
Out = Annotated[Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Copies the results here.")]
AsJson = Annotated[bool, typer.Option("--json", help="Prints JSON for programs instead of text for people.")]


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
    depends on the change is done. --out writes metrics.json, ranking.csv, curves.csv, funnel.csv and report.html for
    DVC and other programs.

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


@zoo.command("train")
def zoo_train(
    recipes: Annotated[Path, typer.Option(help="What each model is made of.")] = Path("zoo/recipes.yaml"),
    out: Annotated[Path, typer.Option(help="Folder that receives one folder a model.")] = Path("zoo"),
    only: Annotated[list[str] | None, typer.Option(help="Names of models; default: all.")] = None,
) -> None:
    """Pre-trains the toy candidates from text mined from installed packages (5-10 minutes each on two cores)."""
    from rich.progress import track

    from damoc.zoo.pretrain import pretrain
    from damoc.zoo.recipes import load_recipes

    if not recipes.is_file():
        raise DamocError("the recipes file does not exist", str(recipes), "name one with --recipes")
    known = load_recipes(recipes)
    for name in only or known.models:
        if name not in known.models:
            raise DamocError(f"no recipe {name!r}", str(recipes), f"known models: {', '.join(known.models)}")
    for name in track(only or list(known.models), description="models"):
        record = pretrain(known, name, out)
        typer.echo(f"{name}: {record['steps']} steps, {record['train_loss_nats'][-1][1]} nats per token")


@data.command("inspect")
def data_inspect(
    path: Annotated[str, typer.Argument(metavar="PATH", help="File, folder, s3://..., hf:owner/name or mined:NAME.")],
    preset: Annotated[str | None, typer.Option(help="pubmedqa, billsum, dolly or squad.")] = None,
    rows: Annotated[int, typer.Option(help="Rows shown of each split.")] = 2,
    as_json: AsJson = False,
) -> None:
    """Shows what damoc reads from a dataset: splits, lengths, answers, licences, fingerprint, and a few rows."""
    from damoc.config import DatasetConfig
    from damoc.data.dataset import load_dataset
    from damoc.data.inspection import describe, print_description

    local = path if "://" in path or ":" in path.split("/")[0] else str(Path(path).absolute())
    dataset = load_dataset(DatasetConfig.model_validate({"source": local, "preset": preset, "on_leak": "drop"}), 0)
    if as_json:
        typer.echo(json.dumps(describe(dataset), indent=1, ensure_ascii=False))
    else:
        print_description(Console(), dataset, rows)


@data.command("prepare")
def data_prepare(config: Config, out: Out = None, settings: Settings = None) -> None:
    """Reads, validates, splits and fingerprints the dataset of a config; no tracking server is needed."""
    from damoc.stages.prepare_data import prepare

    _finish(prepare(_context(config, settings)), out)


@data.command("filters")
def data_filters(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show one filter whole.")] = None,
    as_json: AsJson = False,
) -> None:
    """Lists the filters of data_compression.filter.method: what they keep, what they measure, their options."""
    from damoc.filters import filter_named, filters
    from damoc.terminal.data import filter_json, print_filter, print_filters

    chosen = [filter_named(name)] if name else list(filters().values())
    if as_json:
        typer.echo(json.dumps([filter_json(method) for method in chosen], indent=1))
    elif name:
        print_filter(Console(), chosen[0])
    else:
        print_filters(Console(), chosen)


@data.command("compress")
def data_compress(config: Config, out: Out = None, settings: Settings = None, as_json: AsJson = False) -> None:
    """Filters and condenses the training rows of a config; no tracking server is needed.

    Writes train.jsonl (what proxies train on), choice.json (why each row was kept or cut), condense.json (what was
    dropped, repaired or put back in each text) and journey.jsonl (one line a row: what became of it and why).
    Measurements are cached in the workspace: an interrupted run goes on where it was.
    """
    from damoc.stages.compress_data import compress
    from damoc.stages.prepare_data import prepare
    from damoc.terminal.data import print_data_compression

    context = _context(config, settings)
    filtered, result = compress(context, prepare(context))
    _export(filtered, out)
    if as_json:
        _export(result, out)
        typer.echo(json.dumps(dict(result.summary), indent=1))
    else:
        print_data_compression(Console(), result.summary)
        _finish(result, out, summary=False)


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


def _context(config: Path, settings: list[str] | None) -> Any:
    from damoc.launch import read_config
    from damoc.stages.context import Context, config_hash
    from damoc.validation import validate as check

    checked, text = read_config(config, settings or ())
    check(checked, str(config), read_data=False)
    return Context(checked, "", config_hash(checked), text)


def _export(result: Any, out: Path | None) -> None:
    from damoc.exports import export_step

    if out is not None:
        export_step(result, out)


def _finish(result: Any, out: Path | None, summary: bool = True) -> None:
    _export(result, out)
    done = "found done" if result.reused else f"done in {result.seconds:.1f} s"
    typer.echo(f"{result.name} {done}: {out or result.uri}")
    if summary:
        typer.echo(json.dumps(dict(result.summary), indent=1))


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
