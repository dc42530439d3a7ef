"""Iterative compression with cached keys and values against a reference that reads the whole prefix again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from damoc.condense.compress import compress_words
from damoc.condense.decide import free_budget, keep_best, keep_words, segment_budget
from damoc.condense.iterative import compress_iteratively, split_segments
from damoc.condense.measure import tokenize_words, word_surprises
from damoc.condense.words import split_words
from damoc.models.load import LoadedModel

TEXTS = [
    "Deletes the cache cluster and every node in it, and then it releases the memory that was held by 5 of them. " * 3,
    "A short one.",
    "  Naïve façade: 10 µm, 東京は人口が多い and 😀 emoji —\n\n- not a list?\n\nThe end of it is here, as you can see.",
    "Creates a queue.\n" * 12,
    "",
    "The operation returns a list of the names that belong to the account which called it, sorted by their age.",
]
QUESTIONS = [
    "What does it do?\n",
    "",
    "Which city has many people, and why do you think so?\n",
    "Create?\n",
    "Why?",
    "A?",
]
FAMILIES = ["tiny-reference", "tiny-llama-cloud", "tiny-qwen2-cloud", "tiny-neox-stdlib", "tiny-gemma2-mixed"]


def losses(loaded: LoadedModel, before: list[int], tokens: list[int]) -> np.ndarray:
    """Nats of tokens behind a prefix, by one forward pass without a cache."""
    ids = torch.tensor([before + tokens])
    with torch.inference_mode():
        logits = loaded.model(input_ids=ids, use_cache=False).logits[0, len(before) - 1 : -1].float()
    return torch.nn.functional.cross_entropy(logits, ids[0, len(before) :], reduction="none").numpy()


def by_hand(loaded: LoadedModel, text: str, rate: float, max_length: int, size: int, question: str | None):
    """The same text, alone, every prefix read anew: (kept, importance)."""
    tokenizer = loaded.tokenizer
    words = split_words(text)
    (tokenized,) = tokenize_words(tokenizer, [text], [words])
    owner = [int(max(pair)) for pair in zip(tokenized.first, tokenized.last, strict=True)]
    protected = np.array([word.protected for word in words], dtype=bool)
    kept, importance = np.zeros(len(words), dtype=bool), np.zeros(len(words), dtype=np.float32)
    budget = free_budget(protected, rate)
    heads = [[tokenizer.bos_token_id]]
    if question is not None:
        asked = tokenizer(question, add_special_tokens=False)["input_ids"] if question else []
        heads.append([tokenizer.bos_token_id, *asked[-(max_length // 2) :]])
    prefixes: list[list[int]] = [[] for _ in heads]
    for segment in split_segments(tokenized, size):
        (start, end), (first, last) = segment.words, segment.tokens
        tokens = tokenized.ids[first:last]
        for sign, (head, prefix) in zip((1, -1), zip(heads, prefixes, strict=True), strict=False):
            if len(head) + len(prefix) + len(tokens) > max_length:
                del prefix[: -max(1, (max_length - len(head) - len(tokens)) // 2)]
            nats = losses(loaded, head + prefix, tokens)
            for word in range(start, end):
                own = [
                    nats[at - first] for at in range(first, last) if tokenized.first[at] <= word <= tokenized.last[at]
                ]
                importance[word] += sign * max(own, default=0.0)
        share = segment_budget(budget, int((~protected[start:end]).sum()), int((~protected[start:]).sum()))
        budget -= share
        kept[start:end] = keep_best(importance[start:end], protected[start:end], share)
        for prefix in prefixes:
            prefix += [tokenized.ids[at] for at in range(first, last) if kept[owner[at]]]
    return kept, importance


def iterative(loaded: LoadedModel, texts, rate=0.5, max_length=512, size=16, conditions=None, **options):
    words = [split_words(text) for text in texts]
    rates = [rate] * len(texts)
    return compress_iteratively(
        loaded.model, loaded.tokenizer, texts, words, rates, max_length, size, conditions, **options
    )


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("conditions", [None, QUESTIONS], ids=["alone", "contrastive"])
@pytest.mark.parametrize(("max_length", "size"), [(512, 16), (40, 10)], ids=["whole", "sliding"])
def test_cached_prefixes_give_what_reading_them_again_gives(toy, name, conditions, max_length, size):
    loaded = toy(name)
    kept, importance = iterative(loaded, TEXTS, 0.5, max_length, size, conditions, batch_size=4)
    for at, text in enumerate(TEXTS):
        question = conditions[at] if conditions else None
        expected_kept, expected = by_hand(loaded, text, 0.5, max_length, size, question)
        assert np.allclose(importance[at], expected, atol=2e-3), text
        assert np.array_equal(kept[at], expected_kept), text


def test_sliding_window_attention_counts_kept_tokens_and_no_padding(toy):
    """Gemma 2 attends to 512 tokens in every other layer; the shorter text of the batch must see as many."""
    loaded = toy("tiny-gemma2-mixed")
    long = " ".join(f"The node {at} of group x{at % 7} answers slowly." for at in range(90))
    texts = [long, long[len(long) // 5 :]]
    _, importance = iterative(loaded, texts, 1.0, 1024, 100)
    for text, values in zip(texts, importance, strict=True):
        assert np.allclose(values, by_hand(loaded, text, 1.0, 1024, 100, None)[1], atol=5e-3)


@pytest.mark.parametrize("conditions", [None, QUESTIONS], ids=["alone", "contrastive"])
def test_a_text_of_one_segment_gets_what_one_pass_gives(loaded, conditions):
    words = [split_words(text) for text in TEXTS]
    both = [
        compress_words(loaded, TEXTS, words, [0.6] * len(TEXTS), 1024, context, 256, conditions)
        for context in ("original", "kept")
    ]
    for column in zip(*(zip(*side, strict=True) for side in both), strict=True):
        (kept_once, once), (kept_by_segments, by_segments) = column
        assert np.allclose(once, by_segments, atol=1e-3)
        assert np.array_equal(kept_once, kept_by_segments)


def test_the_batch_does_not_change_what_is_kept(loaded):
    together, values = iterative(loaded, TEXTS, conditions=QUESTIONS, batch_size=6)
    for at, text in enumerate(TEXTS):
        (alone,), (own,) = iterative(loaded, [text], conditions=[QUESTIONS[at]])
        assert np.array_equal(together[at], alone)
        assert np.allclose(values[at], own, atol=1e-3)


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.7, 1.0])
def test_the_share_of_the_text_is_kept_whatever_its_segments(loaded, rate):
    kept, _ = iterative(loaded, TEXTS, rate, size=9)
    for text, own in zip(TEXTS, kept, strict=True):
        protected = np.array([word.protected for word in split_words(text)], dtype=bool)
        assert own[protected].all()
        assert own.sum() == max(int(protected.sum()), round(rate * len(own)), min(1, len(own)))


def test_what_was_measured_replays_to_what_was_kept_without_a_model(loaded):
    kept, importance = iterative(loaded, TEXTS, size=12)
    for text, own, values in zip(TEXTS, kept, importance, strict=True):
        words = split_words(text)
        (tokenized,) = tokenize_words(loaded.tokenizer, [text], [words])
        protected = np.array([word.protected for word in words], dtype=bool)
        budget = free_budget(protected, 0.5)
        for segment in split_segments(tokenized, 12):
            start, end = segment.words
            share = segment_budget(budget, int((~protected[start:end]).sum()), int((~protected[start:]).sum()))
            budget -= share
            assert np.array_equal(own[start:end], keep_best(values[start:end], protected[start:end], share))


def test_a_word_longer_than_the_compressor_reads_is_measured_by_its_start(loaded):
    text = f"before it {'x9_' * 900} after it"
    kept, importance = iterative(loaded, [text], 0.5, 32, 128)
    assert np.isfinite(importance[0]).all()
    assert kept[0][2]


def test_segments_cover_the_words_once_and_are_short(loaded):
    for text in TEXTS:
        words = split_words(text)
        (tokenized,) = tokenize_words(loaded.tokenizer, [text], [words])
        segments = list(split_segments(tokenized, 8))
        assert [at for segment in segments for at in range(*segment.words)] == list(range(len(words)))
        assert all(0 < segment.tokens[1] - segment.tokens[0] <= 8 for segment in segments)


def test_the_one_surprising_word_is_the_one_that_stays(toy):
    """The llmlingua package keeps the token before it."""
    loaded = toy("tiny-reference")
    text = "This operation deletes the cache cluster xylophone and returns the details of the cluster."
    words = split_words(text)
    surprise = word_surprises(loaded.model, loaded.tokenizer, [text], [words], 512)[0]
    free = np.zeros(len(words), dtype=bool)
    for context in ("original", "kept"):
        (kept,), _ = compress_words(loaded, [text], [words], [1 / len(words)], 512, context)
        assert text.split()[int(np.flatnonzero(kept)[0])] == "xylophone"
    assert text.split()[int(np.flatnonzero(keep_words(surprise, free, 1 / len(words)))[0])] == "xylophone"
