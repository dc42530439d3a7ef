"""One prompt for training, evaluation and the registered winner: what is trained on is what is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from damoc.data.example import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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


def render_prompt(instruction: str, input: str, choices: Sequence[str] = ()) -> str:
    """The text that a model continues with the answer."""
    parts = [instruction.strip(), input.strip()]
    if choices and not all(choice in input for choice in choices):
        parts.append(f"Options: {', '.join(choices)}")
    return "\n\n".join([*(part for part in parts if part), "Answer:"])


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
    prompt = tokenizer(render_prompt(example.instruction, example.input, example.choices), verbose=False)["input_ids"]
    if prompt and prompt[-1] == tokenizer.eos_token_id:
        prompt = prompt[:-1]
    text = example.output if answer is None else answer
    reply = tokenizer(" " + text.strip(), add_special_tokens=False, verbose=False)["input_ids"]
    if end and tokenizer.eos_token_id is not None:
        reply = [*reply, tokenizer.eos_token_id]
    reply = reply[: max_length - 1]
    room = max_length - len(reply)
    if len(prompt) > room:
        head = prompt[:1] if prompt[0] == tokenizer.bos_token_id and room > 1 else []
        prompt = [*head, *prompt[len(prompt) - room + len(head) :]]
    return Encoded(tuple(prompt + reply), len(prompt))
