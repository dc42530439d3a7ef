"""APPLY: the text that is left when words are dropped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from damoc.condense.words import Word


def rebuild(text: str, words: Sequence[Word], kept: NDArray[Any]) -> str:
    """The kept words with the white space that stood before them; a line break in a dropped stretch stays one.

    Args:
        text: the original.
        words: its words.
        kept: bool (words,).
    """
    pieces: list[str] = []
    gap_start = 0
    for word, stays in zip(words, kept, strict=True):
        if stays:
            gap = "".join(character for character in text[gap_start : word.start] if character.isspace())
            breaks = min(gap.count("\n"), 2)
            if pieces:
                pieces.append("\n" * breaks if breaks else " ")
            pieces.append(text[word.start : word.end])
            gap_start = word.end
    return "".join(pieces)
