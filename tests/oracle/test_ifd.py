from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from damoc.config import DataCompression
from damoc.data.example import Example
from damoc.data.prompts import encode
from damoc.errors import DamocError
from damoc.models import likelihood as forward
from damoc.models.load import LoadedModel
from damoc.signals import likelihood as signals
from damoc.signals.registry import SignalContext, measure_signals

NAMES = ("answer_loss", "alone_loss", "prompt_loss", "answer_tokens")
ROWS = [
    Example("0", "Which operation does this?", "Deletes a cluster.", "DeleteCluster"),
    Example("1", "Is it safe?", "A long passage. " * 20, "yes", ("yes", "no")),
    Example("2", "Translate.", "", "東京 😀 " * 4),
    Example("3", "Say it at length.", "", "word after word " * 30),
    Example("4", "Is it red?", "No, it is blue.", "yes", ("yes", "no")),
    Example("5", "Name it.", "A\nB\n\nC", "x"),
    Example("6", "", "Only an input", "and an answer"),
    Example("7", "Count.", "1 2 3", " 4 5 6 "),
]


def context_of(folder: Path, scorer: Path | str, rows: list[Example] = ROWS, max_length: int = 1024) -> SignalContext:
    config = DataCompression.model_validate({"signals": {"scorer": {"model": str(scorer)}, "max_length": max_length}})
    return SignalContext(rows, [], config, folder)


def two_passes(loaded: LoadedModel, row: Example) -> tuple[float, float, float, int]:
    """The losses by definition, a row and a pass at a time: no batches, no padding, log-softmax in float64."""

    def nats(example: Example) -> tuple[np.ndarray, int]:
        encoded = encode(loaded.tokenizer, example, 1 << 20, end=False)
        with torch.inference_mode():
            logits = loaded.model(torch.tensor([encoded.ids])).logits[0].double()
        chosen = torch.log_softmax(logits[:-1], -1)[torch.arange(len(encoded.ids) - 1), list(encoded.ids[1:])]
        return -chosen.numpy(), encoded.answer_start - 1

    given, start = nats(row)
    alone, start_alone = nats(replace(row, instruction="", input="", choices=()))
    assert len(given) - start == len(alone) - start_alone
    return given[start:].mean(), alone[start_alone:].mean(), given[:start].mean(), len(given) - start


@pytest.mark.parametrize("name", ["tiny-reference", "tiny-gemma2-mixed", "tiny-qwen2-cloud"])
def test_likelihood_signals_are_those_of_two_direct_passes(zoo, toy, tmp_path, name):
    measured = measure_signals(NAMES, context_of(tmp_path, zoo / name))
    expected = np.array([two_passes(toy(name), row) for row in ROWS])
    for at, signal in enumerate(NAMES):
        assert measured[signal].shape == (len(ROWS),)
        assert np.allclose(measured[signal], expected[:, at], atol=1e-4), signal
    ifd = np.exp(measured["answer_loss"] - measured["alone_loss"])
    assert np.allclose(ifd, np.exp(expected[:, 0] - expected[:, 1]), rtol=2e-4)
    assert measured["answer_tokens"].dtype == np.int64


def test_answers_of_one_token_are_finite_and_the_same_answer_alone_costs_the_same(zoo, tmp_path):
    measured = measure_signals(NAMES, context_of(tmp_path, zoo / "tiny-reference"))
    assert (measured["answer_tokens"][[1, 5]] <= 2).all()
    assert all(np.isfinite(measured[name]).all() for name in NAMES)
    assert measured["alone_loss"][1] == measured["alone_loss"][4]
    assert measured["answer_loss"][1] != measured["answer_loss"][4]


def test_batches_of_one_and_of_eight_agree(zoo, tmp_path, monkeypatch):
    found = []
    for size in (1, 8):
        monkeypatch.setattr(signals, "_BATCH", size)
        found.append(measure_signals(NAMES, context_of(tmp_path / str(size), zoo / "tiny-reference")))
    assert all(np.allclose(found[0][name], found[1][name], rtol=1e-5, atol=1e-5) for name in NAMES)


@pytest.mark.parametrize("max_length", [32, 40, 64])
def test_what_is_too_long_loses_the_start_of_its_prompt_and_both_passes_see_one_answer(zoo, toy, tmp_path, max_length):
    tokenizer = toy("tiny-reference").tokenizer
    for row in ROWS:
        given = signals.encode_pair(tokenizer, row, max_length)
        alone = signals.encode_pair(tokenizer, replace(row, instruction="", input="", choices=()), max_length)
        assert len(given.ids) <= max_length
        assert given.ids[given.answer_start :] == alone.ids[alone.answer_start :]
        assert given.answer_start >= alone.answer_start >= 2
        whole = encode(tokenizer, row, 1 << 20, end=False)
        kept = given.ids[given.answer_start :]
        assert whole.ids[whole.answer_start :][: len(kept)] == kept
        assert len(kept) == min(whole.answer_length, max_length - alone.answer_start)
    measured = measure_signals(NAMES, context_of(tmp_path, "zoo/tiny-reference", max_length=max_length))
    assert all(np.isfinite(measured[name]).all() for name in NAMES)


