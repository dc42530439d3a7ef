from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from nltk.stem.porter import PorterStemmer
from rouge_score.tokenize import tokenize
from sklearn.metrics import f1_score

from damoc.condense.bertscore import BertScorer
from damoc.config import EvaluationConfig, SelectionConfig
from damoc.data.example import Example
from damoc.data.presets import PRESETS
from damoc.data.prompts import encode, render_prompt
from damoc.errors import DamocError
from damoc.evaluation import RowScores, Settings, known_tasks, task_named, task_of
from damoc.evaluation.few_shot import demonstrations, with_demonstrations
from damoc.evaluation.generation import generate
from damoc.evaluation.likelihood import choice_bits
from damoc.evaluation.registry import metric_of, metrics_of
from damoc.models.likelihood import answer_losses, choice_losses
from damoc.models.load import LoadedModel
from damoc.signals.embedding import PACKAGED

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


def settings(*metrics: str, max_length: int = 512, shown: list[Example] | None = None, **config: Any) -> Settings:
    return Settings(EvaluationConfig(**config), metrics, max_length, shown or [])


def values(scores: RowScores) -> list[float]:
    """What the rows of a mean have."""
    assert (scores.records[:, 1] == 1).all()
    return scores.records[:, 0].tolist()


def bits(loaded: LoadedModel, row: Example, answer: str, end: bool = True) -> float:
    """Bits of an answer, and of the end token, after the prompt: one forward pass, without damoc's encoding."""
    tokenizer = loaded.tokenizer
    prompt = tokenizer(render_prompt(row.instruction, row.input, row.choices))["input_ids"]
    whole = tokenizer(render_prompt(row.instruction, row.input, row.choices) + " " + answer)["input_ids"]
    assert whole[: len(prompt)] == prompt
    whole = [*whole, tokenizer.eos_token_id] if end else whole
    with torch.inference_mode():
        logs = torch.log_softmax(loaded.model(input_ids=torch.tensor([whole])).logits[0].double(), dim=1)
    return -sum(float(logs[at - 1, whole[at]]) for at in range(len(prompt), len(whole))) / math.log(2)


def test_choice_picks_what_brute_force_finds_most_likely(loaded):
    scores = task_named("choice").measure(loaded, CLOSED, settings("accuracy", batch_size=4))
    costs = [[bits(loaded, row, choice, end=False) for choice in CHOICES] for row in CLOSED]
    sizes = [len(choice) for choice in CHOICES]
    gold = [row.choices.index(row.output) for row in CLOSED]
    likely = [int(np.argmin(cost)) for cost in costs]
    assert values(scores["accuracy"]) == [float(own == right) for own, right in zip(likely, gold, strict=True)]
    assert values(scores["accuracy_per_byte"]) == [
        float(int(np.argmin(np.divide(cost, sizes))) == right) for cost, right in zip(costs, gold, strict=True)
    ]
    assert scores["bits_per_byte"].records[:, 0] == pytest.approx(
        [bits(loaded, row, row.output) for row in CLOSED], abs=1e-2
    )
    assert scores["bits_per_byte"].records[:, 1].tolist() == [len(row.output) for row in CLOSED]
    assert 0 < scores["accuracy"].score() < 1
    names = [row.output for row in CLOSED]
    expected = f1_score(names, [CHOICES[at] for at in likely], average="macro")
    assert scores["macro_f1"].score() == pytest.approx(expected)


def test_likelihoods_of_choices_are_those_of_brute_force_whatever_they_share(loaded):
    """One letter each, words that start alike, and one that starts another: then ends count."""
    for choices in (("A", "B", "C"), ("the node", "the cluster", "a queue"), ("no", "no node", "yes")):
        rows = [Example(str(at), "Which?", f"Case {at}", choices[at], choices=choices) for at in range(3)]
        found, gold, _ = choice_bits(loaded, rows, 2, 512, lambda done, total: None)
        end = "no" in choices
        for row, own in zip(rows, found, strict=True):
            assert own == pytest.approx([bits(loaded, row, choice, end) for choice in choices], abs=2e-2)
        assert gold.records[:, 0] == pytest.approx([bits(loaded, row, row.output) for row in rows], abs=2e-2)


