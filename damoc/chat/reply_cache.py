"""Replies of asked models on disk, by content: a killed run resumes, and a rerun asks nothing."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from damoc.hashing import sha256_json

OnProgress = Callable[[int, int], None]
Request = Mapping[str, Any]
"""Everything that decides a reply beside the model: messages, sampling settings, seed; JSON values."""


class ReplyCache:
    """One JSON file a reply, written beside and renamed, below ``root/replies/``.

    Args:
        root: folder of all caches.
        identity: of the model that is asked.
    """

    def __init__(self, root: Path, identity: str) -> None:
        self._folder = root / "replies" / sha256_json({"identity": identity})[:32]

    def answer(
        self,
        requests: Sequence[Request],
        ask: Callable[[Sequence[Request]], Iterable[tuple[int, Any]]],
        on_progress: OnProgress = lambda done, total: None,
    ) -> list[Any]:
        """Replies to all requests; only those without a stored reply are asked, equal ones once.

        Args:
            requests: N requests.
            ask: yields ``(index among the requests it was given, reply)`` in any order; None is no usable reply.
            on_progress: called with (requests dealt with, N).

        Returns:
            N replies, None where none came; those are asked again the next time.
        """
        keys = [sha256_json(dict(request)) for request in requests]
        known = {key: self._load(key) for key in dict.fromkeys(keys)}
        asked = {key: request for key, request in zip(keys, requests, strict=True) if known[key] is None}
        names, times = list(asked), Counter(keys)
        done = len(requests) - sum(times[key] for key in names)
        on_progress(done, len(requests))
        for index, reply in ask(list(asked.values())) if asked else ():
            key = names[index]
            if reply is not None:
                self._store(key, reply)
                known[key] = reply
            done += times[key]
            on_progress(done, len(requests))
        return [known[key] for key in keys]

    def kept(self, requests: Iterable[Request]) -> int:
        """How many of the requests have a stored reply."""
        return sum(self._load(sha256_json(dict(request))) is not None for request in requests)

    def empty(self) -> bool:
        """Whether the model has not given any reply yet."""
        return next(self._folder.glob("*/*.json"), None) is None

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"

    def _load(self, key: str) -> Any:
        try:
            return json.loads(self._path(key).read_text(encoding="utf-8"))["reply"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def _store(self, key: str, reply: Any) -> None:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=path.parent, suffix=".part")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump({"reply": reply}, stream, ensure_ascii=False)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, path)
