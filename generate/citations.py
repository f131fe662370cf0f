"""Whether quoted words stand on a page, and where. Pure functions.

What is compared are letters and numbers. Case, spacing, punctuation, ligatures, typographic quotes
and dashes, soft hyphens and hyphens at line ends make no difference. Numbers do: each must be on
the page digit by digit with its decimal point, sign and percent mark, so 4,812 is 4812 but neither
4.812 nor -4,812, and a currency the quote names must be the page's.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from generate.layout import read_layout
from pageglass.types import Box, Citation, Page, PageRef, Word

MAX_QUOTE_CHARACTERS = 4000
"""Longer quotes are not looked for: only a model that repeats itself writes them."""

_TOKEN = re.compile(
    r"(?P<sign>(?<![\w)])-(?=[$€£¥₹]?\d)|\((?=[$€£¥₹]?[ ]?\d[\d.,]*[ ]?%?[ ]?\)))?"
    r"[$€£¥₹]?[ ]?(?P<number>\d+(?:[.,]\d+)*)(?P<percent>[ ]?%)?"
    r"|(?P<letters>[^\W\d_]+)"
)
_GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_YEAR = re.compile(r"(?:19|20)\d\d")
_CURRENCY = re.compile("[$€£¥₹]")
_ELLIPSIS = re.compile(r"(?:^|\s)[\[(]?(?:\.\.\.|…)[\])]?(?=\s|$)")


@dataclass(frozen=True, slots=True)
class _Stream:
    """Letters and numbers of a text without anything between them, numbers fenced by ``#``.

    ``starts``, ``ends`` are where its tokens lie in ``text``; ``words`` the word each is from.
    """

    text: str
    tokens: tuple[str, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    words: tuple[int, ...]


_Find = Callable[[_Stream, _Stream, int], Iterator[tuple[int, int]]]
"""(page, quote, first token to look at) -> the first and last token of each place, in order."""


def find_quote(page: Page, quote: str) -> tuple[int, ...] | None:
    """Positions in ``page.words`` of the words that ``quote`` repeats, or None.

    The quoted words must stand together, in reading order or as neighbours on a visual row (a table
    row whose cells the PDF keeps apart). Parts divided by a free-standing ellipsis are looked for
    one after the other. On pages read by OCR, words may differ by a few letters; numbers never.
    """
    parts = [part for part in _ELLIPSIS.split(quote) if part.strip()]
    if not parts or not page.words or len(quote) > MAX_QUOTE_CHARACTERS:
        return None
    needles = [_stream([part]) for part in parts]
    if not all(needle.text for needle in needles):
        return _find_marks(page, quote) if len(parts) == 1 else None
    reading = range(len(page.words))
    stream = _stream([word.text for word in page.words])
    found = _find_all(page, reading, stream, parts, needles, _exact)
    if found is not None:
        return found
    tolerant = page.text_source == "ocr"
    if tolerant:
        found = _find_all(page, reading, stream, parts, needles, _noisy)
        if found is not None:
            return found
    elif not all(set(needle.tokens) <= set(stream.tokens) for needle in needles):
        return None  # Another order of the words will not help.
    visual = [i for row in read_layout(page).rows for i in row.indices]
    stream = _stream([page.words[i].text for i in visual])
    found = _find_all(page, visual, stream, parts, needles, _exact)
    if found is None and tolerant:
        found = _find_all(page, visual, stream, parts, needles, _noisy)
    return found


def boxes_of(words: Iterable[Word]) -> tuple[Box, ...]:
    """One box for each run of ``words`` on a line, as shares of the page, within 0..1."""
    boxes: list[Box] = []
    line: int | None = None
    for word in words:
        x0, y0, x1, y1 = (min(max(edge, 0.0), 1.0) for edge in word.box)
        if line is not None and word.line == line:
            a0, b0, a1, b1 = boxes[-1]
            boxes[-1] = (min(a0, x0), min(b0, y0), max(a1, x1), max(b1, y1))
        else:
            boxes.append((x0, y0, x1, y1))
            line = word.line
    return tuple(boxes)


def verify(citation: Citation, shown: Mapping[PageRef, Page]) -> Citation:
    """``citation`` with ``verified`` and ``boxes`` as code finds them on the pages ``shown``.

    Whatever the citation claimed of itself is dropped. It is verified only if its page was among
    those shown and the quoted words stand on it.
    """
    page = shown.get(citation.ref)
    words = find_quote(page, citation.quote) if page is not None else None
    if page is None or words is None:
        return replace(citation, boxes=(), verified=False)
    boxes = boxes_of(page.words[i] for i in words)
    return replace(citation, boxes=boxes, verified=True)


def same_words(one: str, other: str) -> bool:
    """Whether two texts are the same words and numbers."""
    return _stream([one]).text == _stream([other]).text


def says(quote: str, text: str) -> bool:
    """Whether all words and numbers of ``text`` are in ``quote``, whatever their order."""
    page, needle = _stream([quote]), _stream([text])
    if not needle.text:
        return bool(text.strip()) and text.strip() in quote
    missing = Counter(needle.tokens) - Counter(page.tokens)
    return not missing or any(_exact(page, needle, 0))


def _stream(texts: Sequence[str]) -> _Stream:
    """The stream of ``texts``, one text a word."""
    plain = [text if text.isascii() else _plain(text) for text in texts]
    offsets: list[int] = []
    at = 0
    for text in plain:
        offsets.append(at)
        at += len(text) + 1
    pieces: list[str] = []
    starts: list[int] = []
    words: list[int] = []
    at = word = 0
    for match in _TOKEN.finditer(" ".join(plain)):
        letters = match["letters"]
        piece = letters.lower() if letters is not None else _number(match)
        begin = match.start("letters") if letters is not None else match.start("number")
        while word + 1 < len(offsets) and offsets[word + 1] <= begin:
            word += 1
        pieces.append(piece)
        starts.append(at)
        words.append(word)
        at += len(piece)
    ends = (*starts[1:], at) if starts else ()
    return _Stream("".join(pieces), tuple(pieces), tuple(starts), ends, tuple(words))


def _number(match: re.Match[str]) -> str:
    digits = match["number"]
    if _GROUPED.fullmatch(digits):
        digits = digits.replace(",", "")
    # (1,137) is how accounts write a negative; (2021) is a year in brackets.
    bracket = match["sign"] == "(" and not _YEAR.fullmatch(digits)
    sign = "-" if bracket or match["sign"] == "-" else ""
    return f"#{sign}{digits}{'%' if match['percent'] else ''}#"


@lru_cache(maxsize=65_536)
def _plain(text: str) -> str:
    """``text`` without ligatures, styles of letters, typographic marks and invisible characters."""
    out: list[str] = []
    for char in text:
        decomposition = unicodedata.decomposition(char)
        if char.isdecimal():
            out.append(str(unicodedata.decimal(char)))
        elif decomposition.startswith(("<super>", "<sub>", "<fraction>", "<circle>")):
            # A raised 2 after 10 makes no 102, and 1½ is no 11/2.
            out.append(f" {unicodedata.normalize('NFKC', char)} ")
        else:
            out.append(char)
    out = [_plain_char(char) for char in unicodedata.normalize("NFKC", "".join(out)).casefold()]
    return "".join(out)


def _plain_char(char: str) -> str:
    category = unicodedata.category(char)
    if category == "Cf":
        return ""
    if category[0] == "M":
        # Vowel signs make words of many scripts, and no letter class of ``re`` covers them.
        return "".join(chr(ord("a") + int(digit, 16)) for digit in f"{ord(char):x}")
    if category == "Pd" or char == "\N{MINUS SIGN}":
        return "-"
    return char if char.isascii() or category[0] in "LN" or char in "€£¥₹" else " "


def _find_all(
    page: Page,
    order: Sequence[int],
    stream: _Stream,
    parts: Sequence[str],
    needles: Sequence[_Stream],
    find: _Find,
) -> tuple[int, ...] | None:
    """Positions of all parts, each after the one before; ``stream`` holds words in ``order``."""
    found: list[int] = []
    token = 0
    for part, needle in zip(parts, needles, strict=True):
        wanted = set(_CURRENCY.findall(_plain(part)))
        for first, last in find(stream, needle, token):
            start, stop = stream.words[first], stream.words[last] + 1
            # "$ 4,812" may be two words, and the quote's first or last may be only a mark.
            while start and _is_mark(page.words[order[start - 1]], part.split(None, 1)[0]):
                start -= 1
            while stop < len(order) and _is_mark(page.words[order[stop]], part.rsplit(None, 1)[-1]):
                stop += 1
            near = " ".join(page.words[i].text for i in order[max(start - 1, 0) : stop])
            if wanted <= set(_CURRENCY.findall(_plain(near))):
                found += order[start:stop]
                token = last + 1
                break
        else:
            return None
    return tuple(dict.fromkeys(found))


def _is_mark(word: Word, quoted: str) -> bool:
    """Whether ``word`` is punctuation only, and the same as the quote's outermost word."""
    return word.text == quoted and not any(char.isalnum() for char in word.text)


