from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from damoc.config import DataCompression
from damoc.data.example import Example
from damoc.errors import DamocError
from damoc.signals.embedding import PACKAGED, encoder_folder
from damoc.signals.registry import SignalContext, measure_signals
from damoc.signals.reward import load_classifier, reward_of

SPECIAL = ["<pad>", "<unk>", "<cls>", "<sep>"]
WORDS = [*SPECIAL, *(f"w{at}" for at in range(60))]
TEMPLATE = "{% for turn in messages %}<sep> {{ turn['content'] }} {% endfor %}<sep>"
QUESTIONS = ["w1 w2 w3", "w4", "w5 " * 12, "w6 w7", "w1 w2 w3", "w8 w9 " * 9]
ANSWERS = ["w10", "w11 w12 " * 8, "w13", "w14", "w15 w16 w17", "w18"]
SIZE = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "vocab_size": len(WORDS), "max_position_embeddings": 48, "pad_token_id": 0}  # fmt: skip


def save_tokenizer(folder: Path, chat_template: str | None = None, pad: str | None = "<pad>") -> None:
    words = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        "<cls> $A <sep>", "<cls> $A <sep> $B:1 <sep>:1", [("<cls>", 2), ("<sep>", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", pad_token=pad, cls_token="<cls>", sep_token="<sep>",
        chat_template=chat_template, model_max_length=48,
    ).save_pretrained(folder)  # fmt: skip


def bert(folder: Path, labels: int = 1) -> Path:
    torch.manual_seed(0)
    BertForSequenceClassification(BertConfig(**SIZE, num_labels=labels, initializer_range=0.5)).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def deberta(folder: Path) -> Path:
    torch.manual_seed(0)
    config = DebertaV2Config(**SIZE, num_labels=1, type_vocab_size=0, initializer_range=0.5)
    DebertaV2ForSequenceClassification(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def llama(folder: Path) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(**{**SIZE, "pad_token_id": None}, num_labels=1, initializer_range=0.5)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    save_tokenizer(folder, TEMPLATE, pad=None)
    return folder


def context_of(cache: Path, reward: Path | str, rows: list[Example] | None = None, **more: object) -> SignalContext:
    config = DataCompression.model_validate({"signals": {"reward": str(reward), **more}})
    return SignalContext(rows or [], [], config, cache)


def direct(model: torch.nn.Module, question: str, answer: str, chat: bool) -> float:
    """The score of one pair by itself, its ids put together by hand."""
    first, second = ([WORDS.index(word) for word in text.split()] for text in (question, answer))
    ids = [3, *first, 3, *second, 3] if chat else [2, *first, 3, *second, 3]
    types = {} if chat else {"token_type_ids": torch.tensor([[0] * (len(first) + 2) + [1] * (len(second) + 1)])}
    with torch.inference_mode():
        return float(model(input_ids=torch.tensor([ids]), **types).logits[0, 0])


@pytest.mark.parametrize("make", [bert, deberta, llama])
def test_rewards_are_those_of_each_pair_alone_whatever_the_padding(tmp_path, make):
    folder = make(tmp_path / "model")
    values = reward_of(QUESTIONS, ANSWERS, context_of(tmp_path / "cache", folder))
    model = load_classifier(str(folder), None, 48).model
    expected = [direct(model, *pair, chat=make is llama) for pair in zip(QUESTIONS, ANSWERS, strict=True)]
    assert values.dtype == np.float64
    assert np.allclose(values, expected, atol=1e-5)
    assert len(set(np.round(values, 3))) == 6


def test_known_rewards_need_no_model_and_rows_share_them(tmp_path, monkeypatch):
    folder = bert(tmp_path / "model")
    rows = [Example("0", "w1", "w2", "w3"), Example("1", "w4", "", "w5")]
    measured = measure_signals(("reward",), context_of(tmp_path, folder, rows))["reward"]

    def unwanted(*arguments: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("damoc.signals.reward.load_classifier", unwanted)
    assert reward_of(["w4", "w1\nw2"], ["w5", "w3"], context_of(tmp_path, folder)).tolist() == measured[::-1].tolist()
    with pytest.raises(AssertionError, match="was loaded"):
        reward_of(["w4"], ["w6"], context_of(tmp_path, folder))


@pytest.mark.parametrize("make", [bert, llama])
def test_what_is_too_long_loses_the_start_of_the_question_and_keeps_the_answer(tmp_path, make):
    classifier = load_classifier(str(make(tmp_path / "model")), None, 20)
    answer = "w41 w42 w43"
    ids = classifier.encode("w1 " * 30 + "w2 w3", answer)["input_ids"]
    said = [WORDS[token] for token in ids]
    assert len(said) == 20
    assert said[-7:] == ["w1", "w2", "w3", "<sep>", "w41", "w42", "w43", "<sep>"][-7:]
    assert len(classifier.encode("w1", "w2 " * 50)["input_ids"]) == 20
    assert len(classifier.encode("", "w2 " * 50)["input_ids"]) == 20
    assert [WORDS[token] for token in classifier.encode("w1 w1", "w2 " * 16)["input_ids"]].count("w2") == 16


def test_the_packaged_reward_is_the_cosine_of_question_and_answer(tmp_path):
    rows = [
        Example("0", "What does the operation do?", "DeleteCluster", "It deletes the cluster."),
        Example("1", "What does the operation do?", "DeleteCluster", "Plants need light."),
    ]
    values = measure_signals(("reward",), context_of(tmp_path, PACKAGED, rows))["reward"]
    encoder = SentenceTransformer(encoder_folder(PACKAGED))
    question = "What does the operation do?\nDeleteCluster"
    expected = encoder.similarity(encoder.encode([question]), encoder.encode([row.output for row in rows]))[0]
    assert np.allclose(values, expected, atol=1e-5)
    assert values[0] > values[1] + 0.3


def two_outputs(folder: Path) -> None:
    bert(folder, labels=2)


def no_head(folder: Path) -> None:
    BertModel(BertConfig(**SIZE, num_labels=1)).save_pretrained(folder)
    save_tokenizer(folder)


def pickled(folder: Path) -> None:
    bert(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def broken(folder: Path) -> None:
    bert(folder)
    (folder / "model.safetensors").write_bytes(b"\0" * 64)


def not_a_number(folder: Path) -> None:
    model = BertForSequenceClassification(BertConfig(**SIZE, num_labels=1))
    torch.nn.init.constant_(model.classifier.weight, float("nan"))
    model.save_pretrained(folder)
    save_tokenizer(folder)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (two_outputs, "has 2 outputs, one is needed"),
        (no_head, "lacks weights, the first is classifier"),
        (pickled, "holds pickled weights only"),
        (broken, "the reward model cannot be loaded"),
        (not_a_number, "scores are not finite"),
        (lambda folder: None, "does not exist"),
    ],
    ids=["two outputs", "no head", "pickled", "broken", "not a number", "absent"],
)
def test_a_reward_model_that_cannot_be_used_is_one_clear_error(tmp_path, make, what):
    make(tmp_path / "model")
    with pytest.raises(DamocError, match=what) as caught:
        reward_of(["w1"], ["w2"], context_of(tmp_path / "cache", tmp_path / "model"))
    (problem,) = caught.value.problems
    assert problem.where == str(tmp_path / "model")
    assert "data_compression.signals.reward" in problem.fix
    assert not list((tmp_path / "cache").rglob("*.npz"))


def test_no_pairs_have_no_rewards(tmp_path):
    assert reward_of([], [], context_of(tmp_path, PACKAGED)).shape == (0,)
    assert reward_of([], [], context_of(tmp_path, bert(tmp_path / "model"))).shape == (0,)
