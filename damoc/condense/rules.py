"""DECIDE: hard rules for what may stand for a text; BERTScore sees neither swapped numbers nor negations."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from damoc.condense.words import split_words
from damoc.data.prompts import whole_words

_NUMBER = re.compile(r"(?:(?<![^\s(\[])[-−])?\d+(?:[.,:/]\d+)*(?:\s?[%‰])?")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_NEGATIONS = frozenset(
    "no not never none nor neither without cannot nothing nobody nowhere non nicht nichts kein keine keinen keiner "
    "nie niemals ohne pas jamais sans aucun aucune nunca sin ningún ninguna nada senza mai não nem sem не нет ни без"
    "".split()
)
_NEGATION_SIGN = re.compile("[不没沒未無无否않못없]|ない|ません")
_STANCE = re.compile(
    r"(?:^|[.!?:\n]\s*)[\"“'(\[]*(?:(yes|maybe)\b|(no)(?=\s*(?:[,.;:!?)\"”'\]\n–—]|$)))", re.IGNORECASE
)
_QUESTION_MARKS = ("?", "？", "؟")
_CHAT = re.compile(
    r"\W*(?:sure|certainly|of course|okay|here(?:'s|’s| is| are)|as an ai|rewritten|<think)\b", re.IGNORECASE
)
_EAST_ASIAN = frozenset(("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"))


def violations(
    original: str, candidate: str, fixed: Sequence[str] = (), max_words: int | None = None
) -> tuple[str, ...]:
    """The rules that a candidate breaks; none for the original itself.

    - It is not empty, and no longer than ``max_words`` and than the original.
    - It has every number of the original as often ("5%", "1,000", "3.5" are read as they are written), and no new one.
    - It has as many negations ("doesn't" and "does not" are one each).
    - Yes, no and maybe at the head of a sentence or alone stay as they are, and none is added.
    - A fixed text (an option, the gold answer) stands in it exactly if it stands in the original.
    - A question stays one, a statement too, the script stays, and the rewriter does not talk about its work.

    Numbers, scripts, questions and lengths are checked in any language; negations by a table of a few languages, the
    others in English.

    Args:
        original: what the candidate stands for.
        candidate: the condensed or rewritten text.
        fixed: texts that may neither go nor come, matched as whole words whatever their case.
        max_words: words at most, None for no limit.

    Returns:
        One phrase a broken rule: its name and, after a colon, what is wrong where that helps to mend it.
    """
    if not candidate.strip():
        return () if not original.strip() else ("empty",)
    checks = (
        _length(original, candidate, max_words),
        _numbers(original, candidate),
        _negations(original, candidate),
        "yes or no changed" if _stances(original) != _stances(candidate) else "",
        _fixed(original, candidate, fixed),
        _question(original, candidate),
        "script changed" if not _same_script(original, candidate) else "",
        "chat phrase" if _CHAT.match(candidate) and not _CHAT.match(original) else "",
    )
    return tuple(broken for broken in checks if broken)


def rule_name(violation: str) -> str:
    """The name of the broken rule, by which refusals are counted."""
    return violation.partition(":")[0]


def is_question(text: str) -> bool:
    """Whether a text ends as a question."""
    return text.rstrip(" \n\t\"'”’)").endswith(_QUESTION_MARKS)


def _length(original: str, candidate: str, max_words: int | None) -> str:
    words = len(split_words(candidate)) if max_words is not None else 0
    if max_words is not None and words > max_words:
        return f"too long: {words} words where {max_words} are allowed"
    return "too long: longer than the original" if len(candidate.strip()) > len(original.strip()) else ""


def _numbers(original: str, candidate: str) -> str:
    before, after = (
        Counter("".join(number.split()) for number in _NUMBER.findall(text)) for text in (original, candidate)
    )
    lost = sorted((before - after).elements())
    new = sorted(after.keys() - before.keys())
    told = [f"{name} {', '.join(numbers)}" for name, numbers in (("missing", lost), ("new", new)) if numbers]
    return f"numbers changed: {'; '.join(told)}" if told else ""


def _count_numbers(text: str) -> Counter[str]:
    return Counter("".join(number.split()) for number in _NUMBER.findall(text))


def _negations(original: str, candidate: str) -> str:
    before, after = (_count_negations(text) for text in (original, candidate))
    return f"negations changed: {after} where the original has {before}" if before != after else ""


def _count_negations(text: str) -> int:
    words = (word.lower() for word in _WORD.findall(text))
    counted = sum(1 for word in words if word in _NEGATIONS or word.endswith(("n't", "n’t")))
    return counted + len(_NEGATION_SIGN.findall(text))


def _stances(text: str) -> list[str]:
    return [(hit[1] or hit[2]).lower() for hit in _STANCE.finditer(text.strip())]


def _fixed(original: str, candidate: str, fixed: Sequence[str]) -> str:
    for text in dict.fromkeys(own.strip() for own in fixed if own.strip()):
        before, after = (bool(whole_words(side, text, re.IGNORECASE)) for side in (original, candidate))
        if before != after:
            return f"answer {'lost' if before else 'given away'}: {text}"
    return ""


def _question(original: str, candidate: str) -> str:
    before, after = (is_question(text) for text in (original, candidate))
    asked, asks = (any(mark in text for mark in _QUESTION_MARKS) for text in (original, candidate))
    if (before and not after) or (asked and not asks):
        return "question lost"
    return "question added" if asks and not asked else ""


def _same_script(original: str, candidate: str) -> bool:
    before, after = (_scripts(text) for text in (original, candidate))
    if not before or not after:
        return not after
    return (
        after.keys() <= before.keys()
        and max(before.values()) == before[max(after, key=lambda name: (after[name], name))]
    )


def _scripts(text: str) -> Counter[str]:
    names = (unicodedata.name(character, "").split(" ")[0] for character in text if character.isalpha())
    return Counter("EAST ASIAN" if name in _EAST_ASIAN else name for name in names)
