"""Tunings of a tiny random Llama, in this process or, run by torchrun, in each of several that share it.

torchrun --nproc-per-node 2 tests/shared_tuning.py FOLDER
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from damoc.config import TuningConfig
from damoc.data.example import Example
from damoc.data.prompts import Encoded
from damoc.models.load import load_tokenizer
from damoc.stages.rows import write_examples
from damoc.stages.tuning_job import TuningJob, carry_out
from damoc.tuning.loop import train
from damoc.tuning.methods import make_trainable
from damoc.tuning.processes import OneProcess, ShardedProcesses

ZOO = Path(__file__).parent.parent / "zoo"
FACTS = [("DeleteCluster", "Deletes a cluster of nodes."), ("List", "Lists."), ("MakeQueue", "Makes a queue.")]
BASE: dict[str, Any] = {"rank": 4, "alpha": 8, "dropout": 0.0, "learning_rate": 5e-3, "epochs": 2, "batch_size": 4}
BASE |= {"dtype": "float32", "checkpoint_minutes": 1e-9}
SCENARIOS: dict[str, dict[str, Any]] = {
    "lora": {},
    "full": {"method": "full", "learning_rate": 1e-3},
    "tied": {"method": "full", "learning_rate": 1e-3},
    "recomputed": {"gradient_checkpointing": True},
    "bfloat16": {"dtype": "bfloat16"},
    "full-bfloat16": {"method": "full", "dtype": "bfloat16", "learning_rate": 1e-3},
    "parts": {},
    "dropout": {"dropout": 0.5},
}
STOPPED_AT = 3
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": 6},
    "gemma3_text": {"sliding_window": 8, "head_dim": 6},
    "phi3": {},
    "gpt_neox": {},
    "gpt2": {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    "opt": {"ffn_dim": 40, "word_embed_proj_dim": 24, "dropout": 0.0},
    "falcon": {},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
}


class Stopped(Exception):
    """The training is stopped from outside."""


def write_models(folder: Path) -> None:
    """Two models of random weights with a tokenizer of the zoo, and rows of unequal length."""
    tokenizer = load_tokenizer(str(ZOO / "tiny-reference"), None, False)
    shape = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "vocab_size": len(tokenizer), "max_position_embeddings": 128}
    for name in ("model", "tied"):
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=name == "tied"))
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    rows = [Example(str(at), "What is it?" * (at % 4), *FACTS[at % 3]) for at in range(13)]
    write_examples(folder / "rows.jsonl", rows)


def job_of(folder: Path, name: str, out: str) -> TuningJob:
    """A scenario that writes into FOLDER/OUT; 13 rows in batches of four leave a last batch of one."""
    (folder / out).mkdir(exist_ok=True)
    rows = folder / "rows.jsonl"
    return TuningJob(
        proxy=folder / ("tied" if name == "tied" else "model"),
        rows=rows,
        valid=rows,
        valid_rows=3,
        calibration_rows=2,
        settings=TuningConfig(**{**BASE, **SCENARIOS[name]}),
        seed=7,
        identity=name,
        folder=folder / f"{name}-kept",
        out=folder / out,
        micro_batch_tokens=30 if name == "parts" else None,
    )


def tuned(folder: Path, name: str, out: str, processes: OneProcess | None = None, stop: bool = False) -> list[int]:
    """Carries a scenario out, writes its summary beside the model, and returns the steps done."""
    job, done = job_of(folder, name, out), list[int]()

    def on_step(step: int, steps: int, point: Mapping[str, float]) -> None:
        done.append(step)
        if stop and step == STOPPED_AT:
            raise Stopped

    try:
        summary = carry_out(job, on_step, processes)
    except Stopped:
        return done
    if processes is None or processes.rank == 0:
        (folder / out / "summary.json").write_text(json.dumps({**summary, "done": done}))
    return done


def family_distances(processes: OneProcess) -> dict[str, float]:
    """How far the weights of a shared training are from those of one process, per architecture and method."""
    base = {"vocab_size": 90, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}
    base |= {"intermediate_size": 40, "num_key_value_heads": 2, "max_position_embeddings": 64}
    numbers = torch.Generator().manual_seed(1)
    rows = [Encoded(tuple(torch.randint(3, 90, (5 + at % 7,), generator=numbers).tolist()), 2) for at in range(9)]
    distances: dict[str, float] = {}
    for name, changes in FAMILIES.items():
        config = AutoConfig.for_model(name, **{**base, "bos_token_id": 1, "eos_token_id": 2, **changes})
        for method in ("lora", "full"):
            settings = TuningConfig(**{**BASE, "method": method, "learning_rate": 1e-3, "epochs": 1})
            weights: list[dict[str, torch.Tensor]] = []
            for sharing in (OneProcess(), processes):
                torch.manual_seed(0)
                model = AutoModelForCausalLM.from_config(config)
                tuned = sharing.shard(make_trainable(model, settings), settings, 3)
                train(tuned, rows, rows[:3], 0, settings, 3, lambda *step: None, None, sharing)
                own = {key: value.detach() for key, value in tuned.named_parameters() if value.requires_grad}
                weights.append(sharing.trained(tuned) or own)
            if processes.rank == 0:
                alone, shared = weights
                assert alone.keys() == shared.keys()
                distances[f"{name}-{method}"] = max(float((alone[key] - shared[key]).abs().max()) for key in alone)
    return distances


def main(folder: Path) -> None:
    """Every scenario in the processes that torchrun started, and one that is stopped and goes on."""
    processes = ShardedProcesses(timedelta(minutes=5))
    for name in SCENARIOS:
        tuned(folder, name, f"{name}-shared", processes)
        processes.total(0.0)
        if processes.rank == 0:
            for path in (folder / f"{name}-kept").iterdir():
                path.unlink()
        processes.total(0.0)
    tuned(folder, "dropout", "dropout-stopped", processes, stop=True)
    tuned(folder, "dropout", "dropout-again", processes)
    if processes.rank == 1:
        (own,) = (folder / "dropout-kept").glob("step-*-1-*")
        own.write_bytes(own.read_bytes()[:-1])
    processes.total(0.0)
    tuned(folder, "dropout", "dropout-damaged", processes)
    seeds = processes.collect(torch.initial_seed())
    distances = family_distances(processes)
    if processes.rank == 0:
        (folder / "seeds.json").write_text(json.dumps(seeds))
        (folder / "families.json").write_text(json.dumps(distances))
    processes.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
