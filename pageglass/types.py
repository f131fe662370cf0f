"""Documents, pages, hits, citations, answers and jobs: what the parts hand to each other."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pageglass.errors import CollectionNameError

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 as shares of the page's width and height, 0..1, origin top left."""

TextSource = Literal["layer", "ocr", "none"]
"""Where a page's text comes from: the PDF's text layer, OCR, or the page has none."""

DocumentState = Literal["queued", "indexing", "indexed", "failed"]
AnswerStatus = Literal["answered", "unverified", "not_found"]
JobState = Literal["queued", "running", "done", "dead", "cancelled"]

DEFAULT_COLLECTION = "default"
_COLLECTION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_collection_name(name: str) -> str:
    """Return ``name``; raise CollectionNameError unless it is 1-64 letters, digits, ``.``, ``_``
    or ``-``, beginning with a letter or digit."""
    if not _COLLECTION_NAME.fullmatch(name):
        raise CollectionNameError(
            f"collection name {name[:80]!r} is not allowed: use 1 to 64 letters, digits, '.', '_'"
            " or '-', beginning with a letter or digit"
        )
    return name


def document_id(collection: str, sha256: str) -> str:
    """The id of a file's bytes (hex SHA-256) within a collection: 32 hex digits.

    The same bytes in two collections are two documents, so that no collection can see another's.
    """
    return hashlib.sha256(f"{collection}/{sha256}".encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True, order=True)
class PageRef:
    """One page of one document; ``index`` is the 0-based position in the PDF."""

    document_id: str
    index: int

    @property
    def number(self) -> int:
        """The 1-based position in the PDF: the page number people see."""
        return self.index + 1


@dataclass(frozen=True, slots=True)
class Word:
    """A word as it stands on the page; words with the same ``line`` share a line of text."""

    text: str
    box: Box
    line: int


@dataclass(frozen=True, slots=True)
class Page:
    """A page as ingestion read it.

    ``words`` are in reading order and their texts are the page's text; ``label`` is the printed
    page label ("iv", "A-3") or the 1-based position where the PDF has none. ``width`` and
    ``height`` are points. ``image`` is the key of the page image (pageglass.images),
    ``render_hash`` the SHA-256 of its pixels and ``perceptual_hash`` 256 bits as hex.
    """

    ref: PageRef
    label: str
    width: float
    height: float
    words: tuple[Word, ...]
    text_source: TextSource
    image: str
    render_hash: str
    perceptual_hash: str

    @property
    def text(self) -> str:
        """The words, one line of the page a line."""
        lines: list[list[str]] = []
        line = None
        for word in self.words:
            if word.line != line:
                lines.append([])
                line = word.line
            lines[-1].append(word.text)
        return "\n".join(" ".join(words) for words in lines)


IfExists = Literal["keep", "replace", "error"]
"""What becomes of a document whose name an upload has: kept beside it, replaced, or an error."""


@dataclass(frozen=True, slots=True)
class Document:
    """A file's bytes in a collection.

    ``name`` is what a person called it, or else the first of its ``names`` that is still there: the
    same bytes under another name do not rename it. Where another document of the collection has
    that name, too, as much of the file's path stands before it as tells them apart.
    """

    id: str
    collection: str
    sha256: str
    name: str
    names: tuple[str, ...]
    pages: int
    pages_indexed: int
    state: DocumentState
    reason: str | None
    added_at: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RetrieverRank:
    """Where one retriever saw a page: 1-based rank and its own score (not comparable across
    retrievers)."""

    retriever: str
    rank: int
    score: float


