"""MEASURE: how well the scorer, tuned on good and diverse rows, already answers every row by itself (MoDS)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from damoc.chat.reply_cache import ReplyCache, Request
from damoc.config import TuningConfig
from damoc.data.prompts import render_prompt
from damoc.errors import DamocError
from damoc.evaluation.generation import generate
from damoc.filters.hybrid.mods import seed_rows
from damoc.hashing import sha256_file
from damoc.signals.registry import SignalContext, register_signal
from damoc.signals.reward import reward_of
from damoc.signals.warm_up import adapted_scorer, encoded, tuned_adapter

SEED_TUNING = TuningConfig(rank=8, alpha=16, dropout=0.0, epochs=3.0, dtype="float32")
_SHORTEST, _LONGEST = 8, 256
_STORED_AT_ONCE = 64


@register_signal("necessity", models=("encoder", "scorer", "reward"), needs=("reward", "prompt_embedding"))
def necessity(context: SignalContext) -> Mapping[str, NDArray[Any]]:
    """Reward of the answers that the scorer gives itself after a tuning on good and diverse rows (MoDS).

    Du, Zong and Zhang, "MoDS: Model-oriented Data Selection for Instruction Tuning", 2023, with LoRA adapters in place
    of full tuning and greedy decoding in place of a beam. The dearest of all signals: it generates N answers, each kept
    as it comes.

    Returns:
        ``necessity`` float64 (N,), in the units of ``reward``: low where the tuned model answers badly, so that the row
        is needed.

    Raises:
        DamocError: no row has a reward, or a model cannot be loaded or tuned.
    """
    ids = seed_rows(context.measured["reward"], context.measured["prompt_embedding"])
    if len(ids) == 0:
        raise DamocError(
            "no row has a reward, so there is nothing good to tune the first model of MoDS on",
            "field data_compression.signals.reward",
            "name another reward model, or another filter",
        )
    adapter = tuned_adapter(context, "necessity", ids.tolist(), SEED_TUNING)
    room = answer_room([row.answer_length for row in encoded(context, context.rows)])
    prompts = [render_prompt(row.instruction, row.input, row.choices) for row in context.rows]

    def ask(requests: Sequence[Request]) -> Iterator[tuple[int, str]]:
        order = sorted(range(len(requests)), key=lambda index: (len(requests[index]["prompt"]), index))
        with adapted_scorer(context, adapter, SEED_TUNING) as scorer:
            for start in range(0, len(order), _STORED_AT_ONCE):
                batch = order[start : start + _STORED_AT_ONCE]
                asked = [requests[index]["prompt"] for index in batch]
                yield from zip(batch, generate(scorer.model, scorer.tokenizer, asked, room), strict=True)

    answers = ReplyCache(context.cache, sha256_file(adapter)).answer(
        [{"prompt": prompt, "max_new_tokens": room} for prompt in prompts], ask, context.progress("necessity")
    )
    questions = ["\n".join(text for text in (row.instruction, row.input) if text) for row in context.rows]
    return {"necessity": reward_of(questions, answers, context)}


def answer_room(lengths: Sequence[int]) -> int:
    """Tokens that an answer may have: a power of two that 95 % of the reference answers fit in, from 8 to 256.

    Args:
        lengths: tokens of each reference answer.
    """
    usual = float(np.percentile(lengths, 95))
    return int(np.clip(2 ** np.ceil(np.log2(max(1.0, usual))), _SHORTEST, _LONGEST))
