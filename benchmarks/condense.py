"""Token compression side by side with the llmlingua package: words a second, BERTScore at equal rate, what survives.

    pip install --target /tmp/llmlingua --no-deps llmlingua==0.2.2 tiktoken nltk
    python -m benchmarks.condense ../shared/data benchmarks/results/condense.json --peer /tmp/llmlingua

Both compress the same contexts (dolly, pubmedqa, squad_mini) with the same compressor on the same machine; timings are
medians of alternating runs. The peer runs first, at the rates of ``RATES``; damoc's rate is then set so that as large a
share is kept, once of the words and once of the compressor's tokens. All texts are scored by the same BERTScore.

What the peer needs to run at all, none of which is in its timed path but for views of tensors:

- its constructor downloads an encoding that only counts tokens for its statistics: a stand-in counts words
- its code takes keys and values as tuples, which transformers 5 no longer does: they are put into a cache and taken out
- it leaves texts of fewer than ``iterative_size`` (200) tokens alone: 50 here, so that it compresses them
- its loader would read the tokenizer in another way: it is given damoc's model and tokenizer
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.machine import facts, write_results
from damoc.condense.apply import rebuild
from damoc.condense.bertscore import BertScorer
from damoc.condense.compress import compress_words
from damoc.condense.decide import keep_words
from damoc.condense.words import Word, split_words
from damoc.models.load import LoadedModel, load_model
from damoc.signals.embedding import PACKAGED

SETS = ("dolly", "pubmedqa", "squad_mini")
RATES = (0.5, 0.7)
WORDS, REPEATS, ITERATIVE_SIZE, LAYER = (40, 300), 3, 50, 5
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_NEGATION = re.compile(r"\b(?:no|not|never|none|nor|neither|without|cannot|\w+n['’]t)\b", re.IGNORECASE)
Compress = Callable[[Sequence[str], float], list[str]]
Peer = Callable[[LoadedModel], Compress]


def read_texts(folder: Path, count: int) -> list[str]:
    """As many contexts of each set, drawn with a fixed seed, each once."""
    texts: list[str] = []
    for place, name in enumerate(SETS):
        with gzip.open(folder / name / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
            rows = dict.fromkeys(json.loads(line)["input"] for line in lines)
        fitting = [text for text in rows if WORDS[0] <= len(text.split()) <= WORDS[1]]
        share = (count + len(SETS) - 1 - place) // len(SETS)
        texts += [fitting[at] for at in np.random.default_rng(0).permutation(len(fitting))[:share]]
    return texts


def peer_of(folder: Path, loaded: LoadedModel) -> Compress:
    """The llmlingua package as a function of texts and a rate."""
    sys.path.insert(0, str(folder))
    import tiktoken
    from transformers import DynamicCache

    tiktoken.encoding_for_model = lambda name: SimpleNamespace(encode=str.split)
    from llmlingua import PromptCompressor

    class TupleCaches:
        """The model, with keys and values as tuples."""

        def __call__(self, ids: Any, attention_mask: Any, past_key_values: Any, use_cache: bool) -> Any:
            past = DynamicCache(past_key_values) if past_key_values else None
            output = loaded.model(ids, attention_mask=attention_mask, past_key_values=past, use_cache=use_cache)
            pairs = [(layer.keys, layer.values) for layer in output.past_key_values.layers]
            return SimpleNamespace(logits=output.logits, past_key_values=pairs)

    class Peer(PromptCompressor):
        def load_model(self, model_name: str, device_map: str = "cpu", model_config: Any = None) -> None:
            self.tokenizer, self.model, self.device = loaded.tokenizer, TupleCaches(), str(loaded.model.device)
            self.context_idxs, self.max_position_embeddings = [], loaded.max_length

    peer = Peer("", device_map="cpu")

    def compress(texts: Sequence[str], rate: float) -> list[str]:
        options = {"iterative_size": ITERATIVE_SIZE, "use_context_level_filter": False}
        return [peer.compress_prompt([text], rate=rate, **options)["compressed_prompt"] for text in texts]

    return compress


def ours(loaded: LoadedModel, context: Any) -> Compress:
    """What damoc makes of texts at a rate."""

    def compress(texts: Sequence[str], rate: float) -> list[str]:
        words = [split_words(text) for text in texts]
        kept, _ = compress_words(loaded, texts, words, [rate] * len(texts), loaded.max_length, context)
        return [rebuild(*own) for own in zip(texts, words, kept, strict=True)]

    return compress


def seconds(compressors: dict[str, Compress], texts: Sequence[str], rate: float) -> dict[str, float]:
    """Median time of each, in alternating runs after one to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in compressors}
    for repeat in range(REPEATS + 1):
        for name, compress in compressors.items():
            started = time.perf_counter()
            compress(texts, rate)
            if repeat:
                taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(own) for name, own in taken.items()}


def speed(compressors: dict[str, Compress], texts: Sequence[str], rate: float) -> dict[str, Any]:
    """Words a second of each, and how many times the peer's that is."""
    count = sum(len(text.split()) for text in texts)
    taken = seconds(compressors, texts, rate)
    found = {name: {"seconds": round(own, 3), "words_a_second": round(count / own)} for name, own in taken.items()}
    if "llmlingua" in taken:
        for name, own in taken.items():
            found[name]["times_llmlingua"] = round(taken["llmlingua"] / own, 2)
    return {"texts": len(texts), "words": count, "rate": rate, **found}


