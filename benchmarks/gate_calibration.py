"""Where the gate's thresholds come from: BERTScore F1 of harmless edits, of condensed texts and of shuffled pairs.

    python -m benchmarks.gate_calibration ../shared/data benchmarks/results/gate_calibration.json

Harmless edits drop function words only; shuffled pairs put another text of the same set in the original's place. The
threshold that is suggested for a part is the 5th percentile of its harmless edits, rounded down to two decimals.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import facts, write_results
from damoc.condense.apply import rebuild
from damoc.condense.bertscore import BertScorer
from damoc.condense.decide import keep_words
from damoc.condense.measure import word_surprises
from damoc.condense.rules import rule_name, violations
from damoc.condense.words import Word, split_words
from damoc.models.load import load_model
from damoc.signals.embedding import PACKAGED

SETS = ("dolly", "pubmedqa", "squad_mini", "billsum")
PARTS = {"output": 64, "instruction": 8, "input": 8}
RATES = (0.8, 0.7, 0.5)
TEXTS_A_SET, MOST_WORDS, LAYER = 30, 100, 5
FUNCTION_WORDS = frozenset(
    "a an the of to in on at by for with from as and or that this these those it its is are was were be been being has "
    "have had do does did will would shall can could may might there their they he she his her we our you your i"
    "".split()
)


def texts_of(folder: Path, name: str, part: str, least: int) -> list[str]:
    """The first texts of a set that are long enough, cut to 100 words, no text twice."""
    with gzip.open(folder / name / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = (str(json.loads(line).get(part) or "") for line in lines)
        cut = (" ".join(row.split()[:MOST_WORDS]) for row in rows if len(row.split()) >= least)
        found = dict.fromkeys(text for text, _ in zip(cut, range(20 * TEXTS_A_SET), strict=False))
    return list(found)[:TEXTS_A_SET]


def harmless(text: str, words: list[Word]) -> np.ndarray[Any, Any]:
    """Everything but unprotected function words: bool (words,)."""
    return np.array(
        [word.protected or text[word.start : word.end].lower() not in FUNCTION_WORDS for word in words], dtype=bool
    )


def measure(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The distributions of each part."""
    scorer = BertScorer(PACKAGED, LAYER)
    loaded = load_model("zoo/tiny-reference")
    for part, least in PARTS.items():
        sets = {name: texts_of(folder, name, part, least) for name in SETS}
        sets = {name: own for name, own in sets.items() if len(own) > 5}
        texts = [text for own in sets.values() for text in own]
        others = [text for own in sets.values() for text in [*own[1:], own[0]]]
        words = [split_words(text) for text in texts]
        surprise = word_surprises(loaded.model, loaded.tokenizer, texts, words, loaded.max_length)
        protected = [np.array([word.protected for word in own], dtype=bool) for own in words]
        edits = {"harmless": [harmless(*own) for own in zip(texts, words, strict=True)]}
        for rate in RATES:
            edits[f"rate {rate}"] = [keep_words(s, p, rate) for s, p in zip(surprise, protected, strict=True)]
        f1: dict[str, np.ndarray[Any, Any]] = {}
        broken: dict[str, dict[str, int]] = {}
        for name, kept in edits.items():
            f1[name] = np.array([score.f1 for score in scorer.score_kept(texts, words, kept, remember=True)])
            rules = [
                rule_name(rule)
                for text, own, stays in zip(texts, words, kept, strict=True)
                for rule in violations(text, rebuild(text, own, stays))
            ]
            broken[name] = {rule: rules.count(rule) for rule in sorted(set(rules))}
        f1["shuffled"] = np.array([score.f1 for score in scorer.score_rewritten(texts, others, remember=True)])
        threshold = float(np.floor(np.percentile(f1["harmless"], 5) * 100) / 100)
        yield (
            part,
            {
                "texts": {name: len(own) for name, own in sets.items()},
                "suggested_threshold": threshold,
                "f1_percentiles": {name: percentiles(values) for name, values in f1.items()},
                "pass_rate": {
                    f"{at:.2f}": {name: round(float((values >= at).mean()), 4) for name, values in f1.items()}
                    for at in sorted({*np.arange(0.5, 0.96, 0.05).round(2).tolist(), threshold})
                },
                "share_of_words_kept": {
                    name: round(float(np.mean([stays.mean() for stays in kept])), 4) for name, kept in edits.items()
                },
                "rules_broken": broken,
            },
        )


def percentiles(values: np.ndarray[Any, Any]) -> dict[str, float]:
    """From the first to the 99th."""
    return {str(at): round(float(np.percentile(values, at)), 4) for at in (1, 5, 25, 50, 75, 95, 99)}


def main() -> None:
    """Measures and writes the JSON."""
    folder, target = Path(sys.argv[1]), Path(sys.argv[2])
    parts = {}
    for part, own in measure(folder):
        parts[part] = own
        at = f"{own['suggested_threshold']:.2f}"
        print(part, sum(own["texts"].values()), "texts, threshold", at, "pass:", own["pass_rate"][at], flush=True)
        write_results(target, {"machine": facts(), "encoder": PACKAGED, "layer": LAYER, "parts": parts})


if __name__ == "__main__":
    main()
