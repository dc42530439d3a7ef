"""Texts of the training data as the report shows them: masked, counted, and folded where they are long."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from damoc.redaction import redact

FOLD_WORDS, FOLD_CHARACTERS = 80, 640

_SLACK = 1.2
_LONG_WORD = 20
_WORD = re.compile(r"\s*\S+[^\S\n]*\n*")
_JOINER = "\u200d"


@dataclass(frozen=True)
class Run:
    """A stretch of text that stayed, or that was dropped."""

    text: str
    stayed: bool


@dataclass(frozen=True)
class Passage:
    """A text in two parts.

    Args:
        head: what is seen at once.
        rest: what is folded away; empty when the text is short.
        hidden: how much that is, e.g. ``212 more words``.
    """

    head: list[Run]
    rest: list[Run]
    hidden: str


def passage(pieces: Iterable[tuple[str, bool]]) -> Passage:
    """Masks and folds a text.

    Args:
        pieces: the text in runs, each with whether it stayed. Passwords are found across their borders.

    Returns:
        All of the masked text: the head holds about :data:`FOLD_WORDS` words or :data:`FOLD_CHARACTERS` characters
        (half as many in scripts without spaces), whichever is less, and ends with a line or a word where it can.
    """
    runs = _masked([Run(content, stayed) for content, stayed in pieces if content])
    whole = "".join(run.text for run in runs)
    head, rest = _split(runs, _fold(whole))
    hidden = "".join(run.text for run in rest)
    unit = unit_of(whole)
    return Passage(head, rest, f"{size(hidden, unit):,} more {unit}" if rest else "")


def unit_of(content: str) -> str:
    """``words``, or ``characters`` where the script does not part words by spaces."""
    return "characters" if len(content) > _LONG_WORD * max(1, len(content.split())) else "words"


def size(content: str, unit: str) -> int:
    """Length of a text in a unit of :func:`unit_of`."""
    return len(content.split()) if unit == "words" else len(content)


def _masked(runs: Sequence[Run]) -> list[Run]:
    """Runs without passwords; a word that holds one is one run, dropped when a part of it was."""
    whole = "".join(run.text for run in runs)
    stayed = [run.stayed for run in runs for _ in run.text]
    for word in re.finditer(r"\S+", whole):
        if redact(word[0]) != word[0]:
            stayed[word.start() : word.end()] = [all(stayed[word.start() : word.end()])] * len(word[0])
    borders = groupby(zip(whole, stayed, strict=True), key=lambda pair: pair[1])
    return [Run(redact("".join(character for character, _ in group)), state) for state, group in borders]


def _fold(content: str) -> int:
    """Where to fold; the end of the text when it is hardly longer than what is shown."""
    longest = FOLD_CHARACTERS if unit_of(content) == "words" else FOLD_CHARACTERS // 2
    ends = [word.end() for word in _WORD.finditer(content)]
    if len(ends) <= _SLACK * FOLD_WORDS and len(content) <= _SLACK * longest:
        return len(content)
    shown = [end for end in ends[:FOLD_WORDS] if end <= longest]
    if len(shown) == FOLD_WORDS or shown and shown[-1] > longest // 2:
        return max((end for end in shown[len(shown) // 2 :] if content[end - 1] == "\n"), default=shown[-1])
    end = longest
    while end < len(content) and _belongs_to(content[end - 1], content[end]):
        end += 1
    return end


def _belongs_to(before: str, after: str) -> bool:
    """Whether two characters make up one sign: combining marks, joined emoji, skin tones."""
    return before == _JOINER or after == _JOINER or unicodedata.category(after) in ("Mn", "Me", "Mc", "Sk")


def _split(runs: Sequence[Run], place: int) -> tuple[list[Run], list[Run]]:
    head: list[Run] = []
    rest: list[Run] = []
    start = 0
    for run in runs:
        cut = min(max(place - start, 0), len(run.text))
        head += [Run(run.text[:cut], run.stayed)] if cut else []
        rest += [Run(run.text[cut:], run.stayed)] if cut < len(run.text) else []
        start += len(run.text)
    return head, rest