def test_choices_of_one_token_cost_one_pass_a_row(toy):
    loaded = toy("tiny-reference")
    choices = ("A", "B", "C", "D")
    row = Example("0", "Which letter?", "", "B", choices=choices)
    encoded = [encode(loaded.tokenizer, row, 512, answer=choice, end=choice == "B") for choice in choices]
    assert [own.answer_length for own in encoded] == [1, 2, 1, 1]
    seen: list[tuple[int, int]] = []
    together = choice_losses(loaded.model, [encoded], 0, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 1)]
    apart = answer_losses(loaded.model, encoded, 0)
    assert all(np.allclose(one, other, atol=1e-4) for one, other in zip(together[0], apart, strict=True))


def test_macro_f1_is_left_out_where_rows_have_choices_of_their_own(toy):
    rows = [CLOSED[0], Example("x", "i", "", "a", choices=("a", "b"))]
    scores = task_named("choice").measure(toy("tiny-reference"), rows, settings("accuracy"))
    assert "macro_f1" not in scores


def test_choices_that_the_model_cannot_tell_apart_go_to_the_earlier_one(toy):
    twins = [
        Example("0", "Say it.", "", "a", choices=("a", " a")),
        Example("1", "Say it.", "", " a", choices=("a", " a")),
    ]
    scores = task_named("choice").measure(toy("tiny-reference"), twins, settings("accuracy"))
    assert values(scores["accuracy"]) == [1.0, 0.0]


def test_bits_per_byte_are_those_of_a_direct_pass(loaded):
    scores = task_named("generation").measure(loaded, OPEN, settings("bits_per_byte", batch_size=3))
    assert set(scores) == {"bits_per_byte", "cut_prompts"}
    own = scores["bits_per_byte"]
    assert own.records[:, 0] == pytest.approx([bits(loaded, row, row.output) for row in OPEN], abs=2e-2)
    assert own.records[:, 1].tolist() == [len(row.output.encode()) for row in OPEN]
    assert own.score() == pytest.approx(own.records[:, 0].sum() / own.records[:, 1].sum())
    assert values(scores["cut_prompts"]) == [0.0] * 3


def test_an_answer_that_is_cut_is_counted_as_far_as_it_was_read(toy):
    """Otherwise a model that needs more tokens for an answer would seem to need fewer bits for it."""
    loaded = toy("tiny-reference")
    long = Example("0", "Say it.", "", "The operation deletes the cluster and its nodes. " * 20)
    measure = task_named("generation").measure
    whole, cut = (measure(loaded, [long], settings("bits_per_byte", max_length=limit)) for limit in (900, 60))
    tokens = len(loaded.tokenizer(long.output.strip())["input_ids"]) + 1
    assert cut["bits_per_byte"].records[0, 1] == pytest.approx(len(long.output) * 59 / tokens, rel=0.01)
    assert whole["bits_per_byte"].records[0, 1] == len(long.output)
    assert (whole["cut_prompts"].score(), cut["cut_prompts"].score()) == (0.0, 1.0)


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
    scores = task_named("generation").measure(loaded, OPEN, settings("rouge_l", batch_size=2))
    generated = {"rouge_1", "rouge_2", "rouge_l", "empty_answers", "answer_bytes"}
    assert set(scores) == {"bits_per_byte", "cut_prompts", *generated}
    sizes = [len(loaded.tokenizer(row.output)["input_ids"]) for row in OPEN]
    answers = [
        greedy(loaded, render_prompt(row.instruction, row.input), int(np.quantile(sizes, 0.95)) + 8) for row in OPEN
    ]
    expected = [lcs_f1(row.output, answer) for row, answer in zip(OPEN, answers, strict=True)]
    assert values(scores["rouge_l"]) == pytest.approx(expected)
    assert 0 < sum(expected) < 3
    assert values(scores["empty_answers"]) == [float(answer.strip() == "") for answer in answers]
    assert values(scores["answer_bytes"]) == [len(answer.strip().encode()) for answer in answers]


