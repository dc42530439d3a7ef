"""Memory and time of pruning and merging a checkpoint on disk, beside a plain copy and beside loading it whole.

    python -m benchmarks.prune [RESULTS.json] [--layers 36] [--turns 3]

Writes a random Llama of 8 GB (bfloat16, shards of 1 GB, the sizes of Qwen3-4B) into a temporary folder (set TMPDIR to
choose the disk) and takes a quarter of its layers out in several ways, each in a process of its own. The ways take
turns, forwards and backwards. Before each run the disk is synchronised and the checkpoint's pages are dropped from the
page cache; a run ends when its files are on disk (fsync). A host below may still cache: compare within a turn only.

Rates are kept bytes a second; a merge reads the removed layers as well, which does not count. Memory is the largest
resident set of the process; ``bare`` is one that only imports what all of them import. What is written on disk has to
be, tensor by tensor, what the loaded model writes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import facts, write_results
from damoc.models.checkpoint import INDEX, Checkpoint, StoredTensor

ROOT = Path(__file__).parent.parent
SHARD = 1_050_000_000
CHUNK = 1 << 22
SCALE, SEED, THREADS = 0.1, 17, 1
SIZES = {
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
    "dtype": "bfloat16",
}


def removed_layers(layers: int) -> dict[str, list[int]]:
    """A quarter of the layers, as one block (one anchor takes them all) and spread out (an anchor each)."""
    return {"block": list(range(layers - 3 - layers // 4, layers - 3)), "spread": list(range(2, layers, 4))}


def write_checkpoint(folder: Path, layers: int) -> None:
    """A random Llama, shard by shard."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    from damoc.compression.sharded import skeleton

    config = LlamaConfig(**SIZES, num_hidden_layers=layers, architectures=["LlamaForCausalLM"])
    model = skeleton(config)
    shards: list[dict[str, torch.Size]] = [{}]
    for name, weight in model.named_parameters():
        if 2 * sum(map(math.prod, [*shards[-1].values(), weight.shape])) > SHARD:
            shards.append({})
        shards[-1][name] = weight.shape
    generator = torch.Generator().manual_seed(SEED)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {name: (0.02 * torch.randn(shape, generator=generator)).bfloat16() for name, shape in shard.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8")
    config.save_pretrained(folder)


class Way:
    """One way to make the proxy: a folder in, a folder out."""

    def __init__(self, removed: str = "spread", method: str = "none", loaded: bool = False, copied: bool = False):
        self.removed, self.method, self.loaded, self.copied = removed, method, loaded, copied

    def kept_bytes(self, source: Checkpoint, layers: int) -> int:
        """Bytes of the proxy."""
        return sum(stored.size for stored in self._kept(source, layers))

    def run(self, folder: Path, out: Path) -> float:
        """Seconds until the proxy is on disk."""
        import torch
        from transformers import AutoConfig

        torch.set_num_threads(THREADS)
        config = AutoConfig.from_pretrained(folder)
        layers = config.num_hidden_layers
        remove = removed_layers(layers)[self.removed]
        keep = [layer for layer in range(layers) if layer not in remove]
        started = time.perf_counter()
        if self.copied:
            self._copy(Checkpoint(str(folder)), layers, out)
        elif self.loaded:
            self._load(folder, keep, remove, out)
        else:
            self._on_disk(folder, config, keep, remove, out)
        for file in out.iterdir():
            _forget(file)
        return time.perf_counter() - started

    def _kept(self, source: Checkpoint, layers: int) -> Iterator[StoredTensor]:
        gone = tuple(f"model.layers.{layer}." for layer in removed_layers(layers)[self.removed])
        return (stored for name, stored in source.tensors.items() if not name.startswith(gone))

    def _copy(self, source: Checkpoint, layers: int, out: Path) -> None:
        buffer = memoryview(bytearray(CHUNK))
        for file in source.files:
            with file.open("rb", buffering=0) as read, (out / file.name).open("wb", buffering=0) as write:
                for stored in self._kept(source, layers):
                    if stored.file == file:
                        read.seek(stored.start)
                        for at in range(0, stored.size, CHUNK):
                            size = read.readinto(buffer[: min(CHUNK, stored.size - at)])
                            write.write(buffer[:size])
                os.fsync(write.fileno())

    def _on_disk(self, folder: Path, config: Any, keep: Sequence[int], remove: Sequence[int], out: Path) -> None:
        from damoc.compression.sharded import prune_checkpoint
        from damoc.compression.sharded_merge import stored_merge

        source = Checkpoint(str(folder))
        record = {"plan": {"keep": keep, "remove": remove}, "merge": {"scale": SCALE}, "seed": SEED}
        patches = self._patches(keep, remove, config.hidden_size)
        prune_checkpoint(source, config, keep, out, stored_merge(source, config, record, self._settings(), patches))

    def _load(self, folder: Path, keep: Sequence[int], remove: Sequence[int], out: Path) -> None:
        from transformers import AutoModelForCausalLM

        from damoc.compression.architecture import LayerSurgery
        from damoc.compression.merge import Ingredients, recorded_merge

        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
        surgery = LayerSurgery(model)
        surgery.keep(keep)
        of = Ingredients(surgery, keep, remove, self._settings(), SEED)
        recorded_merge(of, self._patches(keep, remove, model.config.hidden_size)).apply(SCALE)
        model.save_pretrained(out, max_shard_size=SHARD)

    def _settings(self) -> Any:
        from damoc.config import MergeConfig

        return MergeConfig(method=self.method)

    def _patches(self, keep: Sequence[int], remove: Sequence[int], width: int) -> Mapping[str, Any]:
        import torch

        from damoc.compression.merge.anchors import anchors

        if self.method != "linear_patch":
            return {}
        patch = torch.eye(width) + 0.01 * torch.randn(width, width, generator=torch.Generator().manual_seed(SEED))
        return {str(anchor): patch for anchor in anchors(keep, remove)}


WAYS = {
    "copy": Way(copied=True),
    "prune": Way(),
    "prune, rdsc_sparse of a block": Way("block", "rdsc_sparse"),
    "prune, rdsc_sparse of spread layers": Way("spread", "rdsc_sparse"),
    "prune, linear_patch of a block": Way("block", "linear_patch"),
    "load, prune, save": Way(loaded=True),
    "load, prune, rdsc_sparse of spread layers, save": Way("spread", "rdsc_sparse", loaded=True),
}
SAME = {
    "prune": "load, prune, save",
    "prune, rdsc_sparse of spread layers": "load, prune, rdsc_sparse of spread layers, save",
}


def child(task: str, folder: Path, argument: str) -> None:
    """Does one task in this process and prints what it took."""
    from transformers import LlamaForCausalLM  # noqa: F401

    import damoc.compression.sharded_merge  # noqa: F401

    seconds, cpu = 0.0, time.process_time()
    if task == "write":
        write_checkpoint(folder, int(argument))
    elif task in WAYS:
        seconds = WAYS[task].run(folder, Path(argument))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "cpu": time.process_time() - cpu, "peak": peak}))