@dataclass(frozen=True, slots=True)
class Why:
    """Why a page was found: every retriever that saw it, its rank after fusion (1-based, before
    duplicates were grouped), and the near-duplicate pages it stands for. ``yes`` is the
    reranking model's probability, 0..1, that the page answers the question, where it was asked."""

    retrievers: tuple[RetrieverRank, ...]
    fused_rank: int
    duplicates: tuple[PageRef, ...] = ()
    yes: float | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A page found for a question; ``score`` is the fused score, higher is better."""

    ref: PageRef
    document_name: str
    page_label: str
    score: float
    why: Why


@dataclass(frozen=True, slots=True)
class Citation:
    """Words on a page that support an answer.

    ``verified`` is true only where code found the quote on the page; ``boxes`` are then the boxes
    of the quoted words, one for each run of words on a line.
    """

    ref: PageRef
    document_name: str
    page_label: str
    quote: str
    boxes: tuple[Box, ...]
    verified: bool


@dataclass(frozen=True, slots=True)
class Usage:
    """What one use of a vision-language model cost.

    ``purpose`` is what it was asked for, ``model`` the name and version as the model's server or
    checkpoint gives it, ``images`` the (width, height) in pixels of every image it was shown.
    Tokens are the model's own count, None where it does not tell.
    """

    purpose: Literal["rerank", "transcribe", "answer", "extract"]
    model: str
    images: tuple[tuple[int, int], ...]
    input_tokens: int | None
    output_tokens: int | None
    seconds: float


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Ranked pages and how long each step took, in milliseconds.

    ``usage`` is what models looked at on the way, ``notes`` say what did not go as asked,
    ``transcription`` is what was read from the question's picture.
    """

    hits: tuple[Hit, ...]
    timings_ms: dict[str, float]
    usage: tuple[Usage, ...] = ()
    notes: tuple[str, ...] = ()
    transcription: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and what it rests on. ``extractive`` answers only repeat words of the pages.

    ``status`` is ``unverified`` where a model answered and no citation of it holds. ``notes`` say
    in plain words what did not go as asked (a reranker that timed out, a model that could not be
    reached). ``transcription`` is what was read from the question's picture. ``support``, 0..1, is
    how surely the quoted words answer (below the threshold the answer is declined; None where there
    was no page to read), and ``draft`` what would have been said without a threshold: both are for
    evaluation and do not leave the process.
    """

    text: str
    status: AnswerStatus
    citations: tuple[Citation, ...]
    hits: tuple[Hit, ...]
    model: str
    extractive: bool
    timings_ms: dict[str, float]
    usage: tuple[Usage, ...] = ()
    notes: tuple[str, ...] = ()
    transcription: str | None = None
    support: float | None = None
    draft: str = ""


Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True)
class ExtractedValue:
    """A value a page gives, and the words it rests on.

    ``path`` is its place in the document's data (a JSON pointer). ``verified`` is true only where
    code found the quote on the page and, where it is a number or a free text, the value in the
    quote; ``boxes`` are those of the quoted words, where they stand on the page. ``alternatives``
    are other values for the same place.
    """

    path: str
    value: Scalar
    ref: PageRef
    page_label: str
    quote: str | None
    boxes: tuple[Box, ...]
    verified: bool
    alternatives: tuple[ExtractedValue, ...] = ()


@dataclass(frozen=True, slots=True)
class PageProblem:
    """Why a page's values are not, or not all, in what was extracted."""

    ref: PageRef
    detail: str


@dataclass(frozen=True, slots=True)
class ExtractedDocument:
    """What a document says to a schema: ``data`` in the schema's shape, null where it says nothing,
    and for each value in it where it stands.

    ``pages`` are those that were to be read, without empty ones and repetitions; ``problems`` say
    what came of some of them, ``notes`` what the document as a whole lacks.
    """

    document_id: str
    document_name: str
    data: dict[str, Any]
    values: tuple[ExtractedValue, ...]
    pages: tuple[PageRef, ...]
    problems: tuple[PageProblem, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Extraction:
    """What documents say to a schema; ``notes`` say what did not go as asked."""

    documents: tuple[ExtractedDocument, ...]
    model: str
    timings_ms: dict[str, float]
    usage: tuple[Usage, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """The work on one document; the document's id is the job's.

    ``pages`` is 0 until the document was opened. Times are Unix seconds; ``run_after`` is when the
    next attempt is due. ``pages_per_second`` is this attempt's, None before its first page.
    """

    document_id: str
    collection: str
    name: str
    state: JobState
    priority: int
    attempts: int
    pages: int
    pages_done: int
    reason: str | None
    run_after: float
    queued_at: float
    started_at: float | None
    ended_at: float | None
    worker: str | None
    pages_per_second: float | None

    @property
    def seconds_left(self) -> float | None:
        """Until the last page at this pace; None where nothing can be said."""
        if self.state != "running" or not self.pages_per_second:
            return None
        return max(0, self.pages - self.pages_done) / self.pages_per_second


@dataclass(frozen=True, slots=True)
class HeldFile:
    """A file of a watched folder that is gone, whose document waits for a person's word.

    ``missing_since`` is in Unix seconds.
    """

    collection: str
    path: str
    missing_since: float | None


@dataclass(frozen=True, slots=True)
class NamedPages:
    """Pages a question names: ``numbers`` as printed or counted, ``positions`` from 1, or from -1
    for the last page."""

    numbers: tuple[int, ...] = ()
    positions: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.numbers or self.positions)


@dataclass(frozen=True, slots=True)
class Scope:
    """Which pages a search may return: of some collections (tenants), of some documents. None
    means all, an empty tuple none."""

    collections: tuple[str, ...] | None = None
    documents: tuple[str, ...] | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing can be in it."""
        return self.collections == () or self.documents == ()


class PageStore(Protocol):
    """What search and answering must know of pages beside their vectors.

    Ingestion's catalog is one; an in-memory one serves tests and other hosts.
    """

    def pages(self, refs: Sequence[PageRef]) -> dict[PageRef, Page]:
        """The pages that exist among ``refs``."""
        ...

    def named_pages(self, named: NamedPages, scope: Scope) -> list[PageRef]:
        """The pages a question names: by printed number first, then by position."""
        ...

    def document_names(self, ids: Sequence[str]) -> dict[str, str]:
        """The display name of each document that exists among ``ids``."""
        ...
