"""Words, and which of them are never dropped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from damoc.data.prompts import whole_words

_WORD = re.compile(r"\S+")
_NEGATIONS = frozenset("no not never none nor neither without cannot nothing nobody except unless".split())
_COMPARATIVES = frozenset("less more greater fewer higher lower least most above below under over than".split())
_QUESTIONS = frozenset("what which who whom whose when where why how whether".split())
_SYMBOLS = re.compile(r"[0-9%$€£¥<>=≤≥{}\\`\"“”]")
_UNIT_AFTER = re.compile(r"^[a-zA-Zµμ°/%]{1,5}[.,;)]?$")
_BULLET = re.compile(r"^(?:[-*•]|\(?[A-Za-z0-9][.)])$")
_BEFORE_NUMBER = "([$€£¥~±+-−<>≤≥="
_SENTENCE_END = (".", "!", "?", ":")


@dataclass(frozen=True)
class Word:
    """A run of characters without white space.

    Args:
        start: index of its first character.
        end: index after its last character.
        protected: whether it always stays.
    """

    start: int
    end: int
    protected: bool


def split_words(text: str, spans: Sequence[str] = ()) -> list[Word]:
    """The words of a text, and which of them are protected.

    Protected are numbers, units, negations, comparatives, names, quotations, code, options, list items and questions,
    and every word of the given spans (the options, the gold answer inside its context).

    Args:
        text: any text.
        spans: texts whose occurrences as whole words stay.
    """
    guarded = [place for span in spans if span.strip() for place in whole_words(text, span.strip(), re.IGNORECASE)]
    words: list[Word] = []
    sentence_start, after_number, line_guarded = True, False, False
    previous_end = 0
    for match in _WORD.finditer(text):
        token = match.group()
        new_line = "\n" in text[previous_end : match.start()] or not words
        if new_line:
            sentence_start = True
            line_guarded = bool(_BULLET.match(token))
        bare = token.strip(".,;:!?()[]'").lower()
        protected = (
            line_guarded
            or bool(_SYMBOLS.search(token))
            or token.endswith("?")
            or bare in _NEGATIONS
            or bare in _COMPARATIVES
            or bare in _QUESTIONS
            or bare.endswith(("n't", "n’t"))
            or (after_number and bool(_UNIT_AFTER.match(token)))
            or (token[0].isupper() and not sentence_start)
            or (len(bare) > 1 and any(letter.isupper() for letter in token[1:]))
            or any(start < match.end() and match.start() < end for start, end in guarded)
        )
        words.append(Word(match.start(), match.end(), protected))
        sentence_start = token.endswith(_SENTENCE_END)
        after_number = token.lstrip(_BEFORE_NUMBER)[:1].isdigit()
        previous_end = match.end()
    return words
