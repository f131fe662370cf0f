"""Pages that a question names: "on page 14", "slides 3 to 5", "the last page", "the cover"."""

from __future__ import annotations

import re

from pageglass.types import NamedPages

_CARDINALS = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    " sixteen seventeen eighteen nineteen twenty"
).split()
_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth".split()
# "page" to people is also the slide of a deck.
_PAGE = r"(?:pages?|slides?)"
_NUMBER = rf"(?:\d{{1,4}}|{'|'.join(_CARDINALS)})"
_NAMED = re.compile(
    rf"\b(?:{_PAGE}|pp?\.|pg\.?)\s*(?:no\.?|number|#)?\s*\(?\s*"
    rf"({_NUMBER}\b(?:\s*(?:-|–|to|through|and|or|&|,|,\s*and)\s*(?:{_PAGE}\s*)?\d{{1,4}}\b)*)",
    re.IGNORECASE,
)
_RANGE = re.compile(
    rf"({_NUMBER})\b(?:\s*(?:-|–|to|through)\s*(?:{_PAGE}\s*)?(\d{{1,4}}))?", re.IGNORECASE
)
_ORDINAL = re.compile(
    rf"\b({'|'.join(_ORDINALS)}|\d{{1,3}}(?:st|nd|rd|th))[ -]+{_PAGE}\b", re.IGNORECASE
)
_NEXT_TO_LAST = re.compile(
    rf"\b(?:second[ -](?:to[ -])?last|penultimate)\s+{_PAGE}\b", re.IGNORECASE
)
_LAST = re.compile(rf"\b(?:last|final|back)\s+{_PAGE}\b|\bback cover\b", re.IGNORECASE)
_COVER = re.compile(
    rf"\b(?:front|title|opening|cover)\s+{_PAGE}\b|\b(?:on|of|at|in) the (?:front )?cover\b",
    re.IGNORECASE,
)
# "pages 3 to 400" names a part of a document, not pages to look at.
_LONGEST_RANGE = 20


def named_pages(question: str) -> NamedPages:
    """The pages a question names."""
    numbers: list[int] = []
    for mention in _NAMED.finditer(question):
        for first, last in _RANGE.findall(mention[1]):
            start, end = _value(first), _value(last or first)
            within = 0 <= end - start <= _LONGEST_RANGE
            numbers += range(start, end + 1) if within else (start, end)
    positions: list[int] = []
    rest, found = _NEXT_TO_LAST.subn(" ", question)
    if found:
        positions.append(-2)
    for ordinal in _ORDINAL.findall(rest):
        word = ordinal.lower()
        positions.append(
            _ORDINALS.index(word) + 1 if word in _ORDINALS else int(re.sub(r"\D", "", word))
        )
    if _LAST.search(rest):
        positions.append(-1)
    if _COVER.search(rest):
        positions.append(1)
    return NamedPages(tuple(dict.fromkeys(numbers)), tuple(dict.fromkeys(positions)))


def _value(number: str) -> int:
    word = number.lower()
    return _CARDINALS.index(word) + 1 if word in _CARDINALS else int(number)
