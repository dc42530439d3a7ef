"""Words, and which of them are never dropped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import regex

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
_UNSPACED_BLOCKS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
SPACED = rf"[^\W{_UNSPACED_BLOCKS}]"
"""Pattern of a letter or digit of a script that writes spaces between words."""

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


def _any_of(words: Iterable[str]) -> str:
    """Pattern of whole words, in small letters, with a capital or in capitals; by first letters, which is fastest."""
    forms = sorted({form for word in words for form in (word, word.capitalize(), word.upper())}, reverse=True)
    groups = (f"{first}(?:{'|'.join(form[1:] for form in own)})" for first, own in groupby(forms, itemgetter(0)))
    return rf"(?<!{SPACED})(?:{'|'.join(groups)})(?!{SPACED})"


_HAN_DIGITS = "〇零一二两兩三四五六七八九十百千万萬億亿"
_DIGITS = re.compile(
    rf"(?=[-−$€£¥\d¼-¾⅐-⅞{_HAN_DIGITS}])(?:(?:(?<![^\s(\[{_UNSPACED_BLOCKS}])[-−])?"
    rf"[$€£¥]?(?:\d+(?:[.,:/]\d+)*|[¼-¾⅐-⅞])|[{_HAN_DIGITS}]{{2,}})"
)
_NUMBER_WORD = re.compile(_any_of(_NUMBER_WORDS))
NEGATION = re.compile(
    _any_of(
        "no not never none nor neither without cannot nothing nobody nowhere non nicht nichts kein keine keinen keiner "
        "nie niemals ohne pas jamais sans aucun aucune nunca sin ningún ninguna nada senza mai não nem sem не нет ни "
        "без".split()
    )
    + rf"|[nN]['’][tT](?!{SPACED})|[不没沒未無无否않못없]|ない|ません"
)
"""A negation, in a few languages."""
STANCE = re.compile(
    rf"(?<!{SPACED})(?<!{SPACED}['’-])"
    rf"(?:(?P<own>[yY](?i:es)|[mM](?i:aybe)|[nN][oO](?=[,.;:!?)\]\"'”’–—]))|[nN][oO])(?!-?{SPACED}|['’]{SPACED})"
    r"(?P<end>[^\S\n]*(?:\n|\Z)|\s+[–—-]\s)?"
)
"""A bare yes, maybe or no: ``own`` where it stands by itself, ``end`` where it may do so as nothing follows."""

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
    for start, number_end, end in sorted(_quantity_bounds(text)):
        number, unit = text[start:number_end], text[number_end:end]
        value = _NUMBER_WORDS.get(number.lower(), number)
        found.append(Quantity(start, end, " ".join((number + unit).split()), value, unit_words(unit)))
    return found


def _quantity_bounds(text: str) -> Iterator[tuple[int, int, int]]:
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
    yield from ((start, end) for start, _, end in _quantity_bounds(text))
    yield from (hit.span() for pattern in (NEGATION, STANCE) for hit in pattern.finditer(text))
    yield from (quote.span() for quote in _QUOTE.finditer(text))
    for line in _LINE.finditer(text):
        bullet = _BULLET.match(line.group())
        if _TABLE_ROW.match(line.group()) or (bullet and len(line.group().split()) <= _SHORT_ITEM):
            yield line.span()
        elif bullet:
            yield line.start(), line.start() + bullet.end()