def start(task: str, folder: Path, argument: str = "") -> dict[str, float]:
    """Runs a task in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.prune", "--child", task, str(folder), argument],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": str(THREADS)},
    )
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of all tensors of a checkpoint."""
    total = hashlib.sha256()
    for name, stored in sorted(Checkpoint(str(folder)).tensors.items()):
        total.update(f"{name} {stored.dtype} {stored.shape}\n".encode())
        with stored.file.open("rb", buffering=0) as stream:
            stream.seek(stored.start)
            for at in range(0, stored.size, CHUNK):
                total.update(stream.read(min(CHUNK, stored.size - at)))
    return total.hexdigest()


def _forget(file: Path) -> None:
    """Puts a file on disk and takes it out of the page cache."""
    descriptor = os.open(file, os.O_RDWR)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def measure(folder: Path, layers: int, turns: int, keep_results: Callable[[Mapping[str, Any]], None]) -> None:
    """All ways on a checkpoint, in turns."""
    source, out = Checkpoint(str(folder)), folder.parent / "out"
    shard = max(file.stat().st_size for file in source.files)
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    digests: dict[str, str] = {}
    bare = start("bare", folder)["peak"]
    for turn in range(turns):
        for name in list(WAYS)[:: -1 if turn % 2 else 1]:
            out.mkdir()
            os.sync()
            for file in source.files:
                _forget(file)
            runs[name].append(start(name, folder, str(out)))
            if turn == 0 and name in {*SAME, *SAME.values()}:
                digests[name] = digest(out)
            shutil.rmtree(out)
            print(turn, name, runs[name][-1], flush=True)
    if different := [way for way, same in SAME.items() if digests[way] != digests[same]]:
        raise SystemExit(f"{different} did not write what the loaded model writes")
    ways: dict[str, Any] = {}
    for name, measured in runs.items():
        size = WAYS[name].kept_bytes(source, layers)
        peak = statistics.median(run["peak"] for run in measured)
        copies = [copy["seconds"] / run["seconds"] for run, copy in zip(measured, runs["copy"], strict=True)]
        ways[name] = {
            "seconds": [round(run["seconds"], 2) for run in measured],
            "processor seconds": [round(run["cpu"], 2) for run in measured],
            "MB/s": round(size / 1e6 / statistics.median(run["seconds"] for run in measured), 1),
            "of the copy's rate": round(statistics.median(copies), 3),
            "lowest and highest": [round(min(copies), 3), round(max(copies), 3)],
            "peak MB": round(peak / 1e6, 1),
            "peak in shards": round(peak / shard, 3),
            "peak over bare, in shards": round((peak - bare) / shard, 3),
        }
    keep_results(
        {
            "checkpoint": {
                "GB": round(sum(tensor.size for tensor in source.tensors.values()) / 1e9, 3),
                "largest shard MB": round(shard / 1e6, 1),
                "shards": len(source.files),
                "layers": layers,
                "removed": removed_layers(layers),
            },
            "threads": THREADS,
            "bare MB": round(bare / 1e6, 1),
            "same tensors as the loaded model": sorted(SAME),
            "ways": ways,
        }
    )


def main() -> None:
    """Measures and writes the results."""
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]), sys.argv[4])
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("results", nargs="?", type=Path, default=ROOT / "benchmarks/results/prune.json")
    parser.add_argument("--layers", type=int, default=36)
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    machine = facts()
    needed = 2.2 * (0.8e9 + 0.21e9 * given.layers)
    with tempfile.TemporaryDirectory(prefix="damoc-prune-") as temporary:
        if (free := shutil.disk_usage(temporary).free) < needed:
            raise SystemExit(f"{temporary} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB are needed: set TMPDIR")
        folder = Path(temporary) / "whole"
        folder.mkdir()
        start("write", folder, str(given.layers))
        measure(
            folder,
            given.layers,
            given.turns,
            lambda results: write_results(given.results, {"machine": machine, **results}),
        )


if __name__ == "__main__":
    main()
