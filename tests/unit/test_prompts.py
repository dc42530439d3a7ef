from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from damoc.data.example import Example
from damoc.data.prompts import encode, prompt_ids, render_prompt, whole_words

texts = st.text(alphabet="aé東😀 .\nmno", max_size=30)


def row(output: str = "Deletes the cluster.", **parts: Any) -> Example:
    return Example(
        "row", parts.pop("instruction", "What does it do?"), parts.pop("input", "DeleteCluster"), output, **parts
    )


@pytest.mark.parametrize(
    ("instruction", "input", "choices", "prompt"),
    [
        ("Say it.", "Text", (), "Say it.\n\nText\n\nAnswer:"),
        ("Say it.", " ", (), "Say it.\n\nAnswer:"),
        ("", " Text\n", (), "Text\n\nAnswer:"),
        ("Say it.", "Text", ("yes", "no"), "Say it.\n\nText\n\nOptions: yes, no\n\nAnswer:"),
        ("Say it.", "yes or no?", ("yes", "no"), "Say it.\n\nyes or no?\n\nAnswer:"),
        ("Say it.", "I know yesterday", ("yes", "no"), "Say it.\n\nI know yesterday\n\nOptions: yes, no\n\nAnswer:"),
    ],
)
def test_a_prompt_leaves_out_what_is_empty_and_options_that_the_input_lists(instruction, input, choices, prompt):
    assert render_prompt(instruction, input, choices) == prompt


def test_spans_are_found_as_whole_words_and_literally():
    assert whole_words("no, know no-one no", "no") == [(0, 2), (9, 11), (16, 18)]
    assert whole_words("a.b acb", "a.b") == [(0, 3)]
    assert whole_words("これは東京です", "東京") == [(3, 5)]


def test_the_ids_are_those_of_prompt_and_answer_written_in_one_go(loaded):
    tokenizer = loaded.tokenizer
    encoded = encode(tokenizer, row(), 512)
    whole = tokenizer(render_prompt("What does it do?", "DeleteCluster") + " Deletes the cluster.")["input_ids"]
    assert list(encoded.ids) == [*whole, tokenizer.eos_token_id]
    assert (
        tokenizer.decode(encoded.ids[encoded.answer_start :], skip_special_tokens=True).strip()
        == "Deletes the cluster."
    )


def test_the_end_token_follows_the_answer_only_where_it_is_asked_for(loaded):
    ended, open_end = (encode(loaded.tokenizer, row(), 512, end=end) for end in (True, False))
    assert ended.ids == (*open_end.ids, loaded.tokenizer.eos_token_id)
    assert ended.answer_start == open_end.answer_start
    assert ended.answer_length == open_end.answer_length + 1


def test_another_answer_stands_in_place_of_the_reference(loaded):
    assert encode(loaded.tokenizer, row(), 512, answer="no") == encode(loaded.tokenizer, row(" no "), 512)


@given(texts, texts, texts, st.integers(2, 60))
def test_whatever_the_length_the_answer_is_kept_before_the_prompt(loaded, instruction, input, output, limit):
    example = row(output, instruction=instruction, input=input)
    whole, cut = encode(loaded.tokenizer, example, 10_000), encode(loaded.tokenizer, example, limit)
    prompt, answer = whole.ids[: whole.answer_start], whole.ids[whole.answer_start :]
    kept_prompt, kept_answer = cut.ids[: cut.answer_start], cut.ids[cut.answer_start :]
    assert len(cut.ids) == min(len(whole.ids), limit)
    assert cut.answer_start >= 1
    assert cut.answer_length == len(kept_answer)
    assert kept_answer == answer[: limit - 1]
    assert prompt[-1] == kept_prompt[-1]
    assert len(kept_prompt) == len(prompt) or kept_prompt[1:] == prompt[len(prompt) - len(kept_prompt) + 1 :]


class WithBeginAndEnd:
    """A tokenizer that puts its begin and end tokens around every text, as those of Llama and T5 do."""

    chat_template = None

    def __init__(self, tokenizer: Any) -> None:
        self.inner = tokenizer
        self.bos_token_id, self.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id

    def __call__(self, text: str, add_special_tokens: bool = True, verbose: bool = True) -> dict[str, list[int]]:
        ids = self.inner(text, add_special_tokens=False)["input_ids"]
        return {"input_ids": [self.bos_token_id, *ids, self.eos_token_id] if add_special_tokens else ids}


def test_the_begin_token_survives_a_cut_and_no_end_token_stands_before_the_answer(loaded):
    tokenizer = WithBeginAndEnd(loaded.tokenizer)
    whole, cut = (encode(tokenizer, row(), limit) for limit in (512, 14))
    assert whole.ids[0] == cut.ids[0] == tokenizer.bos_token_id
    assert whole.ids.count(tokenizer.eos_token_id) == cut.ids.count(tokenizer.eos_token_id) == 1
    assert whole.ids[-1] == cut.ids[-1] == tokenizer.eos_token_id
    assert len(cut.ids) == 14
    assert prompt_ids(tokenizer, "a b c d e f g", 1)[0] != tokenizer.bos_token_id