def _find_marks(page: Page, quote: str) -> tuple[int, ...] | None:
    """A quote without letters and numbers ("—" in a table cell) must stand there as it is."""
    wanted = quote.split()
    texts = [word.text for word in page.words]
    for start in range(len(texts) - len(wanted) + 1):
        if texts[start : start + len(wanted)] == wanted:
            return tuple(range(start, start + len(wanted)))
    return None


def _exact(stream: _Stream, needle: _Stream, token: int) -> Iterator[tuple[int, int]]:
    """Places where exactly the needle's letters and numbers stand, from token to token."""
    if token >= len(stream.starts):
        return
    at = stream.text.find(needle.text, stream.starts[token])
    while at >= 0:
        first = bisect_right(stream.starts, at) - 1
        end = at + len(needle.text)
        last = bisect_left(stream.ends, end)
        if _is_edge(stream.text, at, stream.starts[first]) and _is_edge(
            stream.text, end, stream.ends[last]
        ):
            yield first, last
        at = stream.text.find(needle.text, at + 1)


def _is_edge(text: str, at: int, edge: int) -> bool:
    """Whether a quote may begin or end at ``at``: at a token's edge, or within unspaced script."""
    return at == edge or (_is_unspaced(text[at - 1]) and _is_unspaced(text[at]))


