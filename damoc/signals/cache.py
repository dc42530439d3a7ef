"""One content-addressed cache for every signal: what model, what text, what settings.

Entries are appended in batches as NumPy files below ``root/NAME/SETTINGS-HASH/``; each file is written beside and
renamed, so a killed measurement continues where it was and a partial batch never counts.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from damoc.hashing import sha256_json, sha256_text


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
        texts: Sequence[str],
        compute: Callable[[Sequence[str]], Iterable[NDArray[Any]]],
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> NDArray[Any]:
        """Values of all texts; only texts not measured before are computed.

        Args:
            texts: N texts.
            compute: yields float32 arrays of shape (batch, width) for the texts it is given, in their order.
            on_progress: called with (texts known, N).

        Returns:
            float32 array of shape (N, width); (0, 0) without texts.
        """
        known = self._load()
        keys = [sha256_text(text) for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        todo = sorted(missing, key=lambda key: (len(missing[key]), key))
        on_progress(len(texts) - len(todo), len(texts))
        done = 0
        for values in compute([missing[key] for key in todo]) if todo else ():
            batch = todo[done : done + len(values)]
            self._append(batch, values)
            known.update(zip(batch, values, strict=True))
            done += len(values)
            on_progress(len(texts) - len(todo) + done, len(texts))
        return np.stack([known[key] for key in keys]).astype(np.float32) if keys else np.zeros((0, 0), np.float32)

    def _load(self) -> dict[str, NDArray[Any]]:
        known: dict[str, NDArray[Any]] = {}
        for path in sorted(self.folder.glob("*.npz")):
            with np.load(path, allow_pickle=False) as stored:
                known.update(zip(stored["keys"].tolist(), stored["values"], strict=True))
        return known

    def _append(self, keys: Sequence[str], values: NDArray[Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=self.folder, suffix=".part")
        with os.fdopen(handle, "wb") as stream:
            np.savez(stream, keys=np.array(keys), values=values.astype(np.float32))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, self.folder / f"{sha256_json(list(keys))[:32]}.npz")
