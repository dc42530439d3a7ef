"""One content-addressed cache for every signal: what model, what text, what settings.

Entries are appended in batches as NumPy files below ``root/NAME/SETTINGS-HASH/``; each file is written beside and
renamed, so a killed measurement continues where it was and a partial batch never counts. A file that cannot be read
whole (each array in it carries a checksum) is passed over and measured again.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from damoc.hashing import sha256_json, sha256_text

Item = TypeVar("Item")
_UNREADABLE = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile)


class SignalCache:
    """Fixed-width float32 vectors, one a text.

    Args:
        root: folder of all signals.
        name: the signal, e.g. ``embedding``.
        settings: everything beside the text that decides the value (model hash, pooling, lengths).
    """

    def __init__(self, root: Path, name: str, settings: Mapping[str, Any]) -> None:
        self.folder = root / name / sha256_json(dict(settings))[:32]

    def measure(
        self,
        items: Sequence[Item],
        compute: Callable[[Sequence[Item]], Iterable[NDArray[Any]]],
        on_progress: Callable[[int, int], None] = lambda done, total: None,
        key: Callable[[Item], str] = str,
    ) -> NDArray[Any]:
        """Values of all items; only items not measured before are computed.

        A value that is not finite is returned but not kept, so that it is measured again the next time.

        Args:
            items: N texts, or other things that ``key`` turns into texts.
            compute: yields float32 arrays of shape (batch, width) for the items it is given, in their order, which
                goes from short to long.
            on_progress: called with (items known, N).
            key: the text that decides an item's value; items of equal text are computed once.

        Returns:
            float32 array of shape (N, width); (0, 0) without items.
        """
        texts = [key(item) for item in items]
        keys = [sha256_text(text) for text in texts]
        known = self._load()
        missing = {name: at for at, name in enumerate(keys) if name not in known}
        todo = sorted(missing, key=lambda name: (len(texts[missing[name]]), name))
        on_progress(len(keys) - len(todo), len(keys))
        done = 0
        for values in compute([items[missing[name]] for name in todo]) if todo else ():
            batch = todo[done : done + len(values)]
            self._append(batch, values)
            known.update(zip(batch, values, strict=True))
            done += len(values)
            on_progress(len(keys) - len(todo) + done, len(keys))
        return np.stack([known[name] for name in keys]).astype(np.float32) if keys else np.zeros((0, 0), np.float32)

    def _load(self) -> dict[str, NDArray[Any]]:
        known: dict[str, NDArray[Any]] = {}
        for path in sorted(self.folder.glob("*.npz")):
            try:
                with np.load(path, allow_pickle=False) as stored:
                    batch = dict(zip(stored["keys"].tolist(), stored["values"], strict=True))
            except _UNREADABLE:
                continue
            known.update(batch)
        return known

    def _append(self, keys: Sequence[str], values: NDArray[Any]) -> None:
        values = np.asarray(values, dtype=np.float32)
        finite = np.isfinite(values).all(axis=1)
        kept = [key for key, usable in zip(keys, finite, strict=True) if usable]
        if not kept:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=self.folder, suffix=".part")
        with os.fdopen(handle, "wb") as stream:
            np.savez(stream, keys=np.array(kept), values=values[finite])
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, self.folder / f"{sha256_json(kept)[:32]}.npz")
