"""Numbers and their units in a text, so that neither is lost, swapped or changed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from damoc.condense.lexicon import SPACED, UNSPACED, any_of

_NUMBER_WORDS = {
    word: value
    for value, words in {
        "0": "zero cero ноль",
        "2": "two zwei deux dois duas два две",
        "3": "three drei trois tres três tre три",
        "4": "four vier quatre cuatro quattro quatro четыре",
        "5": "five fünf cinq cinco cinque пять",
        "6": "six sechs seis шесть",
        "7": "seven sieben siete sette sete семь",
        "8": "eight acht huit ocho oito восемь",
        "9": "nine neun nueve nove девять",
        "10": "ten zehn diez dieci десять",
        "11": "eleven onze undici одиннадцать",
        "12": "twelve dozen zwölf douze doce dodici двенадцать",
        "13": "thirteen",
        "14": "fourteen",
        "15": "fifteen fünfzehn quinze quince quindici пятнадцать",
        "16": "sixteen",
        "17": "seventeen",
        "18": "eighteen",
        "19": "nineteen",
        "20": "twenty zwanzig vingt veinte venti vinte двадцать",
        "30": "thirty dreißig trente treinta trenta trinta тридцать",
        "40": "forty vierzig quarante cuarenta quaranta quarenta сорок",
        "50": "fifty fünfzig cinquante cincuenta cinquanta cinquenta пятьдесят",
        "60": "sixty sechzig soixante sesenta sessanta sessenta",
        "70": "seventy siebzig septante setenta settanta",
        "80": "eighty achtzig ottanta ochenta oitenta",
        "90": "ninety neunzig nonante noventa novanta",
        "100": "hundred hundreds hundert cien ciento cento сто",
        "1000": "thousand thousands tausend mille тысяча тысячи тысяч",
        "1000000": "million millions millionen millón millones milione milioni milhão milhões миллион миллионов",
        "1000000000": "billion billions milliarde milliarden milliard milliards miliardo miliardi",
        "1000000000000": "trillion trillions",
        "half": "half hälfte moitié mitad metà metade половина",
        "twice": "twice",
    }.items()
    for word in words.split()
}
_ONE_UNIT = (
    r"(?:(?i:(?:pico|nano|micro|milli|centi|deci|kilo|mega|giga|tera|peta)?"
    r"(?:gram(?:me?)?|met(?:er|re)|lit(?:er|re)|second|hertz|pascal|watt|volt|amp(?:ere)?|joule|newton|ohm|byte|bit|mole"
    r"|calorie|ton(?:ne)?)s?"
    r"|(?:minute|hour|day|week|fortnight|month|year|decade|degree|inche?|mile|yard|acre|hectare|pound|ounce|gallon|pint"
    r"|dollar|cent|euro|rupee|franc|peso|ro?uble|min|sec|hr|lb)s?"
    r"|centur(?:y|ies)|foot|feet|per\s?cent|yen|yuan|kron(?:a|or|e|er)|celsius|fahrenheit|kelvin|[ap]m)"
    r"|[pnµμumcdkKMGT]?(?:[mgslLAVWJNKBM]|Hz|Pa|Da|eV|mol|cal|Wh|Ah|Bq|Gy|Sv|bps?|Ω)[²³]?"
    r"|h|d|ha|oz|ft|mi|mph|rpm|ppm|ppb|bpm|mmHg|IU|USD|EUR|GBP|JPY|CNY|CHF|INR|°\s?[CFK]?|[%‰$€£¥])"
    rf"(?!{SPACED})"
)
_UNIT_HEAD = r"(?i:square|cubic|metric|nautical|degrees?)"
_UNIT_PART = re.compile(rf"(?<!{SPACED})(?:{_ONE_UNIT}|{_UNIT_HEAD}(?!{SPACED}))")
_UNIT_AFTER = re.compile(
    rf"(?:\s*|-)(?:{_UNIT_HEAD}\s+)?{_ONE_UNIT}(?:[/·]{_ONE_UNIT})*(?:\s+(?:per|an?)\s+{_ONE_UNIT})?"
    rf"|(?:\s+per\s+|/){_ONE_UNIT}"
)
_SAME_UNIT = {"percent": "%", "per cent": "%", "feet": "foot", "inche": "inch"}
_BRITISH = (("metre", "meter"), ("litre", "liter"), ("gramme", "gram"))


_HAN_DIGITS = "〇零一二两兩三四五六七八九十百千万萬億亿"
_DIGITS = re.compile(
    rf"(?=[-−$€£¥\d¼-¾⅐-⅞{_HAN_DIGITS}])(?:(?:(?<![^\s(\[{UNSPACED}])[-−])?"
    rf"[$€£¥]?(?:\d+(?:[.,:/]\d+)*|[¼-¾⅐-⅞])|[{_HAN_DIGITS}]{{2,}})"
)
_NUMBER_WORD = re.compile(any_of(_NUMBER_WORDS))


@dataclass(frozen=True)
class Quantity:
    """A number in a text, and the unit that follows it.

    Args:
        start: index of its first character.
        end: index after the last one of its unit.
        said: how the text writes both.
        value: digits as they are written, with sign and currency sign; of a number word its digits.
        unit: the words of its unit, without their plural; empty where there is none.
    """

    start: int
    end: int
    said: str
    value: str
    unit: frozenset[str]


def quantities(text: str) -> list[Quantity]:
    """The numbers of a text in their order: digits in any script, number words, Chinese numerals of two signs or more.

    "One" is none: it is a pronoun too often. Units are SI symbols and names, units of time, common others and
    currencies, in English (the names of SI units in some related languages too).
    """
    found = []
    for start, number_end, end in sorted(quantity_bounds(text)):
        number, unit = text[start:number_end], text[number_end:end]
        value = _NUMBER_WORDS.get(number.lower(), number)
        found.append(Quantity(start, end, " ".join((number + unit).split()), value, unit_words(unit)))
    return found


def quantity_bounds(text: str) -> Iterator[tuple[int, int, int]]:
    """Where each number starts and ends, and where its unit ends."""
    for pattern in (_DIGITS, _NUMBER_WORD):
        for number in pattern.finditer(text):
            unit = _UNIT_AFTER.match(text, number.end())
            yield *number.span(), unit.end() if unit else number.end()


def unit_words(text: str) -> frozenset[str]:
    """The words of a text that are units or parts of them, in one spelling each."""
    return frozenset(_one_spelling(" ".join(hit.group().split())) for hit in _UNIT_PART.finditer(text))


def _one_spelling(unit: str) -> str:
    if len(unit) <= 3:
        return unit
    unit = unit.lower().removesuffix("s")
    for british, american in _BRITISH:
        unit = unit.replace(british, american)
    return _SAME_UNIT.get(unit, unit)
