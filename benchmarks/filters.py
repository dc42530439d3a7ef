"""All that filters and their signals have to reach, one after another on an idle machine (about ten minutes).

    python -m benchmarks.filters ../shared/data

``submodular``: the distribution-aware filters at 50,000 rows, and beside apricot-select and submodlib at 5,000;
``likelihood``: the likelihood signals beside the bare forward pass of their model; ``gradients``: gradients of single
rows beside a plain backward pass. Each runs in a process of its own and keeps its results in ``benchmarks/results``.
What the filters are worth is measured by ``benchmarks.filter_comparison``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Runs the parts and stops at the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the real sets")
    data = parser.parse_args().data
    parts = {
        "submodular": ["--results", RESULTS / "submodular.json"],
        "likelihood": [data, RESULTS / "likelihood.json"],
        "gradients": [RESULTS / "gradients.json"],
    }
    for name, arguments in parts.items():
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *map(str, arguments)], check=True)


if __name__ == "__main__":
    main()
