"""MEASURE: how likely a causal language model finds prompts, answers after their prompts, and answers alone.

Prompt and answer are tokenised apart (an answer as it stands behind the cue ``Answer:``), so that both passes see the
same answer token ids, each with something before it: an answer of one token is scored like any other. A token that
begins texts is there where the tokenizer adds one; the token that ends them is not scored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from damoc.data.example import Example
from damoc.data.prompts import Encoded, encode, prompt_ids, render_prompt
from damoc.errors import DamocError
from damoc.hashing import canonical_json
from damoc.models.likelihood import answer_losses
from damoc.signals.cache import SignalCache
from damoc.signals.identity import local_identity
from damoc.signals.registry import SignalContext, register_signal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ENCODING = 1
"""Counts the changes of how rows become token ids; values of another encoding are measured again."""
_STORED_AT_ONCE = 256
_BATCH = 16


@register_signal("answer_loss", "prompt_loss", "answer_tokens", models=("scorer",))
def pair_losses(context: SignalContext) -> Mapping[str, NDArray[Any]]:
    """Mean loss of each answer after its prompt, mean loss of the prompt, and the answer's length in tokens.

    One forward pass a row. A row that is too long loses the start of its prompt, and only where the answer fills the
    whole context the answer's end.

    Returns:
        ``answer_loss`` float64 (N,): nats per answer token given the prompt, L(A|Q) of Li et al., "Superfiltering",
        ACL 2024. ``prompt_loss`` float64 (N,): nats per prompt token, the first one not counted; 0 where
        the prompt is a single token. ``answer_tokens`` int64 (N,): answer tokens that were scored. The sums behind the
        means are kept in float32.

    Raises:
        DamocError: the scorer cannot be loaded, or its losses are no numbers.
    """

    def compute(missing: Sequence[Example]) -> Iterator[NDArray[Any]]:
        for rows, losses in _token_losses(context, missing):
            cuts = (row.answer_start - 1 for row in rows)
            yield np.array([[*_total(nats[:cut]), *_total(nats[cut:])] for nats, cut in zip(losses, cuts, strict=True)])

    totals = _cache(context, "pair_loss").measure(context.rows, compute, context.progress("answer loss"), pair_text)
    prompt_nats, prompt_tokens, answer_nats, answer_tokens = totals.reshape(-1, 4).astype(np.float64).T
    return {
        "answer_loss": answer_nats / answer_tokens,
        "prompt_loss": prompt_nats / np.maximum(prompt_tokens, 1),
        "answer_tokens": answer_tokens.astype(np.int64),
    }


@register_signal("alone_loss", models=("scorer",))
def alone_losses(context: SignalContext) -> Mapping[str, NDArray[Any]]:
    """Mean loss of each answer without its prompt, behind the cue ``Answer:`` alone.

    One forward pass for each distinct answer, over the token ids that ``answer_loss`` scores.

    Returns:
        ``alone_loss`` float64 (N,): nats per answer token, L(A) of Li et al., "Superfiltering", ACL 2024.

    Raises:
        DamocError: the scorer cannot be loaded, or its losses are no numbers.
    """

    def compute(missing: Sequence[Example]) -> Iterator[NDArray[Any]]:
        for rows, losses in _token_losses(context, missing):
            yield np.array([_total(nats[row.answer_start - 1 :]) for row, nats in zip(rows, losses, strict=True)])

    bare = [replace(row, instruction="", input="", choices=()) for row in context.rows]
    totals = _cache(context, "alone_loss").measure(
        bare, compute, context.progress("loss of the answer alone"), lambda row: row.output.strip()
    )
    nats, tokens = totals.reshape(-1, 2).astype(np.float64).T
    return {"alone_loss": nats / tokens}


def pair_text(row: Example) -> str:
    """What decides the losses of a row: its prompt and its answer, as JSON."""
    return canonical_json([render_prompt(row.instruction, row.input, row.choices), row.output.strip()])


def encode_pair(tokenizer: PreTrainedTokenizerBase, row: Example, max_length: int) -> Encoded:
    """A row as it is scored; the ids of its answer depend on neither instruction, input nor choices.

    Args:
        tokenizer: the scorer's.
        row: the row.
        max_length: tokens at most, more than the cue has.
    """
    cue = max(2, len(prompt_ids(tokenizer, render_prompt("", ""), max_length)))
    whole = encode(tokenizer, row, max_length, end=False)
    if whole.answer_length <= max_length - cue:
        return whole
    prompt = prompt_ids(tokenizer, render_prompt(row.instruction, row.input, row.choices), cue)
    return Encoded((*prompt, *whole.ids[whole.answer_start :][: max_length - cue]), len(prompt))


def _token_losses(
    context: SignalContext, missing: Sequence[Example]
) -> Iterator[tuple[list[Encoded], list[NDArray[Any]]]]:
    """Rows in portions: how each is encoded, and the nats of its tokens but the first."""
    scorer = context.scorer
    max_length = min(context.max_length, scorer.max_length)
    for start in range(0, len(missing), _STORED_AT_ONCE):
        portion = missing[start : start + _STORED_AT_ONCE]
        rows = [encode_pair(scorer.tokenizer, row, max_length) for row in portion]
        losses = answer_losses(
            scorer.model, [Encoded(row.ids, 1) for row in rows], scorer.tokenizer.pad_token_id, _BATCH
        )
        for example, row, nats in zip(portion, rows, losses, strict=True):
            _check(context, example, row, nats)
        yield rows, losses


def _check(context: SignalContext, example: Example, row: Encoded, nats: NDArray[Any]) -> None:
    where, fix = f"row {example.id}", f"set another data_compression.signals.scorer than {context.config.scorer.model}"
    if row.answer_length == 0:
        raise DamocError("the scorer's tokenizer makes no token of the answer", where, fix)
    if not np.isfinite(nats).all():
        raise DamocError("the scorer's losses are not finite", where, fix)


def _total(nats: NDArray[Any]) -> tuple[float, int]:
    """Sum and number of losses."""
    return float(nats.sum(dtype=np.float64)), len(nats)


def _cache(context: SignalContext, name: str) -> SignalCache:
    scorer = local_identity(context.config.scorer)
    return context.cached(name, {"scorer": scorer, "max_length": context.max_length, "encoding": _ENCODING})
