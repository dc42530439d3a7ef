"""A chat model behind an OpenAI-compatible endpoint (vLLM, transformers serve, llama.cpp, hosted ones)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from damoc.chat.client import ChatClient, EndpointFailure, Read, UnfitRequest
from damoc.chat.options import first_token_probabilities, read_option, without_thoughts
from damoc.chat.reply_cache import ReplyCache, Request
from damoc.config import LanguageModel
from damoc.errors import InfrastructureError
from damoc.redaction import redact

_TOP_TOKENS = 20
_BYTES_A_TOKEN = 3
_OPTION_TOKENS = 32
_PROBE = "Answer with one word, yes or no: is water wet?"


class EndpointChat:
    """A model of a server; every reply is stored as it comes, so a killed run asks only for what it had not got.

    A request that the server refuses for what it holds (too long) has no reply; where the server has not answered
    anything yet, the refusal is an error.

    Args:
        settings: endpoint, model, and how to ask it.
        cache: folder of the caches; replies are kept in its folder ``replies``.

    Attributes:
        identity: endpoint, without credentials, and model name.
    """

    def __init__(self, settings: LanguageModel, cache: Path) -> None:
        self.identity = f"{redact(settings.endpoint or '').rstrip('/')} {settings.model}"
        self._client = ChatClient(settings)
        self._cache = cache
        self._replies = ReplyCache(cache, self.identity)

    @property
    def context(self) -> int | None:
        """See :attr:`damoc.chat.model.ChatModel.context`."""
        return None

    def prompt_tokens(self, prompts: Sequence[str]) -> list[int]:
        """See :meth:`damoc.chat.model.ChatModel.prompt_tokens`.

        Three bytes of UTF-8 a token, which holds about equally for words of an alphabet and for Chinese or Japanese
        characters.
        """
        return [-(-len(prompt.encode()) // _BYTES_A_TOKEN) for prompt in prompts]

    def complete(
        self,
        prompts: Sequence[str],
        max_tokens: int | Sequence[int],
        temperature: float = 0.0,
        seed: int = 0,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[str | None]:
        """See :meth:`damoc.chat.model.ChatModel.complete`."""
        limits = [max_tokens] * len(prompts) if isinstance(max_tokens, int) else max_tokens
        sampling = {"temperature": temperature, "seed": seed} if temperature > 0 else {"temperature": 0.0}
        requests = [
            {"messages": _messages(prompt), "max_tokens": limit, **sampling}
            for prompt, limit in zip(prompts, limits, strict=True)
        ]
        return self._answer(requests, _text, self._replies, on_progress)

    def option_probabilities(
        self,
        prompts: Sequence[str],
        options: Sequence[str],
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> NDArray[np.float64]:
        """See :meth:`damoc.chat.model.ChatModel.option_probabilities`.

        From the log-probabilities of the first token where the server gives them, else from a short reply in words.
        """
        rows = np.full((len(prompts), len(options)), np.nan)
        if prompts and self._gives_logprobs:
            requests = [_first_token_request(prompt) for prompt in prompts]
            for index, tokens in enumerate(self._answer(requests, _top_tokens, self._replies, on_progress)):
                shares = first_token_probabilities(tokens or (), options)
                rows[index] = np.nan if shares is None else shares
        unread = np.flatnonzero(np.isnan(rows).any(axis=1))
        replies = self.complete(
            [prompts[index] for index in unread],
            _OPTION_TOKENS,
            on_progress=lambda done, total: on_progress(len(prompts) - total + done, len(prompts)),
        )
        for index, reply in zip(unread, replies, strict=True):
            shares = read_option(reply or "", options)
            rows[index] = np.nan if shares is None else shares
        return rows

    @cached_property
    def _gives_logprobs(self) -> bool:
        """Asks the server once, with a prompt that no server finds too long; the answer is kept beside the replies."""
        abilities = ReplyCache(self._cache, f"{self.identity} log-probabilities")
        return bool(self._answer([_first_token_request(_PROBE)], _top_tokens, abilities, refused=[])[0])

    def _answer(
        self,
        requests: Sequence[Request],
        read: Read,
        cache: ReplyCache,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
        refused: Any = None,
    ) -> list[Any]:
        """Replies from the cache and the server; ``refused`` is the reply to a request that the server finds unfit."""

        def ask(missing: Sequence[Request]) -> Iterator[tuple[int, Any]]:
            refusals: list[UnfitRequest] = []
            for index, reply in self._client.ask(missing, read):
                if isinstance(reply, UnfitRequest):
                    refusals.append(reply)
                yield index, refused if isinstance(reply, UnfitRequest) else reply
            if refusals and cache.empty():
                raise refusals[0]

        try:
            return cache.answer(requests, ask, on_progress)
        except EndpointFailure as failure:
            kept = f"{cache.kept(requests)} of {len(requests)} replies are kept"
            fix = f"{failure.fix}; {kept}, and the same command asks for the rest only"
            raise InfrastructureError(failure.what, self.identity, fix) from None


def _messages(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


def _first_token_request(prompt: str) -> Request:
    return {
        "messages": _messages(prompt),
        "max_tokens": 1,
        "temperature": 0.0,
        "logprobs": True,
        "top_logprobs": _TOP_TOKENS,
    }


def _text(completion: Any) -> str | None:
    content = _choice(completion).message.content
    return without_thoughts(content) or None if isinstance(content, str) else None


def _top_tokens(completion: Any) -> list[tuple[str, float]]:
    """Text and log-probability of the likeliest first tokens; none where the server gives none."""
    content = getattr(_choice(completion).logprobs, "content", None)
    return [(top.token, float(top.logprob)) for top in content[0].top_logprobs] if content else []


def _choice(completion: Any) -> Any:
    """The first choice of a completion; a server that answers with anything else is malformed."""
    try:
        choice = completion.choices[0]
        choice.message.content  # noqa: B018
    except (AttributeError, IndexError, TypeError):
        raise ValueError("not a chat completion") from None
    return choice
