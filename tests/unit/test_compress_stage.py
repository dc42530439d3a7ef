"""The steps of a candidate's compression: what each leaves, and what a change of the config does again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from damoc.compression import replay
from damoc.config import SelectionConfig
from damoc.stages.compress_model import Bench
from damoc.stages.context import Context
from damoc.stages.prepare_data import prepare
from damoc.store import StepResult

NAME = "tiny-llama-cloud"


@pytest.fixture
def config(tmp_path: Path, zoo: Path) -> dict[str, Any]:
    rows = [{"instruction": f"Say {n} twice.", "output": f"{n} and {n}, or {n + 1}."} for n in range(60)]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {
        "name": "compression",
        "workspace": str(tmp_path / "work"),
        "dataset": {"source": str(data)},
        "tuning": {"max_length": 64, "dtype": "float32"},
        "model_compression": {"calibration_rows": 8, "collapse_limit": 50.0, "merge": {"scales": [0.05, 0.1]}},
        "candidates": [{"id": name, "model": str(zoo / name)} for name in (NAME, "tiny-qwen3-science")],
    }


def run(config: dict[str, Any], **compression: Any) -> tuple[StepResult, StepResult, StepResult]:
    values = {**config, "model_compression": {**config["model_compression"], **compression}}
    context = Context(SelectionConfig.model_validate(values), "s", "", "")
    bench = Bench(context, NAME, prepare(context))
    return bench.importance(), bench.plan(), bench.proxy()


def read(step: StepResult, name: str) -> Any:
    return json.loads((step.path() / name).read_text(encoding="utf-8"))


def reused(steps: tuple[StepResult, ...]) -> tuple[bool, ...]:
    return tuple(step.reused for step in steps)


def test_steps_take_each_others_results_and_do_again_only_what_a_change_concerns(config):
    first = run(config)
    assert reused(first) == (False, False, False)
    record, plan, whole = (
        read(first[2], "compression.json"),
        read(first[1], "plan.json"),
        read(first[0], "importance.json"),
    )
    assert replay(record).plan == replay(plan).plan and len(record["plan"]["remove"]) == 3
    assert record["importance"] == plan["importance"] == whole["importance"]
    assert record["losses"]["original"] == whole["loss"] == first[0].summary["loss"]
    assert set(record["merge"]["losses"]) == {"0.0", "0.05", "0.1"}

    again = run(config)
    assert reused(again) == (True, True, True) and [step.content for step in again] == [step.content for step in first]
    assert reused(run(config, merge={"method": "none"})) == (True, True, False)
    assert reused(run(config, ratio=0.5)) == (True, False, False)
    assert reused(run(config, policy="contiguous")) == (True, False, False)
    assert reused(run(config, flops=0.2)) == (False, False, False)
    assert reused(run(config, calibration_rows=6)) == (False, False, False)
    assert reused(run(config, max_memory={"cpu": "1GiB"}, merge={"method": "none"})) == (True, True, True)


def test_a_step_taken_alone_is_the_one_of_the_whole_stage(config, monkeypatch):
    first = run(config)
    context = Context(SelectionConfig.model_validate(config), "s", "", "")
    monkeypatch.setattr("damoc.stages.compress_model.load_model", None)
    alone = Bench(context, NAME, prepare(context)).proxy()
    assert alone.reused and alone.content == first[2].content
