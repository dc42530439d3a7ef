"""APPLY: prunes and merges a checkpoint on disk, shard by shard; no model is loaded.

What stays as it is, is copied byte by byte; a weight that a merge changes is computed by itself. So memory holds a few
matrices at most, however large the checkpoint is. Copying, computing and waiting for the disk have a thread each.
"""

from __future__ import annotations

import copy
import json
import math
import os
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from damoc.compression.architecture import LayerSurgery, find_layers
from damoc.errors import CandidateError
from damoc.models.checkpoint import INDEX, SINGLE, Checkpoint, StoredTensor, floats

if TYPE_CHECKING:
    import torch

    Rewrite = Callable[[int, str], torch.Tensor | None]

_CHUNK = 1 << 22
_ALIGNMENT = 8


@dataclass(frozen=True)
class _Kept:
    """A tensor of the proxy, and where it comes from.

    Args:
        name: in the proxy.
        origin: its name in the source.
        stored: where it lies.
        dtype: in the proxy, as safetensors names it.
        size: bytes in the proxy.
        layer: of the whole model, None outside of the layers.
        inner: its name within the layer.
    """

    name: str
    origin: str
    stored: StoredTensor
    dtype: str
    size: int
    layer: int | None
    inner: str


def skeleton(config: Any) -> Any:
    """The model that a config describes, without weights (on the meta device); it has a config of its own."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(copy.deepcopy(config))


def prune_checkpoint(
    source: Checkpoint,
    config: Any,
    keep: Sequence[int],
    out: Path,
    rewrite: Rewrite = lambda layer, name: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    dtypes: Mapping[str, torch.dtype] | None = None,
) -> None:
    """Writes weights and config of a pruned model; each shard of the source becomes a smaller one.

    Tensors stand in a shard as safetensors orders them, so a single shard has the bytes that ``save_pretrained`` gives.

    Args:
        source: weights of the whole model.
        config: of the whole model, as transformers reads it.
        keep: layers that stay, ascending.
        out: existing folder that receives the files; a reader takes them for whole once ``config.json`` is there.
        rewrite: called with a kept layer of the whole model and a tensor's name within it; returns its new weight, of
            the shape and dtype that the proxy stores, or None where it stays as it is.
        on_progress: called with (bytes done, bytes).
        dtypes: in which floating-point tensors are stored, by their names in the proxy; without one, as they are.

    Raises:
        CandidateError: ``incompatible``, when the layers of the checkpoint cannot be told by their names.
    """
    model = skeleton(config)
    surgery = LayerSurgery(model)
    total_layers = len(surgery.layers)
    layer_names = re.compile(rf"({re.escape(find_layers(model))}\.)(\d+)\.(.+)")
    surgery.keep(keep)

    matches = {name: layer_names.fullmatch(name) for name in source.tensors}
    if (found := {int(match[2]) for match in matches.values() if match}) != set(range(total_layers)):
        raise CandidateError(
            "incompatible",
            f"{source.source} names its tensors in another way than {type(model).__name__} does: {len(found)} of "
            f"{total_layers} layers were found; load it with transformers and save it again",
        )
    place = {layer: index for index, layer in enumerate(keep)}
    shards: dict[Path, list[_Kept]] = {file: [] for file in source.files}
    for origin, stored in source.tensors.items():
        match = matches[origin]
        layer, inner = (None, "") if match is None else (int(match[2]), match[3])
        if match is None or layer in place:
            name = origin if match is None else f"{match[1]}{place[int(match[2])]}.{inner}"
            dtype, size = _stored_as(stored, (dtypes or {}).get(name))
            shards[stored.file].append(_Kept(name, origin, stored, dtype, size, layer, inner))

    written = [sorted(kept, key=_order) for kept in shards.values() if kept]
    total = sum(tensor.size for shard in written for tensor in shard)
    names = [f"model-{number:05d}-of-{len(written):05d}.safetensors" for number in range(1, len(written) + 1)]
    files = dict(zip(names if len(written) > 1 else [SINGLE], written, strict=True))
    done, counting = 0, Lock()

    def report(size: int) -> None:
        nonlocal done
        with counting:
            done += size
            on_progress(done, total)

    with ThreadPoolExecutor(1) as copying, ThreadPoolExecutor(1) as disk:
        try:
            on_disk = []
            for file, shard in files.items():
                copies = _write_shard(out / file, source, shard, rewrite, copying, report)
                on_disk.append(disk.submit(_synchronise, out / file, copies))
            for shard_on_disk in on_disk:
                shard_on_disk.result()
        except BaseException:
            copying.shutdown(wait=False, cancel_futures=True)
            raise
    if len(written) > 1:
        weight_map = sorted((tensor.name, file) for file, shard in files.items() for tensor in shard)
        index = {"metadata": {"total_size": total}, "weight_map": dict(weight_map)}
        (out / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    model.config.save_pretrained(out)


def _write_shard(
    file: Path,
    source: Checkpoint,
    shard: Sequence[_Kept],
    rewrite: Rewrite,
    copying: Executor,
    report: Callable[[int], None],
) -> list[Future[None]]:
    """Writes header and changed tensors; the others are copied to their places in the background.

    Returns:
        The copies that are under way.
    """
    copies = []
    header = _header(shard)
    with file.open("wb") as stream:
        stream.write(header)
        stream.truncate(len(header) + sum(tensor.size for tensor in shard))
        at = len(header)
        for tensor in shard:
            changed = None if tensor.layer is None else rewrite(tensor.layer, tensor.inner)
            if changed is None and tensor.dtype != tensor.stored.dtype:
                changed = source.tensor(tensor.origin).to(floats()[tensor.dtype])
            if changed is None:
                copies.append(copying.submit(_copy, tensor.stored, file, at, report))
            else:
                stream.seek(at)
                stream.write(_bytes(changed, tensor))
                report(tensor.size)
            at += tensor.size
    return copies


def _synchronise(file: Path, copies: Sequence[Future[None]]) -> None:
    """Waits until a file is whole and on disk."""
    for each in copies:
        each.result()
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _stored_as(stored: StoredTensor, dtype: torch.dtype | None) -> tuple[str, int]:
    """How a tensor that is to have a dtype is stored: name of the dtype, bytes."""
    wanted = next((name for name, own in floats().items() if own == dtype), None)
    if dtype is None or wanted is None or stored.dtype not in floats():
        return stored.dtype, stored.size
    return wanted, math.prod(stored.shape) * dtype.itemsize


def _order(tensor: _Kept) -> tuple[int, str]:
    return -tensor.size // max(1, math.prod(tensor.stored.shape)), tensor.name


def _header(shard: Sequence[_Kept]) -> bytes:
    entries: dict[str, Mapping[str, Any]] = {"__metadata__": {"format": "pt"}}
    at = 0
    for tensor in shard:
        end = at + tensor.size
        entries[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.stored.shape), "data_offsets": [at, end]}
        at = end
    raw = json.dumps(entries, separators=(",", ":")).encode("utf-8")
    raw += b" " * (-len(raw) % _ALIGNMENT)
    return struct.pack("<Q", len(raw)) + raw


def _copy(stored: StoredTensor, file: Path, at: int, report: Callable[[int], None]) -> None:
    with stored.file.open("rb", buffering=0) as source, file.open("r+b", buffering=0) as target:
        source.seek(stored.start)
        target.seek(at)
        left = stored.size
        buffer = memoryview(bytearray(min(_CHUNK, left)))
        while left:
            size = source.readinto(buffer[: min(_CHUNK, left)])
            if not size:
                raise OSError(f"{stored.file} ended while it was copied")
            if target.write(buffer[:size]) != size:
                raise OSError(f"{file} could not be written")
            left -= size
    report(stored.size)


def _bytes(value: torch.Tensor, tensor: _Kept) -> memoryview:
    import torch

    raw = value.detach().contiguous().view(torch.uint8).numpy().data.cast("B")
    if tuple(value.shape) != tensor.stored.shape or raw.nbytes != tensor.size:
        raise ValueError(f"{tensor.name} is {value.dtype} {tuple(value.shape)}, to be stored as {tensor.dtype}")
    return raw
