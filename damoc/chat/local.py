"""A chat model of this machine: a causal language model, run by transformers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from damoc.chat.reply_cache import ReplyCache, Request
from damoc.config import LocalModel
from damoc.data.prompts import Encoded, prompt_ids
from damoc.hashing import derive_seed, sha256_json
from damoc.models.batching import length_batches
from damoc.models.likelihood import answer_losses
from damoc.models.load import LoadedModel, load_local, model_identity

if TYPE_CHECKING:
    import torch

_CUE = "Answer:"
_Process = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]


class LocalChat:
    """A causal language model of this machine, asked through its chat template where it has one.

    Sampling takes the Gumbel maximum with a random stream for each prompt, so that a reply depends neither on the
    prompts beside it nor on a global seed. Weights are loaded when the first prompt is not answered from the cache.

    Args:
        settings: which model.
        cache: folder of the caches; replies are kept in its folder ``replies``.
        batch_size: prompts in a batch at most.

    Attributes:
        identity: SHA-256 over the model's files and the precision of its weights.
    """

    def __init__(self, settings: LocalModel, cache: Path, batch_size: int = 16) -> None:
        files = model_identity(settings.model, settings.revision)
        self.identity = sha256_json({"model": files, "four_bit": settings.four_bit, "dtype": settings.dtype})
        self._settings = settings
        self._replies = ReplyCache(cache, self.identity)
        self._batch_size = batch_size

    @property
    def context(self) -> int:
        """See :attr:`damoc.chat.model.ChatModel.context`."""
        return self._loaded.max_length

    def prompt_tokens(self, prompts: Sequence[str]) -> list[int]:
        """See :meth:`damoc.chat.model.ChatModel.prompt_tokens`."""
        tokenizer = self._loaded.tokenizer
        if tokenizer.chat_template:
            return [len(self._chat_ids(prompt)) for prompt in prompts]
        return [len(prompt_ids(tokenizer, prompt, sys.maxsize)) for prompt in prompts]

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
        sampling = {"temperature": temperature, "seed": seed if temperature > 0 else 0}
        requests = [
            {"prompt": prompt, "max_tokens": limit, **sampling} for prompt, limit in zip(prompts, limits, strict=True)
        ]
        return self._replies.answer(requests, self._generate, on_progress)

    def option_probabilities(
        self,
        prompts: Sequence[str],
        options: Sequence[str],
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> NDArray[np.float64]:
        """See :meth:`damoc.chat.model.ChatModel.option_probabilities`: one forward pass a prompt.

        An option counts with and without a space before it. Where the first tokens do not tell the options apart,
        whole options are scored by their likelihood.
        """
        forms = [[self._reply_ids(space + option) for option in options] for space in ("", " ")]
        firsts = [[ids[0] for ids in form] for form in forms]
        rows = [self._encode(prompt, max(len(ids) for form in forms for ids in form)) for prompt in prompts]
        if not rows:
            return np.zeros((0, len(options)))
        if _tell_apart(firsts):
            return self._by_first_token(rows, firsts, on_progress)
        return self._by_likelihood(rows, forms, on_progress)

    @cached_property
    def _loaded(self) -> LoadedModel:
        """The model, without the sampling habits of its checkpoint."""
        from transformers import GenerationConfig

        loaded = load_local(self._settings)
        stops = loaded.model.generation_config.eos_token_id
        stops = {loaded.tokenizer.eos_token_id, *(stops if isinstance(stops, list) else [stops])} - {None}
        loaded.model.generation_config = GenerationConfig(
            eos_token_id=sorted(stops) or None, pad_token_id=loaded.tokenizer.pad_token_id
        )
        return loaded

    def _generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, str | None]]:
        longest = self._loaded.max_length - 1
        limits = [min(request["max_tokens"], longest) for request in requests]
        rows = [self._encode(request["prompt"], limit) for request, limit in zip(requests, limits, strict=True)]
        stops = set(self._loaded.model.generation_config.eos_token_id or ())
        for batch in self._fitting(length_batches(rows, self._batch_size), rows, limits):
            process = _gumbel([requests[index] for index in batch])
            chosen = [rows[index] for index in batch]
            output = self._run(chosen, max(limits[index] for index in batch), process)
            replies = output.sequences[:, max(len(row.ids) for row in chosen) :].tolist()
            for index, ids in zip(batch, replies, strict=True):
                reply = list(takewhile(lambda token: token not in stops, ids[: limits[index]]))
                yield index, str(self._loaded.tokenizer.decode(reply, skip_special_tokens=True)).strip() or None

    def _fitting(
        self, batches: Iterable[list[int]], rows: Sequence[Encoded], limits: Sequence[int]
    ) -> Iterator[list[int]]:
        """The batches; where a long prompt and a long reply do not fit together, their rows one by one."""
        for batch in batches:
            longest = max(len(rows[index].ids) for index in batch) + max(limits[index] for index in batch)
            yield from [batch] if longest <= self._loaded.max_length else ([index] for index in batch)

    def _by_first_token(
        self, rows: Sequence[Encoded], firsts: Sequence[Sequence[int]], on_progress: Callable[[int, int], None]
    ) -> NDArray[np.float64]:
        logits = np.zeros((len(rows), *np.shape(firsts)))
        done = 0
        for batch in length_batches(rows, self._batch_size):
            output = self._run([rows[index] for index in batch], 1, with_logits=True)
            logits[batch] = output.logits[0][:, firsts].double().cpu().numpy()
            done += len(batch)
            on_progress(done, len(rows))
        logits[:, 1, np.equal(firsts[0], firsts[1])] = -np.inf  # a tokenizer that drops the space: one form, not two
        return _normalise(logits)

    def _by_likelihood(
        self, rows: Sequence[Encoded], forms: Sequence[Sequence[list[int]]], on_progress: Callable[[int, int], None]
    ) -> NDArray[np.float64]:
        scored = [
            Encoded((*row.ids, *ids), len(row.ids)) for row in rows for form in forms for ids in form
        ]  # one a prompt, a form and an option
        each = len(scored) // len(rows)
        nats = answer_losses(
            self._loaded.model,
            scored,
            self._loaded.tokenizer.pad_token_id,
            self._batch_size,
            lambda done, total: on_progress(done // each, len(rows)),
        )
        total = np.array([losses.astype(np.float64).sum() for losses in nats])
        return _normalise(-total.reshape(len(rows), len(forms), -1))

    def _run(
        self, rows: Sequence[Encoded], max_tokens: int, process: _Process | None = None, with_logits: bool = False
    ) -> Any:
        """Generates behind rows that are padded on the left to the longest.

        Returns:
            ``sequences``, rows and replies, and, where asked for, the raw ``logits`` of each step, (rows, vocabulary).
        """
        import torch
        from transformers import LogitsProcessorList

        model, pad_id = self._loaded.model, self._loaded.tokenizer.pad_token_id
        longest = max(len(row.ids) for row in rows)
        ids = torch.full((len(rows), longest), pad_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(rows):
            ids[index, longest - len(row.ids) :] = torch.tensor(row.ids)
            mask[index, longest - len(row.ids) :] = 1
        with torch.inference_mode():
            return model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=max_tokens,
                do_sample=False,
                logits_processor=LogitsProcessorList([process] if process else []),
                output_logits=with_logits,
                return_dict_in_generate=True,
            )

    def _encode(self, prompt: str, room: int) -> Encoded:
        """A prompt as the model reads it, with room for a reply; one that is too long loses its start."""
        tokenizer = self._loaded.tokenizer
        limit = max(1, self._loaded.max_length - room)
        if not tokenizer.chat_template:
            ids = prompt_ids(tokenizer, prompt, limit)
            return Encoded(tuple(ids), len(ids))
        ids = self._chat_ids(prompt)
        if (excess := len(ids) - limit) > 0:
            content = tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]
            ids = self._chat_ids(str(tokenizer.decode(content[excess:])))[-limit:]
        return Encoded(tuple(ids), len(ids))

    def _chat_ids(self, prompt: str) -> list[int]:
        encoded: Any = self._loaded.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=True, enable_thinking=False
        )
        return list(encoded["input_ids"])

    def _reply_ids(self, text: str) -> list[int]:
        """Token ids of a text as they stand behind a cue, not at the start of a text."""
        tokenizer = self._loaded.tokenizer
        cue, whole, alone = (
            tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"] for part in (_CUE, _CUE + text, text)
        )
        return list(whole[len(cue) :] if whole[: len(cue)] == cue else alone)


def _tell_apart(firsts: Sequence[Sequence[int]]) -> bool:
    """Whether every first token belongs to one option only: ids by form and option."""
    owners: dict[int, set[int]] = {}
    for form in firsts:
        for option, token in enumerate(form):
            owners.setdefault(token, set()).add(option)
    return all(len(options) == 1 for options in owners.values())


def _normalise(scores: NDArray[Any]) -> NDArray[np.float64]:
    """Log scores (N, forms, options) to probabilities (N, options); the forms of an option add up."""
    weights = np.exp(scores - scores.max(axis=(1, 2), keepdims=True)).sum(axis=1)
    shares: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return shares


def _gumbel(requests: Sequence[Request]) -> _Process | None:
    """A logits processor whose maximum is a sample: Gumbel noise, scaled by the temperature, a stream a prompt.

    The index of the largest ``logit / T + Gumbel`` follows the softmax at temperature ``T`` (Gumbel, 1954).
    """
    import torch

    temperature = float(requests[0]["temperature"])
    if temperature == 0:
        return None
    streams = [torch.Generator().manual_seed(derive_seed(request["seed"], request["prompt"])) for request in requests]

    def process(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        uniform = torch.stack([torch.rand(logits.shape[1], generator=stream) for stream in streams])
        noise = -torch.log(-torch.log(uniform.clamp(1e-30, 1 - 1e-7)))
        return logits + temperature * noise.to(logits)

    return process
