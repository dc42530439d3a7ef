"""Condenses examples: measure, decide, gate, apply."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from damoc.condense.apply import rebuild
from damoc.condense.bertscore import bertscore_f1
from damoc.condense.decide import keep_words, passes_gate
from damoc.condense.measure import word_surprises
from damoc.condense.words import Word, split_words
from damoc.config import CondenseConfig
from damoc.data.example import Example
from damoc.models.load import LoadedModel

_PARTS = ("instruction", "input", "output")
OnProgress = Callable[[int, int], None]


def condense_examples(
    rows: Sequence[Example],
    loaded: LoadedModel,
    config: CondenseConfig,
    max_length: int,
    on_progress: OnProgress = lambda done, total: None,
) -> tuple[list[Example], list[dict[str, Any]]]:
    """Condenses the parts whose rate is below 1; a text that the gate refuses stays as it was.

    Questions and contexts are scored by themselves. Answers are scored by how much the question explains them
    (contrastive perplexity, LongLLMLingua, arXiv 2310.06839).

    Args:
        rows: examples.
        loaded: the compressor.
        config: rates and gate.
        max_length: tokens that the compressor reads at most.
        on_progress: called with (texts measured, texts).

    Returns:
        The condensed examples and one record a text: ``id``, ``part``, ``words``, ``kept`` (word indices), ``f1``
        and ``passed``.
    """
    rates = config.rates.model_dump()
    texts: dict[tuple[int, str], str] = {}
    words: dict[tuple[int, str], list[Word]] = {}
    for index, row in enumerate(rows):
        for part in _PARTS:
            text = getattr(row, part)
            if rates[part] >= 1 or (part == "output" and row.choices):
                continue
            spans = [*row.choices, row.output] if part != "output" else []
            own = split_words(text, spans)
            if len(own) >= config.min_words:
                texts[index, part], words[index, part] = text, own
    kept = _decide(rows, texts, words, rates, loaded, min(max_length, loaded.max_length), on_progress)
    keys = [key for key in texts if not kept[key].all()]
    f1 = bertscore_f1(
        [texts[key] for key in keys],
        [words[key] for key in keys],
        [kept[key] for key in keys],
        config.gate_encoder,
        config.gate_layer,
    )
    changed: dict[int, dict[str, str]] = {}
    record = []
    for key, score in zip(keys, f1.tolist(), strict=True):
        index, part = key
        passed = passes_gate(score, config.gate_threshold)
        if passed:
            changed.setdefault(index, {})[part] = rebuild(texts[key], words[key], kept[key])
        record.append(
            {
                "id": rows[index].id,
                "part": part,
                "words": len(words[key]),
                "kept": np.flatnonzero(kept[key]).tolist(),
                "f1": round(score, 5),
                "passed": passed,
            }
        )
    condensed = [
        row.with_text(*(changed.get(index, {}).get(part, getattr(row, part)) for part in _PARTS))
        for index, row in enumerate(rows)
    ]
    return condensed, record


def _decide(
    rows: Sequence[Example],
    texts: Mapping[tuple[int, str], str],
    words: Mapping[tuple[int, str], list[Word]],
    rates: Mapping[str, float],
    loaded: LoadedModel,
    max_length: int,
    on_progress: OnProgress,
) -> dict[tuple[int, str], NDArray[Any]]:
    keys = list(texts)
    surprise = dict(
        zip(
            keys,
            word_surprises(
                loaded.model,
                loaded.tokenizer,
                [texts[key] for key in keys],
                [words[key] for key in keys],
                max_length,
                on_progress=on_progress,
            ),
            strict=True,
        )
    )
    answers = [key for key in keys if key[1] == "output"]
    if answers:
        conditioned = word_surprises(
            loaded.model,
            loaded.tokenizer,
            [texts[key] for key in answers],
            [words[key] for key in answers],
            max_length,
            conditions=[f"{rows[index].instruction}\n{rows[index].input}\n" for index, _ in answers],
        )
        for key, given in zip(answers, conditioned, strict=True):
            surprise[key] = surprise[key] - given
    return {
        key: keep_words(surprise[key], np.array([word.protected for word in words[key]]), rates[key[1]]) for key in keys
    }
