"""The distribution-aware filters at size, beside apricot-select, submodlib and a plain loop; the cost of approximation.

    python -m benchmarks.submodular [--rows 50000] [--small 5000] [--repeats 3] [--only large,small] [--real]

``large`` runs every filter once on ``--rows`` rows, budget a tenth, in a process of its own: wall and processor time,
and the peak of its resident memory (interpreter and embeddings included). ``small`` runs filter and peers in turn in
one process, medians over the repeats (peers stop repeating after a minute): the filter starts at the embeddings, the
peers at a finished table of similarities, whose cost is given beside; ``ratio`` leaves that cost out,
``ratio_with_table`` adds it. Facility location, which up to 6,000 rows makes such a table itself, also runs on the
peers' finished one (``damoc, same table``). ``approximation`` compares facility location from a sample and from nearest
neighbours with the exact choice. ``--real`` repeats all on MiniLM embeddings of 10,000 rows of dolly (computed once,
kept in ``.damoc-bench/``). Synthetic rows are a mixture (see :func:`clustered`).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.machine import facts, write_results
from damoc.filters import choose, filter_named
from damoc.filters.distribution.coverage import DenseGreedy

ROOT = Path(__file__).parent.parent
CACHE = ROOT / ".damoc-bench"
DOLLY = ROOT.parent / "shared/data/dolly/train.jsonl.gz"
REAL_ROWS, APPROXIMATED_ROWS = 10_000, 10_000
FILTERS = ("k_center_greedy", "graph_cut", "facility_location")
PEER_SECONDS = 60.0
Points = NDArray[np.float32]
Pick = Callable[[], Sequence[int]]


def clustered(rows: int, dimensions: int = 384, topics: int = 40, groups: int = 1000, seed: int = 0) -> Points:
    """Unit rows like sentence embeddings: topics of groups whose sizes follow a power law, and noise around each.

    Coordinates have a spectrum that falls as its index to the power of -0.35. At 10,000 rows the median cosine of two
    rows is about 0.07 and that of a row and its nearest neighbour 0.77.
    """
    draw = np.random.default_rng(seed)
    spectrum = np.arange(1, dimensions + 1) ** -0.35
    spectrum /= np.linalg.norm(spectrum)

    def normal(count: int) -> Points:
        return (draw.normal(size=(count, dimensions)) * spectrum).astype(np.float32)

    sizes = np.arange(1, groups + 1) ** -0.8
    centers = 0.7 * normal(topics)[draw.integers(topics, size=groups)] + 0.6 * normal(groups)
    points = centers[draw.choice(groups, size=rows, p=sizes / sizes.sum())] + 0.6 * normal(rows) + 0.3 * normal(1)
    return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True), dtype=np.float32)


def real() -> Points:
    """MiniLM embeddings of dolly."""
    import pandas

    from damoc.signals.embedding import PACKAGED, embed

    rows = pandas.read_json(DOLLY, lines=True).fillna("").head(REAL_ROWS)
    texts = ["\n".join(text for text in row if text) for row in rows[["instruction", "input", "output"]].to_numpy()]
    return np.asarray(embed(texts, PACKAGED, CACHE), dtype=np.float32)


def points_of(data: str, rows: int) -> Points:
    """Synthetic or real embeddings."""
    return clustered(rows) if data == "synthetic" else real()[:rows]


def pick(name: str, points: Points, **options: Any) -> tuple[int, ...]:
    """Runs a filter for a tenth of the rows."""
    return choose(
        filter_named(name), {"rows": np.arange(len(points)), "embedding": points}, budget(points), 0, options
    ).ids


def budget(points: Points) -> int:
    """A tenth of the rows."""
    return len(points) // 10


def timed(run: Callable[[], Any]) -> tuple[Any, float, float]:
    """What it returns, wall seconds and processor seconds."""
    wall, before = time.perf_counter(), os.times()
    result = run()
    after = os.times()
    return result, time.perf_counter() - wall, after.user + after.system - before.user - before.system


def objective(name: str, points: Points, ids: Sequence[int]) -> float:
    """Of a choice: covering radius, graph cut, or mean similarity to the representative; on float64 cosines."""
    rows = points.astype(np.float64)
    chosen = rows[list(ids)]
    if name == "graph_cut":
        covered = 0.5 * len(rows) * len(chosen) + 0.5 * rows.sum(axis=0) @ chosen.sum(axis=0)
        total = chosen.sum(axis=0)
        return float(covered - 0.5 * len(chosen) ** 2 - 0.5 * total @ total)
    best = np.concatenate([(block @ chosen.T).max(axis=1) for block in np.array_split(rows, max(1, len(rows) // 2000))])
    return (
        float(np.sqrt(max(0.0, 2 - 2 * best.min()))) if name == "k_center_greedy" else float((0.5 + 0.5 * best).mean())
    )


def large(name: str, data: str, rows: int) -> dict[str, Any]:
    """One run of a filter at size."""
    points = points_of(data, rows)
    ids, wall, processor = timed(lambda: pick(name, points))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    reached = objective(name, points, ids)
    return {"rows": rows, "wall_s": wall, "cpu_s": processor, "peak_gib": peak, "objective": reached}


def plain_farthest_first(points: Points, count: int) -> list[int]:
    """One float32 matrix-vector product a choice, from the medoid."""
    squares = np.einsum("ij,ij->i", points, points)
    ids = [int(np.argmax(points @ points.mean(axis=0) - squares / 2))]
    nearest = np.full(len(points), np.inf, dtype=np.float32)
    while len(ids) < count:
        gaps = squares + squares[ids[-1]] - 2 * (points @ points[ids[-1]])
        nearest = np.minimum(nearest, gaps)
        nearest[ids[-1]] = -1.0
        ids.append(int(np.argmax(nearest)))
    return ids


def peers(name: str, table: NDArray[Any], count: int) -> dict[str, Pick]:
    """The same choice by the reference implementations, each with its fastest exact optimizer."""
    import apricot
    import submodlib

    rows = len(table)
    if name == "graph_cut":
        build = lambda: submodlib.GraphCutFunction(  # noqa: E731
            n=rows, mode="dense", lambdaVal=1.0, ggsijs=table, separate_rep=False
        )
        apricot_filter, optimizer, submodlib_optimizer = apricot.GraphCutSelection, "naive", "LazyGreedy"
    else:
        build = lambda: submodlib.FacilityLocationFunction(  # noqa: E731
            n=rows, mode="dense", sijs=table, separate_rep=False
        )
        apricot_filter, optimizer, submodlib_optimizer = apricot.FacilityLocationSelection, "two-stage", "LazyGreedy"
    return {
        "submodlib": lambda: [
            row for row, _ in build().maximize(budget=count, optimizer=submodlib_optimizer, show_progress=False)
        ],
        "apricot": lambda: apricot_filter(count, metric="precomputed", optimizer=optimizer).fit(table).ranking.tolist(),
    }


def small(name: str, data: str, rows: int, repeats: int) -> dict[str, Any]:
    """A filter and its peers in turn."""
    points = points_of(data, rows)
    count = budget(points)
    ways: dict[str, Pick] = {"damoc": lambda: pick(name, points)}
    table_seconds = 0.0
    if name == "k_center_greedy":
        ways["plain loop"] = lambda: plain_farthest_first(points, count)
    else:
        table, table_seconds, _ = timed(lambda: 0.5 + 0.5 * points.astype(np.float64) @ points.T.astype(np.float64))
        tiny = points[:64].astype(np.float64)
        for warm in peers(name, 0.5 + 0.5 * tiny @ tiny.T, 3).values():
            warm()
        if name == "facility_location":
            ways["damoc, same table"] = lambda: DenseGreedy(table, 0.0).choose(count)[0]
        ways |= peers(name, table, count)
    pick(name, points[:64])
    runs: dict[str, list[tuple[Any, float, float]]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, run in ways.items():
            if way.startswith("damoc") or sum(wall for _, wall, _ in runs[way]) < PEER_SECONDS:
                runs[way].append(timed(run))
    ours = runs["damoc"][0][0]
    reached = objective(name, points, ours)
    results: dict[str, Any] = {"rows": rows, "table_s": table_seconds}
    for way, measured in runs.items():
        wall = statistics.median(wall for _, wall, _ in measured)
        own = statistics.median(wall for _, wall, _ in runs["damoc"])
        ids = list(measured[0][0])
        results[way] = {
            "runs": len(measured),
            "wall_s": wall,
            "cpu_s": statistics.median(processor for _, _, processor in measured),
            "ratio": wall / own,
            "ratio_with_table": (wall + table_seconds) / own,
            "same_picks": sum(one == other for one, other in zip(ids, ours, strict=True)) / count,
            "same_rows": len(set(ids) & set(ours)) / count,
            "objective_over_ours": objective(name, points, ids) / reached,
        }
    return results


def approximation(name: str, data: str, rows: int) -> dict[str, Any]:
    """Objectives of the approximate ways over that of the exact one."""
    from damoc.filters.distribution import facility_location

    points = points_of(data, rows)
    results: dict[str, Any] = {"rows": rows}
    ids, exact_wall, _ = timed(lambda: pick(name, points))
    exact = objective(name, points, ids)
    for neighbours in (32, 64, 128, 256):
        ids, wall, _ = timed(lambda kept=neighbours: pick(name, points, neighbours=kept))
        results[f"{neighbours} neighbours"] = {"loss": 1 - objective(name, points, ids) / exact, "wall_s": wall}
    facility_location.EXACT_ROWS = facility_location.TABLE_ROWS = 0
    for witnesses in (512, 1024, facility_location.WITNESSES):
        facility_location.WITNESSES = witnesses
        ids, wall, _ = timed(lambda: pick(name, points))
        results[f"sample of {witnesses}"] = {"loss": 1 - objective(name, points, ids) / exact, "wall_s": wall}
    return results | {"exact": {"loss": 0.0, "wall_s": exact_wall, "objective": exact}}


def alone(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Runs a measurement in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def show(title: str, results: dict[str, dict[str, Any]]) -> None:
    """A table of nested results."""
    columns = list(dict.fromkeys(key for row in results.values() for key in row))
    table = Table("", *columns, title=title)
    for name, row in results.items():
        cells = (row.get(column, "") for column in columns)
        table.add_row(name, *(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells))
    Console().print(table)


def main() -> None:
    """Measures, shows and writes ``benchmarks/results/submodular.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--small", type=int, default=5_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="large,small,approximation")
    parser.add_argument("--filters", default=",".join(FILTERS))
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results/submodular.json")
    given = parser.parse_args()
    parts, names = given.only.split(","), given.filters.split(",")
    results: dict[str, Any] = {"machine": facts(), "load_before": os.getloadavg()}
    for data in ("synthetic", "real") if given.real else ("synthetic",):
        most = given.rows if data == "synthetic" else min(given.rows, len(real()))
        found: dict[str, Any] = {}
        if "large" in parts:
            found["large"] = {name: alone(large, name, data, most) for name in names}
            show(f"{data}: alone, {most} rows", found["large"])
        if "small" in parts:
            found["small"] = {}
            for name in names:
                found["small"][name] = alone(small, name, data, min(given.small, most), given.repeats)
                ways = {way: row for way, row in found["small"][name].items() if isinstance(row, dict)}
                show(f"{data}: {name} beside its peers, {given.small} rows", ways)
        if "approximation" in parts:
            found["approximation"] = alone(approximation, "facility_location", data, min(APPROXIMATED_ROWS, most))
            ways = {way: row for way, row in found["approximation"].items() if isinstance(row, dict)}
            show(f"{data}: what approximate facility location loses", ways)
        results[data] = found
        write_results(given.results, results | {"load_after": os.getloadavg()})


if __name__ == "__main__":
    main()
