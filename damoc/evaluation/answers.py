"""DECIDE: how right a written answer is, beside one or more references."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

UNANSWERABLE = "unanswerable"
"""What a row says, and a model is to write, where the passage has no answer."""

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SCALES = {"": 1.0, "%": 1e-2, "thousand": 1e3, "million": 1e6, "billion": 1e9}
_UNITS = {
    "percent": "%", "per cent": "%", "k": "thousand", "thousands": "thousand",
    "m": "million", "mn": "million", "millions": "million", "bn": "billion", "b": "billion", "billions": "billion",
}  # fmt: skip
_NUMBER = re.compile(r"(?P<sign>-?)(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)\s*(?P<unit>%|[a-z ]*)")


def normalised(text: str) -> str:
    """Lower case, without punctuation, articles and surplus white space, as SQuAD compares answers.

    Rajpurkar et al., "Know What You Don't Know: Unanswerable Questions for SQuAD", 2018. :data:`UNANSWERABLE` becomes
    the empty answer.
    """
    words = " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())
    return "" if words == UNANSWERABLE else words


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 where the normalised answer is one of the normalised references, else 0."""
    return float(normalised(answer) in _golds(references))


def token_f1(answer: str, references: Sequence[str]) -> float:
    """F1 of the bags of normalised words, of the best reference; where one side is empty, 1 only if both are."""
    return max(_bag_f1(normalised(answer).split(), gold.split()) for gold in _golds(references))


def _golds(references: Sequence[str]) -> list[str]:
    """The normalised references that say something; the empty answer where none does."""
    return [gold for reference in references if (gold := normalised(reference))] or [""]


def _bag_f1(found: Sequence[str], right: Sequence[str]) -> float:
    if not found or not right:
        return float(found == right)
    shared = sum((Counter(found) & Counter(right)).values())
    return 2 * shared / (len(found) + len(right))


@dataclass(frozen=True)
class Quantity:
    """A number as it is written.

    Args:
        value: with its scale: 40.6 million is 40,600,000, 15 % is 0.15.
        place: value of its last written digit.
        scale: of :data:`value`: 1, a hundredth, a thousand, ...
    """

    value: float
    place: float
    scale: float

    def agrees(self, other: Quantity, tolerance: float) -> bool:
        """Whether both are one number, written more or less precisely.

        They have to be equal at the coarser of their last places, so that 2019 is not 2020, and within a relative
        tolerance, so that 0.6 is not 0.629.
        """
        gap = abs(self.value - other.value)
        fine = 1 + 1e-9
        near = tolerance * max(abs(self.value), abs(other.value))
        return gap <= fine * max(self.place, other.place) / 2 and gap <= fine * near

    def unscaled(self) -> Quantity:
        """The number without its scale: 40.6 of 40.6 million."""
        return Quantity(self.value / self.scale, self.place / self.scale, 1.0)


def quantity(text: str) -> Quantity | None:
    """Reads a number with what belongs to it (``$1,204.5 million``, ``(3.2)``, ``15%``); None for any other text."""
    bare = re.sub(r"[$€£]", "", text.strip().lower()).rstrip(".").strip()
    negative = bare.startswith("(") and ")" in bare
    found = _NUMBER.fullmatch((bare.replace("(", "").replace(")", "") if negative else bare).strip())
    if found is None:
        return None
    unit = found["unit"].strip()
    scale = _SCALES.get(_UNITS.get(unit, unit))
    if scale is None:
        return None
    digits = found["digits"].replace(",", "")
    sign = -1.0 if negative or found["sign"] else 1.0
    return Quantity(sign * float(digits) * scale, scale * 10.0 ** -len(digits.partition(".")[2]), scale)


def figures_match(answer: str, reference: str, tolerance: float, scaled: bool = True) -> float:
    """1 where an answer with numbers says what the reference says, else 0.

    Several spans are separated by semicolons and may stand in any order; spans that are no numbers are compared as
    :func:`exact_match` does.

    Args:
        answer: what the model wrote.
        reference: the right answer.
        tolerance: relative, see :meth:`Quantity.agrees`.
        scaled: whether scales count; if not, 40.6 is as good as 40.6 million.
    """
    found, right = ([part.strip() for part in text.split(";") if part.strip()] for text in (answer, reference))
    if len(found) != len(right):
        return 0.0
    for span in right:
        match = next((own for own in found if _same(own, span, tolerance, scaled)), None)
        if match is None:
            return 0.0
        found.remove(match)
    return 1.0


def _same(answer: str, reference: str, tolerance: float, scaled: bool) -> bool:
    own, right = quantity(answer), quantity(reference)
    if own is None or right is None:
        return exact_match(answer, [reference]) == 1.0
    return own.agrees(right, tolerance) if scaled else own.unscaled().agrees(right.unscaled(), tolerance)
