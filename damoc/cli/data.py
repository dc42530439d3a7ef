"""``damoc data``: the data stages alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from damoc.cli.options import AsJson, Config, Out, Settings, alone, export, finish

data = typer.Typer(no_args_is_help=True, help="Look at data, or run the data stages alone.")


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

    finish(prepare(alone(config, settings)), out)


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

    context = alone(config, settings)
    filtered, result = compress(context, prepare(context))
    export(filtered, out)
    if as_json:
        export(result, out)
        typer.echo(json.dumps(dict(result.summary), indent=1))
    else:
        print_data_compression(Console(), result.summary)
        finish(result, out, summary=False)