def test_bertscore_is_measured_where_it_is_wanted(toy):
    loaded = toy("tiny-reference")
    scores = task_named("summarization").measure(loaded, OPEN, settings("rouge_l", "bertscore", max_new_tokens=12))
    answers = [greedy(loaded, render_prompt(row.instruction, row.input), 12).strip() for row in OPEN]
    expected = BertScorer(PACKAGED, 5).score_rewritten([row.output for row in OPEN], answers)
    assert values(scores["bertscore"]) == pytest.approx([score.f1 for score in expected])


def test_a_short_answer_ends_with_its_line_and_is_graded_against_every_alias(toy):
    loaded = toy("tiny-llama-cloud")
    prompts = [render_prompt(row.instruction, row.input) for row in OPEN]
    written = [greedy(loaded, prompt, 32).partition("\n")[0].strip() for prompt in prompts]
    rows = [replace(row, output="nothing like it", aliases=(own,)) for row, own in zip(OPEN, written, strict=True)]
    scores = task_named("short_answer").measure(loaded, rows, settings("f1"))
    said = [float(answer != "") for answer in written]
    assert values(scores["exact_match"]) == values(scores["f1"]) == said
    assert scores["empty_answers"].score() == pytest.approx(1 - np.mean(said))
    assert 0 < sum(said)
    bare = task_named("short_answer").measure(loaded, [replace(row, aliases=()) for row in rows], settings("f1"))
    assert values(bare["exact_match"]) == [0.0] * 3


