"""Words, and which of them are never dropped."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import regex

from damoc.condense.lexicon import NEGATION, STANCE
from damoc.condense.quantities import quantity_bounds
from damoc.data.prompts import whole_words

_OPENING = r"(?:(?=[\p{Ps}\p{Pi}])\X)*"
_CLOSING = r"(?:(?=[\p{Pe}\p{Pf}\p{Po}])\X)*"
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}ー\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
_HAS_UNSPACED = regex.compile(_UNSPACED)
_UNIT = regex.compile(
    _OPENING
    + r"(?:(?:(?=\p{Han})\X){1,2}|(?:(?=\p{Hiragana})\X){1,4}|(?:(?=[\p{Katakana}ー])\X)+"
    + r"|(?:(?=[\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}])\X){1,6}"
    + rf"|(?:(?!{_UNSPACED})\X)+)"
    + _CLOSING
)
_RUN = re.compile(r"\S+")

_MEANING = frozenset(
    "except unless less more greater fewer higher lower least most above below under over than "
    "what which who whom whose when where why how whether percent".split()
)
_NOT_A_UNIT = frozenset(
    "a an and are as at but by for from had has if in is it of on or so that the to was with".split()
)
_SYMBOL = regex.compile(r"[\p{N}\p{Sc}%‰<>=≤≥{}\\`\"“”«»「」『』?？؟]")
_SHORT_UNIT = regex.compile(r"[^\W\d_]{1,5}[\p{Pe}\p{Pf}\p{Po}]*|[°µμ/%][^\s]{0,5}")
_BEFORE_NUMBER = "([$€£¥~±+-−<>≤≥="
_SENTENCE_END = (".", "!", "?", ":", "。", "！", "？")

_QUOTE = re.compile(r"\"[^\"\n]{1,60}\"|“[^”\n]{1,60}”|「[^」\n]{1,30}」|`[^`\n]+`|```.*?(?:```|\Z)", re.DOTALL)
_LINE = re.compile(r"[^\n]+")
_BULLET = re.compile(r"\s*(?:[-*•]|\(?[A-Za-z0-9]{1,2}[.)])\s|\s*#{1,6}\s")
_TABLE_ROW = re.compile(r"[^\n|]*\|[^\n|]*\||[^\t]*\t[^\t]*\t")
_SHORT_ITEM = 12


@dataclass(frozen=True)
class Word:
    """The smallest piece of a text that stays or goes as a whole.

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

    A word is a run without white space. Within it, scripts that write no spaces (Chinese, Japanese, Thai, Lao, Khmer,
    Burmese) are cut at changes of script and after a few characters (two Han, four Hiragana, six of the others), as
    they would otherwise stay or go by the sentence. No grapheme cluster (letter with its marks, emoji sequence) is cut.

    Protected are numbers and number words with their units, amounts, negations, yes, no and maybe, comparatives,
    question words, names (a capital that does not start a sentence), short quotations, code, bullets, table rows,
    headings and list items of at most 12 words (options, labels), and every word of the given spans (the options, the
    gold answer in its context).

    Args:
        text: any text.
        spans: texts whose occurrences as whole words stay.
    """
    guarded = bytearray(len(text))
    for start, end in _guarded(text, spans):
        guarded[start:end] = b"\1" * (end - start)
    words: list[Word] = []
    sentence_start, after_number, previous_end = True, False, 0
    for start, end in _pieces(text):
        token = text[start:end]
        if "\n" in text[previous_end:start]:
            sentence_start = True
        number = after_number and bool(_SHORT_UNIT.fullmatch(token)) and token.lower() not in _NOT_A_UNIT
        protected = 1 in guarded[start:end] or number or _carries_meaning(token, sentence_start)
        words.append(Word(start, end, protected))
        sentence_start = token.endswith(_SENTENCE_END)
        after_number = token.lstrip(_BEFORE_NUMBER)[:1].isdigit()
        previous_end = end
    return words


def _pieces(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of each word."""
    for run in _RUN.finditer(text):
        if _HAS_UNSPACED.search(run.group()):
            yield from ((run.start() + unit.start(), run.start() + unit.end()) for unit in _UNIT.finditer(run.group()))
        else:
            yield run.span()


def _carries_meaning(token: str, sentence_start: bool) -> bool:
    bare = token.strip(".,;:!?()[]'").lower()
    name = token[0].isupper() and not sentence_start
    inner_capital = len(bare) > 1 and token[1:] != token[1:].lower()
    return name or inner_capital or bare in _MEANING or bool(_SYMBOL.search(token))


def _guarded(text: str, spans: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Stretches of a text that stay whole."""
    for span in spans:
        if span.strip():
            yield from whole_words(text, span.strip(), re.IGNORECASE)
    yield from ((start, end) for start, _, end in quantity_bounds(text))
    yield from (hit.span() for pattern in (NEGATION, STANCE) for hit in pattern.finditer(text))
    yield from (quote.span() for quote in _QUOTE.finditer(text))
    for line in _LINE.finditer(text):
        bullet = _BULLET.match(line.group())
        if _TABLE_ROW.match(line.group()) or (bullet and len(line.group().split()) <= _SHORT_ITEM):
            yield line.span()
        elif bullet:
            yield line.start(), line.start() + bullet.end()
