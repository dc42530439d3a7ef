"""Word surprises against one forward pass a token, and BERTScore against its library and its formula."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from damoc.condense.bertscore import bertscore_f1
from damoc.condense.measure import word_surprises
from damoc.condense.words import split_words
from damoc.errors import DamocError
from damoc.models.load import LoadedModel
from damoc.signals.embedding import PACKAGED, encoder_folder

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
        visible = [place for place in range(start, end) if not text[place].isspace()]
        if visible:
            owner = next(index for index, word in enumerate(words) if word.start <= visible[-1] < word.end)
            context = before + ids[starts[at] if starts else 0 : at]
            found[owner] = max(found[owner], nats(loaded, context, token))
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


PAIRS = [
    ("The service deletes the cache cluster after a final snapshot.", "service deletes cache cluster final snapshot."),
    ("It lists every node of the group.", "lists every node group."),
    ("A short one here.", "one here."),
]


def kept_of(original: str, condensed: str) -> np.ndarray:
    left = condensed.split()
    kept = []
    for word in original.split():
        kept.append(bool(left) and word == left[0])
        left = left[1:] if kept[-1] else left
    assert not left
    return np.array(kept)


def gate(pairs: list[tuple[str, str]], layer: int = 5, encoder: str = PACKAGED) -> np.ndarray:
    texts = [original for original, _ in pairs]
    return bertscore_f1(
        texts, [split_words(text) for text in texts], [kept_of(*pair) for pair in pairs], encoder, layer
    )


def test_the_gate_gives_the_f1_of_the_bert_score_library():
    from bert_score import score

    originals, condensed = [list(side) for side in zip(*PAIRS, strict=True)]
    _, _, expected = score(condensed, originals, model_type=encoder_folder(PACKAGED), num_layers=5)
    assert np.allclose(gate(PAIRS), expected.numpy(), atol=1e-5)


def test_the_gate_gives_the_f1_of_the_formula():
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(encoder_folder(PACKAGED))
    encoder = AutoModel.from_pretrained(encoder_folder(PACKAGED)).eval()

    def vectors(text: str) -> np.ndarray:
        with torch.inference_mode():
            states = encoder(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states[3][0]
        return torch.nn.functional.normalize(states, dim=1).numpy()

    for pair, value in zip(PAIRS, gate(PAIRS, layer=3), strict=True):
        similarity = vectors(pair[0]) @ vectors(pair[1]).T
        # the library lets [CLS] and [SEP] be matched, but gives them no weight
        recall, precision = similarity.max(axis=1)[1:-1].mean(), similarity.max(axis=0)[1:-1].mean()
        assert value == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-4)


def test_an_untouched_text_scores_one_and_an_emptied_one_zero():
    text = "one two three"
    words = split_words(text)
    both = bertscore_f1([text] * 2, [words] * 2, [np.ones(3, dtype=bool), np.zeros(3, dtype=bool)], PACKAGED, 5)
    assert both == pytest.approx([1.0, 0.0], abs=1e-5)
    assert bertscore_f1([text], [words], [np.zeros(3, dtype=bool)], PACKAGED, 5).tolist() == [0.0]
    assert bertscore_f1([], [], [], PACKAGED, 5).tolist() == []


def test_a_layer_that_the_encoder_lacks_is_one_clear_error():
    with pytest.raises(DamocError, match="has 6 layers, layer 7 was asked for") as caught:
        gate(PAIRS, layer=7)
    assert caught.value.problems[0].where == "field data_compression.condense.gate_layer"


def test_an_encoder_under_a_path_that_looks_like_t5_is_read_as_what_it_is(tmp_path):
    """bert-score takes every path with "t5" in it for a T5 model."""
    folder = tmp_path / "mnt5"
    folder.symlink_to(encoder_folder(PACKAGED))
    assert np.allclose(gate(PAIRS, encoder=str(folder)), gate(PAIRS))


def test_an_encoder_of_pickles_is_refused(tmp_path):
    source = Path(encoder_folder(PACKAGED))
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(DamocError, match="the encoder cannot be loaded") as caught:
        gate(PAIRS, encoder=str(tmp_path))
    assert "safetensors" in caught.value.problems[0].fix


def test_many_texts_are_scored_in_portions_of_which_none_knows_the_other(monkeypatch):
    pairs = PAIRS * 3
    whole = gate(pairs)
    monkeypatch.setattr("damoc.condense.bertscore._PAIRS", 2)
    assert np.allclose(gate(pairs), whole, atol=1e-5)


def test_long_texts_are_scored_to_their_end():
    """What is dropped after the encoder's 512 tokens still lowers the score."""
    text = " ".join(f"The node{at} answers." for at in range(400))
    words = split_words(text)
    kept = np.ones(len(words), dtype=bool)
    whole = kept.copy()
    kept[900::2] = False
    scores = bertscore_f1([text, text], [words, words], [whole, kept], PACKAGED, 5)
    assert scores[0] == pytest.approx(1.0, abs=1e-5)
    assert scores[1] < 0.99
