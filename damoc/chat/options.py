"""What a reply says about a closed set of options: from the first token's probabilities, or from its words."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_NUMBER_WORDS = "zero one two three four five six seven eight nine ten".split()
_WORD = re.compile(rf"\b(?:{'|'.join(_NUMBER_WORDS)})\b", re.IGNORECASE)
_NUMBER = r"(?<![\w.])[-−]?\d+(?:[.,]\d+)?"
_SCALE = re.compile(
    rf"{_NUMBER}\s*(?:-|–|to|and|bis|à|~)\s*{_NUMBER}(?![\w%])|(?:/|\bout of\b|\bvon\b|\bsur\b)\s*\d+(?:[.,]\d+)?"
)


def without_thoughts(text: str) -> str:
    """The reply of a reasoning model without its ``<think>`` part."""
    return _THOUGHT.sub("", text).strip()


def first_token_probabilities(
    tokens: Sequence[tuple[str, float]], options: Sequence[str]
) -> NDArray[np.float64] | None:
    """Probabilities of options from the likeliest first tokens of a reply.

    A token counts for the option that it spells, or for the only option that it begins; case and white space aside.

    Args:
        tokens: text and log-probability (nats) of each.
        options: distinct answers.

    Returns:
        float64 (options,) that sums to 1, or None where the tokens do not tell the options apart.
    """
    names = [option.strip().casefold() for option in options]
    if any(one != other and other.startswith(one) for one in names for other in names):
        return None
    mass = np.zeros(len(names))
    for text, logprob in tokens:
        start = text.strip().casefold()
        begun = [index for index, name in enumerate(names) if start and name.startswith(start)]
        if len(begun) == 1:
            mass[begun[0]] += np.exp(logprob)
    return mass / mass.sum() if mass.sum() > 0 else None


def read_option(text: str, options: Sequence[str]) -> NDArray[np.float64] | None:
    """Probabilities of options from a reply in words: 1 for the option that it names first.

    Where all options are numbers, a number between two of them (``4.5``) is split linearly; number words and a scale
    that is repeated (``4/5``, ``0 to 5``) are understood, and a number outside the options is no reply.

    Args:
        text: the reply.
        options: distinct answers.

    Returns:
        float64 (options,) that sums to 1, or None where the reply names no option.
    """
    reply = without_thoughts(text)
    try:
        values = np.array([float(option) for option in options])
    except ValueError:
        return _named(reply, options)
    value = _number(reply)
    if value is None or not values.min() <= value <= values.max():
        return None
    order = np.argsort(values, kind="stable")
    return np.array([np.interp(value, values[order], order == index) for index in range(len(values))])


def _number(reply: str) -> float | None:
    """The first number of a reply that is not part of a scale."""
    spelt = _WORD.sub(lambda word: str(_NUMBER_WORDS.index(word.group().lower())), reply)
    for text in (_SCALE.sub(" ", spelt), spelt):
        if found := re.search(_NUMBER, text):
            return float(found.group().replace(",", ".").replace("−", "-"))
    return None


def _named(reply: str, options: Sequence[str]) -> NDArray[np.float64] | None:
    """The option whose whole words come first in a reply; of two that start together, the longer one."""
    found = [
        (hit.start(), -len(option), index)
        for index, option in enumerate(options)
        if (hit := re.search(rf"(?<!\w){re.escape(option.strip())}(?!\w)", reply, re.IGNORECASE))
    ]
    return np.eye(len(options))[min(found)[2]] if found else None
