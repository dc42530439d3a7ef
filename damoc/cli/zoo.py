"""``damoc zoo``: the toy candidates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from damoc.errors import DamocError

zoo = typer.Typer(no_args_is_help=True, help="Toy candidates that let the pipeline run anywhere in minutes.")


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
