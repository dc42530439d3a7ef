"""A checkpoint of safetensors files, read tensor by tensor: what is not asked for is not in memory."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from damoc.errors import DamocError

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_LONGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies.

    Args:
        file: safetensors file.
        dtype: as safetensors names it (``BF16``, ``F32``, ...).
        shape: of the tensor.
        start: offset of its first byte in the file.
        size: bytes.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


class Checkpoint:
    """The tensors of a model folder or hub model.

    Args:
        source: folder with ``model.safetensors`` or an index of its shards, or hub id.
        revision: commit of a hub model.

    Raises:
        DamocError: there is no such checkpoint, or a file of it is damaged.
    """

    def __init__(self, source: str, revision: str | None = None) -> None:
        self.source = source
        self.files = _files(source, revision)
        self.tensors: dict[str, StoredTensor] = {}
        for file in self.files:
            self.tensors |= read_header(file)

    def announce(self, name: str) -> None:
        """Has the system read a tensor, if there is one, in the background: at its use it comes in small pieces."""
        stored = self.tensors.get(name)
        if stored and hasattr(os, "posix_fadvise"):
            with stored.file.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), stored.start, stored.size, os.POSIX_FADV_WILLNEED)

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor, as it is stored.

        Raises:
            DamocError: there is none of that name.
        """
        from safetensors import safe_open

        if name not in self.tensors:
            raise DamocError(f"the checkpoint has no tensor {name!r}", self.source, "name a model of the same family")
        with safe_open(self.tensors[name].file, framework="pt") as opened:
            found: torch.Tensor = opened.get_tensor(name)
            return found


def floats() -> dict[str, torch.dtype]:
    """The floating-point numbers that models compute with, by the names that safetensors has for them."""
    import torch

    return {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def read_header(file: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file, in the order of their bytes.

    The format: eight bytes with the length of a JSON header (little endian), the header, the bytes of all tensors.

    Raises:
        DamocError: the file is damaged.
    """
    broken = DamocError("the file is damaged or not a safetensors file", str(file), "save or download it again")
    with file.open("rb") as stream:
        first = stream.read(8)
        if len(first) < 8 or not 0 < (length := struct.unpack("<Q", first)[0]) <= _LONGEST_HEADER:
            raise broken
        raw = stream.read(length)
    try:
        header: Mapping[str, Mapping[str, Any]] = json.loads(raw)
        found = {name: _stored(file, entry, 8 + length) for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise broken from error
    if any(tensor.start + tensor.size > file.stat().st_size for tensor in found.values()):
        raise broken
    return dict(sorted(found.items(), key=lambda item: item[1].start))


def _stored(file: Path, entry: Mapping[str, Any], data: int) -> StoredTensor:
    start, end = (int(offset) for offset in entry["data_offsets"])
    shape = tuple(int(size) for size in entry["shape"])
    return StoredTensor(file, str(entry["dtype"]), shape, data + start, end - start)


def _files(source: str, revision: str | None) -> tuple[Path, ...]:
    from transformers.utils.hub import cached_file

    def find(name: str) -> Path | None:
        folder = Path(source)
        if folder.is_dir():
            return folder / name if (folder / name).is_file() else None
        try:
            found = cached_file(source, name, revision=revision)
        except OSError:
            return None
        return Path(found) if found else None

    if index := find(INDEX):
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamocError("the index is damaged", str(index), "save or download it again") from error
    else:
        names = [SINGLE]
    files = {name: find(name) for name in names if Path(name).name == name}
    if absent := [name for name in names if files.get(name) is None]:
        raise DamocError(f"the file {absent[0]} is missing", source, "save or download the whole checkpoint again")
    return tuple(file for file in files.values() if file)
