"""BERTScore against its library and its formula."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from damoc.condense.bertscore import BertScore, BertScorer
from damoc.condense.words import split_words
from damoc.errors import DamocError
from damoc.signals.embedding import PACKAGED, encoder_folder

PAIRS = [
    ("The service deletes the cache cluster after a final snapshot.", "service deletes cache cluster final snapshot."),
    ("It lists every node of the group.", "lists every node group."),
    ("A short one here.", "one here."),
    ("Naïve façade: 10 µm, 東京\n\nand  😀 emoji —", "10 µm, 東京 😀"),
    ("Is the dose of 5 mg safe?", "A completely different sentence, about the weather."),
]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh"]


@pytest.fixture(scope="module")
def minilm() -> BertScorer:
    return BertScorer(PACKAGED, 5)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A BERT of random weights that reads 32 tokens, one a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    special = dict(pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def vectors(folder: Path, text: str, layer: int) -> np.ndarray:
    """Unit embeddings (tokens, d) of one text alone, special tokens included."""
    from transformers import AutoModel, AutoTokenizer

    encoded = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.inference_mode():
        states = AutoModel.from_pretrained(folder).eval()(**encoded, output_hidden_states=True).hidden_states[layer][0]
    return (states / states.norm(dim=1, keepdim=True)).double().numpy()


def by_hand(folder: Path, original: str, candidate: str, layer: int) -> tuple[float, float]:
    """Precision and recall; [CLS] and [SEP] may be matched but are not averaged, as in the library."""
    own, other = (vectors(folder, text, layer) for text in (original, candidate))
    precision = [max(float(token @ match) for match in own) for token in other[1:-1]]
    recall = [max(float(token @ match) for match in other) for token in own[1:-1]]
    return float(np.mean(precision)), float(np.mean(recall))


def f1(scores: Sequence[BertScore]) -> list[float]:
    return [score.f1 for score in scores]


def left(scorer: BertScorer, text: str, *kept: np.ndarray) -> list[BertScore]:
    return scorer.score_kept([text] * len(kept), [split_words(text)] * len(kept), kept)


def rewritten(scorer: BertScorer, pairs: Sequence[tuple[str, str]], **options) -> list[BertScore]:
    return scorer.score_rewritten([pair[0] for pair in pairs], [pair[1] for pair in pairs], **options)


def test_short_pairs_have_the_scores_of_the_bert_score_library(minilm):
    from bert_score import BERTScorer

    library = BERTScorer(model_type=encoder_folder(PACKAGED), num_layers=5)
    # the library reads line breaks and double spaces as the encoder does: as one space
    expected = library.score([pair[1] for pair in PAIRS], [pair[0] for pair in PAIRS])
    found = rewritten(minilm, PAIRS)
    for column, name in enumerate(("precision", "recall", "f1")):
        assert [getattr(score, name) for score in found] == pytest.approx(expected[column].tolist(), abs=1e-5)


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_precision_and_recall_are_those_of_the_formula(tiny, layer):
    rng = np.random.default_rng(layer)
    scorer = BertScorer(str(tiny), layer)
    pairs = [tuple(" ".join(rng.choice(list("abcdefgh"), rng.integers(1, 20))) for _ in "12") for _ in range(6)]
    for pair, score in zip(pairs, rewritten(scorer, pairs), strict=True):
        precision, recall = by_hand(tiny, *pair, layer)
        assert (score.precision, score.recall) == pytest.approx((precision, recall), abs=1e-5)
        assert score.f1 == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-5)


def test_long_pairs_are_the_token_weighted_mean_of_their_windows(tiny):
    """The encoder reads 32 tokens, so a window holds at most 24."""
    rng = np.random.default_rng(3)
    words = rng.choice(list("abcdefgh"), 70)
    kept = rng.random(70) < 0.6
    scorer = BertScorer(str(tiny), 2)
    (score,) = left(scorer, " ".join(words), kept)
    cuts = [0, 23, 47, 70]
    parts = []
    for start, end in zip(cuts[:-1], cuts[1:], strict=True):
        own, stays = words[start:end], kept[start:end]
        parts.append((*by_hand(tiny, " ".join(own), " ".join(own[stays]), 2), stays.sum(), len(own)))
    precision, recall, candidates, originals = np.array(parts).T
    assert score.precision == pytest.approx(np.average(precision, weights=candidates), abs=1e-5)
    assert score.recall == pytest.approx(np.average(recall, weights=originals), abs=1e-5)


def test_a_swap_of_the_sides_swaps_precision_and_recall(minilm):
    forth, back = rewritten(minilm, PAIRS), rewritten(minilm, [pair[::-1] for pair in PAIRS])
    for one, other in zip(forth, back, strict=True):
        assert (one.precision, one.recall) == pytest.approx((other.recall, other.precision), abs=1e-5)


def test_kept_words_have_the_score_of_the_text_they_make(minilm):
    text = "The service deletes the cache cluster after a final snapshot."
    kept = np.arange(10) % 3 != 0
    made = " ".join(word for word, stays in zip(text.split(), kept, strict=True) if stays)
    assert left(minilm, text, kept) == rewritten(minilm, [(text, made)])


def test_an_untouched_text_scores_one_and_an_emptied_one_zero(minilm):
    text = "one two three"
    both = left(minilm, text, np.ones(3, dtype=bool), np.zeros(3, dtype=bool))
    assert f1(both) == pytest.approx([1.0, 0.0], abs=1e-5)
    assert f1(rewritten(minilm, [(text, ""), (text, " \n"), ("", text), ("", "")])) == [0.0] * 4
    assert minilm.score_kept([], [], []) == []


def test_long_texts_are_scored_to_their_end(minilm):
    """What is dropped after the encoder's 512 tokens still lowers the score, whole or rewritten."""
    text = " ".join(f"The node{at} answers." for at in range(200))
    kept = np.ones(600, dtype=bool)
    kept[450::2] = False
    whole, cut = left(minilm, text, np.ones(600, dtype=bool), kept)
    assert whole.f1 == pytest.approx(1.0, abs=1e-5)
    assert cut.f1 < 0.99
    same, other = rewritten(minilm, [(text, text), (text, text[:3000] + " and so on, for many other things." * 30)])
    assert same.f1 == pytest.approx(1.0, abs=1e-5)
    assert other.f1 < 0.95


