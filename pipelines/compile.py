"""Compiles the selection pipeline: ``python -m damoc_pipelines.compile [OUT] [--image IMAGE]``."""

import argparse
import os
from pathlib import Path

COMPILED = Path(__file__).parent / "training" / "model_selection" / "pipeline.yaml"


def compile_pipeline(out: Path, image: str = "") -> None:
    """Writes the compiled specification.

    Args:
        out: YAML file.
        image: image of every component; ``DAMOC_IMAGE`` or the default when empty.
    """
    if image:
        os.environ["DAMOC_IMAGE"] = image
    from damoc_pipelines.training.model_selection.pipeline import model_selection
    from kfp import compiler

    compiler.Compiler().compile(model_selection, str(out))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", nargs="?", type=Path, default=COMPILED)
    parser.add_argument("--image", default="", help="image of every component, best pinned by digest")
    arguments = parser.parse_args()
    compile_pipeline(arguments.out, arguments.image)
    print(arguments.out)
