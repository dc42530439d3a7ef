"""Finds texts that say nearly the same: MinHash candidates, checked by exact Jaccard similarity."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np

_BANDS, _ROWS = 16, 4
_WORD = re.compile(r"\w+")


def shingles(text: str, size: int = 3) -> set[int]:
    """CRC-32 of every run of ``size`` lower-cased words; a shorter text is one shingle."""
    words = _WORD.findall(text.lower())
    runs = [" ".join(words[i : i + size]) for i in range(max(1, len(words) - size + 1))]
    return {zlib.crc32(run.encode("utf-8")) for run in runs}


def near_duplicates(texts: Sequence[str], threshold: float = 0.8) -> dict[int, int]:
    """Maps each text that repeats an earlier one to the first text that it repeats.

    Banded MinHash (Broder 1997; 16 bands of 4 rows: a pair at Jaccard 0.8 is found with probability
    0.9998) proposes pairs; only pairs whose exact Jaccard similarity of 3-word shingles reaches
    ``threshold`` count.

    Args:
        texts: N texts.
        threshold: Jaccard similarity in (0, 1] from which two texts count as the same.

    Returns:
        ``{index: index of the earlier text}``; deterministic, O(N * words).
    """
    rng = np.random.default_rng(20250901)
    shape = (_BANDS * _ROWS, 1)
    scale, shift = (rng.integers(0, 1 << 64, size=shape, dtype=np.uint64) for _ in range(2))
    sets = [shingles(text) for text in texts]
    buckets: list[dict[bytes, list[int]]] = [{} for _ in range(_BANDS)]
    repeats: dict[int, int] = {}
    for index, members in enumerate(sets):
        values = np.fromiter(members, dtype=np.uint64, count=len(members))
        hashes = (values[None, :] * scale + shift) >> np.uint64(32)  # wraps at 2**64: multiply-shift (Dietzfelbinger)
        signature = hashes.min(axis=1)
        keys = [signature[band * _ROWS : (band + 1) * _ROWS].tobytes() for band in range(_BANDS)]
        earlier = sorted({other for band, key in enumerate(keys) for other in buckets[band].get(key, ())})
        match = next((other for other in earlier if _jaccard(members, sets[other]) >= threshold), None)
        if match is not None:
            repeats[index] = match
            continue
        for band, key in enumerate(keys):
            buckets[band].setdefault(key, []).append(index)
    return repeats


def _jaccard(left: set[int], right: set[int]) -> float:
    return len(left & right) / len(left | right)
