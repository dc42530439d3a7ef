"""Sends requests to an OpenAI-compatible server: some at once, not too fast, again where that may help."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cached_property
from typing import TYPE_CHECKING, Any

from damoc.chat.patience import RateLimit, pause_seconds, retry_after
from damoc.chat.reply_cache import Request
from damoc.config import LanguageModel
from damoc.hashing import sha256_json
from damoc.redaction import redact

if TYPE_CHECKING:
    from openai import APIError, OpenAI

Read = Callable[[Any], Any]
"""A completion to a reply, None where it is empty; raises ValueError where it is no completion."""

_BUSY = frozenset({408, 409, 429})
_UNFIT = frozenset({400, 413, 422})
_LONGEST_MESSAGE = 300


class EndpointFailure(Exception):
    """The server cannot be reached or refuses; asking on is useless.

    Args:
        what: what is wrong.
        fix: what the user can do.
    """

    def __init__(self, what: str, fix: str) -> None:
        self.what = what
        self.fix = fix
        super().__init__(what)


class UnfitRequest(EndpointFailure):
    """The server refuses this one request: it is too long, or holds a setting that the server does not know."""


class _Stopped(Exception):
    """Another request has failed for good."""


class ChatClient:
    """The ``openai`` client with our own patience.

    A request that fails for the moment (no connection, time-out, 408, 409, 429, 5xx, an answer that is no completion)
    is tried again ``settings.retries`` times, after an exponential pause or the one that the server asks for.

    Args:
        settings: endpoint, model, and how to ask it. The key is read from the environment when the first request is
            made, and goes nowhere else.
    """

    def __init__(self, settings: LanguageModel) -> None:
        self._settings = settings
        self._rate = RateLimit(settings.requests_per_minute)

    def ask(self, requests: Sequence[Request], read: Read) -> Iterator[tuple[int, Any]]:
        """Replies in the order in which they come.

        Args:
            requests: arguments of ``chat.completions.create``, without the model.
            read: completion to reply.

        Yields:
            ``(index, reply)``; the reply is None where no try gave a usable one, and an :class:`UnfitRequest` where the
            server refuses just this request.

        Raises:
            EndpointFailure: after all that was under way has been yielded.
        """
        stop = threading.Event()
        failures: list[EndpointFailure] = []
        client = self._client

        def send(request: Request) -> Any:
            try:
                return self._send(client, read, stop, request)
            except EndpointFailure as failure:
                if not isinstance(failure, UnfitRequest):
                    stop.set()
                raise

        with ThreadPoolExecutor(self._settings.concurrency) as pool:
            try:
                under_way = {pool.submit(send, request): index for index, request in enumerate(requests)}
                for future in as_completed(under_way):
                    try:
                        yield under_way[future], future.result()
                    except UnfitRequest as refusal:
                        yield under_way[future], refusal
                    except EndpointFailure as failure:
                        failures.append(failure)
                    except _Stopped:
                        continue
            finally:
                stop.set()
        if failures:
            raise failures[0]

    def _send(self, client: OpenAI, read: Read, stop: threading.Event, request: Request) -> Any:
        from openai import APIConnectionError, APIError, APIStatusError

        jitter = random.Random(sha256_json(dict(request)))
        problem: APIError | ValueError | None = None
        pause = 0.0
        for failures in range(1, self._settings.retries + 2):
            if stop.wait(pause) or stop.wait(self._rate.reserve()):
                raise _Stopped
            asked = None
            try:
                return read(client.chat.completions.create(model=self._settings.model, stream=False, **request))
            except APIStatusError as error:
                if error.status_code < 500 and error.status_code not in _BUSY:
                    raise self._failure(error) from None
                problem, asked = error, retry_after(error.response.headers, time.time())
            except (APIConnectionError, APIError, ValueError) as error:
                problem = error
            pause = pause_seconds(failures, jitter.random(), asked)
        if isinstance(problem, (APIStatusError, APIConnectionError)):
            raise self._failure(problem) from None
        return None

    def _failure(self, error: APIError) -> EndpointFailure:
        """What a failure means to the user; the key stays out of it, whatever the server says."""
        from openai import APIStatusError, APITimeoutError

        status = error.status_code if isinstance(error, APIStatusError) else 0
        said = error.response.text if isinstance(error, APIStatusError) else str(error.__cause__ or error.message)
        said = redact(said.replace(self._key, "***") if self._key else said).strip()[:_LONGEST_MESSAGE]
        if isinstance(error, APITimeoutError):
            seconds = f"{self._settings.timeout_seconds:g} seconds"
            return EndpointFailure(f"no reply within {seconds}", "raise 'timeout_seconds' or lower 'concurrency'")
        if not status:
            return EndpointFailure(f"the server cannot be reached: {said}", "start the server or correct 'endpoint'")
        fixes = {
            401: f"put a valid key into the environment variable {self._settings.key_variable}",
            403: f"use a key ({self._settings.key_variable}) that may use this model",
            404: "correct 'endpoint' and 'model'; the server lists its models at /models",
            429: "lower 'concurrency' or set 'requests_per_minute'",
        }
        kind = UnfitRequest if status in _UNFIT else EndpointFailure
        return kind(f"the server refuses with status {status}: {said}", fixes.get(status, "see the server's log"))

    @cached_property
    def _client(self) -> OpenAI:
        from openai import OpenAI

        settings = self._settings
        if not self._key.isascii():
            variable = settings.key_variable
            raise EndpointFailure(f"the key in {variable} has characters that no key has", f"set {variable} again")
        return OpenAI(
            base_url=settings.endpoint, api_key=self._key or "none", timeout=settings.timeout_seconds, max_retries=0
        )

    @property
    def _key(self) -> str:
        return os.environ.get(self._settings.key_variable, "").strip()
