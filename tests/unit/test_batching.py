from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from damoc.data.prompts import Encoded
from damoc.models.batching import length_batches, pad_batch

rows_of = st.lists(st.integers(1, 30), max_size=40).map(lambda sizes: [Encoded((7,) * size, 1) for size in sizes])


@given(rows_of, st.integers(1, 9), st.integers(1, 120))
def test_every_row_stands_in_one_batch_within_the_limits_longest_first(rows, batch_size, max_tokens):
    batches = list(length_batches(rows, batch_size, max_tokens))
    assert sorted(index for batch in batches for index in batch) == list(range(len(rows)))
    lengths = [len(rows[index].ids) for batch in batches for index in batch]
    assert lengths == sorted(lengths, reverse=True)
    for batch in batches:
        assert 1 <= len(batch) <= batch_size
        assert len(batch) == 1 or len(batch) * len(rows[batch[0]].ids) <= max_tokens


@given(rows_of, st.integers(1, 9), st.sampled_from([0.0, 0.1, 0.5]))
def test_no_row_of_a_batch_is_padded_by_more_than_its_share(rows, batch_size, max_padding):
    batches = list(length_batches(rows, batch_size, max_padding=max_padding))
    assert sorted(index for batch in batches for index in batch) == list(range(len(rows)))
    for batch in batches:
        lengths = [len(rows[index].ids) for index in batch]
        assert max(lengths) - min(lengths) <= max_padding * max(lengths)
    for batch, following in zip(batches, batches[1:], strict=False):
        longest = len(rows[batch[0]].ids)
        assert len(batch) == batch_size or longest - len(rows[following[0]].ids) > max_padding * longest


def test_padding_is_masked_and_only_answers_are_labelled():
    padded = pad_batch([Encoded((5, 6, 7, 8), 2), Encoded((9, 5), 1)], pad_id=5, device="cpu")
    assert padded["input_ids"].tolist() == [[5, 6, 7, 8], [9, 5, 5, 5]]
    assert padded["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert padded["labels"].tolist() == [[-100, -100, 7, 8], [-100, 5, -100, -100]]
    assert all(values.dtype == torch.int64 for values in padded.values())
