"""MEASURE: BERTScore between originals and what was made of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from damoc.condense.windows import Window, kept_windows, rewritten_windows
from damoc.condense.words import Word
from damoc.errors import DamocError
from damoc.signals.embedding import encoder_error, encoder_folder

if TYPE_CHECKING:
    import torch

_LONGEST = 512
_ROOM = 0.75
_BATCH = 64
_PADDING = 1.0
_REMEMBERED_BYTES = 1 << 29
OnProgress = Callable[[int, int], None]


def _quiet(done: int, total: int) -> None:
    """No progress."""


@dataclass(frozen=True)
class BertScore:
    """BERTScore of a candidate against its original, not rescaled.

    Args:
        precision: mean over the candidate's tokens of the largest cosine to a token of the original, in [-1, 1].
        recall: the same from the original's side; dropped words lower it.
        f1: their harmonic mean; 0 where one side is empty.
    """

    precision: float
    recall: float
    f1: float


class BertScorer:
    """BERTScore (Zhang et al., ICLR 2020, arXiv 1904.09675) with one encoder, loaded once.

    Texts longer than three quarters of what the encoder reads are scored in aligned windows, so that nothing is cut
    silently: recall is averaged by the original's tokens, precision by the candidate's. Shorter pairs have the score
    that the ``bert_score`` package gives them. No IDF weights: they would depend on which texts are scored together.

    Args:
        encoder: ``packaged:minilm``, a folder or a hub id; safetensors only.
        layer: encoder layer whose embeddings are matched, from 1.
        revision: commit of a hub encoder.

    Raises:
        DamocError: the encoder cannot be loaded or has no such layer.
    """

    def __init__(self, encoder: str, layer: int, revision: str | None = None) -> None:
        self._model, self._tokenizer, longest = _load(encoder, layer, revision)
        self._room = max(1, int(_ROOM * longest))
        special = (self._tokenizer.cls_token_id, self._tokenizer.sep_token_id)
        self._weights: dict[int, float] = defaultdict(lambda: 1.0, dict.fromkeys(special, 0.0))
        self._sizes: dict[str, int] = {}
        self._remembered: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._remembered_bytes = 0

    def score_kept(
        self,
        texts: Sequence[str],
        words: Sequence[Sequence[Word]],
        kept: Sequence[NDArray[Any]],
        remember: bool = False,
        on_progress: OnProgress = _quiet,
    ) -> list[BertScore]:
        """Scores what is left of each text.

        Args:
            texts: N originals.
            words: the words of each.
            kept: N bool arrays (words,): which of them stayed.
            remember: keeps the embeddings of the originals for later calls, up to 512 MB of them.
            on_progress: called with (windows scored, windows).
        """
        windows = [kept_windows(*own, self._count, self._room) for own in zip(texts, words, kept, strict=True)]
        return self._score(windows, remember, on_progress)

    def score_rewritten(
        self,
        originals: Sequence[str],
        candidates: Sequence[str],
        remember: bool = False,
        on_progress: OnProgress = _quiet,
    ) -> list[BertScore]:
        """Scores any other text against each original; see :meth:`score_kept`.

        Args:
            originals: N originals.
            candidates: N texts.
            remember: keeps the embeddings of the originals for later calls, up to 512 MB of them.
            on_progress: called with (windows scored, windows).
        """
        pairs = zip(originals, candidates, strict=True)
        windows = [rewritten_windows(*pair, self._count, self._room) for pair in pairs]
        return self._score(windows, remember, on_progress)

    def _score(self, texts: Sequence[Sequence[Window]], remember: bool, on_progress: OnProgress) -> list[BertScore]:
        """One batch after the other over the windows of all texts, longest first; then one score a text."""
        windows = [(index, window) for index, own in enumerate(texts) for window in own]
        pairs = [pair for pair in windows if pair[1].original and pair[1].candidate]
        pairs.sort(key=lambda pair: -pair[1].original_tokens)
        sums = np.zeros((len(texts), 4))
        for index, window in windows:
            sums[index] += window.candidate_tokens, window.original_tokens, 0.0, 0.0
        for start in range(0, len(pairs), _BATCH):
            batch = pairs[start : start + _BATCH]
            precision, recall = self._match([window for _, window in batch], remember)
            for (index, window), p, r in zip(batch, precision, recall, strict=True):
                sums[index] += 0.0, 0.0, p * window.candidate_tokens, r * window.original_tokens
            on_progress(start + len(batch), len(pairs))
        means = sums[:, 2:] / np.maximum(sums[:, :2], 1.0)
        return [BertScore(p, r, 2 * p * r / (p + r) if p + r > 0 else 0.0) for p, r in means.tolist()]

    def _match(self, windows: Sequence[Window], remember: bool) -> tuple[list[float], list[float]]:
        """Precision and recall of each window, by greedy matching."""
        import torch
        from bert_score.utils import greedy_cos_idf
        from torch.nn.utils.rnn import pad_sequence

        sides: list[torch.Tensor] = []
        for texts, keep in (
            ([window.original for window in windows], remember),
            ([window.candidate for window in windows], False),
        ):
            embedded = self._embed(texts, keep)
            weights = [weight for _, weight in embedded]
            sides += [
                pad_sequence([states for states, _ in embedded], batch_first=True, padding_value=_PADDING),
                pad_sequence([torch.ones_like(weight) for weight in weights], batch_first=True),
                pad_sequence(weights, batch_first=True),
            ]
        with torch.no_grad():
            precision, recall, _ = greedy_cos_idf(*sides)
        return precision.tolist(), recall.tolist()

    def _embed(self, texts: Sequence[str], remember: bool) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Embedding (tokens, d) and weight (tokens,) of the tokens of each text."""
        from bert_score.utils import get_bert_embedding

        found = {text: self._remembered[text] for text in texts if text in self._remembered}
        if missing := [text for text in dict.fromkeys(texts) if text not in found]:
            embedded, mask, weights = get_bert_embedding(
                missing, self._model, self._tokenizer, self._weights, device=self._model.device
            )
            for text, states, own, length in zip(missing, embedded, weights, mask.sum(dim=1).tolist(), strict=True):
                found[text] = states[:length].clone(), own[:length].to(states.device)
        if remember:
            for text in dict.fromkeys(texts):
                size = found[text][0].nbytes
                if text not in self._remembered and self._remembered_bytes + size <= _REMEMBERED_BYTES:
                    self._remembered[text] = found[text]
                    self._remembered_bytes += size
        return [found[text] for text in texts]

    def _count(self, words: Sequence[str]) -> list[int]:
        """Encoder tokens of each word."""
        if new := [word for word in dict.fromkeys(words) if word not in self._sizes]:
            ids = self._tokenizer(new, add_special_tokens=False, verbose=False)["input_ids"]
            self._sizes.update(zip(new, (max(1, len(tokens)) for tokens in ids), strict=True))
        return [self._sizes[word] for word in words]


def _load(encoder: str, layer: int, revision: str | None) -> tuple[Any, Any, int]:
    """The encoder up to a layer (safetensors only), its tokenizer and the tokens it reads at most.

    The library's own loader takes any path with "t5" in it for a T5 model, and reads pickles.
    """
    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer
    from transformers.utils import logging

    folder = encoder_folder(encoder)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        config = AutoConfig.from_pretrained(folder, revision=revision)
        if layer > config.num_hidden_layers:
            raise DamocError(
                f"the encoder {encoder} has {config.num_hidden_layers} layers, layer {layer} was asked for",
                "field data_compression.condense.gate.layer",
                f"use 1 to {config.num_hidden_layers}",
            )
        config.num_hidden_layers = layer
        model = AutoModel.from_pretrained(folder, revision=revision, config=config, use_safetensors=True).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder, revision=revision)
    except (DamocError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # broken files raise whatever the Rust parsers of weights and tokenizers raise
        raise encoder_error(encoder, error) from error
    finally:
        logging.set_verbosity(verbosity)
    longest = min(tokenizer.model_max_length, _LONGEST, getattr(config, "max_position_embeddings", _LONGEST))
    tokenizer.model_max_length = longest
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer, longest
