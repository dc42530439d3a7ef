"""Scoring and writing answers beside lm-evaluation-harness, on the same model, prompts and batch size.

    python -m benchmarks.evaluation ../shared/data benchmarks/results/evaluation.json [ROWS]

``choices``: log-likelihoods of yes, no and maybe after each abstract of PubMedQA. ``answers``: those of the answers of
squad_mini. ``writing``: greedy answers to the same questions, up to 32 tokens or a line's end. Both ways start from
rendered prompts in memory and end with numbers or texts, and take turns; ``ratio`` is the median over the turns of the
harness's time over ours. ``bits_apart`` is the largest difference between the two in bits of one answer.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance

from benchmarks.likelihood import larger
from benchmarks.machine import facts, write_results
from damoc.config import DatasetConfig
from damoc.data.dataset import load_dataset
from damoc.data.example import Example
from damoc.data.prompts import encode, render_prompt
from damoc.evaluation.generation import generate
from damoc.evaluation.harness import harness_model
from damoc.evaluation.likelihood import bits, choice_bits
from damoc.models.likelihood import answer_losses
from damoc.models.load import LoadedModel, load_model

ROOT = Path(__file__).parent.parent
BATCH, LONGEST, TURNS = 16, 1024, 5


def rows_of(data: Path, name: str, folder: str, count: int) -> list[Example]:
    """Test rows of a preset's local copy."""
    config = DatasetConfig.model_validate({"preset": name, "source": str(data / folder), "limit": {"test": count}})
    return load_dataset(config, 0).splits["test"]


def request(kind: str, prompt: str, rest: Any, index: int) -> Instance:
    """A request of the harness."""
    return Instance(request_type=kind, doc={}, arguments=(prompt, rest), idx=index, metadata=("rows", index, 1))


def prompt_of(row: Example) -> str:
    """The prompt of a row."""
    return render_prompt(row.instruction, row.input, row.choices)


def choices(loaded: LoadedModel, rows: list[Example]) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Ours and the harness's way to the bits of all choices."""
    asked = [request("loglikelihood", prompt_of(row), f" {choice}", 0) for row in rows for choice in row.choices]
    model = harness_model(loaded, BATCH, LONGEST)
    return (
        lambda: np.concatenate(choice_bits(loaded, rows, BATCH, LONGEST, lambda done, total: None)[0]),
        lambda: np.array([-found / math.log(2) for found, _ in model.loglikelihood(asked)]),
    )


def answers(loaded: LoadedModel, rows: list[Example]) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Ours and the harness's way to the bits of the reference answers."""
    asked = [request("loglikelihood", prompt_of(row), f" {row.output}", 0) for row in rows]
    model = harness_model(loaded, BATCH, LONGEST)

    def ours() -> Any:
        encoded = [encode(loaded.tokenizer, row, LONGEST, end=False) for row in rows]
        losses = answer_losses(loaded.model, encoded, loaded.tokenizer.pad_token_id, BATCH)
        return np.array([bits(nats) for nats in losses])

    return ours, lambda: np.array([-found / math.log(2) for found, _ in model.loglikelihood(asked)])


def writing(loaded: LoadedModel, rows: list[Example]) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Ours and the harness's way to written answers."""
    how = {"until": ["\n"], "max_gen_toks": 32, "do_sample": False}
    prompts = [prompt_of(row) for row in rows]
    asked = [request("generate_until", prompt, how, 0) for prompt in prompts]
    model = harness_model(loaded, BATCH, LONGEST)
    return (
        lambda: generate(loaded.model, loaded.tokenizer, prompts, 32, BATCH, stop=["\n"]),
        lambda: [text.strip() for text in model.generate_until(asked)],
    )


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What some work gives, and its wall time."""
    with redirect_stderr(StringIO()):
        started = time.perf_counter()
        found = work()
        return found, time.perf_counter() - started


def main(data: Path, out: Path, count: int = 48) -> None:
    """Times both ways."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    abstracts = rows_of(data, "pubmedqa", "pubmedqa", count)
    passages = rows_of(data, "squad", "squad_mini", count)
    works = {"choices": (choices, abstracts), "answers": (answers, passages), "writing": (writing, passages)}
    results: dict[str, Any] = {}
    for name, loaded in {"zoo": load_model(str(ROOT / "zoo/tiny-reference")), "larger": larger()}.items():
        for work, (make, all_rows) in works.items():
            rows = [row for row in all_rows if len(encode(loaded.tokenizer, row, 1 << 20).ids) < LONGEST - 32]
            ours, theirs = make(loaded, rows)
            ours(), theirs()
            turns = [(timed(ours), timed(theirs)) for _ in range(TURNS)]
            (found, _), (beside, _) = turns[0]
            entry: dict[str, Any] = {
                "rows": len(rows),
                "seconds": float(np.median([own for (_, own), _ in turns])),
                "harness_seconds": float(np.median([other for _, (_, other) in turns])),
                "ratio": float(np.median([other / own for (_, own), (_, other) in turns])),
            }
            same = (
                {"same_texts": found == beside}
                if work == "writing"
                else {"bits_apart": float(abs(found - beside).max())}
            )
            results[f"{name}/{work}"] = entry | same
            print(name, work, entry | same, flush=True)
    write_results(out, {"machine": facts(), "results": results})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:4]))
