from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from damoc.chat import LocalChat
from damoc.config import DataCompression, LocalModel
from damoc.data.example import Example
from damoc.errors import DamocError
from damoc.signals.rating import ACCURACY, COMPLEXITY, QUALITY, Rubric, expected_score, fit, fitting_requests, question
from damoc.signals.registry import SignalContext, measure_signals

NAMES = ("judge", "complexity", "quality")
ROWS = [
    Example("0", "Which colour?", "The sky.", "blue"),
    Example("1", "Is it?", "It is.", "yes", ("yes", "no")),
    Example("2", "Which colour?", "The sky.", "perhaps green, {answer} {question}"),
]


class LetterJudge:
    """Rates by the number of letters: deterministic, and remembers what it was asked."""

    identity = "letters"
    context = None

    def __init__(self, silent: str = "\0") -> None:
        self.asked: list[str] = []
        self.silent = silent

    def complete(self, prompts: Sequence[str], max_tokens: object, **options: object) -> list[str | None]:
        raise AssertionError("a rating needs no text")

    def prompt_tokens(self, prompts: Sequence[str]) -> list[int]:
        return [-(-len(prompt.encode()) // 3) for prompt in prompts]

    def option_probabilities(
        self,
        prompts: Sequence[str],
        options: Sequence[str],
        on_progress: Callable[[int, int], None] = lambda d, t: None,
    ) -> np.ndarray:
        self.asked += prompts
        weights = np.array([[(len(prompt) * (at + 3)) % 7 + 1.0 for at, _ in enumerate(options)] for prompt in prompts])
        weights[[self.silent in prompt for prompt in prompts]] = np.nan
        return weights / weights.sum(axis=1, keepdims=True)


def context_of(folder: Path, stand_in: LetterJudge | None, rows: Sequence[Example] = ROWS, **signals: object):
    config = DataCompression.model_validate({"signals": signals})
    context = SignalContext(rows, [], config, folder)
    if stand_in is not None:
        context.__dict__["judge"] = stand_in
    return context


@pytest.mark.parametrize(("name", "rubric"), zip(NAMES, (ACCURACY, COMPLEXITY, QUALITY), strict=True))
def test_a_rating_is_the_expected_score(tmp_path, name, rubric):
    judge = LetterJudge()
    (measured,) = (measure_signals((name,), context_of(tmp_path, judge))[name],)
    requests = [rubric.render(row) for row in ROWS]
    scores = [float(score) for score in rubric.scale]
    direct = np.average(
        np.tile(scores, (3, 1)), axis=1, weights=LetterJudge().option_probabilities(requests, rubric.scale)
    )
    assert measured.dtype == np.float64
    assert np.allclose(measured, direct, atol=1e-6)
    assert ((measured >= rubric.lowest) & (measured <= rubric.highest)).all()


def test_what_was_rated_is_not_asked_again_and_silence_is(tmp_path):
    judge, again = LetterJudge(silent="green"), LetterJudge()
    first = measure_signals(("judge",), context_of(tmp_path, judge))["judge"]
    assert np.isnan(first).tolist() == [False, False, True]
    second = measure_signals(("judge",), context_of(tmp_path, again))["judge"]
    assert second[:2].tolist() == first[:2].tolist()
    assert np.isfinite(second).all()
    assert [request.count("green") for request in again.asked] == [1]


def test_another_judge_is_asked_afresh(tmp_path):
    other = LetterJudge()
    other.identity = "other"
    measure_signals(NAMES, context_of(tmp_path, LetterJudge()))
    measure_signals(NAMES, context_of(tmp_path, other))
    assert len(other.asked) == 8  # two rows have one question, so their complexity is asked once


def test_complexity_is_of_the_question_alone_and_braces_in_a_text_are_text():
    for rubric in (ACCURACY, QUALITY):
        assert "perhaps green, {answer} {question}" in rubric.render(ROWS[2])
    assert "green" not in COMPLEXITY.render(ROWS[2])
    assert "Which colour?\n\nThe sky." in COMPLEXITY.render(ROWS[2])
    assert question(ROWS[1]) == "Is it?\n\nIt is.\n\nOptions: yes, no"


texts = st.text(st.characters(codec="utf-8"), max_size=80)


@given(texts, texts, texts, st.integers(0, 200))
def test_a_request_never_takes_more_than_its_room_and_always_ends_with_what_is_asked(
    instruction, given_input, output, more
):
    row = Example("0", instruction, given_input, output)
    for rubric in (ACCURACY, COMPLEXITY, QUALITY):
        room = rubric.frame + 16 + more
        request = rubric.render(row, room)
        assert len(request.encode()) <= room
        assert request.endswith(rubric.request[-60:])


@given(st.lists(texts, min_size=1, max_size=4), st.integers(40, 300))
def test_only_the_longest_texts_are_cut(given_texts, room):
    fitting = fit(given_texts, room)
    sizes = [len(text.encode()) for text in given_texts]
    if sum(sizes) <= room:
        assert fitting == given_texts
    level = min((size for size, text, cut in zip(sizes, given_texts, fitting, strict=True) if text != cut), default=0)
    for size, text, cut in zip(sizes, given_texts, fitting, strict=True):
        if text != cut:
            assert cut.endswith(" [...]")
            assert text.startswith(cut.removesuffix(" [...]"))
        else:
            assert level == 0 or size <= level


def test_a_text_is_cut_between_words_and_unbroken_writing_anywhere():
    assert fit(["alpha beta gamma delta epsilon"], 26) == ["alpha beta gamma [...]"]
    assert fit(["a short one", "東京" * 40], 71) == ["a short one", "東京" * 9 + " [...]"]


def test_a_scale_is_written_in_digits_that_are_asked_for():
    for rubric in (ACCURACY, COMPLEXITY, QUALITY):
        assert f"one digit from {rubric.lowest} to {rubric.highest}" in rubric.request
    assert ACCURACY.scale == ["0", "1", "2", "3", "4", "5"]
    assert COMPLEXITY.scale == QUALITY.scale == ["1", "2", "3", "4", "5", "6"]


@given(st.lists(st.lists(st.floats(0.01, 1), min_size=3, max_size=3), max_size=5))
def test_expected_scores_are_those_of_numpy(weights):
    shares = np.array(weights).reshape(-1, 3)
    shares /= shares.sum(axis=1, keepdims=True)
    expected = [np.dot(row, [2, 3, 4]) for row in shares]
    assert np.allclose(expected_score(shares, Rubric("{question}", 2, 4)), expected)


def test_too_little_room_for_the_request_is_one_clear_error(tmp_path):
    with pytest.raises(DamocError, match="signals.max_length: the judge reads 64 tokens at most"):
        measure_signals(("quality",), context_of(tmp_path, LetterJudge(), max_length=64))


ENGLISH = (
    "A quokka is a small macropod about the size of a domestic cat, and it lives on some of the islands off the "
    "coast of Western Australia (Rottnest Island, just off Perth, has 10,000 of them). "
)
CHINESE = "短尾矮袋鼠是一种体型与家猫相仿的小型有袋动物，栖息在西澳大利亚沿岸的几座小岛上，以草和树叶为食。"
LONG_ROWS = [
    Example("english", "What is a quokka? Use the text.", ENGLISH * 60, ENGLISH * 9),
    Example("chinese", "短尾矮袋鼠是什么？", CHINESE * 60, CHINESE * 20),
    Example("mixed", "What is a quokka?", CHINESE * 60, ENGLISH * 60),
    Example("answer", "What is a quokka?", "", CHINESE * 60),
    Example("signs", "What is it?", "🦘 " * 900, "∑ ≠ ½ " * 400),
]


@pytest.mark.parametrize("max_length", [512, 1024, 4096])
@pytest.mark.parametrize("template", [None, "<s>{{ messages[0]['content'] }}\n[reply]"], ids=["plain", "template"])
def test_a_local_judge_reads_the_whole_request_however_long_the_texts_are(
    zoo, tmp_path, monkeypatch, template, max_length
):
    model = shutil.copytree(zoo / "tiny-reference", tmp_path / "model")
    if template:
        (model / "chat_template.jinja").write_text(template)
    read: list[list[int]] = []

    def run(chat, rows, *options, **more):
        read.extend(list(row.ids) for row in rows)
        return original(chat, rows, *options, **more)

    original = LocalChat._run
    monkeypatch.setattr(LocalChat, "_run", run)
    context = context_of(tmp_path, None, LONG_ROWS, judge={"model": str(model)}, max_length=max_length)
    assert np.isfinite(measure_signals(("judge",), context)["judge"]).all()

    tokenizer = context.judge._loaded.tokenizer
    instruction, _, closing = (part.strip() for part in re.split("{question}|{answer}", ACCURACY.request))
    assert len(read) == len(LONG_ROWS)
    for ids in read:
        text = tokenizer.decode(ids, skip_special_tokens=True)
        assert text.removeprefix("<s>").startswith(instruction)
        assert text.removesuffix("\n[reply]").endswith(closing)
        assert 0.9 * min(max_length, 1024) < len(ids) < min(max_length, 1024)
        assert " [...]" in text


def test_what_a_judge_has_room_for_is_not_cut(zoo, tmp_path):
    judge = LocalChat(LocalModel(model=str(zoo / "tiny-reference")), tmp_path)
    rows = [*ROWS, *LONG_ROWS]
    whole = [ACCURACY.render(row) for row in rows]
    most = max(judge.prompt_tokens(whole))
    assert fitting_requests(ACCURACY, rows, judge, most) == whole
    assert fitting_requests(ACCURACY, rows, judge, most - 1) != whole
    assert fitting_requests(ACCURACY, rows[:3], judge, 512) == whole[:3]


@given(st.lists(st.tuples(texts, texts, texts), max_size=4), st.integers(32, 120))
def test_requests_fit_a_judge_that_reads_bytes(parts, more):
    judge = LetterJudge()
    judge.prompt_tokens = lambda prompts: [len(prompt.encode()) for prompt in prompts]
    rows = [Example(str(at), *own) for at, own in enumerate(parts)]
    for rubric in (ACCURACY, COMPLEXITY):
        for request in fitting_requests(rubric, rows, judge, rubric.frame + more):
            assert len(request.encode()) <= rubric.frame + more
            assert request.endswith(rubric.request[-60:])


def test_a_judge_whose_context_is_too_short_is_one_clear_error(tmp_path):
    judge = LetterJudge()
    judge.context = 100
    with pytest.raises(DamocError, match="(?s)signals.judge: the judge reads 100 tokens at most.*choose a model"):
        measure_signals(("quality",), context_of(tmp_path, judge))


def test_another_length_is_another_rating(tmp_path):
    judge = LetterJudge()
    for max_length in (1024, 512, 1024):
        measure_signals(("judge",), context_of(tmp_path, judge, max_length=max_length))
    assert len(judge.asked) == 6


def test_no_rows_have_no_ratings(tmp_path):
    assert measure_signals(NAMES, context_of(tmp_path, LetterJudge(), []))["quality"].shape == (0,)


def test_a_toy_model_rates_in_its_own_words_and_the_same_each_time(zoo, tmp_path):
    judge = {"model": str(zoo / "tiny-reference")}
    found = [measure_signals(NAMES, context_of(tmp_path / name, None, judge=judge)) for name in "ab"]
    for name, lowest in zip(NAMES, (0, 1, 1), strict=True):
        assert np.array_equal(found[0][name], found[1][name])
        assert ((found[0][name] > lowest) & (found[0][name] < lowest + 6)).all()
    assert len(set(found[0]["judge"])) == 3
