"""Word surprises against one forward pass a token."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from damoc.condense.measure import word_surprises
from damoc.condense.words import split_words
from damoc.models.load import LoadedModel

TEXTS = [
    "Deletes the cache cluster and every node in it.",
    "  Naïve façade: 10 µm, 東京 and 😀 emoji —\n\n- not a list?\n",
    "word",
    "Creates a queue.\n" * 3,
]


def nats(loaded: LoadedModel, before: list[int], token: int) -> float:
    with torch.inference_mode():
        logits = loaded.model(input_ids=torch.tensor([before])).logits[0, -1].double()
    return float(-torch.log_softmax(logits, dim=0)[token])


def by_hand(loaded: LoadedModel, text: str, before: list[int], starts: list[int] | None = None) -> list[float]:
    """The largest surprise among the tokens of each word, one forward pass a token.

    ``starts`` says at which token the context of each token begins; 0 for all of them without it.
    """
    encoded = loaded.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = encoded["input_ids"]
    words = split_words(text)
    found = [0.0] * len(words)
    for at, (token, (start, end)) in enumerate(zip(ids, encoded["offset_mapping"], strict=True)):
        own = [place for place, word in enumerate(words) if word.start < end and start < word.end]
        for owner in own:
            found[owner] = max(found[owner], nats(loaded, before + ids[starts[at] if starts else 0 : at], token))
    return found


def measured(loaded: LoadedModel, texts: list[str], max_length: int = 512, **options) -> list[np.ndarray]:
    words = [split_words(text) for text in texts]
    return word_surprises(loaded.model, loaded.tokenizer, texts, words, max_length, **options)


def test_each_word_has_the_surprise_of_its_most_surprising_token(loaded):
    for text, values in zip(TEXTS, measured(loaded, TEXTS), strict=True):
        assert np.allclose(values, by_hand(loaded, text, [loaded.tokenizer.bos_token_id]), atol=1e-3)


def test_a_condition_stands_before_the_text_and_is_not_scored(loaded):
    question = "What does DeleteCacheCluster do?\n"
    before = [loaded.tokenizer.bos_token_id, *loaded.tokenizer(question, add_special_tokens=False)["input_ids"]]
    (values,) = measured(loaded, TEXTS[:1], conditions=[question])
    assert np.allclose(values, by_hand(loaded, TEXTS[0], before), atol=1e-3)


@pytest.mark.parametrize(("max_length", "overlap"), [(16, 7), (33, 16), (80, 32)])
def test_a_long_text_is_read_in_windows_that_overlap(loaded, max_length, overlap):
    text = " ".join(TEXTS)
    room = max_length - 1
    count = len(loaded.tokenizer(text, add_special_tokens=False)["input_ids"])
    starts = [max(0, -((room - 1 - at) // (room - overlap))) * (room - overlap) for at in range(count)]
    (values,) = measured(loaded, [text], max_length)
    assert np.allclose(values, by_hand(loaded, text, [loaded.tokenizer.bos_token_id], starts), atol=1e-3)


@pytest.mark.parametrize("max_length", [4, 16, 17, 66])
def test_a_long_question_leaves_the_answer_half_of_the_window(loaded, max_length):
    question = "Which operation of the service deletes the cache cluster? " * 9
    tail = loaded.tokenizer(question, add_special_tokens=False)["input_ids"][-(max_length // 2) :]
    room = max_length - 1 - len(tail)
    overlap = min(32, room // 2)
    count = len(loaded.tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"])
    starts = [max(0, -((room - 1 - at) // (room - overlap))) * (room - overlap) for at in range(count)]
    (values,) = measured(loaded, TEXTS[:1], max_length, conditions=[question])
    assert np.allclose(values, by_hand(loaded, TEXTS[0], [loaded.tokenizer.bos_token_id, *tail], starts), atol=1e-3)


def test_the_batch_does_not_change_the_surprise(loaded):
    texts = [*TEXTS, "", " \n "]
    together = measured(loaded, texts, batch_size=6)
    for text, values in zip(texts, together, strict=True):
        assert np.allclose(measured(loaded, [text], batch_size=1)[0], values, atol=1e-4)
    assert len(together[-1]) == len(together[-2]) == 0


def test_no_texts_have_no_surprises(loaded):
    assert measured(loaded, []) == []


def test_an_unforeseeable_word_surprises_most(toy):
    text = "This operation deletes the cache cluster xylophone and returns the details of the cluster."
    (values,) = measured(toy("tiny-reference"), [text])
    assert text.split()[int(np.argmax(values))] == "xylophone"
