"""APPLY: the text that is left when words are dropped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from damoc.condense.lexicon import SPACED
from damoc.condense.words import Word

_BEFORE_SPACE = re.compile(rf"{SPACED}|[\u0300-\u036f.,:;!?%/$€£¥]")
_AFTER_SPACE = re.compile(SPACED)


def rebuild(text: str, words: Sequence[Word], kept: NDArray[Any]) -> str:
    """The kept words with the white space between them.

    Neighbours keep what stood between them to the letter (the indent of code, the columns of a table). Across dropped
    words, line breaks stay (two at most) and other white space becomes one space. Where there was none, one space parts
    words of scripts that write spaces ("Python語言Java" becomes "Python Java").

    Args:
        text: the original.
        words: its words.
        kept: bool (words,).

    Returns:
        The kept words without white space around them; the stripped original where all are kept.
    """
    pieces: list[str] = []
    previous, gap_start = -1, 0
    for place, (word, stays) in enumerate(zip(words, kept, strict=True)):
        if not stays:
            continue
        if pieces:
            gap = text[gap_start : word.start]
            pieces.append(gap if place == previous + 1 else _narrowed(gap) or parting(pieces[-1], text[word.start]))
        pieces.append(text[word.start : word.end])
        previous, gap_start = place, word.end
    return "".join(pieces)


def _narrowed(gap: str) -> str:
    breaks = min(gap.count("\n"), 2)
    return "\n" * breaks if breaks else " " * any(character.isspace() for character in gap)


def parting(before: str, after: str) -> str:
    """What has to stand between two texts that a dropped one held apart: a space between words that are written so."""
    return " " if _BEFORE_SPACE.match(before[-1:]) and _AFTER_SPACE.match(after) else ""
