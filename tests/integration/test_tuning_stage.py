"""Every method of tuning through its stages: trained, scored, put together as the registered winner, resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import StageRun
from damoc.config import SelectionConfig
from damoc.models.likelihood import answer_losses
from damoc.stages import control
from damoc.stages.candidate import CandidateState
from damoc.stages.context import Context, publish_config
from damoc.stages.evaluate_candidate import evaluate_candidate
from damoc.stages.fine_tune import NAME, PROBE, fine_tune, tune
from damoc.stages.prepare_data import prepare_data
from damoc.stages.resolve_candidates import resolve_candidates
from damoc.stages.rows import encode_rows, read_examples
from damoc.stages.winner import load_winner, write_winner
from damoc.store import StepResult
from damoc.tuning import load_tuned


def changed(run: StageRun, name: str, **tuning: Any) -> tuple[Context, str]:
    """The finished selection's rows, split anew, under another tuning, with runs of its own; and those rows."""
    config = Context.open(run.config_uri, run.selection_id).config
    raw = config.model_dump()
    raw["dataset"]["splits"] = {"valid": 0.35, "test": 0.2}
    raw["dataset"]["limit"] = {"train": 40}
    raw["tuning"] |= tuning
    config = SelectionConfig.model_validate(raw)
    uri = publish_config(config, "", name)
    rows = prepare_data(uri, name)
    resolve_candidates(uri, name, rows, rows)
    return Context.open(uri, name), rows


def uri_of(context: Context) -> str:
    return f"{context.folder}/config.json"


@pytest.mark.slow
@pytest.mark.parametrize(("method", "trained"), [("full", "model"), ("qlora", "adapter"), ("lora", "adapter")])
def test_a_method_goes_through_every_stage(stage_run: StageRun, tmp_path: Path, method: str, trained: str) -> None:
    context, rows = changed(stage_run, f"stage-{method}", method=method, epochs=1, lr_probe=[1e-3, 1e-6])
    state = fine_tune(uri_of(context), context.selection_id, rows, rows, stage_run.proxy)
    found = CandidateState.read(state)
    assert (found.status, found.reason) == ("ok", "")
    summary = found.steps[NAME].summary
    assert summary["template"] == "plain"
    assert summary["learning_rate"] == 1e-3
    assert [probe["learning_rate"] for probe in found.steps[PROBE].summary["probes"]] == [1e-3, 1e-6]
    assert summary["valid_loss"] < summary["valid_loss_before"]
    assert summary["flops"] > 0
    assert (found.steps[NAME].path() / trained).is_dir()

    scored = evaluate_candidate(
        uri_of(context),
        context.selection_id,
        rows,
        state,
        lambda name, value: None,
        str(tmp_path / "metrics.json"),
    )
    assert CandidateState.read(scored).status == "ok"

    (tmp_path / "winner").mkdir()
    write_winner(context, found, tmp_path / "winner")
    proxy = found.steps["compress_model"].path() / "model"
    expected = load_tuned(proxy, found.steps[NAME].path(), context.config.tuning)
    calibration = read_examples(StepResult.read(rows).path() / "train.jsonl")[:12]
    encoded = encode_rows(expected, calibration, context.config.tuning.max_length)
    losses = np.concatenate(answer_losses(expected.model, encoded, expected.tokenizer.pad_token_id))
    assert summary["calibration_loss"] == pytest.approx(float(losses.mean(dtype=np.float64)), rel=1e-3)
    ids = torch.arange(3, 30)[None]
    with torch.inference_mode():
        logits = expected.model(ids).logits
        assert torch.equal(load_winner(tmp_path / "winner").model(ids).logits, logits)
        if method == "qlora":
            (tmp_path / "winner" / "base").rename(tmp_path / "base")
            assert torch.equal(load_winner(tmp_path / "winner").model(ids).logits, logits)


