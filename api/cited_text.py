"""An answer and what it cites as plain text, for those who see nothing but text: chats and models.

Chats show Markdown and HTML, and documents' names and pages' words are strangers': none of it gets
through as a link, an image or a tag. The only addresses are our own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from generate.containment import plain_text
from pageglass.boxes import fewer_boxes, format_boxes
from pageglass.text import one_line
from pageglass.types import Answer, Citation

_NAME_CHARACTERS = 120
_LABEL_CHARACTERS = 20
_MOST_BOXES = 3
"""In a link, which people see and copy: a long quote's lines are joined into blocks."""
_UNVERIFIED = "\n\n(This is not verified: no page bears it out.)"


def whole_text(answer: Answer, *, page_at: str | None = None) -> str:
    """The answer's text, and ``after_text``."""
    return plain_text(answer.text) + after_text(answer, page_at=page_at)


def after_text(answer: Answer, *, page_at: str | None = None) -> str:
    """What follows an answer's text: the numbers of its citations, and the list of its sources.

    Where it cites nothing, nothing, or that it is not verified. ``page_at`` is where the search
    page is (http://host:8321/): each source is followed by the address that opens it there.
    """
    if not answer.citations:
        return _UNVERIFIED if answer.status == "unverified" else ""
    numbers = " ".join(f"[{number}]" for number in range(1, len(answer.citations) + 1))
    sources = "\n".join(_sources(answer.citations, page_at))
    return f" {numbers}\n\nSources:\n\n{sources}"


@dataclass(frozen=True, slots=True)
class Source:
    """A page that a text cites: ``text[start:end]`` is its number there, ``url`` opens the page."""

    title: str
    url: str
    start: int
    end: int


def cited_sources(answer: Answer, *, page_at: str, said: int) -> list[Source]:
    """What ``after_text`` cites where ``said`` characters stand before it; one a citation."""
    sources: list[Source] = []
    start = said + 1
    for number, citation in enumerate(answer.citations, start=1):
        end = start + len(f"[{number}]")
        title = place_of(citation.document_name, citation.ref.number, citation.page_label)
        sources.append(Source(title, f"{page_at}{_fragment(citation)}", start, end))
        start = end + 1
    return sources


def name_of(document_name: str) -> str:
    """What a document is called: on one line, not long, and no link or tag."""
    return one_line(plain_text(document_name))[:_NAME_CHARACTERS] or "a document without a name"


def place_of(document_name: str, number: int, label: str) -> str:
    """A page in words: its document, its 1-based number, and what is printed where that differs."""
    printed = one_line(plain_text(label))[:_LABEL_CHARACTERS]
    differs = f" (printed: {printed})" if printed and printed != str(number) else ""
    return f"{name_of(document_name)}, page {number}{differs}"


def _sources(citations: Sequence[Citation], page_at: str | None) -> Iterator[str]:
    for number, citation in enumerate(citations, start=1):
        place = place_of(citation.document_name, citation.ref.number, citation.page_label)
        doubt = "" if citation.verified else "; the quoted words were not found there"
        address = "" if page_at is None else f": {page_at}{_fragment(citation)}"
        # A list item, since Markdown would make one line of all.
        yield f"- [{number}] {place}{doubt}{address}"


def _fragment(citation: Citation) -> str:
    """What makes the search page open at the cited words."""
    boxes = fewer_boxes(citation.boxes, _MOST_BOXES)
    marked = f"&highlight={format_boxes(boxes)}" if boxes else ""
    document = quote(citation.ref.document_id, safe="")
    return f"#document={document}&page={citation.ref.number}{marked}"
