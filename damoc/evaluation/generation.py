"""Greedy generation in left-padded batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from damoc.data.prompts import prompt_ids, stop_ids


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    max_new_tokens: int,
    batch_size: int = 16,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    stop: Sequence[str] = (),
    max_length: int | None = None,
) -> list[str]:
    """What a model answers, greedily.

    A row of a batch ends at the token that ends an answer, its first stop string or ``max_new_tokens``; a batch ends
    with its last row.

    Args:
        model: causal language model.
        tokenizer: its tokenizer.
        prompts: rendered prompts; a prompt that leaves no room loses its start.
        max_new_tokens: longest answer, in tokens; never more than the model reads.
        batch_size: prompts in a batch.
        on_progress: called with (prompts done, prompts).
        stop: strings that end an answer and are no part of it.
        max_length: longest prompt, in tokens; what the model reads when None.

    Returns:
        One answer a prompt, in their order, without special tokens and outer white space.
    """
    import torch

    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 1 << 20
    max_new_tokens = min(max_new_tokens, limit - 1)
    room = min(limit - max_new_tokens, max_length or limit)
    encoded = [prompt_ids(tokenizer, prompt, room) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda index: (len(encoded[index]), index))
    stopping: dict[str, Any] = {"stop_strings": list(stop), "tokenizer": tokenizer} if stop else {}
    answers = [""] * len(prompts)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        longest = max(len(encoded[index]) for index in batch)
        ids = torch.full((len(batch), longest), tokenizer.pad_token_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, index in enumerate(batch):
            ids[row, longest - len(encoded[index]) :] = torch.tensor(encoded[index])
            mask[row, longest - len(encoded[index]) :] = 1
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=stop_ids(tokenizer) or None,
                **stopping,
            )
        for row, index in enumerate(batch):
            text = tokenizer.decode(output[row, longest:], skip_special_tokens=True)
            answers[index] = _until(text, stop).strip()
        on_progress(min(start + batch_size, len(order)), len(order))
    return answers


def _until(text: str, stop: Sequence[str]) -> str:
    """A text up to the first of the stop strings."""
    for ending in stop:
        text = text.partition(ending)[0]
    return text
