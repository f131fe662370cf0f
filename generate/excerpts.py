"""What a page offers for quoting: sentences, lines and table rows, each with what it stands under.

Pure functions over a page's words and their places.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from generate.layout import Layout, Row, Run, follows, read_layout
from pageglass.types import Page

MAX_WORDS = 60
"""Longest excerpt; longer sentences are cut where a clause ends."""

MAX_HEADER_WORDS = 24
"""Longest column header that is quoted with a row."""

_NUMBER = re.compile(r"[(\[]?[-+~<>≈\u2212\u2013]?[$€£¥₹]?\d[\d.,]*[%)\]*]*")
_YEAR = re.compile(r"(?:19|20)\d\d[,.)]?")
_EMPTY_CELL = re.compile(r"[-\u2010-\u2015\u2212*.]+|n/?a", re.IGNORECASE)
_BULLET = re.compile(
    r"[\u2022\u2023\u25aa-\u25ff\u27a2\u2756\uf000-\uf0ff*>\u2013\u2014-]"
    r"|(?:\d{1,2}|[a-zA-Z]|[ivxIVX]{2,4})[.)]|\((?:\d{1,2}|[a-z]|[ivx]{2,4})\)"
)
_SENTENCE_END = re.compile(r"[.!?\u2026\u3002\uff01\uff1f][\"'\u201d\u2019)\]]*")
_CLAUSE_END = re.compile(r".*[;:,\u2014][\"'\u201d\u2019)\]]*")
_ABBREVIATION = re.compile(
    r"(?:[A-Za-z]|[A-Za-z]\.[A-Za-z.]*|mr|mrs|ms|dr|prof|st|no|nos|vs|fig|figs|eq|sec|ch|vol|pp?|"
    r"inc|corp|ltd|co|jr|sr|dept|approx|est|al|etc|cf|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec"
    r")\.",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Words of a page that can be quoted on their own.

    ``words`` are positions in ``page.words`` and ``text`` their texts. ``header`` are the positions
    of a table row's column header, above it on the page. ``context`` is what it stands under:
    heading, table section, column header. A ``line`` has no full stop: a heading, list item, label.
    ``paragraph`` numbers the block of text it is from, -1 for rows.
    """

    kind: Literal["sentence", "line", "row"]
    words: tuple[int, ...]
    text: str
    header: tuple[int, ...]
    context: str
    paragraph: int


def read_excerpts(page: Page) -> list[Excerpt]:
    """All excerpts of ``page``: text in reading order, then table rows from top to bottom."""
    layout = read_layout(page)
    tabular = [row for row in layout.rows if _is_tabular(page, row)]
    taken = {run for row in tabular for run in row.runs}
    texts = _texts(page, [run for run in layout.runs if run not in taken])
    return texts + _rows(page, layout)


def text_of(page: Page, words: Sequence[int]) -> str:
    """The words at ``words``, joined by spaces."""
    return " ".join(page.words[i].text for i in words)


def _run_words(page: Page, run: Run) -> list[str]:
    return [word.text for word in page.words[run.start : run.stop]]


# Tables


def _is_data(page: Page, run: Run) -> bool:
    """Whether a cell holds a value: mostly numbers, and not a year, which heads columns."""
    words = _run_words(page, run)
    numbers = [word for word in words if _NUMBER.fullmatch(word)]
    if not numbers:
        return False
    months = len(words) > len(numbers) and any(len(w) > 2 and w[0].isupper() for w in words)
    if all(_YEAR.fullmatch(word) for word in numbers) or (
        months and any(_YEAR.fullmatch(word) for word in numbers)
    ):
        return False
    return 2 * len(numbers) >= len(words)


def _is_tabular(page: Page, row: Row) -> bool:
    """Whether a row has cells with values beside its label."""
    return len(row.runs) > 1 and any(_is_data(page, run) for run in row.runs)


def _rows(page: Page, layout: Layout) -> list[Excerpt]:
    """Rows of two or more cells, each with the column header and section above it."""
    found: list[Excerpt] = []
    headers: list[Row] = []
    section = title = ""
    in_data = False
    left = right = bottom = 0.0
    for row in layout.rows:
        x0, x1 = row.runs[0].x0, max(run.x1 for run in row.runs)
        if bottom and row.y0 - bottom > 5 * row.height:
            headers, section, in_data, bottom = [], "", False, 0.0
        if len(row.runs) == 1:
            run = row.runs[0]
            if in_data and (x0 >= right or x1 <= left):
                continue  # Another column of the page.
            text = text_of(page, row.indices[:MAX_HEADER_WORDS])
            if run.words >= MAX_HEADER_WORDS // 2:
                headers, section, title, in_data, bottom = [], "", text, False, 0.0
            elif in_data and x0 < left + 0.25 * (right - left):
                section = text
            elif in_data:
                headers, in_data = [row], False
            elif headers and len(headers[-1].runs) > 1 and x1 <= headers[-1].runs[-1].x0:
                section = text  # Left of the columns that the header names.
            else:
                headers, title = [*headers, row][-3:], text
            continue
        data = _is_tabular(page, row)
        if data:
            in_data = True
            left, right, bottom = x0, x1, row.y1
        elif in_data and not any(
            _EMPTY_CELL.fullmatch(text_of(page, range(run.start, run.stop))) for run in row.runs
        ):
            headers, section, in_data = [], "", False
        header = _header(headers, row) if data else ()
        words = row.indices[: 2 * MAX_WORDS]
        context = " ".join(part for part in (title, section, text_of(page, header)) if part)
        found.append(Excerpt("row", words, text_of(page, words), header, context, -1))
        if not data:
            headers = [*headers, row][-3:]
            bottom = row.y1
    return found


