"""MEASURE: BERTScore between original and condensed texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from damoc.condense.words import Word
from damoc.signals.embedding import encoder_folder

_WINDOW = 150


def windowed_pairs(text: str, words: Sequence[Word], kept: np.ndarray) -> list[tuple[str, str, int, int]]:
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
    texts: Sequence[str], words: Sequence[Sequence[Word]], kept: Sequence[np.ndarray], encoder: str, layer: int
) -> np.ndarray:
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
    """
    pairs = [
        (index, *pair)
        for index, (text, own, stays) in enumerate(zip(texts, words, kept, strict=True))
        for pair in windowed_pairs(text, own, stays)
    ]
    scored = [pair for pair in pairs if pair[2].strip()]
    if not scored:
        return np.zeros(len(texts))
    from bert_score import BERTScorer

    scorer = BERTScorer(model_type=encoder_folder(encoder), num_layers=layer, nthreads=0)
    scorer._tokenizer.model_max_length = 512
    precision, recall, _ = scorer.score([pair[2] for pair in scored], [pair[1] for pair in scored], batch_size=64)
    sums = np.zeros((len(texts), 4))
    for index, _, _, original, condensed in pairs:
        sums[index, 1] += original
        sums[index, 3] += condensed
    for (index, _, _, original, condensed), p, r in zip(scored, precision.tolist(), recall.tolist(), strict=True):
        sums[index, 0] += r * original
        sums[index, 2] += p * condensed
    recalls = sums[:, 0] / np.maximum(sums[:, 1], 1)
    precisions = sums[:, 2] / np.maximum(sums[:, 3], 1)
    total = recalls + precisions
    return np.where(total > 0, 2 * recalls * precisions / np.where(total > 0, total, 1.0), 0.0)
