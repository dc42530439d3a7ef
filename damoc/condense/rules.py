"""DECIDE: hard rules for what may stand for a text; BERTScore sees neither swapped numbers nor negations."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from damoc.condense.lexicon import NEGATION, STANCE
from damoc.condense.quantities import Quantity, quantities, unit_words
from damoc.condense.words import split_words
from damoc.data.prompts import whole_words

_RANGE = re.compile(r"[\s,]*(?:(?:[-–—/±]|to|and|or)\s*)?")
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
    - It has the numbers of the original in the same order, each with its unit (see
      :func:`damoc.condense.quantities.quantities`): none is lost, new, swapped with another or given another unit.
      "1,000" and "1000" differ; "two" and "2", "5%" and "5 percent", "5-week" and "5 weeks" do not; in "5 to 10 mg"
      both are mg.
    - It has as many negations ("doesn't" and "does not" are one each).
    - Every yes and maybe, and every no that stands by itself ("no risk" does not), stays, and none is added.
    - A fixed text (an option, the gold answer) stands in it exactly if it stands in the original.
    - A question stays one, a statement too, the script stays, and the rewriter does not talk about its work.

    A fluent rewrite that moves one number past another is refused, as nothing tells it from one that swaps them. To
    drop words but no protected one changes no number, negation, yes or no, unless words that it brings together make
    one.

    Digits, scripts, questions and lengths are checked in any language, negations and the commonest number words in a
    few, units, yes and no in English.

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
        "" if _same_stances(original, candidate) else "yes or no changed",
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
    before, after = quantities(original), quantities(candidate)
    if [quantity.value for quantity in before] == [quantity.value for quantity in after]:
        places = list(_changed_units(original, before, candidate, after))
        lost, new = [before[place] for place in places], [after[place] for place in places]
    else:
        lost, new = _excess(before, after), _excess(after, before)
        if not lost and not new:
            return "numbers changed: in another order"
    told = ((name, ", ".join(own.said for own in numbers)) for name, numbers in (("missing", lost), ("new", new)))
    differences = "; ".join(f"{name} {said}" for name, said in told if said)
    return f"numbers changed: {differences}" if differences else ""


def _excess(these: Sequence[Quantity], those: Sequence[Quantity]) -> list[Quantity]:
    """The numbers that these have more often than those."""
    left = Counter(own.value for own in those)
    excess = []
    for own in these:
        if left[own.value]:
            left[own.value] -= 1
        else:
            excess.append(own)
    return excess


def _changed_units(
    original: str, before: Sequence[Quantity], candidate: str, after: Sequence[Quantity]
) -> Iterator[int]:
    """The places of numbers whose unit changes.

    A unit may come closer ("3 consecutive days" to "3 days"), and the numbers of a range or list may share one.
    """
    for place, (old, new) in enumerate(zip(before, after, strict=True)):
        if old.unit == new.unit:
            continue
        end = before[place + 1].start if place + 1 < len(before) else len(original)
        closer = old.unit <= new.unit <= unit_words(original[old.start : end])
        shared = _shared_unit(original, before[place:]) & _shared_unit(candidate, after[place:])
        if not closer and (not shared or (old.unit and new.unit)):
            yield place


def _shared_unit(text: str, numbers: Sequence[Quantity]) -> frozenset[str]:
    """The unit of the first number, or that of the range or list which it begins."""
    for own, following in pairwise(numbers):
        if own.unit or not _RANGE.fullmatch(text, own.end, following.start):
            return own.unit
    return numbers[-1].unit


def _negations(original: str, candidate: str) -> str:
    before, after = (sum(1 for _ in NEGATION.finditer(text)) for text in (original, candidate))
    return f"negations changed: {after} where the original has {before}" if before != after else ""


def _same_stances(original: str, candidate: str) -> bool:
    (_, before, all_before), (own_after, after, _) = _stances(original), _stances(candidate)
    return _within(own_after, before) and _within(before, after) and _within(after, all_before)


def _stances(text: str) -> tuple[list[str], list[str], list[str]]:
    """The yes, maybe and no that stand by themselves, those and a no that ends a line, and every one."""
    hits = [((hit["own"] or "no").lower(), hit["own"], hit["end"] is not None) for hit in STANCE.finditer(text)]
    own = [word for word, alone, _ in hits if alone]
    return own, [word for word, alone, ends in hits if alone or ends], [word for word, *_ in hits]


def _within(part: Iterable[str], whole: Iterable[str]) -> bool:
    """Whether a sequence is left when some of another one go."""
    rest = iter(whole)
    return all(word in rest for word in part)


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
