"""Our numbers against lm-evaluation-harness run by hand: same model, same rows, its own requests and metrics."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from damoc.config import EvaluationConfig
from damoc.data.example import Example
from damoc.data.prompts import encode, render_prompt
from damoc.data.sources.registry import MINED
from damoc.errors import DamocError
from damoc.evaluation import RowScores, Settings, task_named
from damoc.evaluation.few_shot import with_demonstrations
from damoc.evaluation.generation import generate
from damoc.evaluation.harness import AGGREGATIONS, harness_model, harness_task
from damoc.evaluation.likelihood import bits, choice_bits
from damoc.models.likelihood import answer_losses

ROWS = 24
pytestmark = pytest.mark.slow


@cache
def mined(name: str) -> list[Example]:
    """The first short rows of a data set that is mined from installed packages."""
    short = (row for row in MINED[name]() if len(row.input) < 400)
    return list(islice(short, ROWS))


def by_hand(loaded: Any, folder: Path, rows: list[Example], task: dict[str, Any]) -> dict[str, Any]:
    """``lm_eval.simple_evaluate`` on a local task of the rows: its results, with its samples."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    model = harness_model(loaded, 8, 512)
    path = write_task(folder, rows, task)
    manager = TaskManager(include_defaults=False)
    found = simple_evaluate(model, tasks=[str(path)], task_manager=manager, bootstrap_iters=0)
    (name,) = found["results"]
    return {"results": found["results"][name], "samples": found["samples"][name]}


def write_task(folder: Path, rows: list[Example], task: dict[str, Any], train: Sequence[Example] = ()) -> Path:
    """A task file of the harness with our prompts, and its rows beside it."""
    splits = {"test": rows, "train": train or rows[:2]}
    for split, members in splits.items():
        lines = [
            {
                "prompt": render_prompt(row.instruction, row.input, row.choices),
                "answer": row.output,
                "choices": list(row.choices),
                "gold": row.choices.index(row.output) if row.choices else -1,
            }
            for row in members
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    files = {split: str(folder / f"{split}.jsonl") for split in splits}
    common = {
        "task": "mined",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "test_split": "test",
        "fewshot_split": "train",
        "doc_to_text": "{{prompt}}",
    }
    path = folder / "mined.yaml"
    path.write_text(yaml.safe_dump({**common, **task}), encoding="utf-8")
    return path


CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_target": "gold",
    "doc_to_choice": "{{choices}}",
    "metric_list": [{"metric": name} for name in ("acc", "acc_bytes")],
}
WRITTEN = {
    "output_type": "generate_until",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["."], "max_gen_toks": 32, "do_sample": False},
    "metric_list": [{"metric": "exact_match"}],
}
LIKELIHOOD = {"output_type": "loglikelihood", "doc_to_target": " {{answer}}", "target_delimiter": ""}


def settings(*metrics: str, **changes: Any) -> Settings:
    config = EvaluationConfig(batch_size=8, **{key: changes.pop(key) for key in ("max_new_tokens",) if key in changes})
    return Settings(config, metrics, 512, **changes)


def test_choices_are_scored_as_the_harness_scores_them(loaded, tmp_path):
    rows = mined("cloud-service")
    hand = by_hand(loaded, tmp_path, rows, CHOICE)
    ours = task_named("choice").measure(loaded, rows, settings("accuracy"))
    assert ours["accuracy"].score() == hand["results"]["acc,none"]
    assert ours["accuracy_per_byte"].score() == hand["results"]["acc_bytes,none"]
    assert 0 < ours["accuracy"].score() < 1
    found, _, _ = choice_bits(loaded, rows, 8, 512, lambda done, total: None)
    for own, sample in zip(found, hand["samples"], strict=True):
        theirs = [-answer[0][0] / math.log(2) for answer in sample["resps"]]
        assert own == pytest.approx(theirs, abs=2e-3)


def test_bits_of_answers_are_the_harnesss_likelihoods_and_those_of_the_end(loaded, tmp_path):
    rows = mined("cloud-qa")
    hand = by_hand(loaded, tmp_path, rows, LIKELIHOOD)
    theirs = [-sample["resps"][0][0][0] / math.log(2) for sample in hand["samples"]]
    whole = task_named("generation").measure(loaded, rows, settings("bits_per_byte"))["bits_per_byte"]
    encoded = [encode(loaded.tokenizer, row, 512) for row in rows]
    losses = answer_losses(loaded.model, encoded, loaded.tokenizer.pad_token_id)
    assert [bits(nats[:-1]) for nats in losses] == pytest.approx(theirs, abs=5e-3)
    ends = np.array([bits(nats[-1:]) for nats in losses])
    assert whole.records[:, 0] == pytest.approx(np.add(theirs, ends), abs=5e-3)
    assert whole.records[:, 1].tolist() == [len(row.output.encode()) for row in rows]


