"""The steps of a candidate's compression: what each leaves, and what a change of the config does again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from damoc.compression import replay
from damoc.config import SelectionConfig
from damoc.models.checkpoint import Checkpoint
from damoc.models.load import load_model
from damoc.stages.compress_model import Bench, divide_rows
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


@pytest.fixture
def base(tmp_path: Path, zoo: Path) -> Path:
    model = transformers.AutoModelForCausalLM.from_pretrained(zoo / NAME)
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * weight.std() * torch.randn_like(weight)
    model.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


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
    assert reused(run(config, merge={"method": "linear_patch", "fit_rows": 16})) == (True, True, False)
    assert reused(run(config, merge={"method": "linear_patch", "fit_rows": 8})) == (True, True, False)
    assert reused(run(config, merge={"method": "linear_patch", "fit_rows": 400})) == (False, False, False)
    assert reused(run(config, max_memory={"cpu": "1GiB"}, merge={"method": "none"})) == (True, True, True)


def test_a_step_taken_alone_is_the_one_of_the_whole_stage(config, monkeypatch):
    first = run(config)
    context = Context(SelectionConfig.model_validate(config), "s", "", "")
    monkeypatch.setattr("damoc.stages.compress_model.load_candidate", None)
    alone = Bench(context, NAME, prepare(context)).proxy()
    assert alone.reused and alone.content == first[2].content


@pytest.mark.parametrize(
    ("rows", "calibration", "fitting", "expected"),
    [
        (100, 48, 0, (48, 0)),
        (100, 10, 30, (10, 30)),
        (40, 10, 30, (10, 30)),
        (20, 10, 30, (5, 15)),
        (20, 48, 0, (20, 0)),
        (2, 10, 30, (1, 1)),
        (1, 10, 30, (1, 0)),
    ],
)
def test_rows_to_fit_to_are_none_that_the_fit_is_judged_on(
    rows: int, calibration: int, fitting: int, expected: tuple[int, int]
) -> None:
    everything: Any = list(range(rows))
    judged, fitted = divide_rows(everything, calibration, fitting)
    assert (len(judged), len(fitted)) == expected
    assert [*judged, *fitted] == everything[: sum(expected)]


SPARSE = {"method": "rdsc_sparse", "scales": [-0.02, -0.005, 0.005, 0.02], "sparsifier": "ties", "min_gain": 0.0}
PATCH = {"method": "linear_patch", "scales": [0.5, 1.0]}


@pytest.mark.parametrize(
    ("dtype", "merge"),
    [
        ("float32", {"method": "none"}),
        ("bfloat16", SPARSE),
        ("bfloat16", {"method": "instruct_delta", "scales": [-0.2, 0.2], "min_gain": 0.0}),
        ("float32", PATCH),
        ("bfloat16", PATCH),
    ],
)
def test_a_candidate_that_stays_on_disk_becomes_the_same_proxy(config, tmp_path, base, dtype, merge):
    config["tuning"]["dtype"] = dtype
    config["candidates"][0]["base"] = str(base)
    record = assert_same_proxy(config, tmp_path, merge)
    assert record["merge"]["accepted"] is (merge["method"] != "none")


def test_a_candidate_on_disk_whose_files_name_weights_otherwise_becomes_the_same_proxy(config, tmp_path, zoo):
    loaded = load_model(str(zoo / NAME))
    loaded.model.base_model.save_pretrained(tmp_path / "bare")
    loaded.tokenizer.save_pretrained(tmp_path / "bare")
    assert "layers.0.mlp.up_proj.weight" in Checkpoint(str(tmp_path / "bare")).tensors
    config["candidates"][0]["model"] = str(tmp_path / "bare")
    assert assert_same_proxy(config, tmp_path, SPARSE)["merge"]["accepted"]


def assert_same_proxy(config: dict[str, Any], tmp_path: Path, merge: dict[str, Any]) -> dict[str, Any]:
    whole = run(config, merge=merge, ratio=0.4)[2]
    config["workspace"] = str(tmp_path / "elsewhere")
    offloaded = run(config, merge=merge, ratio=0.4, max_memory={"cpu": "3MiB"})[2]
    assert not offloaded.reused and offloaded.summary == whole.summary
    paths = [sorted(path.relative_to(step.path()) for path in step.path().rglob("*.*")) for step in (whole, offloaded)]
    assert paths[0] == paths[1]
    files = [path for path in paths[0] if path.name != "_SUCCESS.json"]
    assert [
        path for path in files if (whole.path() / path).read_bytes() != (offloaded.path() / path).read_bytes()
    ] == []
    assert offloaded.content == whole.content
    record: dict[str, Any] = read(whole, "compression.json")
    return record
