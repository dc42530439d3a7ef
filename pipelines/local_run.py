"""Runs the compiled selection pipeline on this machine, in this process: ``damoc select`` starts it as a child.

kfp.local patches ``print`` and the root logger for good and deletes its workspace, so it gets a process of its own.
It runs the very file that goes to a cluster; iterations of the loop run two at a time at most.
"""

import argparse
import sys
import warnings
from pathlib import Path

LOOP_WORKERS = 2


def run_locally(compiled: Path, config_uri: str, selection_id: str, pipeline_root: Path) -> None:
    """Runs the pipeline with kfp's subprocess runner in the current environment.

    Args:
        compiled: compiled specification.
        config_uri: the published config.
        selection_id: the selection.
        pipeline_root: folder for kfp's own copies of outputs; must not contain ``python3`` (kfp rewrites it).

    Raises:
        RuntimeError: a task failed.
    """
    warnings.filterwarnings("ignore", message=".*custom or non-Python base image.*")
    from kfp import components, local

    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=str(pipeline_root),
        raise_on_error=True,
        enable_caching=False,
    )
    pipeline = components.load_component_from_file(str(compiled))
    pipeline(config_uri=config_uri, selection_id=selection_id)


if __name__ == "__main__":
    from damoc_pipelines.compile import COMPILED

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compiled", type=Path, default=COMPILED)
    parser.add_argument("--config-uri", required=True)
    parser.add_argument("--selection-id", required=True)
    parser.add_argument("--pipeline-root", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        run_locally(arguments.compiled, arguments.config_uri, arguments.selection_id, arguments.pipeline_root)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
