"""The rewriting loop: a language model mends condensed texts, round by round, until they say what the original said."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from damoc.chat import ChatModel
from damoc.chat.options import without_thoughts
from damoc.condense.rules import rule_name
from damoc.hashing import derive_seed

_TEMPERATURES = (0.0, 0.3, 0.5)
_LEAST_GAIN = 0.005
_PATIENCE = 2
_FENCE = re.compile(r"```[^\n`]*\n(.*?)\n?```", re.DOTALL)
_OPENER = re.compile(
    r"\W*(?:sure|certainly|of course|okay|ok|here(?:'s|’s| is| are)|(?:the )?rewritten)\b[^\n:]*:[*_]*\s*",
    re.IGNORECASE,
)
_CLOSER = re.compile(r"\n\s*\n\W*(?:note|let me know|i hope|i have|i['’]ve|feel free)\b.*\Z", re.IGNORECASE | re.DOTALL)
_QUOTES = (('"', '"'), ("“", "”"), ("«", "»"), ("„", "“"), ("'", "'"))


@dataclass(frozen=True)
class RewriteTask:
    """A text to rewrite.

    Args:
        original: what the rewrite has to say.
        draft: its condensed form, which the gate refused.
        word_limit: words at most.
        is_question: whether it has to end as a question.
        fixed: texts (options, the gold answer) that may neither go nor come.
        draft_f1: BERTScore F1 of the draft where it is known.
    """

    original: str
    draft: str
    word_limit: int
    is_question: bool = False
    fixed: tuple[str, ...] = ()
    draft_f1: float | None = None


@dataclass(frozen=True)
class RewriteOutcome:
    """How the rewriting of a text ended.

    Args:
        text: the rewrite that passed, None where none did.
        f1: BERTScore F1 of the best rewrite that broke no rule; NaN where there is none.
        rounds: rewrites asked for.
        reason: ``passed``, ``best F1 ... below ...``, ``refused: RULE`` (the rule broken most often) or ``no reply``.
        rejected: rewrites that did not pass, by the rule that they broke, ``below threshold`` or ``no reply``.
    """

    text: str | None
    f1: float
    rounds: int
    reason: str
    rejected: Mapping[str, int]


Score = Callable[[list[str], list[str]], NDArray[Any]]
Violations = Callable[[str, str, RewriteTask], tuple[str, ...]]


@dataclass
class _State:
    """Where the rewriting of one text is."""

    task: RewriteTask
    threshold: float
    draft: str
    problems: tuple[str, ...]
    seen: set[str]
    best: tuple[bool, float, int, str] | None = None
    rounds: int = 0
    idle: int = 0
    ended: bool = False
    rejected: Counter[str] = field(default_factory=Counter)


def rewrite(
    tasks: Sequence[RewriteTask],
    chat: ChatModel,
    score: Score,
    thresholds: float | Sequence[float],
    violations: Violations,
    rounds: int = 3,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[RewriteOutcome]:
    """Rewrites texts with feedback; every round asks for all open texts at once, and scores them at once.

    The first round takes the likeliest words, later ones sample (temperature 0.3, then 0.5). A text is done when a
    rewrite breaks no rule and reaches its threshold, when a text comes back that was there before, when two rewrites
    improved the best score by less than 0.005, or after the last round.

    Args:
        tasks: N texts.
        chat: the rewriter.
        score: originals and candidates to F1, float (n,); called once a round at most.
        thresholds: F1 to reach, one for all or one a text.
        violations: original, candidate and task to the rules that the candidate breaks.
        rounds: rewrites of a text at most.
        seed: of the sampling.
        on_progress: called with (texts done, N) after every round.

    Raises:
        InfrastructureError: the rewriter's endpoint fails; its replies are kept.
    """
    limits = [thresholds] * len(tasks) if isinstance(thresholds, (int, float)) else thresholds
    states = [_start(task, limit, violations) for task, limit in zip(tasks, limits, strict=True)]
    for turn in range(rounds):
        running = [state for state in states if not state.ended]
        if not running:
            break
        replies = chat.complete(
            [rewrite_prompt(state.task, state.draft, state.problems) for state in running],
            [_token_limit(state.task) for state in running],
            _TEMPERATURES[min(turn, len(_TEMPERATURES) - 1)],
            derive_seed(seed, "rewrite", str(turn)),
        )
        texts = [clean_reply(reply or "", state.task.original) for reply, state in zip(replies, running, strict=True)]
        broken = [
            violations(state.task.original, text, state.task) if text else ()
            for text, state in zip(texts, running, strict=True)
        ]
        valid = [index for index, text in enumerate(texts) if text and not broken[index]]
        f1 = np.full(len(running), np.nan)
        if valid:
            f1[valid] = score([running[index].task.original for index in valid], [texts[index] for index in valid])
        for state, *judged in zip(running, texts, broken, f1, strict=True):
            _advance(state, *judged)
        on_progress(sum(state.ended or turn == rounds - 1 for state in states), len(states))
    return [_outcome(state) for state in states]


def rewrite_prompt(task: RewriteTask, draft: str, problems: Sequence[str]) -> str:
    """What the rewriter is asked; the request comes last, where a model that cuts long prompts keeps it."""
    listed = "".join(f"\n- {problem}" for problem in problems)
    question = " It is a question: keep it one, and do not answer it." if task.is_question else ""
    return (
        f"<original>\n{task.original}\n</original>\n\n<draft>\n{draft}\n</draft>\n\n"
        "The draft is a shortened form of the original. Rewrite it as fluent text that says what the original says, "
        f"in the language of the original and in at most {task.word_limit} words. Keep every number, unit, name and "
        f"negation as it is, and add no facts.{question}\n\nWhat is wrong with the draft:{listed}\n\n"
        "Reply with the rewritten text and nothing else."
    )


def clean_reply(reply: str, original: str) -> str:
    """A reply without what chat models put around a text: thoughts, opening and closing phrases, fences, quotes.

    What the original has itself stays.
    """
    text = without_thoughts(reply)
    if not _OPENER.match(original):
        text = _OPENER.sub("", text, count=1) if _OPENER.match(text) else text
    if (fenced := _FENCE.search(text)) and "```" not in original:
        text = fenced[1]
    if not _CLOSER.search(original):
        text = _CLOSER.sub("", text)
    text = text.strip()
    for left, right in _QUOTES:
        whole = len(text) > 1 and text.startswith(left) and text.endswith(right)
        if whole and not {left, right} & set(text[1:-1]) and not original.strip().startswith(left):
            return text[1:-1].strip()
    return text


def _start(task: RewriteTask, threshold: float, violations: Violations) -> _State:
    problems = violations(task.original, task.draft, task)
    if task.draft_f1 is not None and not task.draft_f1 >= threshold:
        problems = (*problems, _too_far(task.draft_f1, threshold))
    return _State(task, threshold, task.draft, problems or ("it is not fluent",), {task.draft.strip()})


def _advance(state: _State, text: str, broken: tuple[str, ...], f1: float) -> None:
    """Takes one rewrite in: whether it is the best so far, and whether another one is worth asking for."""
    state.rounds += 1
    if not text:
        state.rejected["no reply"] += 1
        return
    if broken:
        state.rejected.update(map(rule_name, broken))
        state.problems = broken
    else:
        passed = bool(f1 >= state.threshold)
        before = state.best[1] if state.best else -math.inf
        found = (passed, -math.inf if math.isnan(f1) else float(f1), -len(text), text)
        state.best = max(state.best or found, found)
        if not passed:
            state.rejected["below threshold"] += 1
            state.problems = (_too_far(f1, state.threshold),)
            state.idle += found[1] - before < _LEAST_GAIN
        state.ended = passed or state.idle >= _PATIENCE
    state.ended = state.ended or text in state.seen
    state.seen.add(text)
    state.draft = text


def _outcome(state: _State) -> RewriteOutcome:
    rejected = dict(sorted(state.rejected.items()))
    if state.best is None:
        rules = sorted(rejected.keys() - {"no reply"}, key=lambda rule: (-rejected[rule], rule))
        return RewriteOutcome(None, math.nan, state.rounds, f"refused: {rules[0]}" if rules else "no reply", rejected)
    passed, f1, _, text = state.best
    if passed:
        return RewriteOutcome(text, f1, state.rounds, "passed", rejected)
    return RewriteOutcome(None, f1, state.rounds, f"best F1 {f1:.4g} below {state.threshold:g}", rejected)


def _too_far(f1: float, threshold: float) -> str:
    return f"its meaning is too far from the original: BERTScore F1 {f1:.3f}, {threshold:g} is needed"


def _token_limit(task: RewriteTask) -> int:
    """Tokens that any tokenizer needs for a rewrite at the word limit: two bytes a token, and a fifth to spare."""
    share = min(1.0, task.word_limit / max(1, len(task.original.split())))
    return 16 + math.ceil(1.2 * share * len(task.original.encode("utf-8")) / 2)