@pytest.mark.slow
def test_a_control_that_fails_is_noted_and_leaves_its_candidate_as_it_is(stage_run: StageRun, tmp_path: Path) -> None:
    context, rows = changed(stage_run, "stage-control", epochs=1)
    name = CandidateState.read(stage_run.proxy).candidate_id
    broken = tmp_path / "broken"
    shutil.copytree(context.config.candidate(name).model, broken)
    (broken / "model.safetensors").write_bytes(b"no weights")
    raw = context.config.model_dump()
    raw["model_compression"]["control"] = [name]
    raw["candidates"] = [own | ({"model": str(broken)} if own["id"] == name else {}) for own in raw["candidates"]]
    uri = publish_config(SelectionConfig.model_validate(raw), "", context.selection_id)
    found = CandidateState.read(fine_tune(uri, context.selection_id, rows, rows, stage_run.proxy))
    assert (found.status, found.reason) == ("ok", "")
    assert NAME in found.steps and not set(control.STEPS) & set(found.steps)
    assert found.control_failure.startswith("the model cannot be loaded")


@pytest.mark.slow
def test_a_tuning_that_is_stopped_goes_on_to_the_same_content(
    stage_run: StageRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, rows = changed(
        stage_run, "stage-resumed", epochs=2, learning_rate=2e-3, dropout=0.1, checkpoint_minutes=1e-9
    )
    candidate = CandidateState.read(stage_run.proxy)
    steps = [StepResult.read(rows), StepResult.read(rows), candidate.steps["compress_model"]]
    log = context.tracker.log_history

    def power_fails(run: str, points: Any) -> None:
        if points[0]["step"] == 3:
            raise KeyboardInterrupt
        log(run, points)

    monkeypatch.setattr(context.tracker, "log_history", power_fails)
    with pytest.raises(KeyboardInterrupt):
        tune(context, candidate.candidate_id, *steps)
    kept = list((Path(context.config.workspace) / "checkpoints" / NAME).rglob("checkpoint.json"))
    assert len(kept) == 1

    logged: list[float] = []
    monkeypatch.setattr(context.tracker, "log_history", lambda run, points: logged.append(points[0]["step"]))
    resumed = tune(context, candidate.candidate_id, *steps)
    assert logged[0] == 3
    assert not kept[0].parent.exists()

    elsewhere = {**context.config.model_dump(), "workspace": f"{context.config.workspace}-2"}
    other = SelectionConfig.model_validate(elsewhere)
    fresh = Context(other, context.selection_id, "", "")
    fresh.__dict__["tracker"] = context.tracker
    whole = tune(fresh, candidate.candidate_id, *steps)
    assert whole.key == resumed.key
    assert whole.content == resumed.content
    assert json.loads((whole.path() / "history.json").read_text())[0]["step"] == 1


@pytest.mark.slow
def test_processes_share_the_tuning_of_a_candidate(stage_run: StageRun, monkeypatch: pytest.MonkeyPatch) -> None:
    context, rows = changed(stage_run, "stage-shared", epochs=1, processes=2)
    candidate = CandidateState.read(stage_run.proxy)
    steps = [StepResult.read(rows), StepResult.read(rows), candidate.steps["compress_model"]]
    alone = tune(changed(stage_run, "stage-alone", epochs=1)[0], candidate.candidate_id, *steps)

    logged: list[float] = []
    monkeypatch.setattr(context.tracker, "log_history", lambda run, points: logged.append(points[0]["step"]))
    shared = tune(context, candidate.candidate_id, *steps)
    assert shared.key != alone.key
    assert (alone.summary["processes"], shared.summary["processes"]) == (1, 2)
    assert logged == list(range(1, shared.summary["steps"] + 1))
    assert shared.summary["calibration_loss"] == pytest.approx(alone.summary["calibration_loss"], rel=1e-3)
    assert shared.summary["valid_loss"] == pytest.approx(alone.summary["valid_loss"], rel=1e-3)
    assert {path.name for path in shared.path().iterdir()} == {path.name for path in alone.path().iterdir()}
    assert not list((Path(context.config.workspace) / "checkpoints" / NAME).rglob("job.json"))
