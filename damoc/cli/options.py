"""What the commands have in common: their options, and how a step is taken alone."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from damoc.stages.context import Context
    from damoc.store import StepResult

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file; see examples/ and damoc validate --schema.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replaces one value of the config: --set dataset.source=my.jsonl"),
]
Out = Annotated[Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Copies the results here.")]
Chosen = Annotated[
    list[str] | None, typer.Argument(metavar="CANDIDATE", help="Ids of candidates; default: all of the config.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Prints JSON for programs instead of text for people.")]


def alone(config: Path, settings: list[str] | None) -> Context:
    """What a step that is taken alone starts from: a checked config, and no tracking server."""
    from damoc.launch import read_config
    from damoc.stages.context import Context, config_hash
    from damoc.validation import validate as check

    _quieten_libraries()
    checked, text = read_config(config, settings or ())
    check(checked, str(config), read_data=False)
    return Context(checked, "", config_hash(checked), text, tracked=False)


def _quieten_libraries() -> None:
    """Keeps out of the terminal what libraries say to their own developers."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def export(result: StepResult, out: Path | None) -> None:
    """Copies what a step left behind, where a folder is named."""
    from damoc.exports import export_step

    if out is not None:
        export_step(result, out)


def finish(result: StepResult, out: Path | None, summary: bool = True) -> None:
    """Says where a step's results lie, and what it has to say of them."""
    export(result, out)
    done = "found done" if result.reused else f"done in {result.seconds:.1f} s"
    typer.echo(f"{result.name} {done}: {out or result.uri}")
    if summary:
        typer.echo(json.dumps(dict(result.summary), indent=1))
