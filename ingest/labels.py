"""The page numbers printed on pages, where the PDF itself does not name its pages."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby

from pageglass.types import Word

# Share of the page's height, at the top and at the bottom, where page numbers are printed.
_MARGIN = 0.12
_ALONE = re.compile(
    r"(?:page\s*)?[-–|(]*\s*(\d{1,4})\s*[-–|)]*(?:\s*(?:of|/)\s*\d+)?", re.IGNORECASE
)
_NAMED = re.compile(r"\bpage\s+(\d{1,4})\b", re.IGNORECASE)
# Numbers that run with the pages on fewer pages than this are years and chapter numbers.
_LEAST_VOTES = 3
_LEAST_SHARE = 0.2
# Printed number minus position: front matter before page 1, or an excerpt from a longer volume.
_OFFSETS = range(-60, 1001)


def printed_numbers(seen: Mapping[int, Mapping[int, int]]) -> dict[int, int]:
    """Printed page number by 0-based index, from the margin numbers of a document's pages.

    A number is believed where enough other pages carry numbers that run with the
    pages in the same way; pages without one (full-page figures) are filled in.
    """
    votes: Counter[int] = Counter()
    for index, numbers in seen.items():
        for number, weight in numbers.items():
            if number - (index + 1) in _OFFSETS:
                votes[number - (index + 1)] += weight
    needed = max(_LEAST_VOTES, _LEAST_SHARE * len(seen))
    offsets = [offset for offset, count in votes.most_common(4) if count >= needed]
    printed = {
        index: index + 1 + offset
        for index, numbers in seen.items()
        for offset in reversed(offsets)
        if index + 1 + offset in numbers
    }
    if offsets:
        taken = set(printed.values())
        for index in seen:
            number = index + 1 + offsets[0]
            if index not in printed and number > 0 and number not in taken:
                printed[index] = number
    return printed


def margin_numbers(words: Sequence[Word]) -> dict[int, int]:
    """Numbers that stand where page numbers are printed: 2 for one that says so or stands alone
    on its line, 1 for one that begins or ends a line and may be a chapter's."""
    lines = [list(line) for _, line in groupby(words, key=lambda word: word.line)]
    lines.sort(key=lambda line: line[0].box[1])
    numbers: dict[int, int] = {}
    for place, line in enumerate(lines):
        middle = (line[0].box[1] + line[0].box[3]) / 2
        # The first and last lines count wherever they stand: slides have no margins.
        if _MARGIN < middle < 1 - _MARGIN and 2 <= place < len(lines) - 3:
            continue
        texts = [word.text for word in sorted(line, key=lambda word: word.box[0])]
        joined = " ".join(texts)
        if alone := _ALONE.fullmatch(joined):
            numbers[int(alone[1])] = 2
            continue
        for text in (texts[0], texts[-1]):
            if re.fullmatch(r"\d{1,4}", text):
                numbers.setdefault(int(text), 1)
        numbers |= {int(number): 2 for number in _NAMED.findall(joined)}
    return numbers