def _is_unspaced(char: str) -> bool:
    """Whether ``char`` belongs to a script written without spaces between words."""
    code = ord(char)
    return (
        0x2E80 <= code <= 0xA4CF  # Chinese, Japanese, Yi
        or 0xF900 <= code <= 0xFAFF
        or 0x20000 <= code <= 0x3FFFF
        or 0x0E00 <= code <= 0x0EFF  # Thai, Lao
        or 0x1000 <= code <= 0x109F  # Burmese
        or 0x1780 <= code <= 0x17FF  # Khmer
    )


def _noisy(stream: _Stream, needle: _Stream, token: int) -> Iterator[tuple[int, int]]:
    """Places where each word differs from the needle's by what OCR may have misread.

    Of the letters as a whole at most one in eight may be misread. A word may also be cut in two or
    two be glued.
    """
    if not {t for t in needle.tokens if t[0] == "#"} <= set(stream.tokens):
        return
    budget = sum(len(t) for t in needle.tokens if t[0] != "#") // 8
    for first in range(token, len(stream.tokens)):
        last = _match_noisy(stream.tokens, needle.tokens, first, budget)
        if last is not None:
            yield first, last


def _match_noisy(page: Sequence[str], quote: Sequence[str], first: int, budget: int) -> int | None:
    """The page token that ends ``quote`` when it begins at token ``first``, or None."""
    at, word = first, 0
    while word < len(quote):
        if at >= len(page):
            return None
        edits, tokens, words = misread(page[at], quote[word]), 1, 1
        if edits is None and at + 1 < len(page):
            edits, tokens = misread(page[at] + page[at + 1], quote[word]), 2
        if edits is None and word + 1 < len(quote):
            edits, tokens, words = misread(page[at], quote[word] + quote[word + 1]), 1, 2
        if edits is None or edits > budget:
            return None
        budget -= edits
        at += tokens
        word += words
    return at - 1


@lru_cache(maxsize=65_536)
def misread(page: str, quote: str) -> int | None:
    """Letters misread (0, 1 or 2) if OCR may have read ``quote`` as ``page``, else None.

    Short words must be equal, longer ones keep their first letter: "in-" for "de-" and "million"
    for "billion" are other statements, not noise.
    """
    if page == quote:
        return 0
    if page[0] != quote[0] or "#" in page or "#" in quote:
        return None
    limit = 0 if len(quote) < 5 else 1 if len(quote) < 9 else 2
    if abs(len(page) - len(quote)) > limit:
        return None
    row = list(range(len(quote) + 1))
    for i, char in enumerate(page, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(quote, start=1):
            step = min(row[j] + 1, row[j - 1] + 1, diagonal + (char != other))
            diagonal, row[j] = row[j], step
        if min(row) > limit:
            return None
    return row[-1] if row[-1] <= limit else None
