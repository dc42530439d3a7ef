from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from nltk.stem.porter import PorterStemmer
from rouge_score.tokenize import tokenize

from damoc.data.example import Example
from damoc.data.prompts import render_prompt
from damoc.errors import DamocError
from damoc.evaluation import RowScores, task_named, tasks
from damoc.evaluation.generation import generate
from damoc.evaluation.registry import metric_of
from damoc.models.load import LoadedModel

CHOICES = ("yes", "no", "it cannot be said")
CLOSED = [
    Example(str(at), "Is the cluster deleted?", f"Case {at}: " + "the cluster " * at, CHOICES[at % 3], choices=CHOICES)
    for at in range(7)
]
OPEN = [
    Example("0", "What does it do?", "DeleteCluster", "Deletes a cluster and all of its nodes."),
    Example("1", "What does it do?", "ListNodes " * 20, "Lists the nodes — page by page 東京."),
    Example("2", "", "CreateQueue", "Makes a queue."),
]


def quiet(done: int, total: int) -> None:
    """Hears no progress."""


def bits(loaded: LoadedModel, row: Example, answer: str) -> float:
    """Bits of an answer and the end token after the prompt, one forward pass, without damoc's encoding."""
    tokenizer = loaded.tokenizer
    prompt = tokenizer(render_prompt(row.instruction, row.input, row.choices))["input_ids"]
    whole = tokenizer(render_prompt(row.instruction, row.input, row.choices) + " " + answer)["input_ids"]
    assert whole[: len(prompt)] == prompt
    whole = [*whole, tokenizer.eos_token_id]
    with torch.inference_mode():
        logs = torch.log_softmax(loaded.model(input_ids=torch.tensor([whole])).logits[0].double(), dim=1)
    return -sum(float(logs[at - 1, whole[at]]) for at in range(len(prompt), len(whole))) / math.log(2)


def test_choice_picks_what_brute_force_finds_most_likely(loaded):
    scores = task_named("choice").measure(loaded, CLOSED, ["accuracy"], 4, 512, quiet)
    costs = [[bits(loaded, row, choice) for choice in CHOICES] for row in CLOSED]
    sizes = [len(choice) for choice in CHOICES]
    gold = [row.choices.index(row.output) for row in CLOSED]
    assert scores["accuracy"].numerator.tolist() == [
        float(int(np.argmin(cost)) == right) for cost, right in zip(costs, gold, strict=True)
    ]
    assert scores["accuracy_per_byte"].numerator.tolist() == [
        float(int(np.argmin(np.divide(cost, sizes))) == right) for cost, right in zip(costs, gold, strict=True)
    ]
    assert scores["bits_per_byte"].numerator == pytest.approx(
        [cost[right] for cost, right in zip(costs, gold, strict=True)], abs=1e-2
    )
    assert scores["bits_per_byte"].denominator.tolist() == [len(row.output) for row in CLOSED]
    assert 0 < scores["accuracy"].score() < 1


def test_choices_that_the_model_cannot_tell_apart_go_to_the_earlier_one(toy):
    twins = [
        Example("0", "Say it.", "", "a", choices=("a", " a")),
        Example("1", "Say it.", "", " a", choices=("a", " a")),
    ]
    scores = task_named("choice").measure(toy("tiny-reference"), twins, ["accuracy"], 4, 512, quiet)
    assert scores["accuracy"].numerator.tolist() == [1.0, 0.0]


def test_bits_per_byte_are_those_of_a_direct_pass(loaded):
    scores = task_named("generation").measure(loaded, OPEN, ["bits_per_byte"], 3, 512, quiet)
    assert set(scores) == {"bits_per_byte"}
    own = scores["bits_per_byte"]
    assert own.numerator == pytest.approx([bits(loaded, row, row.output) for row in OPEN], abs=2e-2)
    assert own.denominator.tolist() == [len(row.output.encode()) for row in OPEN]
    assert own.score() == pytest.approx(own.numerator.sum() / own.denominator.sum())


def test_an_answer_that_is_cut_is_counted_as_far_as_it_was_read(toy):
    """Otherwise a model that needs more tokens for an answer would seem to need fewer bits for it."""
    loaded = toy("tiny-reference")
    long = Example("0", "Say it.", "", "The operation deletes the cluster and its nodes. " * 20)
    measure = task_named("generation").measure
    whole, cut = (measure(loaded, [long], ["bits_per_byte"], 1, limit, quiet)["bits_per_byte"] for limit in (900, 60))
    tokens = len(loaded.tokenizer(long.output.strip())["input_ids"]) + 1
    assert cut.denominator[0] == pytest.approx(len(long.output) * 59 / tokens, rel=0.01)
    assert whole.denominator[0] == len(long.output)


