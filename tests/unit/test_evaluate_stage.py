"""The evaluation step and the ranking of what it leaves, on real models and made-up rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from damoc.config import SelectionConfig
from damoc.errors import DamocError
from damoc.evaluation.row_scores import RowScores
from damoc.stages.candidate import CandidateState
from damoc.stages.context import Context
from damoc.stages.evaluate_candidate import FEW_SHOT, ZERO_SHOT, measure_untouched
from damoc.stages.prepare_data import prepare
from damoc.stages.select_winner import _rank_step
from damoc.store import StepResult

LABELS = ("yes", "no", "maybe")


@pytest.fixture
def context(tmp_path: Path, zoo: Path) -> Context:
    data = tmp_path / "data"
    data.mkdir()
    for split, count in (("train", 12), ("valid", 3), ("test", 18)):
        lines = [
            {
                "pubid": f"{split}-{at}",
                "question": f"Does treatment {at} help {split} patients?",
                "context": {
                    "contexts": [f"We saw {at} patients.", "They were well."],
                    "labels": ["METHODS", "RESULTS"],
                },
                "long_answer": "It seems so.",
                "final_decision": LABELS[at % 3],
            }
            for at in range(count)
        ]
        (data / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    names = ("tiny-llama-cloud", "tiny-qwen3-science")
    config = {
        "name": "evaluation",
        "workspace": str(tmp_path / "work"),
        "dataset": {"preset": "pubmedqa", "source": str(data)},
        "tuning": {"max_length": 256, "dtype": "float32"},
        "evaluation": {"metric": "macro_f1", "shots": 2, "bootstrap": 200},
        "candidates": [{"id": name, "model": str(zoo / name)} for name in names],
    }
    return Context(SelectionConfig.model_validate(config), "s", "", "")


def evidence(step: StepResult, name: str) -> Any:
    return json.loads((step.path() / name).read_text(encoding="utf-8"))


def test_a_preset_is_measured_without_and_with_worked_examples_and_ranked_by_macro_f1(context):
    prepared = prepare(context)
    states = []
    for candidate in context.config.candidates:
        state = CandidateState(candidate.id)
        for name in (ZERO_SHOT, FEW_SHOT):
            state = state.with_step(name, measure_untouched(context, candidate.id, prepared, name))
        states.append(state)
    written = [
        {
            name: json.loads((state.steps[name].path() / "scores.json").read_text(encoding="utf-8"))
            for name in state.steps
        }
        for state in states
    ]
    for state, scores in zip(states, written, strict=True):
        assert scores[ZERO_SHOT]["task"] == "choice"
        assert scores[ZERO_SHOT]["shown"] == []
        assert len(scores[ZERO_SHOT]["rows"]) == 18
        for name, own in scores.items():
            metrics = {key: round(RowScores.from_json(rows).score(), 6) for key, rows in own["metrics"].items()}
            assert metrics == state.steps[name].summary["metrics"]
        assert (
            state.steps[ZERO_SHOT].summary["metrics"]["bits_per_byte"]
            != state.steps[FEW_SHOT].summary["metrics"]["bits_per_byte"]
        )
    shown = [scores[FEW_SHOT]["shown"] for scores in written]
    assert shown[0] == shown[1]
    assert len(shown[0]) == 2 and all(row.startswith("train-") for row in shown[0])

    ranking = _rank_step(context, ZERO_SHOT, "macro_f1", True, states)
    found = evidence(ranking, "ranking.json")
    assert found["metric"] == "macro_f1"
    for standing in found["standings"]:
        own = next(state for state in states if state.candidate_id == standing["candidate_id"])
        assert standing["score"] == pytest.approx(own.steps[ZERO_SHOT].summary["metrics"]["macro_f1"], abs=1e-6)
        intervals = found["intervals"][standing["candidate_id"]]
        assert intervals["macro_f1"] == pytest.approx([standing["low"], standing["high"]], abs=1e-6)
        assert intervals.keys() == own.steps[ZERO_SHOT].summary["metrics"].keys()


def test_a_metric_that_the_rows_do_not_have_is_refused(context):
    prepared = prepare(context)
    path = prepared.path() / "test.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows[0]["choices"] = [*rows[0]["choices"], "perhaps"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(DamocError, match="these rows have no macro_f1"):
        measure_untouched(context, context.config.candidates[0].id, prepared)