def shares(loaded: LoadedModel, texts: Sequence[str], left: Sequence[str]) -> dict[str, float]:
    """Share of words and of the compressor's tokens that is left."""

    def tokens(side: Sequence[str]) -> int:
        return sum(len(ids) for ids in loaded.tokenizer(list(side), add_special_tokens=False)["input_ids"])

    words = sum(len(text.split()) for text in left) / sum(len(text.split()) for text in texts)
    return {"words": round(words, 4), "tokens": round(tokens(left) / tokens(texts), 4)}


def quality(loaded: LoadedModel, scorer: BertScorer, texts: Sequence[str], left: Sequence[str]) -> dict[str, Any]:
    """Rates, mean BERTScore, and the share of texts that still have all their numbers and negations."""
    scores = scorer.score_rewritten(texts, left, remember=True)

    def survive(pattern: re.Pattern[str]) -> float:
        pairs = [
            (Counter(pattern.findall(text)), Counter(pattern.findall(own)))
            for text, own in zip(texts, left, strict=True)
        ]
        bearing = [before <= after for before, after in pairs if before]
        return round(float(np.mean(bearing)), 4)

    return {
        "share_kept": shares(loaded, texts, left),
        "f1": round(float(np.mean([score.f1 for score in scores])), 4),
        "recall": round(float(np.mean([score.recall for score in scores])), 4),
        "texts_with_all_numbers": survive(_NUMBER),
        "texts_with_all_negations": survive(_NEGATION),
    }


def at_share(
    loaded: LoadedModel, texts: Sequence[str], context: Any, unit: str, share: float, steps: int = 12
) -> tuple[float, list[str]]:
    """The rate at which damoc keeps a share of the words or tokens, and what is then left."""
    words = [split_words(text) for text in texts]
    importance = compress_words(loaded, texts, words, [1.0] * len(texts), loaded.max_length)[1]
    low, high, compress = 0.0, 1.0, ours(loaded, context)
    for _ in range(steps):
        rate = (low + high) / 2
        left = compress(texts, rate) if context == "kept" else _decided(texts, words, importance, rate)
        low, high = (low, rate) if shares(loaded, texts, left)[unit] > share else (rate, high)
    return rate, left


def _decided(texts: Sequence[str], words: Sequence[list[Word]], importance: Sequence[Any], rate: float) -> list[str]:
    protected = [np.array([word.protected for word in own], dtype=bool) for own in words]
    kept = [keep_words(*own, rate) for own in zip(importance, protected, strict=True)]
    return [rebuild(*own) for own in zip(texts, words, kept, strict=True)]


def larger(loaded: LoadedModel) -> LoadedModel:
    """An untrained Llama of 8 layers and 512 dimensions, where the model's own work counts: for speed only."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(loaded.tokenizer),
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        max_position_embeddings=1024,
    )
    return LoadedModel(LlamaForCausalLM(config).eval(), loaded.tokenizer, 1024)


def main() -> None:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--peer", type=Path, help="folder into which llmlingua was installed")
    parser.add_argument("--texts", type=int, default=60)
    parser.add_argument("--only", default="speed,quality", help="parts to measure; others stay as they were")
    arguments = parser.parse_args()
    texts = read_texts(arguments.data, arguments.texts)
    with_peer = arguments.peer is not None and (arguments.peer / "llmlingua").is_dir()
    if not with_peer:
        print("llmlingua is not there, only damoc is measured; install it as the head of this file says, give --peer")
    reference = load_model("zoo/tiny-reference")
    peer = (lambda loaded: peer_of(arguments.peer, loaded)) if with_peer else None
    results: dict[str, Any] = {"peer": "llmlingua 0.2.2" if with_peer else None}
    if arguments.results.exists():
        results |= json.loads(arguments.results.read_text(encoding="utf-8"))
    for part, entries in (("speed", speeds), ("quality", qualities)):
        if part in arguments.only.split(","):
            results[part] = {"machine": facts(), "threads": torch.get_num_threads(), "entries": []}
            for entry in entries(reference, texts, peer):
                results[part]["entries"].append(entry)
                print(json.dumps(entry), flush=True)
                write_results(arguments.results, results)


def speeds(reference: LoadedModel, texts: Sequence[str], peer: Peer | None) -> Iterator[dict[str, Any]]:
    """Words a second under the toy reference and, on every third text, under a larger model."""
    for name, loaded, some in (
        ("tiny-reference", reference, texts),
        ("llama 8 x 512, untrained", larger(reference), texts[::3]),
    ):
        compressors: dict[str, Compress] = {
            "damoc, original context": ours(loaded, "original"),
            "damoc, kept context": ours(loaded, "kept"),
        }
        if peer:
            compressors["llmlingua"] = peer(loaded)
        for rate in RATES:
            yield {"compressor": name, **speed(compressors, some, rate)}


def qualities(reference: LoadedModel, texts: Sequence[str], peer: Peer | None) -> Iterator[dict[str, Any]]:
    """What is left at equal shares, the peer's where it is there."""
    scorer = BertScorer(PACKAGED, LAYER)
    for rate in RATES:
        share = {"words": rate, "tokens": rate}
        if peer:
            found = quality(reference, scorer, texts, peer(reference)(texts, rate))
            share = found["share_kept"]
            yield {"name": "llmlingua", "rate": rate, **found}
        for context in ("original", "kept"):
            for unit in ("words", "tokens"):
                own, left = at_share(reference, texts, context, unit, share[unit])
                told = {"name": f"damoc, {context} context", "equal_share_of": unit, "rate": round(own, 4)}
                yield {**told, **quality(reference, scorer, texts, left)}


if __name__ == "__main__":
    main()
