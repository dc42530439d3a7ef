"""One prompt for training, evaluation and the registered winner: what is trained on is what is asked.

A model whose tokenizer has a chat template is asked through it, every other one in :data:`PROMPT_FORMAT`. Which of the
two it is, is a property of the loaded tokenizer, so that training and evaluation cannot differ.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from damoc.data.example import Example
from damoc.errors import DamocError
from damoc.hashing import sha256_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CUE = "Answer:"
PROMPT_FORMAT = "{instruction}\n\n{input}\n\nOptions: {choices}\n\nAnswer:"
"""Shape of a prompt; a part that is empty goes with its blank line, options that the input lists are not repeated.

In a chat template the user's turn holds the same without its last line.
"""
_QUESTION, _ANSWER = "damoc-question", "damoc-answer"
_FIXED_DAY = (
    "{%- macro strftime_now(format) -%}{{ format"
    ' | replace("%d", "26") | replace("%m", "07") | replace("%b", "Jul") | replace("%B", "July")'
    ' | replace("%Y", "2024") | replace("%y", "24") | replace("%a", "Fri") | replace("%A", "Friday")'
    ' }}{%- endmacro %}{{ "" }}'
)
"""Put before a template that asks for the date: prompts of one selection must not depend on the day of a step."""


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


@dataclass(frozen=True)
class Frame:
    """What a chat template puts around the user's words and the answer.

    Args:
        before: what stands before the user's words.
        after: what stands between them and the answer.
        lead: spaces with which every answer begins.
        stop: id of the token that ends an answer, None where there is none.
    """

    before: str
    after: str
    lead: str
    stop: int | None


def whole_words(text: str, span: str, flags: int = 0) -> list[tuple[int, int]]:
    """Where a span stands in a text other than as a part of a longer word: ``(start, end)`` each."""
    pattern = rf"(?<![A-Za-z0-9]){re.escape(span)}(?![A-Za-z0-9])"
    return [(hit.start(), hit.end()) for hit in re.finditer(pattern, text, flags)]


def render_prompt(instruction: str, input: str, choices: Sequence[str] = ()) -> str:
    """What is asked, in :data:`PROMPT_FORMAT`; :func:`prompt_text` puts it into a model's chat template."""
    parts = [instruction.strip(), input.strip()]
    if choices and not all(whole_words(input, choice) for choice in choices):
        parts.append(f"Options: {', '.join(choices)}")
    return "\n\n".join([*(part for part in parts if part), _CUE])


def prompt_text(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """The text that a model continues with its answer; its own special tokens are in it if it has a chat template.

    Args:
        tokenizer: the candidate's own.
        prompt: a rendered prompt.
    """
    frame = _frame(tokenizer)
    return prompt if frame is None else frame.before + prompt.removesuffix(_CUE).strip() + frame.after


def encode(
    tokenizer: PreTrainedTokenizerBase, example: Example, max_length: int, answer: str | None = None, end: bool = True
) -> Encoded:
    """Tokenises a row; a row that is too long loses the start of its prompt, and only then the end of its answer.

    Args:
        tokenizer: the candidate's own.
        example: the row.
        max_length: tokens at most.
        answer: scored in place of ``example.output``.
        end: whether the token that ends an answer follows it (a model that is never shown it never stops).

    Raises:
        DamocError: the tokenizer's chat template cannot be used.
    """
    frame = _frame(tokenizer)
    cue, lead = (_CUE, " ") if frame is None else (frame.after, frame.lead)
    reply = _reply_ids(tokenizer, cue, lead + (example.output if answer is None else answer).strip())
    stop = tokenizer.eos_token_id if frame is None else frame.stop
    if end and stop is not None:
        reply = [*reply, stop]
    reply = reply[: max_length - 1]
    text = render_prompt(example.instruction, example.input, example.choices)
    prompt = prompt_ids(tokenizer, text, max_length - len(reply))
    return Encoded(tuple(prompt + reply), len(prompt))


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str, room: int) -> list[int]:
    """Token ids of a rendered prompt, open at its end; one of more than ``room`` tokens loses its start.

    In a chat template it is the user's words that lose their start, as long as there is room for the template.
    """
    frame = _frame(tokenizer)
    if frame is None:
        ids: list[int] = tokenizer(prompt, verbose=False)["input_ids"]
        if ids and ids[-1] == tokenizer.eos_token_id:
            ids = ids[:-1]
        head, tail = [token for token in ids[:1] if token == tokenizer.bos_token_id], []
    else:
        texts = (prompt_text(tokenizer, prompt), frame.before, frame.after)
        ids, head, tail = (_ids(tokenizer, text) for text in texts)
    if len(ids) <= room:
        return ids
    if len(head) + len(tail) >= room:
        head = []
    return [*head, *ids[len(ids) - room + len(head) :]]


