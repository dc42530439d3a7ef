from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from damoc.condense.rewrite import RewriteOutcome, RewriteTask, clean_reply, rewrite, rewrite_prompt
from damoc.condense.rules import violations

ORIGINAL = "The service of the region keeps 30 copies of every object, and it does not delete any of them for 7 days."
DRAFT = "service keeps 30 copies object not delete 7 days"
FAR = "It keeps 30 copies and does not delete for 7 days."
NEAR = "The service keeps 30 copies of every object and does not delete them for 7 days."
LOST = "The service keeps copies of every object and does not delete them for 7 days."
TASK = RewriteTask(ORIGINAL, DRAFT, word_limit=18, draft_f1=0.4)


class Scripted:
    """A rewriter that answers the text between the ``<original>`` marks with given texts, one a round."""

    identity = "scripted"

    def __init__(self, script: dict[str, Sequence[str | None]]) -> None:
        self.script = {original: list(replies) for original, replies in script.items()}
        self.calls: list[tuple[list[str], list[int], float, int]] = []

    def complete(
        self,
        prompts: Sequence[str],
        max_tokens: int | Sequence[int],
        temperature: float = 0.0,
        seed: int = 0,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[str | None]:
        assert not isinstance(max_tokens, int)
        self.calls.append((list(prompts), list(max_tokens), temperature, seed))
        originals = [prompt.split("<original>\n")[1].split("\n</original>")[0] for prompt in prompts]
        return [self.script[original].pop(0) for original in originals]

    def option_probabilities(
        self,
        prompts: Sequence[str],
        options: Sequence[str],
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> NDArray[np.float64]:
        raise AssertionError("a rewriter is asked for texts only")


def _overlap(originals: list[str], candidates: list[str]) -> NDArray[Any]:
    """Share of the original's words that are still there: a score that needs no encoder."""

    def one(original: str, candidate: str) -> float:
        words = set(original.lower().split())
        return len(words & set(candidate.lower().split())) / max(1, len(words))

    return np.array([one(*pair) for pair in zip(originals, candidates, strict=True)])


def _rules(original: str, candidate: str, task: RewriteTask) -> tuple[str, ...]:
    return violations(original, candidate, task.fixed, task.word_limit)


def _one(replies: Sequence[str | None], threshold: float = 0.7, rounds: int = 3) -> tuple[RewriteOutcome, Scripted]:
    chat = Scripted({ORIGINAL: replies})
    (outcome,) = rewrite([TASK], chat, _overlap, threshold, _rules, rounds)
    return outcome, chat


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_a_text_is_done_in_the_round_in_which_it_passes(failures: int) -> None:
    outcome, chat = _one([LOST, FAR][:failures] + [NEAR])

    assert (outcome.text, outcome.reason, outcome.rounds) == (NEAR, "passed", failures + 1)
    assert len(chat.calls) == failures + 1
    assert sum(outcome.rejected.values()) == failures


def test_later_rounds_sample_with_seeds_of_their_own() -> None:
    _, chat = _one([LOST, FAR, NEAR])

    assert [temperature for _, _, temperature, _ in chat.calls] == [0.0, 0.3, 0.5]
    assert len({seed for *_, seed in chat.calls}) == 3


def test_after_the_last_round_no_text_is_given() -> None:
    outcome, _ = _one([FAR, LOST, "Objects: 30 copies, not deleted for 7 days."], threshold=0.99)

    assert outcome.text is None
    assert outcome.f1 == _overlap([ORIGINAL], [FAR])[0]
    assert outcome.reason == f"best F1 {outcome.f1:.4g} below 0.99"
    assert outcome.rejected == {"below threshold": 2, "numbers changed": 1}


def test_a_text_that_comes_back_ends_the_rewriting() -> None:
    outcome, chat = _one([LOST, LOST, NEAR])

    assert outcome.text is None
    assert (outcome.rounds, len(chat.calls)) == (2, 2)
    assert outcome.reason == "refused: numbers changed"


def test_the_draft_itself_is_no_rewrite() -> None:
    assert _one([DRAFT, NEAR])[0].rounds == 1


def test_two_rewrites_that_hardly_improve_end_the_rewriting() -> None:
    other, third = FAR.replace("It", "Region"), FAR.replace("It", "Copies:")
    outcome, _ = _one([FAR, other.replace("Region", "This"), third, NEAR], threshold=0.9, rounds=10)

    assert outcome.rounds == 3


def test_a_lost_number_is_refused_whatever_the_score_and_named_in_the_feedback() -> None:
    outcome, chat = _one([LOST, NEAR], threshold=0.1)

    assert outcome.text == NEAR
    assert outcome.rejected == {"numbers changed": 1}
    assert "numbers changed: missing 30" in chat.calls[1][0][0]
    assert LOST in chat.calls[1][0][0]


@pytest.mark.parametrize(
    ("task", "reply", "rule"),
    [
        (
            RewriteTask("Does it keep the 3 old copies of a file?", "keep 3 copies?", 9, True),
            "It keeps 3 copies.",
            "question",
        ),
        (
            RewriteTask("It does not delete the copies at all.", "not delete copies", 9),
            "It deletes copies.",
            "negations",
        ),
        (
            RewriteTask("Is it safe to use the old drug?", "safe use drug?", 9, True),
            "Yes, safe?",
            "yes or no",
        ),
        (
            RewriteTask("Which one is safe?", "one safe?", 9, True, ("aspirin",)),
            "Is aspirin safe?",
            "answer given away",
        ),
        (RewriteTask("The drug is given to all.", "drug given all", 6), "Препарат дают всем.", "script"),
        (RewriteTask("The drug is given to all.", "drug given all", 3), "Drug is given all", "too long"),
    ],
)
def test_what_breaks_a_rule_is_never_taken(task: RewriteTask, reply: str, rule: str) -> None:
    (outcome,) = rewrite([task], Scripted({task.original: [reply]}), _overlap, 0.0, _rules, rounds=1)

    assert outcome.text is None
    assert outcome.reason.startswith(f"refused: {rule}")


def test_the_best_of_several_rewrites_is_reported_not_the_last() -> None:
    worse = "30 copies, not 7 days."
    outcome, _ = _one([FAR, worse], threshold=0.99, rounds=2)

    assert outcome.f1 == _overlap([ORIGINAL], [FAR])[0] > _overlap([ORIGINAL], [worse])[0]


def test_no_reply_leaves_the_text_open_for_the_next_round() -> None:
    outcome, chat = _one([None, "   ", NEAR])

    assert outcome.text == NEAR
    assert outcome.rejected == {"no reply": 2}
    assert DRAFT in chat.calls[2][0][0]
    silent, _ = _one([None, None, None])
    assert (silent.text, silent.reason) == (None, "no reply")
    assert math.isnan(silent.f1)


def test_all_open_texts_are_asked_and_scored_at_once() -> None:
    originals = [f"The service keeps {count} copies of the whole object." for count in range(4)]
    tasks = [RewriteTask(original, "keeps copies", 9) for original in originals]
    chat = Scripted(
        {original: [f"The service keeps {count} of the copies.", original] for count, original in enumerate(originals)}
    )
    sizes: list[int] = []
    reports: list[tuple[int, int]] = []

    def score(texts: list[str], candidates: list[str]) -> NDArray[Any]:
        sizes.append(len(texts))
        return _overlap(texts, candidates)

    thresholds = [0.5, 0.95, 0.5, 0.95]
    outcomes = rewrite(tasks, chat, score, thresholds, _rules, on_progress=lambda *report: reports.append(report))

    assert [outcome.rounds for outcome in outcomes] == [1, 2, 1, 2]
    assert [len(prompts) for prompts, *_ in chat.calls] == [4, 2]
    assert sizes == [4, 2]
    assert reports == [(2, 4), (4, 4)]


def test_a_score_that_is_not_a_number_never_passes() -> None:
    chat = Scripted({ORIGINAL: [NEAR]})
    (outcome,) = rewrite([TASK], chat, lambda a, b: np.full(len(a), np.nan), 0.0, _rules, rounds=1)

    assert outcome.text is None


def test_no_texts_need_no_rewriter() -> None:
    assert rewrite([], Scripted({}), _overlap, 0.5, _rules) == []


_PIECES = st.lists(
    st.sampled_from(
        ["the", "service", "keeps", "30", "7", "copies", "days", "not", "Yes,", "?", "```", "Sure,", "объект"]
    ),
    max_size=14,
).map(" ".join)


@given(replies=st.lists(st.none() | _PIECES | st.sampled_from([NEAR, FAR, ORIGINAL, DRAFT]), min_size=4, max_size=4))
def test_a_text_that_is_given_breaks_no_rule_and_reaches_the_threshold(replies: list[str | None]) -> None:
    outcome, _ = _one(replies, threshold=0.3, rounds=4)

    assert 1 <= outcome.rounds <= 4
    assert sum(outcome.rejected.values()) >= outcome.rounds - (outcome.text is not None)
    if outcome.text is not None:
        assert violations(ORIGINAL, outcome.text, (), TASK.word_limit) == ()
        assert outcome.f1 == _overlap([ORIGINAL], [outcome.text])[0] >= 0.3
    else:
        assert outcome.reason != "passed"


@given(
    replies=st.permutations([NEAR, FAR, "30 copies, not deleted, 7 days.", "The service keeps 30, not deleted 7 days."])
)
def test_more_rounds_never_make_the_best_score_worse(replies: list[str]) -> None:
    scores = [_one(replies, threshold=1.1, rounds=rounds)[0].f1 for rounds in range(1, 5)]

    assert scores == sorted(scores)


@pytest.mark.parametrize(
    "reply",
    [
        "Keep the copies.",
        "  Keep the copies.\n",
        '"Keep the copies."',
        "“Keep the copies.”",
        "Sure, here is the rewritten text:\n\nKeep the copies.",
        "Here's a fluent version: Keep the copies.",
        "Here is the text:\n```text\nKeep the copies.\n```\nLet me know!",
        "```\nKeep the copies.\n```",
        "<think>the draft lacks a verb</think>Keep the copies.",
        "**Rewritten text:** Keep the copies.",
        "Keep the copies.\n\nNote: I removed the second sentence.",
        "Keep the copies.\n\n(I have kept all numbers.)",
    ],
)
def test_what_a_chat_model_puts_around_a_text_goes(reply: str) -> None:
    assert clean_reply(reply, "Keep all of the copies.") == "Keep the copies."


@pytest.mark.parametrize(
    "text",
    [
        '"Keep" is what it says.',
        "Here is the rule: keep copies.",
        "Run it:\n\n```\nls\n```",
        "Keep.\n\nNote: not for you.",
        '"Keep."',
    ],
)
def test_what_the_original_has_itself_stays(text: str) -> None:
    assert clean_reply(text, text) == text


def test_a_question_is_asked_for_as_a_question() -> None:
    asked = rewrite_prompt(RewriteTask("Is it safe?", "safe?", 3, is_question=True), "safe?", ("x",))

    assert "It is a question" in asked and "at most 3 words" in asked and "\n- x" in asked
    assert "It is a question" not in rewrite_prompt(TASK, DRAFT, ())


@pytest.mark.parametrize(
    "original", [ORIGINAL, "该服务在整个区域内保留每个对象的三十个副本，并且在七天之内不会删除其中的任何一个。"]
)
def test_there_is_room_for_the_longest_rewrite_but_not_for_a_talk(original: str) -> None:
    chat = Scripted({original: [None]})
    rewrite([RewriteTask(original, "x", len(original.split()))], chat, _overlap, 0.5, _rules, rounds=1)
    (limit,) = chat.calls[0][1]

    assert len(original.encode()) / 3 < limit < len(original.encode())
