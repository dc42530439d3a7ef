"""One prompt for training, evaluation and the registered winner: what is trained on is what is asked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from damoc.data.example import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CUE = "Answer:"
PROMPT_FORMAT = "{instruction}\n\n{input}\n\nOptions: {choices}\n\nAnswer:"
"""Shape of a prompt; a part that is empty goes with its blank line, options that the input lists are not repeated."""


@dataclass(frozen=True)
class Encoded:
    """A prompt with its answer, as token ids.

    Args:
        ids: prompt and answer.
        answer_start: index of the first answer token; everything from there on is supervised and scored.
    """

    ids: tuple[int, ...]
    answer_start: int

    @property
    def answer_length(self) -> int:
        """Number of answer tokens."""
        return len(self.ids) - self.answer_start


def whole_words(text: str, span: str, flags: int = 0) -> list[tuple[int, int]]:
    """Where a span stands in a text other than as a part of a longer word: ``(start, end)`` each."""
    pattern = rf"(?<![A-Za-z0-9]){re.escape(span)}(?![A-Za-z0-9])"
    return [(hit.start(), hit.end()) for hit in re.finditer(pattern, text, flags)]


def render_prompt(instruction: str, input: str, choices: Sequence[str] = ()) -> str:
    """The text that a model continues with the answer."""
    parts = [instruction.strip(), input.strip()]
    if choices and not all(whole_words(input, choice) for choice in choices):
        parts.append(f"Options: {', '.join(choices)}")
    return "\n\n".join([*(part for part in parts if part), _CUE])


def encode(
    tokenizer: PreTrainedTokenizerBase, example: Example, max_length: int, answer: str | None = None, end: bool = True
) -> Encoded:
    """Tokenises a row; a row that is too long loses the start of its prompt, and only then the end of its answer.

    Args:
        tokenizer: the candidate's own.
        example: the row.
        max_length: tokens at most.
        answer: scored in place of ``example.output``.
        end: whether the end-of-text token follows the answer (a model that is never shown it never stops).
    """
    reply = _reply_ids(tokenizer, (example.output if answer is None else answer).strip())
    if end and tokenizer.eos_token_id is not None:
        reply = [*reply, tokenizer.eos_token_id]
    reply = reply[: max_length - 1]
    text = render_prompt(example.instruction, example.input, example.choices)
    prompt = prompt_ids(tokenizer, text, max_length - len(reply))
    return Encoded(tuple(prompt + reply), len(prompt))


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str, room: int) -> list[int]:
    """Token ids of a rendered prompt, open at its end; one of more than ``room`` tokens loses its start."""
    ids: list[int] = tokenizer(prompt, verbose=False)["input_ids"]
    if ids and ids[-1] == tokenizer.eos_token_id:
        ids = ids[:-1]
    if len(ids) <= room:
        return ids
    head = ids[:1] if ids[0] == tokenizer.bos_token_id and room > 1 else []
    return [*head, *ids[len(ids) - room + len(head) :]]


def _reply_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of an answer as they follow the cue: some tokenizers mark the start of every text with a space."""
    cue: list[int] = tokenizer(_CUE, add_special_tokens=False, verbose=False)["input_ids"]
    whole: list[int] = tokenizer(f"{_CUE} {text}", add_special_tokens=False, verbose=False)["input_ids"]
    if whole[: len(cue)] == cue:
        return whole[len(cue) :]
    alone: list[int] = tokenizer(f" {text}", add_special_tokens=False, verbose=False)["input_ids"]
    return alone
