"""Aligned windows of an original and what was made of it, so that an encoder reads both to their end."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from damoc.condense.apply import parting
from damoc.condense.words import Word

_RUN = re.compile(r"\S+\s*")
_SENTENCE_END = (".", "!", "?", "。", "！", "？", ":", ";")
_PIECES_A_WINDOW = 12
CountTokens = Callable[[Sequence[str]], Sequence[int]]


@dataclass(frozen=True)
class Window:
    """A stretch of an original and the stretch of the candidate that stands for it, white space made single spaces.

    Args:
        original: the stretch of the original.
        candidate: what stands for it, empty where nothing does.
        original_tokens: its weight in recall.
        candidate_tokens: its weight in precision.
    """

    original: str
    candidate: str
    original_tokens: int
    candidate_tokens: int


def kept_windows(text: str, words: Sequence[Word], kept: NDArray[Any], count: CountTokens, room: int) -> list[Window]:
    """Windows of a text and of those of its words that stayed.

    Args:
        text: the original.
        words: its words.
        kept: bool (words,).
        count: encoder tokens of each of some runs without white space.
        room: tokens of a window at most, give or take a sentence end.
    """
    left = list(text)
    last: Word | None = None
    gap = -1
    for word, stays in zip(words, kept, strict=True):
        if not stays:
            left[word.start : word.end] = [""] * (word.end - word.start)
            gap = word.start if gap < 0 else gap
            continue
        if last and gap >= 0:
            left[gap] = parting(text[last.end - 1], text[word.start])
        last, gap = word, -1
    pieces = _pieces(text, count, room)
    cuts = _cuts(pieces, _windows_needed(pieces, room), room)
    return [_window(text[start:end], "".join(left[start:end]), count) for start, end in pairwise(cuts)]


def rewritten_windows(original: str, candidate: str, count: CountTokens, room: int) -> list[Window]:
    """Windows of a text and of its rewrite: both are cut at the same shares of their length, at sentence ends if near.

    A rewrite that moves text further than a window scores lower than it would in one piece.

    Args:
        original: the original.
        candidate: any other text.
        count: encoder tokens of each of some runs without white space.
        room: tokens of a window at most, give or take a sentence end.
    """
    sides = [_pieces(text, count, room) for text in (original, candidate)]
    windows = max(_windows_needed(pieces, room) for pieces in sides)
    stretches = [pairwise(_cuts(pieces, windows, room)) for pieces in sides]
    return [
        _window(original[slice(*own)], candidate[slice(*other)], count) for own, other in zip(*stretches, strict=True)
    ]


@dataclass(frozen=True)
class _Piece:
    end: int
    tokens: int
    ends_sentence: bool


def _pieces(text: str, count: CountTokens, room: int) -> list[_Piece]:
    """Where a text may be cut: behind its words, and within those that are a large part of a window."""
    runs = list(_RUN.finditer(text))
    sizes = count([run.group().rstrip() for run in runs])
    longest = max(1, room // _PIECES_A_WINDOW)
    pieces = []
    for run, tokens in zip(runs, sizes, strict=True):
        length = run.end() - run.start()
        parts = min(length, -(-tokens // longest))
        bounds = [run.start() + length * part // parts for part in range(1, parts + 1)]
        shares = [tokens * (part + 1) // parts - tokens * part // parts for part in range(parts)]
        ends = run.group().rstrip().endswith(_SENTENCE_END)
        pieces += [_Piece(end, share, ends and end == run.end()) for end, share in zip(bounds, shares, strict=True)]
    return pieces


def _windows_needed(pieces: Sequence[_Piece], room: int) -> int:
    return max(1, -(-sum(piece.tokens for piece in pieces) // room))


def _cuts(pieces: Sequence[_Piece], windows: int, room: int) -> list[int]:
    """Bounds (windows + 1,) of stretches of about equal tokens, moved to a sentence end where one is near."""
    places = [0, *(piece.end for piece in pieces)]
    reached = np.array([0, *accumulate(piece.tokens for piece in pieces)], dtype=np.float64)
    ends = np.array([False, *(piece.ends_sentence for piece in pieces)])
    near = room // (2 * _PIECES_A_WINDOW)
    cuts = [0]
    for number in range(1, windows):
        distance = np.abs(reached - reached[-1] * number / windows)
        cuts.append(max(cuts[-1], int(np.argmin(np.where(ends & (distance <= near), distance - near - 1, distance)))))
    return [places[cut] for cut in (*cuts, len(pieces))]


def _window(original: str, candidate: str, count: CountTokens) -> Window:
    left, right = original.split(), candidate.split()
    return Window(" ".join(left), " ".join(right), sum(count(left)), sum(count(right)))
