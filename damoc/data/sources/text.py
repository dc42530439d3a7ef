"""Cleans documentation: markup to plain text, boilerplate away, whole sentences only."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_BLOCKS = {"p", "li", "dt", "dd", "br", "note", "important", "ul", "ol", "dl", "div", "tr", "h1", "h2", "h3"}
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(`])")
_BOILERPLATE = re.compile(
    r"^(for (more|additional|further|an? )|see also|see the|to (learn|see|find) more|the following (examples?|code)|"
    r"this (operation|api|action) is (deprecated|not)|to use this (operation|api)|you must have|"
    r"if you (are|'re) using)",
    re.IGNORECASE,
)
_ROLE = re.compile(r":[a-z]+(?::[a-z]+)?:`~?([^`<]+?)(?:\s*<[^>]*>)?`")
_CITATION = re.compile(r"\s*\[\d+\]_")
_DIRECTIVE = re.compile(r"^\s*\.\.\s+\w[\w-]*::.*(?:\n(?:[ \t]+.*)?)*", re.MULTILINE)


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _BLOCKS:
            self.pieces.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self.handle_starttag(tag, [])

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)


def html_to_text(markup: str) -> str:
    """Plain text of an HTML fragment: one line per block element, entities resolved, spaces folded."""
    parser = _Text()
    parser.feed(markup)
    parser.close()
    lines = (" ".join(line.split()) for line in "".join(parser.pieces).split("\n"))
    return "\n".join(line for line in lines if line)


def rst_to_text(docstring: str) -> str:
    """Plain text of reStructuredText: roles and literals unwrapped, directives and citations dropped."""
    text = _DIRECTIVE.sub("", docstring)
    text = _ROLE.sub(r"\1", text)
    text = _CITATION.sub("", text)
    return text.replace("``", "`").replace("`", "").replace("**", "")


def sentences(text: str) -> list[str]:
    """The sentences of a text, boilerplate such as "For more information, see ..." left out."""
    found = [" ".join(s.split()) for line in text.split("\n") for s in _SENTENCE_END.split(line)]
    return [s for s in found if s and not _BOILERPLATE.match(s)]


def leading_sentences(text: str, limit: int) -> str:
    """The first whole sentences that fit in ``limit`` characters; empty when the first does not fit."""
    kept = ""
    for sentence in sentences(text):
        longer = f"{kept} {sentence}".strip()
        if len(longer) > limit:
            break
        kept = longer
    return kept
