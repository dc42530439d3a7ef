"""MEASURE: BERTScore between original and condensed texts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from damoc.condense.words import Word
from damoc.errors import DamocError
from damoc.signals.embedding import encoder_error, encoder_folder

_WINDOW = 150
_LONGEST = 512
_PAIRS = 256


def windowed_pairs(text: str, words: Sequence[Word], kept: NDArray[Any]) -> list[tuple[str, str, int, int]]:
    """Aligned stretches of at most 150 words, so that no encoder cuts either side silently.

    Returns:
        ``(original, condensed, original words, condensed words)`` of each stretch.
    """
    pairs = []
    for start in range(0, len(words), _WINDOW):
        window = words[start : start + _WINDOW]
        stays = kept[start : start + _WINDOW]
        left = " ".join(text[word.start : word.end] for word in window)
        right = " ".join(text[word.start : word.end] for word, stay in zip(window, stays, strict=True) if stay)
        pairs.append((left, right, len(window), int(stays.sum())))
    return pairs


def bertscore_f1(
    texts: Sequence[str], words: Sequence[Sequence[Word]], kept: Sequence[NDArray[Any]], encoder: str, layer: int
) -> NDArray[Any]:
    """BERTScore F1 (Zhang et al., ICLR 2020) of each condensed text against its original, not rescaled.

    Long texts are scored in aligned stretches; recall is averaged by original words, precision by condensed words. A
    text of which nothing is left scores 0.

    Args:
        texts: N originals.
        words: the words of each.
        kept: bool arrays, which words stayed.
        encoder: ``packaged:minilm``, a folder or a hub id.
        layer: encoder layer whose embeddings are matched.

    Returns:
        float64 (N,), in [-1, 1].

    Raises:
        DamocError: the encoder cannot be loaded or has no such layer.
    """
    pairs = [
        (index, *pair)
        for index, (text, own, stays) in enumerate(zip(texts, words, kept, strict=True))
        for pair in windowed_pairs(text, own, stays)
    ]
    scored = [pair for pair in pairs if pair[2].strip()]
    if not scored:
        return np.zeros(len(texts))
    precision, recall = _score([pair[1] for pair in scored], [pair[2] for pair in scored], encoder, layer)
    sums = np.zeros((len(texts), 4))
    for index, _, _, original, condensed in pairs:
        sums[index, 1] += original
        sums[index, 3] += condensed
    for (index, _, _, original, condensed), p, r in zip(scored, precision, recall, strict=True):
        sums[index, 0] += r * original
        sums[index, 2] += p * condensed
    recalls = sums[:, 0] / np.maximum(sums[:, 1], 1)
    precisions = sums[:, 2] / np.maximum(sums[:, 3], 1)
    total = recalls + precisions
    return np.where(total > 0, 2 * recalls * precisions / np.where(total > 0, total, 1.0), 0.0)


def _score(originals: list[str], condensed: list[str], encoder: str, layer: int) -> tuple[list[float], list[float]]:
    """Precision and recall of each pair, some pairs at a time: the library holds the embeddings of all it is given."""
    from bert_score.utils import bert_cos_score_idf

    model, tokenizer = _load(encoder, layer)
    weights: dict[int, float] = defaultdict(lambda: 1.0, {tokenizer.sep_token_id: 0.0, tokenizer.cls_token_id: 0.0})
    scores: list[list[float]] = []
    for start in range(0, len(originals), _PAIRS):
        pairs = originals[start : start + _PAIRS], condensed[start : start + _PAIRS]
        scores += bert_cos_score_idf(model, *pairs, tokenizer, weights, device=model.device).tolist()
    return [score[0] for score in scores], [score[1] for score in scores]


def _load(encoder: str, layer: int) -> tuple[Any, Any]:
    """The encoder up to a layer (safetensors only), and its tokenizer.

    The library's own loader takes any path with "t5" in it for a T5 model, and reads pickles.
    """
    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer
    from transformers.utils import logging

    folder = encoder_folder(encoder)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        config = AutoConfig.from_pretrained(folder)
        if layer > config.num_hidden_layers:
            raise DamocError(
                f"the encoder {encoder} has {config.num_hidden_layers} layers, layer {layer} was asked for",
                "field data_compression.condense.gate_layer",
                f"use 1 to {config.num_hidden_layers}",
            )
        config.num_hidden_layers = layer
        model = AutoModel.from_pretrained(folder, config=config, use_safetensors=True).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise encoder_error(encoder, error) from error
    finally:
        logging.set_verbosity(verbosity)
    tokenizer.model_max_length = min(tokenizer.model_max_length, _LONGEST)
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer
