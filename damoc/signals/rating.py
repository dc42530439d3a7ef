"""MEASURE: what a language model thinks of rows: accuracy (AlpaGasus), complexity and quality (Deita).

A rating is the expected value over the probabilities of the scale's digits, not the digit that the model would write:
it is deterministic, needs no parsing and has few ties. Texts that do not fit are cut before they are put into the
request, so that the model always sees the whole request; room is counted in the judge's own tokens where it runs on
this machine, and estimated behind an endpoint.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from damoc.chat import ChatModel
from damoc.data.example import Example
from damoc.data.prompts import render_prompt
from damoc.errors import DamocError
from damoc.signals.registry import SignalContext, register_signal

_STORED_AT_ONCE = 128
_LEAST = 32
_REPLY = 8
_LEFT_OUT = " [...]"
_BROKEN_WORD = re.compile(r"(?<=\s)\S{1,40}\Z")


@dataclass(frozen=True)
class Rubric:
    """A request for one rating.

    Args:
        request: text with the placeholder ``{question}`` and, where the answer is rated too, ``{answer}``.
        lowest: worst score, one digit.
        highest: best score, one digit.
    """

    request: str
    lowest: int
    highest: int

    @property
    def scale(self) -> list[str]:
        """The scores as they are written, worst first."""
        return [str(score) for score in range(self.lowest, self.highest + 1)]

    @property
    def frame(self) -> int:
        """Bytes of the request without the texts of a row."""
        return len(self.empty.encode())

    @property
    def empty(self) -> str:
        """The request without the texts of a row."""
        return self.request.format(question="", answer="")

    def render(self, row: Example, room: int | None = None) -> str:
        """The request for a row; question and answer are cut so that it takes ``room`` bytes at most."""
        texts = {"question": question(row), "answer": row.output.strip()}
        asked = [name for name in texts if f"{{{name}}}" in self.request]
        fitting = [texts[name] for name in asked]
        if room is not None:
            fitting = fit(fitting, room - self.frame)
        return self.request.format(**dict(zip(asked, fitting, strict=True)))


ACCURACY = Rubric(
    "You check training data for an assistant. Below are a question and the answer it would be trained to give.\n\n"
    "### Question\n{question}\n\n### Answer\n{answer}\n\n"
    "### Rating\nHow accurate is the answer: is it true, does it fit the question, and is nothing that matters "
    "missing? 0 means wrong or beside the point, 5 means entirely correct. Reply with one digit from 0 to 5.",
    0,
    5,
)
COMPLEXITY = Rubric(
    "You sort questions to an assistant by how demanding they are.\n\n"
    "### Question\n{question}\n\n"
    "### Rating\nHow complex is the question: how much knowledge, how many steps and how many conditions does a good "
    "answer take? 1 means trivial, 6 means very complex. Reply with one digit from 1 to 6.",
    1,
    6,
)
QUALITY = Rubric(
    "You sort answers of an assistant by how good they are. Below are a question and an answer to it.\n\n"
    "### Question\n{question}\n\n### Answer\n{answer}\n\n"
    "### Rating\nHow good is the answer: is it helpful, correct, clear and as detailed as the question asks for? "
    "1 means useless, 6 means excellent. Reply with one digit from 1 to 6.",
    1,
    6,
)


@register_signal("judge", models=("judge",))
def judge(context: SignalContext) -> Mapping[str, NDArray[Any]]:
    """Accuracy of each answer in the judge's opinion, 0 to 5.

    Returns:
        ``judge`` float64 (N,): expected score; NaN where the judge gave no usable reply, which is asked again the next
        time. Chen et al., "AlpaGasus", ICLR 2024, with the expected score in place of a parsed one.

    Raises:
        DamocError: the judge cannot be loaded.
        InfrastructureError: its endpoint cannot be reached.
    """
    return {"judge": rate(context, "judge", ACCURACY)}


@register_signal("complexity", models=("judge",))
def complexity(context: SignalContext) -> Mapping[str, NDArray[Any]]:
    """Complexity of each question in the judge's opinion, 1 to 6.

    Returns:
        ``complexity`` float64 (N,): expected score, NaN as in ``judge``. Liu et al., "What Makes Good Data for
        Alignment?", ICLR 2024, with the judge in place of a model trained to score.

    Raises:
        DamocError: the judge cannot be loaded.
        InfrastructureError: its endpoint cannot be reached.
    """
    return {"complexity": rate(context, "complexity", COMPLEXITY)}


@register_signal("quality", models=("judge",))
def quality(context: SignalContext) -> Mapping[str, NDArray[Any]]:
    """Quality of each answer in the judge's opinion, 1 to 6.

    Returns:
        ``quality`` float64 (N,): expected score, NaN as in ``judge``. Liu et al., "What Makes Good Data for
        Alignment?", ICLR 2024, with the judge in place of a model trained to score.

    Raises:
        DamocError: the judge cannot be loaded.
        InfrastructureError: its endpoint cannot be reached.
    """
    return {"quality": rate(context, "quality", QUALITY)}


def rate(context: SignalContext, name: str, rubric: Rubric) -> NDArray[np.float64]:
    """Expected score of every row: float64 (N,); what is behind it is cached by the request before it is cut.

    Raises:
        DamocError: the judge cannot be loaded or reads too little for the request.
        InfrastructureError: its endpoint cannot be reached.
    """

    def compute(missing: Sequence[Example]) -> Iterator[NDArray[Any]]:
        room = _room(context, name, rubric)
        for start in range(0, len(missing), _STORED_AT_ONCE):
            requests = fitting_requests(rubric, missing[start : start + _STORED_AT_ONCE], context.judge, room)
            yield context.judge.option_probabilities(requests, rubric.scale)

    settings = {"judge": context.judge.identity, "scale": rubric.scale, "max_length": context.max_length}
    cache = context.cached(name, settings)
    return expected_score(cache.measure(context.rows, compute, context.progress(name), rubric.render), rubric)


def fitting_requests(rubric: Rubric, rows: Sequence[Example], judge: ChatModel, room: int) -> list[str]:
    """A request a row; the texts of those that take more than ``room`` of the judge's tokens are cut until they fit.

    Args:
        rubric: what is asked.
        rows: N rows.
        judge: counts the tokens.
        room: tokens of a request at most; at least those of the request without texts and 32 more.
    """
    requests = [rubric.render(row) for row in rows]
    (frame,) = judge.prompt_tokens([rubric.empty])
    unsure: Sequence[int] = range(len(rows))
    while unsure:
        tokens = dict(zip(unsure, judge.prompt_tokens([requests[index] for index in unsure]), strict=True))
        unsure = [index for index in unsure if tokens[index] > room]
        for index in unsure:
            texts = len(requests[index].encode()) - rubric.frame
            fitting = texts * (room - frame) // (tokens[index] - frame)
            requests[index] = rubric.render(rows[index], rubric.frame + fitting)
    return requests


def _room(context: SignalContext, name: str, rubric: Rubric) -> int:
    """Tokens that a request may take, the reply aside."""
    limits = {"max_length": context.max_length, "judge": context.judge.context or context.max_length}
    field = min(limits, key=lambda own: limits[own])
    needed = context.judge.prompt_tokens([rubric.empty])[0] + _LEAST + _REPLY
    if limits[field] < needed:
        raise DamocError(
            f"the judge reads {limits[field]} tokens at most, too few to ask for {name}",
            f"field data_compression.signals.{field}",
            f"set it to {needed} or more" if field == "max_length" else f"choose a model that reads {needed} tokens",
        )
    return limits[field] - _REPLY


def expected_score(probabilities: NDArray[Any], rubric: Rubric) -> NDArray[np.float64]:
    """Sum over the scale of score times probability.

    Args:
        probabilities: (N, scores), rows sum to 1; rows of NaN give NaN.
        rubric: has the scores.
    """
    scores = np.arange(rubric.lowest, rubric.highest + 1, dtype=np.float64)
    expected: NDArray[np.float64] = probabilities.reshape(-1, len(scores)).astype(np.float64) @ scores
    return expected


def question(row: Example) -> str:
    """The prompt of a row without its cue."""
    return render_prompt(row.instruction, row.input, row.choices).rpartition("\n\n")[0]


def fit(texts: Sequence[str], room: int) -> list[str]:
    """Texts of ``room`` bytes (UTF-8) together at most: the longest are cut, to the same length, the others stay whole.

    A cut text loses its end, from the start of a word where words are marked, and says so with an ellipsis.
    """
    fitting = list(texts)
    order = sorted(range(len(texts)), key=lambda index: len(texts[index].encode()))
    for place, index in enumerate(order):
        fitting[index] = _shorten(texts[index], room // (len(order) - place))
        room -= len(fitting[index].encode())
    return fitting


def _shorten(text: str, room: int) -> str:
    if len(text.encode()) <= room:
        return text
    head = text.encode()[: max(0, room - len(_LEFT_OUT))].decode(errors="ignore")
    return _BROKEN_WORD.sub("", head).rstrip() + _LEFT_OUT