def stop_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the tokens that end an answer: that of the chat template, if there is one, and the end of text."""
    frame = _frame(tokenizer)
    return sorted({tokenizer.eos_token_id, frame.stop if frame else None} - {None})


def template_name(tokenizer: PreTrainedTokenizerBase) -> str:
    """How rows are put to a model: ``plain``, or ``chat`` and the first digits of its template's SHA-256."""
    return f"chat:{sha256_text(_template(tokenizer))[:12]}" if tokenizer.chat_template else "plain"


def _template(tokenizer: PreTrainedTokenizerBase) -> str:
    template: str = tokenizer.get_chat_template()
    return _FIXED_DAY + template if "strftime_now" in template else template


def _frame(tokenizer: PreTrainedTokenizerBase) -> Frame | None:
    """What the tokenizer's chat template writes, None where it has none."""
    return _chat_frame(tokenizer, _template(tokenizer)) if tokenizer.chat_template else None


@lru_cache(maxsize=16)
def _chat_frame(tokenizer: PreTrainedTokenizerBase, template: str) -> Frame:
    """Reads the parts of a template off two conversations.

    No system message is given: some templates refuse one, others have a default. What the template writes before every
    answer (an empty thought, say) belongs to the question, except for spaces, which become one token with the answer.
    """
    user, assistant = {"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}
    asked = _render(tokenizer, template, [user], ask=True)
    told = _render(tokenizer, template, [user, assistant], ask=False)
    before, _, after = asked.partition(_QUESTION)
    if asked.count(_QUESTION) != 1 or told.count(_ANSWER) != 1:
        raise _unusable("it does not write the messages it is given")
    written, _, end = told.partition(_ANSWER)
    lead = written[len(asked) :] if written.startswith(asked) else ""
    spaces = lead[len(lead.rstrip(" ")) :]
    return Frame(before, after + lead.removesuffix(spaces), spaces, _first_special(tokenizer, end))


def _first_special(tokenizer: PreTrainedTokenizerBase, end: str) -> int | None:
    """The token that ends a turn: the first special one of what the template writes there, or the end of text."""
    added = {token: str(content) for token, content in tokenizer.added_tokens_decoder.items()}
    written = {token for token, content in added.items() if content.strip() and content in end}
    return next((token for token in _ids(tokenizer, end) if token in written), tokenizer.eos_token_id)


def _render(tokenizer: PreTrainedTokenizerBase, template: str, messages: list[dict[str, str]], ask: bool) -> str:
    try:
        rendered: Any = tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=ask, enable_thinking=False
        )
    except Exception as error:  # a template may raise whatever its expressions do
        raise _unusable(f"{type(error).__name__}: {error}") from error
    return str(rendered)


def _unusable(reason: str) -> DamocError:
    return DamocError(
        f"the tokenizer's chat template cannot be used: {reason}", "chat template", "set tuning.template to plain"
    )


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text that brings its special tokens along."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _reply_ids(tokenizer: PreTrainedTokenizerBase, cue: str, reply: str) -> list[int]:
    """Token ids of an answer as they follow the cue: some tokenizers mark the start of every text with a space."""
    before, whole = _ids(tokenizer, cue), _ids(tokenizer, cue + reply)
    return whole[len(before) :] if whole[: len(before)] == before else _ids(tokenizer, reply)
