"""MEASURE: a reward model's score of answers to their questions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from damoc.data.prompts import Encoded
from damoc.errors import DamocError
from damoc.hashing import canonical_json
from damoc.models.batching import length_batches
from damoc.models.load import check_model_files, load_tokenizer, model_identity
from damoc.signals.embedding import PACKAGED, embed
from damoc.signals.registry import SignalContext, register_signal

_FIELD = "field data_compression.signals.reward"
_STORED_AT_ONCE = 256
_BATCH = 16
Pair = tuple[str, str]


@register_signal("reward", models=("reward",))
def reward(context: SignalContext) -> Mapping[str, NDArray[Any]]:
    """Reward of each row's answer to its instruction and input.

    Returns:
        ``reward`` float64 (N,), see :func:`reward_of`. The quality of Du et al., "MoDS", 2023.

    Raises:
        DamocError: the reward model cannot be loaded.
    """
    questions = ["\n".join(text for text in (row.instruction, row.input) if text) for row in context.rows]
    return {"reward": reward_of(questions, [row.output for row in context.rows], context)}


def reward_of(questions: Sequence[str], answers: Sequence[str], context: SignalContext) -> NDArray[np.float64]:
    """Scores answers to questions, rows of the data or any other; what was scored before comes from the cache.

    Args:
        questions: N questions.
        answers: an answer to each.
        context: says which reward model, and where its cache is.

    Returns:
        float64 (N,), higher is better: the single output of a sequence classifier, unscaled, or the cosine in [-1, 1]
        of the packaged encoder's embeddings of question and answer.

    Raises:
        DamocError: the reward model cannot be loaded, has another number of outputs than one, or gives no numbers.
    """
    progress, name = context.progress("reward"), context.config.signals.reward
    if name == PACKAGED:
        values = embed([*questions, *answers], name, context.cache, progress).astype(np.float64)
        cosine: NDArray[np.float64] = (values[: len(questions)] * values[len(questions) :]).sum(axis=1)
        return cosine
    revision = context.config.signals.reward_revision
    if problem := check_model_files(name, revision):
        raise DamocError(problem, name, f"mend {_FIELD}")

    def compute(missing: Sequence[Pair]) -> Iterator[NDArray[Any]]:
        classifier = load_classifier(name, revision, context.max_length)
        for start in range(0, len(missing), _STORED_AT_ONCE):
            yield classifier.score(missing[start : start + _STORED_AT_ONCE])[:, None]

    cache = context.cached("reward", {"model": model_identity(name, revision), "max_length": context.max_length})
    pairs: list[Pair] = list(zip(questions, answers, strict=True))
    return cache.measure(pairs, compute, progress, canonical_json).reshape(-1).astype(np.float64)


@dataclass(frozen=True)
class Classifier:
    """A sequence classifier with one output.

    Args:
        source: folder or hub id.
        model: torch module in evaluation mode.
        tokenizer: its tokenizer, with a padding token.
        max_length: tokens that it reads at most.
    """

    source: str
    model: Any
    tokenizer: Any
    max_length: int

    def score(self, pairs: Sequence[Pair]) -> NDArray[np.float64]:
        """Outputs of the classifier for questions and answers: float64 (N,)."""
        import torch

        encoded = [self.encode(*pair) for pair in pairs]
        lengths = [Encoded(tuple(inputs["input_ids"]), 0) for inputs in encoded]
        scores = np.zeros(len(pairs), dtype=np.float64)
        with torch.inference_mode():
            for batch in length_batches(lengths, _BATCH):
                padded = self.tokenizer.pad([encoded[index] for index in batch], return_tensors="pt")
                logits = self.model(**padded.to(self.model.device)).logits
                scores[batch] = logits[:, 0].double().cpu().numpy()
        if not np.isfinite(scores).all():
            raise DamocError("the reward model's scores are not finite", self.source, f"set another model in {_FIELD}")
        return scores

    def encode(self, question: str, answer: str) -> dict[str, list[int]]:
        """A question and its answer as the model reads them.

        A conversation where the tokenizer has a chat template, a pair of texts otherwise. What is too long loses the
        start of the question; only an answer that does not fit by itself is cut too.
        """
        if self.tokenizer.chat_template:
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            texts, frame = [self.tokenizer.apply_chat_template(turns, tokenize=False)], False
            truncation = "longest_first"
        else:
            texts, frame = [question, answer], True
            answer_ids = self.tokenizer(answer, add_special_tokens=False, verbose=False)["input_ids"]
            fits = len(answer_ids) + self.tokenizer.num_special_tokens_to_add(pair=True) < self.max_length
            truncation = "only_first" if fits else "longest_first"
        inputs = self.tokenizer(
            *texts,
            add_special_tokens=frame,
            truncation=truncation,
            max_length=self.max_length,
            return_token_type_ids=getattr(self.model.config, "type_vocab_size", 0) > 1,
            return_attention_mask=True,
        )
        return dict(inputs)


def load_classifier(source: str, revision: str | None, max_length: int) -> Classifier:
    """Loads a reward model: safetensors only, no code of its own, float32, on the GPU when there is one.

    Args:
        source: folder or hub id.
        revision: commit of a hub model.
        max_length: tokens at most, fewer where the model reads fewer.

    Raises:
        DamocError: it cannot be loaded, or has another number of outputs than one.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    try:
        tokenizer = load_tokenizer(source, revision, trust_remote_code=False)
        loading: Any = AutoModelForSequenceClassification.from_pretrained(
            source, revision=revision, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # broken files raise whatever the Rust parsers of weights and tokenizers raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DamocError(f"the reward model cannot be loaded: {reason}", source, f"check {_FIELD}") from error
    model, found = loading
    if absent := sorted(found["missing_keys"]):
        raise DamocError(f"the reward model lacks weights, the first is {absent[0]}", source, f"check {_FIELD}")
    if model.config.num_labels != 1:
        what = f"the reward model has {model.config.num_labels} outputs, one is needed"
        raise DamocError(what, source, f"set {_FIELD} to a sequence classifier with one output")
    model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    tokenizer.truncation_side, tokenizer.padding_side = "left", "right"
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or max_length
    return Classifier(source, model, tokenizer, min(max_length, positions, tokenizer.model_max_length))
