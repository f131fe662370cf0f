"""What a page or a document is called: its largest lines, its first lines, its file's name.

Most pages of a long document do not say which document they are; encoders add these words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from pageglass.types import Page, Word

_HEADING_WORDS = 14
_HEADING_CHARACTERS = 120
# A line this much smaller than the largest is text, not heading.
_RELATIVE_SIZE = 0.6
_FIRST_LINES = 3
_FIRST_CHARACTERS = 150
# Content hashes, long numbers and what upload sites and editors append say nothing.
_NOISE = re.compile(r"[0-9a-f]{12,}|\d{6,}|(phpapp|lva|final|vf?|rev)\d*", re.IGNORECASE)


def heading(page: Page) -> str:
    """The page's largest lines in reading order, at most 14 words."""
    lines = [
        (max(word.box[3] - word.box[1] for word in line), _text(line))
        for line in _lines(page.words)
        if sum(character.isalpha() for character in _text(line)) >= 3
    ]
    chosen: list[int] = []
    words = 0
    by_size = sorted(range(len(lines)), key=lambda i: -lines[i][0])
    for i in by_size:
        size, text = lines[i]
        words += len(text.split())
        too_small = size < _RELATIVE_SIZE * lines[by_size[0]][0]
        if chosen and (words > _HEADING_WORDS or too_small):
            break
        chosen.append(i)
    return " ".join(lines[i][1] for i in sorted(chosen))[:_HEADING_CHARACTERS]


def first_lines(page: Page) -> str:
    """The page's first three lines, at most 150 characters: a running header, or the title."""
    lines = [_text(line) for line in _lines(page.words)[:_FIRST_LINES]]
    return " ".join(lines)[:_FIRST_CHARACTERS]


def document_title(file_name: str, first_page: Page | None) -> str:
    """The words of a file's name and the heading of its first page."""
    stem = re.sub(r"\.pdf$", "", file_name, flags=re.IGNORECASE)
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", stem)
    words = [word for word in re.split(r"[\W_]+", spaced) if word and not _NOISE.fullmatch(word)]
    return " ".join([*words, heading(first_page) if first_page else ""]).strip()


def _lines(words: Sequence[Word]) -> list[list[Word]]:
    """Lines that hold a letter or digit."""
    lines = [list(line) for _, line in groupby(words, key=lambda word: word.line)]
    return [line for line in lines if any(c.isalnum() for c in _text(line))]


def _text(line: Sequence[Word]) -> str:
    return " ".join(word.text for word in line)
