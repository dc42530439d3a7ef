from __future__ import annotations

import numpy as np
import pytest
import torch

from damoc.data.example import Example
from damoc.data.prompts import Encoded, encode
from damoc.models.batching import pad_batch
from damoc.models.likelihood import answer_losses, token_losses

TOYS = ["tiny-llama-cloud", "tiny-gemma2-mixed", "tiny-neox-stdlib", "tiny-qwen3-science", "tiny-mistral-learning"]
ANSWERS = [
    "Deletes the cluster.",
    "no",
    "Lists every node of the group, page by page, with its state.",
    "東京 😀",
    "a " * 40,
]


def encoded(loaded):
    rows = [Example(str(at), "What does it do?", "x" * at * 9, answer) for at, answer in enumerate(ANSWERS)]
    return [encode(loaded.tokenizer, row, 256) for row in rows]


def library_loss(model, row: Encoded) -> float:
    """The mean loss that transformers computes for a row by itself."""
    ids = torch.tensor([row.ids])
    labels = ids.clone()
    labels[0, : row.answer_start] = -100
    with torch.inference_mode():
        return float(model(input_ids=ids, labels=labels).loss)


@pytest.mark.parametrize("name", TOYS)
def test_losses_are_those_of_transformers_whatever_the_padding(toy, name):
    loaded = toy(name)
    rows = encoded(loaded)
    together = answer_losses(loaded.model, rows, loaded.tokenizer.pad_token_id, batch_size=len(rows))
    assert [len(values) for values in together] == [row.answer_length for row in rows]
    for row, values in zip(rows, together, strict=True):
        (alone,) = answer_losses(loaded.model, [row], loaded.tokenizer.pad_token_id)
        assert np.allclose(values, alone, atol=2e-4)
        assert values.mean() == pytest.approx(library_loss(loaded.model, row), abs=2e-4)


def test_a_token_with_the_id_of_the_padding_is_read_and_scored_like_any_other(toy):
    model, pad = toy("tiny-reference").model, toy("tiny-reference").tokenizer.pad_token_id
    row = Encoded((40, pad, 41, pad), 2)
    (values,) = answer_losses(model, [row], pad)
    assert values.mean() == pytest.approx(library_loss(model, row), abs=1e-5)


def test_an_empty_answer_has_no_losses(toy):
    model = toy("tiny-reference").model
    losses = answer_losses(model, [Encoded((40,), 1), Encoded((40, 41, 42), 2)], 2, batch_size=1)
    assert [len(values) for values in losses] == [0, 1]
    assert answer_losses(model, [], 2) == []


def test_positions_outside_the_answer_cost_nothing(toy):
    padded = pad_batch([Encoded((40, 41, 42), 2), Encoded((43, 44), 1)], 2, "cpu")
    losses = token_losses(toy("tiny-reference").model, padded)
    assert losses.dtype == torch.float32
    assert (losses > 0).tolist() == [[False, True], [True, False]]


def test_progress_counts_rows_up_to_all_of_them(toy):
    seen = []
    loaded = toy("tiny-reference")
    answer_losses(
        loaded.model, encoded(loaded), 2, batch_size=2, on_progress=lambda done, total: seen.append((done, total))
    )
    assert seen == sorted(set(seen))
    assert seen[-1] == (5, 5)