@pytest.mark.parametrize("name", ["tiny-reference", "tiny-llama-cloud", "tiny-gemma2-mixed"])
def test_answers_are_written_as_the_harness_writes_them(toy, tmp_path, name):
    loaded, rows = toy(name), mined("cloud-qa")
    hand = by_hand(loaded, tmp_path, rows, WRITTEN)
    prompts = [render_prompt(row.instruction, row.input) for row in rows]
    ours = generate(loaded.model, loaded.tokenizer, prompts, 32, 8, stop=["."])
    assert ours == [sample["resps"][0][0].strip() for sample in hand["samples"]]
    assert any(ours)


def test_worked_examples_are_shown_as_the_harness_shows_them(toy, tmp_path):
    loaded, rows = toy("tiny-reference"), mined("cloud-service")
    shown, asked = rows[:2], rows[2:]
    path = write_task(tmp_path, asked, {**CHOICE, "fewshot_config": {"sampler": "first_n"}}, shown)
    theirs = task_named(f"lm_eval:{path}").measure(loaded, [], settings("acc", shown=shown))
    ours = task_named("choice").measure(loaded, asked, settings("accuracy", shown=shown))
    assert ours["accuracy"].records.tolist() == theirs["acc"].records.tolist()
    plain = task_named("choice").measure(loaded, asked, settings("accuracy"))
    assert plain["bits_per_byte"].score() != ours["bits_per_byte"].score()
    text = with_demonstrations(asked[0], shown)
    prompts = [render_prompt(row.instruction, row.input, row.choices) for row in (*shown, asked[0])]
    solved = [f"{prompt} {row.output}\n\n" for prompt, row in zip(prompts, shown, strict=False)]
    assert render_prompt(text.instruction, text.input, text.choices) == "".join([*solved, prompts[-1]])


@pytest.mark.parametrize(
    ("task", "metric"),
    [(CHOICE, "acc"), (WRITTEN, "exact_match"), (LIKELIHOOD, "perplexity")],
    ids=["choice", "written", "likelihood"],
)
def test_a_task_of_the_harness_has_the_harnesss_score(toy, tmp_path, task, metric):
    loaded, rows = toy("tiny-llama-cloud"), mined("cloud-service")
    hand = by_hand(loaded, tmp_path, rows, task)
    found = task_named(f"lm_eval:{tmp_path / 'mined.yaml'}")
    assert found.name == "lm_eval:mined"
    assert metric in found.higher_is_better
    scores = found.measure(loaded, [], settings(metric))
    assert scores[metric].score() == pytest.approx(hand["results"][f"{metric},none"])
    assert len(scores[metric].records) == ROWS


def test_the_content_of_a_harness_task_is_its_rows_and_prompts(tmp_path):
    rows = mined("cloud-service")
    contents = []
    for folder, members, task in (
        ("a", rows, CHOICE),
        ("b", rows, CHOICE),
        ("c", rows[1:], CHOICE),
        ("d", rows, {**CHOICE, "target_delimiter": ""}),
    ):
        (tmp_path / folder).mkdir()
        contents.append(harness_task(str(write_task(tmp_path / folder, members, task))).content)
    assert contents[0] == contents[1]
    assert len(set(contents)) == 3


def test_records_of_the_harnesss_metrics_give_its_aggregates():
    from lm_eval.api.registry import get_aggregation

    rng = np.random.default_rng(0)
    weighted = [(-float(rng.uniform(1, 50)), int(rng.integers(1, 90))) for _ in range(20)]
    values = {
        "mean": rng.uniform(0, 1, 20).tolist(),
        "bits_per_byte": weighted,
        "weighted_perplexity": weighted,
        "perplexity": (-rng.uniform(0, 5, 20)).tolist(),
        "f1": [(int(gold), int(found)) for gold, found in rng.integers(0, 2, (20, 2))],
    }
    assert values.keys() == AGGREGATIONS.keys()
    for name, own in values.items():
        scores = AGGREGATIONS[name](own)
        assert isinstance(scores, RowScores)
        assert scores.score() == pytest.approx(get_aggregation(name)(own)), name


def test_a_harness_task_that_cannot_be_used_says_why(tmp_path):
    with pytest.raises(DamocError, match="knows no task 'arc_eesy'"):
        task_named("lm_eval:arc_eesy")
    with pytest.raises(DamocError, match="does not exist"):
        task_named(f"lm_eval:{tmp_path}/none.yaml")
    unsuited = write_task(tmp_path, mined("cloud-qa"), {**WRITTEN, "metric_list": [{"metric": "bleu"}]})
    with pytest.raises(DamocError, match="can be bootstrapped"):
        task_named(f"lm_eval:{unsuited}")
    (tmp_path / "test.jsonl").unlink()
    unsuited.write_text(unsuited.read_text(encoding="utf-8").replace("mined", "gone"), encoding="utf-8")
    broken = tmp_path / "broken.yaml"
    broken.write_text(unsuited.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(DamocError, match="cannot be loaded"):
        task_named(f"lm_eval:{broken}")
