"""What the condensing rooms know of languages: scripts that write spaces, negations, yes and no."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter

UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Characters of scripts that write no spaces, as ranges of a pattern."""
SPACED = rf"[^\W{UNSPACED}]"
"""Pattern of a letter or digit of a script that writes spaces between words."""


def any_of(words: Iterable[str]) -> str:
    """Pattern of whole words, in small letters, with a capital or in capitals; by first letters, which is fastest."""
    forms = sorted({form for word in words for form in (word, word.capitalize(), word.upper())}, reverse=True)
    groups = (f"{first}(?:{'|'.join(form[1:] for form in own)})" for first, own in groupby(forms, itemgetter(0)))
    return rf"(?<!{SPACED})(?:{'|'.join(groups)})(?!{SPACED})"


NEGATION = re.compile(
    any_of(
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