WORDS = ["<unk>", "<s>", "<pad>", "Answer:", "a", "b", "c", "d"]


def word_model(folder: Path, change: Callable[[LlamaForCausalLM], None]) -> Path:
    """A tiny Llama over eight words, changed by hand, saved with its tokenizer."""
    words = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", bos_token="<s>", pad_token="<pad>")
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
            max_position_embeddings=64,
        )
    )  # fmt: skip
    with torch.no_grad():
        change(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_unigram(model: LlamaForCausalLM) -> None:
    """Every position has the same hidden state, so the logits ignore what was read."""
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    model.model.embed_tokens.weight.fill_(1.0)


def test_under_a_unigram_model_every_ifd_is_exactly_one(tmp_path):
    folder = word_model(tmp_path / "model", make_unigram)
    rows = [Example(str(at), "a b " * at, "c", answer) for at, answer in enumerate(["a", "b c", "d d d", "a a b b c"])]
    measured = measure_signals(NAMES, context_of(tmp_path, folder, rows))
    model = AutoModelForCausalLM.from_pretrained(folder)
    unigram = -torch.log_softmax(model(torch.tensor([[1]])).logits[0, 0].double(), -1).detach().numpy()
    expected = [np.mean([unigram[WORDS.index(word)] for word in row.output.split()]) for row in rows]
    assert np.exp(measured["answer_loss"] - measured["alone_loss"]).tolist() == [1.0] * 4
    assert np.allclose(measured["answer_loss"], expected, atol=1e-6)
    assert measured["answer_tokens"].tolist() == [1, 2, 3, 5]


def make_copier(model: LlamaForCausalLM) -> None:
    """Attention averages what was read, so that words of the prompt become likely in the answer."""
    make_unigram(model)
    attention = model.model.layers[0].self_attn
    for part in (attention.q_proj, attention.k_proj):
        part.weight.zero_()
    for part in (attention.v_proj, attention.o_proj):
        part.weight.copy_(torch.eye(8))
    model.model.embed_tokens.weight.copy_(torch.eye(8))
    model.lm_head.weight.copy_(torch.eye(8) * 6)


def test_prompts_that_foretell_their_answers_give_low_ifd_and_shuffled_prompts_a_higher_one(tmp_path):
    folder = word_model(tmp_path / "model", make_copier)
    rows = [Example(word, f"{word} " * 9, "", word) for word in "abcd"]
    shuffled = [
        replace(row, instruction=other.instruction) for row, other in zip(rows, rows[1:] + rows[:1], strict=True)
    ]
    fitting, wrong = (measure_signals(NAMES, context_of(tmp_path, folder, given)) for given in (rows, shuffled))
    ifd, ifd_wrong = (np.exp(found["answer_loss"] - found["alone_loss"]) for found in (fitting, wrong))
    assert (ifd < 0.1).all()
    assert (ifd_wrong > 5 * ifd).all()


def test_a_scorer_that_gives_no_numbers_is_one_clear_error_and_leaves_no_values(tmp_path):
    folder = word_model(tmp_path / "model", lambda model: model.lm_head.weight.fill_(float("nan")))
    with pytest.raises(DamocError, match="row only: the scorer's losses are not finite"):
        measure_signals(("answer_loss",), context_of(tmp_path / "cache", folder, [Example("only", "a", "", "b")]))
    assert not list((tmp_path / "cache").rglob("*.npz"))


def test_an_answer_without_tokens_is_one_clear_error(tmp_path):
    folder = word_model(tmp_path / "model", make_unigram)
    with pytest.raises(DamocError, match="row blank: the scorer's tokenizer makes no token of the answer"):
        measure_signals(("alone_loss",), context_of(tmp_path, folder, [Example("blank", "a", "", " ")]))


def test_no_rows_have_no_likelihoods(zoo, tmp_path):
    measured = measure_signals(NAMES, context_of(tmp_path, zoo / "tiny-reference", []))
    assert all(measured[name].shape == (0,) for name in NAMES)


def test_batches_are_smaller_where_vocabularies_are_large(toy):
    model = toy("tiny-reference").model
    assert forward._tokens_at_once(model) == 1 << 14
    large = LlamaForCausalLM(LlamaConfig(vocab_size=1 << 17, hidden_size=2, intermediate_size=2, num_hidden_layers=1,
                                         num_attention_heads=1))  # fmt: skip
    assert forward._tokens_at_once(large) == 1 << 12