def test_a_word_longer_than_the_encoder_reads_is_scored_to_its_end(minilm, monkeypatch):
    read = []
    encode = minilm._tokenizer.encode

    def counted(text: str, **options) -> list[int]:
        read.append(len(encode(text, add_special_tokens=True)))
        return encode(text, **options)

    monkeypatch.setattr(minilm._tokenizer, "encode", counted)
    text = "東京" * 900
    (score,) = rewritten(minilm, [(f"{text} ends here", f"{text} ends there")])
    assert len(read) == 10
    assert max(read) <= 512
    assert 0.9 < score.f1 < 1


def test_batches_do_not_change_the_scores_and_report_their_progress(minilm, monkeypatch):
    whole = rewritten(minilm, PAIRS * 3)
    monkeypatch.setattr("damoc.condense.bertscore._BATCH", 2)
    seen = []
    alone = rewritten(minilm, PAIRS * 3, on_progress=lambda done, total: seen.append((done, total)))
    assert f1(alone) == pytest.approx(f1(whole), abs=1e-5)
    assert seen == [(min(done, 15), 15) for done in range(2, 17, 2)]


def test_remembered_originals_are_not_read_again_and_change_no_score(monkeypatch):
    scorer = BertScorer(PACKAGED, 5)
    first = rewritten(scorer, PAIRS, remember=True)
    read = []
    encode = scorer._tokenizer.encode
    monkeypatch.setattr(scorer._tokenizer, "encode", lambda text, **rest: read.append(text) or encode(text, **rest))
    assert f1(rewritten(scorer, PAIRS)) == pytest.approx(f1(first), abs=1e-6)
    assert not {" ".join(original.split()) for original, _ in PAIRS} & set(read)


def test_what_does_not_fit_is_not_remembered(monkeypatch):
    monkeypatch.setattr("damoc.condense.bertscore._REMEMBERED_BYTES", 30_000)
    scorer = BertScorer(PACKAGED, 5)
    rewritten(scorer, PAIRS, remember=True)
    assert 0 < sum(states.nbytes for states, _ in scorer._remembered.values()) <= 30_000


def test_a_layer_that_the_encoder_lacks_is_one_clear_error():
    with pytest.raises(DamocError, match="has 6 layers, layer 7 was asked for") as caught:
        BertScorer(PACKAGED, 7)
    assert caught.value.problems[0].where == "field data_compression.condense.gate.layer"


def test_an_encoder_under_a_path_that_looks_like_t5_is_read_as_what_it_is(tmp_path, minilm):
    """bert-score takes every path with "t5" in it for a T5 model."""
    folder = tmp_path / "mnt5"
    folder.symlink_to(encoder_folder(PACKAGED))
    assert rewritten(BertScorer(str(folder), 5), PAIRS) == rewritten(minilm, PAIRS)


@pytest.mark.parametrize("weights", ["pytorch_model.bin", "model.safetensors"], ids=["pickled", "damaged"])
def test_an_encoder_whose_weights_cannot_be_read_safely_is_refused(tmp_path, weights):
    source = Path(encoder_folder(PACKAGED))
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    torch.save({}, tmp_path / weights)
    with pytest.raises(DamocError, match="the encoder cannot be loaded") as caught:
        BertScorer(str(tmp_path), 5)
    assert "safetensors" in caught.value.problems[0].fix


def test_a_byte_level_tokenizer_scores_as_the_library_does(tmp_path):
    """RoBERTa's kind, whose specials and spaces differ from BERT's."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaConfig, RobertaModel, RobertaTokenizer

    bytes_ = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bytes_.train_from_iterator([pair[0] for pair in PAIRS] * 3, vocab_size=330, special_tokens=special)
    bytes_.save_model(str(tmp_path))
    RobertaTokenizer.from_pretrained(tmp_path, model_max_length=62).save_pretrained(tmp_path)
    torch.manual_seed(1)
    config = RobertaConfig(
        vocab_size=330, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=64
    )
    RobertaModel(config).save_pretrained(tmp_path)
    from bert_score import BERTScorer

    short = PAIRS[1:3]
    library = BERTScorer(model_type=str(tmp_path), num_layers=2)
    expected = library.score([pair[1] for pair in short], [pair[0] for pair in short])[2]
    assert f1(rewritten(BertScorer(str(tmp_path), 2), short)) == pytest.approx(expected.tolist(), abs=1e-5)