def greedy(loaded: LoadedModel, prompt: str, steps: int) -> str:
    ids = loaded.tokenizer(prompt)["input_ids"]
    start = len(ids)
    with torch.inference_mode():
        for _ in range(steps):
            ids.append(int(loaded.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == loaded.tokenizer.eos_token_id:
                break
    return loaded.tokenizer.decode(ids[start:], skip_special_tokens=True)


@pytest.mark.parametrize("name", ["tiny-reference", "tiny-gemma2-mixed", "tiny-neox-stdlib", "tiny-qwen2-cloud"])
def test_batched_generation_is_step_by_step_generation(toy, name):
    loaded = toy(name)
    prompts = [render_prompt(row.instruction, row.input) for row in OPEN]
    seen: list[tuple[int, int]] = []
    answers = generate(loaded.model, loaded.tokenizer, prompts, 12, 2, lambda done, total: seen.append((done, total)))
    assert answers == [greedy(loaded, prompt, 12).strip() for prompt in prompts]
    assert seen == [(2, 3), (3, 3)]


@pytest.mark.parametrize("name", ["tiny-reference", "tiny-gemma2-mixed", "tiny-qwen2-cloud"])
def test_an_answer_ends_before_the_first_of_its_stop_strings(toy, name):
    """Whatever the tokens that the stop string is spread over."""
    loaded = toy(name)
    prompts = [render_prompt(row.instruction, row.input) for row in OPEN]
    plain = [greedy(loaded, prompt, 24) for prompt in prompts]
    stops = ["e", "es", "s ", "\n"]
    assert any(stop in answer for answer in plain for stop in stops)
    cut = [min((answer.partition(stop)[0] for stop in stops), key=len).strip() for answer in plain]
    assert generate(loaded.model, loaded.tokenizer, prompts, 24, 2, stop=stops) == cut


def test_a_batch_ends_with_its_last_row(toy):
    loaded = toy("tiny-reference")
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    prompts = [render_prompt(row.instruction, row.input) for row in OPEN]
    longest = max(
        len(loaded.tokenizer(text)["input_ids"]) for text in generate(loaded.model, loaded.tokenizer, prompts, 40)
    )
    hook = loaded.model.register_forward_hook(count)
    try:
        generate(loaded.model, loaded.tokenizer, prompts, 40)
        whole, calls = calls, 0
        generate(loaded.model, loaded.tokenizer, prompts, 40, stop=["e", "a", "o"])
    finally:
        hook.remove()
    assert calls < whole <= 40
    assert longest > calls


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


@pytest.mark.parametrize("name", ["generation", "summarization", "short_answer", "financial_qa"])
def test_any_row_fits_a_task_with_written_answers(name):
    assert [task_named(name).check(row) for row in (*OPEN, *CLOSED)] == [None] * 10


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
    for name, task in known_tasks().items():
        assert task.name == name
        assert task.main_metric in task.higher_is_better


def config(preset: str | None, **evaluation: Any) -> SelectionConfig:
    dataset = {"preset": preset} if preset else {"source": "rows.jsonl"}
    candidates = [{"id": "a", "model": "./a"}, {"id": "b", "model": "./b"}]
    raw = {"name": "n", "dataset": dataset, "evaluation": evaluation, "candidates": candidates}
    return SelectionConfig.model_validate(raw)


def test_a_dataset_brings_its_task_unless_the_config_names_one():
    assert {name: task_of(config(name)).name for name in PRESETS} == {
        "pubmedqa": "choice",
        "pubmedqa_long": "generation",
        "billsum": "summarization",
        "finqa": "financial_qa",
        "convfinqa": "financial_qa",
        "tat_qa": "financial_qa",
        "dolly": "generation",
        "nq_open": "short_answer",
        "web_questions": "short_answer",
        "squad": "short_answer",
        "squad_v2": "short_answer",
    }
    assert task_of(config(None)).name == "generation"
    assert task_of(config("squad", task="generation")).name == "generation"


def test_what_is_to_be_shown_is_measured_beside_the_metric_that_ranks():
    task = task_named("choice")
    assert metrics_of(task, EvaluationConfig(also=["macro_f1", "accuracy"])) == ["accuracy", "macro_f1"]
    with pytest.raises(DamocError, match="has no metric 'rouge_l'") as caught:
        metrics_of(task, EvaluationConfig(also=["rouge_l"]))
    assert caught.value.problems[0].where == "field evaluation.also"


def test_worked_examples_are_drawn_by_the_seed_from_the_shorter_half():
    train = [Example(str(at), "i", "x" * at, "y") for at in range(20)]
    drawn = demonstrations(train, 4, seed=3)
    assert drawn == demonstrations(train[::-1], 4, seed=3) != demonstrations(train, 4, seed=4)
    assert len({row.id for row in drawn}) == 4
    assert max(len(row.input) for row in drawn) < 10
    assert demonstrations(train[:2], 5, seed=0) in ([train[0], train[1]], [train[1], train[0]])


def test_a_row_shows_solved_prompts_and_then_its_own():
    first, row = Example("0", "Add.", "1 + 1", "2"), Example("1", "Add.", "2 + 2", "4", aliases=("four",))
    shown = with_demonstrations(row, [first, first])
    assert render_prompt(shown.instruction, shown.input) == (
        "Add.\n\n1 + 1\n\nAnswer: 2\n\nAdd.\n\n1 + 1\n\nAnswer: 2\n\nAdd.\n\n2 + 2\n\nAnswer:"
    )
    assert (shown.id, shown.output, shown.aliases) == (row.id, row.output, row.aliases)
    assert with_demonstrations(row, []) is row


@pytest.mark.parametrize("name", ["choice", "generation"])
def test_every_score_is_measured_after_the_worked_examples(toy, name):
    loaded = toy("tiny-reference")
    rows, shown = CLOSED[:3], [CLOSED[4], CLOSED[5]]
    by_hand = [with_demonstrations(row, shown) for row in rows]
    few, hand = (
        task_named(name).measure(loaded, own, settings("bits_per_byte", shown=given))
        for own, given in ((rows, shown), (by_hand, []))
    )
    plain = task_named(name).measure(loaded, rows, settings("bits_per_byte"))
    assert (
        few["bits_per_byte"].score() == pytest.approx(hand["bits_per_byte"].score()) != plain["bits_per_byte"].score()
    )