def _header(headers: Sequence[Row], row: Row) -> tuple[int, ...]:
    """The words of the header rows that reach over the row's cells: those right above each other,
    from the lowest up, as many as are short enough to quote."""
    first_cell = row.runs[min(1, len(row.runs) - 1)].x0
    words: tuple[int, ...] = ()
    below: Row | None = None
    for header in reversed(headers):
        if header.runs[-1].x1 <= first_cell:
            continue
        if below is not None and below.y0 - header.y1 > 1.5 * header.height:
            break
        if len(words) + len(header.indices) > MAX_HEADER_WORDS:
            break
        words, below = (*header.indices, *words), header
    return words


# Text


def _texts(page: Page, runs: Sequence[Run]) -> list[Excerpt]:
    """Sentences and lines of the runs that are not table rows, in reading order."""
    if not runs:
        return []
    usual = median(run.height for run in runs)
    found: list[Excerpt] = []
    heading = lead = ""
    for number, paragraph in enumerate(_paragraphs(page, runs)):
        words = [i for run in paragraph for i in range(run.start, run.stop)]
        pieces = _sentences(page, words)
        text = text_of(page, words[:MAX_HEADER_WORDS])
        last = page.words[words[-1]].text
        is_line = len(pieces) == 1 and len(words) <= 16 and not _SENTENCE_END.search(last)
        if is_line and (paragraph[0].height > 1.08 * usual or text.isupper()) and len(text) > 2:
            context, heading, lead = heading, text, ""
        else:
            context = f"{heading} {lead}".strip()
        if last.endswith((":", "\uff1a")):
            lead = text_of(page, words[-MAX_HEADER_WORDS:])
        elif not is_line and not _BULLET.fullmatch(page.words[words[0]].text):
            lead = ""
        for piece in pieces:
            found.append(
                Excerpt(
                    "line" if is_line else "sentence",
                    tuple(piece),
                    text_of(page, piece),
                    (),
                    context,
                    number,
                )
            )
    return found


def _paragraphs(page: Page, runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that read on from one line to the next."""
    paragraphs: list[list[Run]] = []
    edge = 0.0
    for run in runs:
        first = page.words[run.start].text
        above = paragraphs[-1][-1] if paragraphs else None
        joined = (
            above is not None
            and above.stop == run.start
            and (_same_line(above, run) or follows(above, run))
            and not _BULLET.fullmatch(first)
        )
        if joined and above is not None and not _same_line(above, run):
            # A line that stops short of its paragraph's edge, before a capital, ends it.
            short = above.x1 < max(edge, run.x1) - 0.2 * (max(edge, run.x1) - run.x0)
            alone = len(paragraphs[-1]) == 1 and _BULLET.fullmatch(page.words[above.start].text)
            joined = not (short and not first[:1].islower() and not (alone and above.words <= 1))
        if joined:
            paragraphs[-1].append(run)
            edge = max(edge, run.x1)
        else:
            paragraphs.append([run])
            edge = run.x1
    return paragraphs


def _same_line(one: Run, other: Run) -> bool:
    """Whether two runs share a line with only a space's gap, as after a bullet."""
    overlap = min(one.y1, other.y1) - max(one.y0, other.y0)
    lower = min(one.height, other.height)
    return overlap > 0.5 * lower and -lower < other.x0 - one.x1 < 3 * lower


def _sentences(page: Page, words: Sequence[int]) -> list[list[int]]:
    """Split at sentence ends; what is still longer than MAX_WORDS at the ends of clauses."""
    pieces: list[list[int]] = []
    piece: list[int] = []
    for position, i in enumerate(words):
        text = page.words[i].text
        piece.append(i)
        following = page.words[words[position + 1]].text if position + 1 < len(words) else ""
        if _SENTENCE_END.search(text[-3:]) and _ends(text, following):
            pieces.append(piece)
            piece = []
    if piece:
        pieces.append(piece)
    return [part for piece in pieces for part in _clauses(page, piece)]


def _ends(text: str, following: str) -> bool:
    match = _SENTENCE_END.search(text, max(0, len(text) - 3))
    if match is None or match.end() != len(text):
        return False
    if text.endswith(".") and _ABBREVIATION.fullmatch(text.lstrip("([\"'\u201c\u2018")):
        return False
    start = following.lstrip("([\"'\u201c\u2018")[:1]
    return not start.islower()


def _clauses(page: Page, words: list[int]) -> list[list[int]]:
    parts: list[list[int]] = []
    while len(words) > MAX_WORDS:
        stops = [
            n
            for n in range(MAX_WORDS // 3, MAX_WORDS + 1)
            if _CLAUSE_END.fullmatch(page.words[words[n - 1]].text)
        ]
        stop = stops[-1] if stops else MAX_WORDS
        parts.append(words[:stop])
        words = words[stop:]
    parts.append(words)
    return parts