def lcs_f1(reference: str, answer: str) -> float:
    """F1 of the longest common subsequence of stemmed words."""
    left, right = (tokenize(text, PorterStemmer()) for text in (reference, answer))
    table = np.zeros((len(left) + 1, len(right) + 1), dtype=int)
    for i, j in np.ndindex(len(left), len(right)):
        same = left[i] == right[j]
        table[i + 1, j + 1] = table[i, j] + 1 if same else max(table[i, j + 1], table[i + 1, j])
    return 2 * float(table[-1, -1]) / (len(left) + len(right))


def test_rouge_l_compares_what_the_model_writes_with_the_reference(toy):
    loaded = toy("tiny-reference")
    scores = task_named("generation").measure(loaded, OPEN, ["rouge_l"], 2, 512, quiet)
    assert set(scores) == {"bits_per_byte", "rouge_l"}
    sizes = [len(loaded.tokenizer(row.output)["input_ids"]) for row in OPEN]
    answers = [
        greedy(loaded, render_prompt(row.instruction, row.input), int(np.quantile(sizes, 0.95)) + 8) for row in OPEN
    ]
    expected = [lcs_f1(row.output, answer) for row, answer in zip(OPEN, answers, strict=True)]
    assert scores["rouge_l"].numerator == pytest.approx(expected)
    assert 0 < sum(expected) < 3


def greedy(loaded: LoadedModel, prompt: str, steps: int) -> str:
    ids = loaded.tokenizer(prompt)["input_ids"]
    start = len(ids)
    with torch.inference_mode():
        for _ in range(steps):
            ids.append(int(loaded.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == loaded.tokenizer.eos_token_id:
                break
    return loaded.tokenizer.decode(ids[start:], skip_special_tokens=True).strip()


@pytest.mark.parametrize("name", ["tiny-reference", "tiny-gemma2-mixed", "tiny-neox-stdlib", "tiny-qwen2-cloud"])
def test_batched_generation_is_step_by_step_generation(toy, name):
    loaded = toy(name)
    prompts = [render_prompt(row.instruction, row.input) for row in OPEN]
    seen: list[tuple[int, int]] = []
    answers = generate(loaded.model, loaded.tokenizer, prompts, 12, 2, lambda done, total: seen.append((done, total)))
    assert answers == [greedy(loaded, prompt, 12) for prompt in prompts]
    assert seen == [(2, 3), (3, 3)]


def test_a_prompt_longer_than_the_model_reads_loses_its_start(toy):
    loaded = toy("tiny-reference")
    model = copy.deepcopy(loaded.model)
    model.config.max_position_embeddings = 40
    ids = loaded.tokenizer("The cluster " * 30 + "Answer:")["input_ids"]
    kept = loaded.tokenizer.decode(ids[-30:])
    assert loaded.tokenizer(kept)["input_ids"] == ids[-30:]
    long, short = "The cluster " * 30 + "Answer:", kept
    assert generate(model, loaded.tokenizer, [long], 10) == generate(model, loaded.tokenizer, [short], 10)
    assert generate(model, loaded.tokenizer, [long], 500) == generate(model, loaded.tokenizer, [":"], 39)


def test_rows_that_do_not_fit_the_choice_task_are_named():
    check = task_named("choice").check
    assert check(CLOSED[0]) is None
    assert check(Example("0", "i", "", "yes", choices=("yes",))) == "has fewer than two choices"
    assert check(Example("0", "i", "", "yes")) == "has fewer than two choices"
    assert check(Example("0", "i", "", "so", choices=("yes", "no"))) == "has an answer that is none of its choices"


def test_any_row_fits_the_generation_task():
    assert [task_named("generation").check(row) for row in (*OPEN, *CLOSED)] == [None] * 10


def test_an_unknown_task_names_the_closest_one():
    with pytest.raises(DamocError, match="did you mean 'generation'") as caught:
        task_named("generations")
    assert caught.value.problems[0].where == "field evaluation.task"


def test_the_metric_is_the_one_of_the_config_or_the_tasks_own():
    choice = task_named("choice")
    assert metric_of(choice, None) == "accuracy"
    assert metric_of(choice, "bits_per_byte") == "bits_per_byte"
    with pytest.raises(DamocError, match="has no metric 'f1'") as caught:
        metric_of(choice, "f1")
    assert "accuracy_per_byte" in caught.value.problems[0].fix


def test_every_task_ranks_by_a_metric_that_it_knows():
    for name, task in tasks().items():
        assert task.name == name
        assert task.main_metric in task.higher_is_better


def test_scores_survive_json_to_six_decimals():
    scores = RowScores(np.array([1 / 3, 2.0]), np.array([1.0, 3.0]))
    again = RowScores.from_json(scores.to_json())
    assert again.numerator.tolist() == [0.333333, 2.0]
    assert again.score() == pytest.approx(scores.score(), abs=1e-6)
