"""Training and evaluation put the same words to a model, in the template that it was made for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from transformers.utils import chat_template_utils

from damoc.data.example import Example
from damoc.data.prompts import encode, prompt_ids, prompt_text, render_prompt, stop_ids, template_name
from damoc.errors import DamocError
from damoc.models.load import load_model, model_identity

ROW = Example("row", "What does it do?", "DeleteCluster", " Deletes the cluster. ")
PROMPT = render_prompt(ROW.instruction, ROW.input)
ASKED, ANSWER = "What does it do?\n\nDeleteCluster", "Deletes the cluster."

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' }}"
    "{{ m.content | trim }}{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' }}"
    "{{ m.content | trim }}{{ '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
INSTRUCT = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}{% else %}{{ ' ' + m.content + eos_token }}"
    "{% endif %}{% endfor %}"
)
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if m.role == 'assistant' %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{{ m.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{% endif %}"
)
CHANNELS = (
    "{% for m in messages %}{{ '<|start|>' + m.role }}"
    "{{ '<|channel|>final' if m.role == 'assistant' else '' }}{{ '<|message|>' + m.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
WORDS = (
    "{% for m in messages %}{{ '### ' + m.role + ': ' + m.content + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant: ' }}{% endif %}"
)
ANSWERED = {  # template: its special tokens, the prompt, the supervised text
    CHATML: (
        ["<|im_start|>", "<|im_end|>"],
        f"<|im_start|>user\n{ASKED}<|im_end|>\n<|im_start|>assistant\n",
        f"{ANSWER}<|im_end|>",
    ),
    LLAMA: (
        ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        f"<s><|start_header_id|>user<|end_header_id|>\n\n{ASKED}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        f"{ANSWER}<|eot_id|>",
    ),
    GEMMA: (
        ["<start_of_turn>", "<end_of_turn>"],
        f"<s><start_of_turn>user\n{ASKED}<end_of_turn>\n<start_of_turn>model\n",
        f"{ANSWER}<end_of_turn>",
    ),
    INSTRUCT: (["[INST]", "[/INST]"], f"<s>[INST] {ASKED} [/INST]", f" {ANSWER}</s>"),
    THINKING: (
        ["<|im_start|>", "<|im_end|>"],
        f"<|im_start|>user\n{ASKED}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        f"{ANSWER}<|im_end|>",
    ),
    CHANNELS: (
        ["<|start|>", "<|channel|>", "<|message|>", "<|end|>"],
        f"<|start|>user<|message|>{ASKED}<|end|><|start|>assistant<|channel|>final<|message|>",
        f"{ANSWER}<|end|>",
    ),
    WORDS: ([], f"### user: {ASKED}\n### assistant: ", f"{ANSWER}</s>"),
}
NAMES = ["chatml", "llama", "gemma", "instruct", "thinking", "channels", "words"]


def chat(tokenizer: Any, template: str) -> Any:
    """A tokenizer of its own with a chat template and the special tokens that it writes."""
    own = copy.deepcopy(tokenizer)
    own.add_tokens(ANSWERED.get(template, ([],))[0], special_tokens=True)
    own.chat_template = template
    return own


@pytest.fixture(params=list(ANSWERED), ids=NAMES)
def template(request: pytest.FixtureRequest) -> str:
    return request.param


def text_of(tokenizer: Any, ids: Any) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def test_exactly_the_answer_and_what_ends_it_are_supervised(toy: Callable[[str], Any], template: str) -> None:
    tokenizer = chat(toy("tiny-reference").tokenizer, template)
    _, asked, supervised = ANSWERED[template]
    encoded = encode(tokenizer, ROW, 512)
    assert text_of(tokenizer, encoded.ids[encoded.answer_start :]) == supervised
    assert text_of(tokenizer, encoded.ids[: encoded.answer_start]) == asked
    assert encoded.ids[-1] in stop_ids(tokenizer)
    assert tokenizer.eos_token_id in stop_ids(tokenizer)
    open_end = encode(tokenizer, ROW, 512, end=False)
    assert open_end.ids == encoded.ids[:-1]


def test_the_prompt_of_evaluation_is_that_of_training(loaded: Any, template: str) -> None:
    tokenizer = chat(loaded.tokenizer, template)
    encoded = encode(tokenizer, ROW, 512)
    assert prompt_text(tokenizer, PROMPT) == ANSWERED[template][1]
    assert tuple(prompt_ids(tokenizer, PROMPT, 512)) == encoded.ids[: encoded.answer_start]
    assert encoded.ids.count(tokenizer.bos_token_id) == ANSWERED[template][1].count("<s>")


def test_the_prompt_is_what_the_tokenizer_itself_makes_of_the_conversation(loaded: Any, template: str) -> None:
    tokenizer = chat(loaded.tokenizer, template)
    conversation = [{"role": "user", "content": ASKED}]
    own = tokenizer.apply_chat_template(conversation, add_generation_prompt=True, enable_thinking=False)["input_ids"]
    assert prompt_ids(tokenizer, PROMPT, 512)[: len(own)] == own
    whole = tokenizer.apply_chat_template(
        [*conversation, {"role": "assistant", "content": ANSWER}], enable_thinking=False
    )["input_ids"]
    if template != WORDS:  # its question ends with a space, which is a token with the answer in one go and alone here
        encoded = encode(tokenizer, ROW, 512)
        assert list(encoded.ids) == whole[: len(encoded.ids)]


@pytest.mark.parametrize("room", [1, 8, 30, 40])
def test_a_prompt_that_is_too_long_loses_the_start_of_the_users_words(loaded: Any, template: str, room: int) -> None:
    tokenizer = chat(loaded.tokenizer, template)
    prompt = render_prompt("", "one two three four five six seven eight " * 20 + "END")
    whole, cut = prompt_ids(tokenizer, prompt, 1 << 20), prompt_ids(tokenizer, prompt, room)
    assert len(cut) == room
    before, after = prompt_text(tokenizer, prompt).split("one", 1)[0], prompt_text(tokenizer, prompt).split("END", 1)[1]
    head, tail = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, after))
    if len(head) + len(tail) < room:
        assert cut == [*head, *whole[len(whole) - room + len(head) :]]
    else:
        assert cut == whole[-room:]


def test_a_template_that_asks_for_the_date_gives_the_same_prompt_on_every_day(
    toy: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    dated = "{{ 'Today: ' + strftime_now('%d %b %Y') + ' (%A) ' if false else '' }}" + (
        "{%- if strftime_now is defined %}{% set today = strftime_now('%d %b %Y, %B %A %m %y') %}{% endif %}"
        "{{ today + '\\n' }}" + CHATML
    )

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Later:
            return cls(2031, 12, 24)

    tokenizer = chat(toy("tiny-reference").tokenizer, dated)
    today = prompt_text(tokenizer, PROMPT)
    assert today.startswith("26 Jul 2024, July Friday 07 24\n<|im_start|>user")
    monkeypatch.setattr(chat_template_utils, "datetime", Later)
    other = chat(toy("tiny-reference").tokenizer, dated)
    assert prompt_text(other, PROMPT) == today


def test_answers_do_not_depend_on_what_is_asked(loaded: Any, template: str) -> None:
    tokenizer = chat(loaded.tokenizer, template)
    rows = (ROW, Example("other", "Something else", "", ROW.output))
    first, second = (encode(tokenizer, row, 512) for row in rows)
    assert first.ids[first.answer_start :] == second.ids[second.answer_start :]


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('tools only') }}", "tools only"),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "does not write the messages"),
        ("{{ messages[0].content.nothing() }}", "UndefinedError"),
    ],
)
def test_a_template_that_cannot_be_used_is_one_clear_error(toy: Any, template: str, reason: str) -> None:
    with pytest.raises(DamocError, match=reason) as caught:
        encode(chat(toy("tiny-reference").tokenizer, template), ROW, 512)
    assert caught.value.problems[0].fix == "set tuning.template to plain"


def test_a_folder_is_read_with_its_template_or_plainly(tmp_path: Any, zoo: Any) -> None:
    loaded = load_model(str(zoo / "tiny-reference"))
    loaded.model.save_pretrained(tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)
    assert template_name(load_model(str(tmp_path)).tokenizer) == "plain"
    before = model_identity(str(tmp_path), None)
    chat(loaded.tokenizer, CHATML).save_pretrained(tmp_path)
    assert (tmp_path / "chat_template.jinja").is_file()
    templated, plain = (load_model(str(tmp_path), template=choice).tokenizer for choice in ("auto", "plain"))
    assert template_name(templated).startswith("chat:")
    assert prompt_text(templated, PROMPT) == ANSWERED[CHATML][1]
    assert template_name(plain) == "plain"
    assert prompt_text(plain, PROMPT) == PROMPT
    assert encode(plain, ROW, 512).ids[-1] == plain.eos_token_id
    identities = {before, model_identity(str(tmp_path), None)}
    (tmp_path / "chat_template.jinja").write_text(GEMMA)
    assert len(identities | {model_identity(str(tmp_path), None)}) == 3
