"""What goes over the wire and into ``--json``: pydantic models and their way from and to types.

``of`` makes a model from the parts' own dataclasses, ``plain`` leads back. The command line, the
HTTP routes and the remote client all use these, so that the three cannot drift apart.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)

from pageglass import types
from pageglass.boxes import format_boxes
from pageglass.text import check_plain
from pageglass.types import (
    AnswerStatus,
    Box,
    DocumentState,
    HeldFile,
    Job,
    JobState,
    PageRef,
    RetrieverRank,
    SearchResult,
    TextSource,
    Why,
    Word,
)


def _utc(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _seconds(utc: str | None) -> float | None:
    return None if utc is None else datetime.fromisoformat(utc).timestamp()


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 2)


def check_unicode(text: str) -> str:
    """``text``; ValueError where it has half of a surrogate pair, which JSON can spell, and which
    is no text to a tokenizer or a database."""
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError("has half of a surrogate pair in it, which is no Unicode text")
    return text


Text = Annotated[str, AfterValidator(check_unicode)]
Label = Annotated[Text, AfterValidator(check_plain)]
"""One line that is shown to others, without control characters."""
Tag = Annotated[Label, Field(min_length=1, max_length=64, pattern=r"^[^\s,](?:[^,\n]*[^\s,])?$")]
"""A tag: one line, no comma, no space around it."""


def _from_base64(value: object) -> object:
    return from_base64(value) if isinstance(value, str) else value


def from_base64(given: str) -> bytes:
    """Bytes of base64 text, bare or as a ``data:`` URL; lines may be broken. ValueError."""
    head, comma, body = given.partition(",")
    text = body if comma and head.startswith("data:") else given
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is no base64 (of the picture's file, bare or as a data: URL)") from None


Base64 = Annotated[
    bytes,
    BeforeValidator(_from_base64),
    PlainSerializer(lambda data: base64.b64encode(data).decode(), when_used="json-unless-none"),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]


class _Request(BaseModel):
    # Strict: "5" is no number and false no date, whatever could be made of them.
    model_config = ConfigDict(extra="forbid", strict=True)


class _Response(BaseModel):
    # Unknown keys are passed over, so that a client can read what a newer server says.
    model_config = ConfigDict(extra="ignore", frozen=True)


class SearchRequest(_Request):
    """A question to find pages for."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"question": "What did the auditor cost in 2024?"},
                {"question": "Which bolts hold the group head?", "tags": ["manuals"], "top_k": 3},
            ]
        }
    )

    question: Text = Field(
        "", description="What to look for, in plain words. May be empty beside an image."
    )
    image: Base64 | None = Field(
        None,
        description="A picture to search with, and whose text is part of the question: a PNG, JPEG,"
        " WebP, GIF, BMP or TIFF file as base64 or as a data: URL.",
    )
    collection: Text | None = Field(None, description="Search this collection; default: all.")
    documents: list[Text] = Field(
        default_factory=list,
        max_length=1000,
        description="Search only these documents (ids); default: all.",
    )
    tags: list[Text] = Field(
        default_factory=list,
        max_length=20,
        description="Search only documents that have every one of these tags.",
    )
    top_k: Annotated[int, Field(ge=1, le=100)] | None = Field(
        None, description="Pages to return; default: the setting search.top_k (5)."
    )

    def as_json(self) -> dict[str, Any]:
        """The request's body."""
        return self.model_dump(mode="json", exclude_none=True)


class AskRequest(SearchRequest):
    """A question to answer from the pages."""


class RetrieverRankModel(_Response):
    """Where one retriever saw a page."""

    retriever: str
    rank: int = Field(description="1-based.")
    score: float = Field(description="The retriever's own; not comparable across retrievers.")


class PageRefModel(_Response):
    """A page of a document."""

    document_id: Text
    page: int = Field(ge=1, lt=2**31, description="1-based position in the PDF.")

    @classmethod
    def of(cls, ref: PageRef) -> PageRefModel:
        """The model of a page's place."""
        return cls(document_id=ref.document_id, page=ref.number)

    def plain(self) -> PageRef:
        """The place it was made of."""
        return PageRef(self.document_id, self.page - 1)


class WhyModel(_Response):
    """Why a page was found."""

    retrievers: list[RetrieverRankModel]
    fused_rank: int = Field(description="1-based, before duplicates were grouped.")
    duplicates: list[PageRefModel] = Field(
        description="Near-duplicate pages this one stands for, as (document, page)."
    )
    yes: float | None = Field(
        None,
        description="The reranking model's probability, 0..1, that the page answers the question.",
    )


class HitModel(_Response):
    """A page found for a question."""

    document_id: str
    document_name: str
    page: int = Field(description="1-based position in the PDF.")
    page_label: str = Field(description='The printed page label, such as "iv".')
    score: float = Field(
        description="Fused score, before reranking; the order of the list is what counts."
    )
    why: WhyModel
    image_url: str

    @classmethod
    def of(cls, hit: types.Hit) -> HitModel:
        """The model of a hit."""
        return cls(
            document_id=hit.ref.document_id,
            document_name=hit.document_name,
            page=hit.ref.number,
            page_label=hit.page_label,
            score=hit.score,
            why=WhyModel(
                retrievers=[
                    RetrieverRankModel(retriever=seen.retriever, rank=seen.rank, score=seen.score)
                    for seen in hit.why.retrievers
                ],
                fused_rank=hit.why.fused_rank,
                duplicates=[PageRefModel.of(ref) for ref in hit.why.duplicates],
                yes=hit.why.yes,
            ),
            image_url=image_url(hit.ref),
        )

    def plain(self) -> types.Hit:
        """The hit it was made of."""
        return types.Hit(
            ref=PageRef(self.document_id, self.page - 1),
            document_name=self.document_name,
            page_label=self.page_label,
            score=self.score,
            why=Why(
                tuple(RetrieverRank(r.retriever, r.rank, r.score) for r in self.why.retrievers),
                self.why.fused_rank,
                tuple(ref.plain() for ref in self.why.duplicates),
                self.why.yes,
            ),
        )


class CitationModel(_Response):
    """Words on a page that support an answer."""

    document_id: str
    document_name: str
    page: int = Field(description="1-based position in the PDF.")
    page_label: str = Field(description='The printed page label, such as "iv".')
    quote: str
    boxes: list[Box] = Field(
        description="Boxes of the quoted words: x0, y0, x1, y1 as shares of the page, origin top"
        " left."
    )
    verified: bool = Field(description="Whether code found the quote on the page.")
    image_url: str = Field(description="The page with the quoted words highlighted.")

    @classmethod
    def of(cls, citation: types.Citation) -> CitationModel:
        """The model of a citation."""
        return cls(
            document_id=citation.ref.document_id,
            document_name=citation.document_name,
            page=citation.ref.number,
            page_label=citation.page_label,
            quote=citation.quote,
            boxes=list(citation.boxes),
            verified=citation.verified,
            image_url=image_url(citation.ref, citation.boxes),
        )

    def plain(self) -> types.Citation:
        """The citation it was made of."""
        return types.Citation(
            ref=PageRef(self.document_id, self.page - 1),
            document_name=self.document_name,
            page_label=self.page_label,
            quote=self.quote,
            boxes=tuple(self.boxes),
            verified=self.verified,
        )


class CitationEvent(CitationModel):
    """A citation as it was checked (event `citation`)."""

    number: int = Field(description="Its place among the answer's citations, from 1.")


class UsageModel(_Response):
    """What one use of a vision-language model cost."""

    purpose: Literal["rerank", "transcribe", "answer", "extract"]
    model: str = Field(description="Name and version, as the model or its server gives them.")
    images: list[tuple[int, int]] = Field(description="Width and height shown, in pixels.")
    input_tokens: int | None
    output_tokens: int | None
    seconds: float

    @classmethod
    def of(cls, usage: types.Usage) -> UsageModel:
        """The model of a usage."""
        return cls(
            purpose=usage.purpose,
            model=usage.model,
            images=list(usage.images),
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            seconds=usage.seconds,
        )

    def plain(self) -> types.Usage:
        """The usage it was made of."""
        return types.Usage(
            self.purpose,
            self.model,
            tuple(self.images),
            self.input_tokens,
            self.output_tokens,
            self.seconds,
        )


class TokenEvent(_Response):
    """A piece of an answer that is being written (event `token`)."""

    text: str
    restart: bool = Field(
        default=False, description="Forget the pieces before this one: they did not hold."
    )


class SearchResponse(_Response):
    """Ranked pages."""

    pages: list[HitModel]
    timings_ms: dict[str, float]
    usage: list[UsageModel] = Field(default_factory=list)
    notes: list[str] = Field(
        default_factory=list, description="What did not go as asked, in plain words."
    )
    transcription: str | None = Field(
        None, description="What was read from the question's picture and counted as asked."
    )
    request_id: str | None = Field(None, description="Set by the server.")

    @classmethod
    def of(cls, found: SearchResult, request_id: str | None = None) -> SearchResponse:
        """The model of a search's result."""
        return cls(
            pages=[HitModel.of(hit) for hit in found.hits],
            timings_ms=found.timings_ms,
            usage=[UsageModel.of(usage) for usage in found.usage],
            notes=list(found.notes),
            transcription=found.transcription,
            request_id=request_id,
        )

    def plain(self) -> SearchResult:
        """The result it was made of."""
        return SearchResult(
            tuple(hit.plain() for hit in self.pages),
            self.timings_ms,
            tuple(usage.plain() for usage in self.usage),
            tuple(self.notes),
            self.transcription,
        )


class AnswerModel(_Response):
    """An answer, the pages it cites and the pages that were looked at."""

    answer: str
    answer_status: AnswerStatus
    extractive: bool = Field(description="The answer only repeats words of the pages.")
    citations: list[CitationModel]
    pages: list[HitModel]
    model: str
    timings_ms: dict[str, float]
    usage: list[UsageModel] = Field(default_factory=list)
    notes: list[str] = Field(
        default_factory=list, description="What did not go as asked, in plain words."
    )
    transcription: str | None = Field(
        None, description="What was read from the question's picture and counted as asked."
    )
    request_id: str | None = Field(None, description="Set by the server.")

    @classmethod
    def of(cls, answer: types.Answer, request_id: str | None = None) -> AnswerModel:
        """The model of an answer."""
        return cls(
            answer=answer.text,
            answer_status=answer.status,
            extractive=answer.extractive,
            citations=[CitationModel.of(citation) for citation in answer.citations],
            pages=[HitModel.of(hit) for hit in answer.hits],
            model=answer.model,
            timings_ms=answer.timings_ms,
            usage=[UsageModel.of(usage) for usage in answer.usage],
            notes=list(answer.notes),
            transcription=answer.transcription,
            request_id=request_id,
        )

    def plain(self) -> types.Answer:
        """The answer it was made of."""
        return types.Answer(
            text=self.answer,
            status=self.answer_status,
            citations=tuple(citation.plain() for citation in self.citations),
            hits=tuple(hit.plain() for hit in self.pages),
            model=self.model,
            extractive=self.extractive,
            timings_ms=self.timings_ms,
            usage=tuple(usage.plain() for usage in self.usage),
            notes=tuple(self.notes),
            transcription=self.transcription,
        )


class ExtractRequest(_Request):
    """A JSON schema, and the documents or pages to read its values off."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "schema": {
                        "type": "object",
                        "properties": {
                            "total": {"type": "number", "description": "The sum to pay."},
                            "due_date": {"type": "string", "format": "date"},
                            "lines": {
                                "type": "array",
                                "items": {
                                    "type": "object",
                                    "properties": {
                                        "article": {"type": "string"},
                                        "quantity": {"type": "integer", "minimum": 1},
                                    },
                                },
                            },
                        },
                    },
                    "documents": ["7f7a4f3bd53d4d9d8a1c6c0d5a0b1e2f"],
                }
            ]
        },
    )

    json_schema: dict[str, Any] = Field(
        alias="schema",
        description="What to look for: an object with named properties, of objects, arrays, texts,"
        " numbers, integers and booleans, with descriptions, enum, const, format, bounds and $ref"
        " into its own $defs. Every value may be null. Regular expressions are refused.",
    )
    documents: list[Text] = Field(
        default_factory=list, max_length=1000, description="Read every page of these (ids)."
    )
    pages: list[PageRefModel] = Field(
        default_factory=list, max_length=10_000, description="Read these pages."
    )
    instructions: Text | None = Field(
        default=None,
        max_length=4000,
        description="What else the model should know, such as how dates are written.",
    )

    @model_validator(mode="after")
    def _names_something(self) -> ExtractRequest:
        if not self.documents and not self.pages:
            raise ValueError("name the documents or pages to read")
        return self

    def as_json(self) -> dict[str, Any]:
        """The request's body."""
        return self.model_dump(mode="json", by_alias=True, exclude={"instructions"}) | (
            {} if self.instructions is None else {"instructions": self.instructions}
        )


class FoundValueModel(_Response):
    """A value, and where it stands."""

    path: str = Field(description="Its place in the document's data (a JSON pointer).")
    value: str | int | float | bool
    document_id: str
    page: int = Field(description="1-based position in the PDF.")
    page_label: str = Field(description='The printed page label, such as "iv".')
    quote: str | None = Field(description="The words it rests on; null where none were given.")
    boxes: list[Box] = Field(
        description="Boxes of the quoted words: x0, y0, x1, y1 as shares of the page, origin top"
        " left."
    )
    verified: bool = Field(
        description="Whether code found the quote on the page and, where it is a number or a free"
        " text, the value in the quote."
    )
    image_url: str = Field(description="The page with the quoted words highlighted.")

    @classmethod
    def of(cls, value: types.ExtractedValue) -> FoundValueModel:
        """The model of a value, without what else was found for its place."""
        return cls(
            path=value.path,
            value=value.value,
            document_id=value.ref.document_id,
            page=value.ref.number,
            page_label=value.page_label,
            quote=value.quote,
            boxes=list(value.boxes),
            verified=value.verified,
            image_url=image_url(value.ref, value.boxes),
        )

    def plain(self) -> types.ExtractedValue:
        """The value it was made of."""
        return types.ExtractedValue(
            path=self.path,
            value=self.value,
            ref=PageRef(self.document_id, self.page - 1),
            page_label=self.page_label,
            quote=self.quote,
            boxes=tuple(self.boxes),
            verified=self.verified,
        )


class ExtractedValueModel(FoundValueModel):
    """A value of the data, and where it stands."""

    alternatives: list[FoundValueModel] = Field(
        description="Other values that pages give for this place; verified ones go first."
    )

    @classmethod
    def of(cls, value: types.ExtractedValue) -> ExtractedValueModel:
        """The model of a value."""
        return cls(
            **dict(FoundValueModel.of(value)),
            alternatives=[FoundValueModel.of(other) for other in value.alternatives],
        )

    def plain(self) -> types.ExtractedValue:
        """The value it was made of."""
        others = tuple(other.plain() for other in self.alternatives)
        return replace(super().plain(), alternatives=others)


class PageProblemModel(_Response):
    """Why a page's values are not, or not all, in the data."""

    page: int = Field(description="1-based position in the PDF.")
    detail: str


class ExtractedDocumentModel(_Response):
    """What a document says to a schema."""

    document_id: str
    document_name: str
    data: dict[str, Any] = Field(
        description="In the schema's shape, merged over the pages; null where no page says it."
    )
    values: list[ExtractedValueModel] = Field(description="Where each value of the data stands.")
    pages: list[int] = Field(
        description="Pages that were to be read: not those that are empty or repeat another."
    )
    problems: list[PageProblemModel]
    notes: list[str] = Field(description="What the document as a whole lacks.")

    @classmethod
    def of(cls, document: types.ExtractedDocument) -> ExtractedDocumentModel:
        """The model of what a document says."""
        return cls(
            document_id=document.document_id,
            document_name=document.document_name,
            data=document.data,
            values=[ExtractedValueModel.of(value) for value in document.values],
            pages=[ref.number for ref in document.pages],
            problems=[
                PageProblemModel(page=problem.ref.number, detail=problem.detail)
                for problem in document.problems
            ],
            notes=list(document.notes),
        )

    def plain(self) -> types.ExtractedDocument:
        """What it was made of."""
        id = self.document_id
        return types.ExtractedDocument(
            document_id=id,
            document_name=self.document_name,
            data=self.data,
            values=tuple(value.plain() for value in self.values),
            pages=tuple(PageRef(id, number - 1) for number in self.pages),
            problems=tuple(
                types.PageProblem(PageRef(id, problem.page - 1), problem.detail)
                for problem in self.problems
            ),
            notes=tuple(self.notes),
        )


class ExtractResponse(_Response):
    """What documents say to a schema."""

    documents: list[ExtractedDocumentModel]
    model: str
    timings_ms: dict[str, float]
    usage: list[UsageModel] = Field(default_factory=list)
    notes: list[str] = Field(
        default_factory=list, description="What did not go as asked, in plain words."
    )
    request_id: str | None = Field(default=None, description="Set by the server.")

    @classmethod
    def of(cls, extraction: types.Extraction, request_id: str | None = None) -> ExtractResponse:
        """The model of an extraction."""
        return cls(
            documents=[ExtractedDocumentModel.of(document) for document in extraction.documents],
            model=extraction.model,
            timings_ms=extraction.timings_ms,
            usage=[UsageModel.of(usage) for usage in extraction.usage],
            notes=list(extraction.notes),
            request_id=request_id,
        )

    def plain(self) -> types.Extraction:
        """The extraction it was made of."""
        return types.Extraction(
            tuple(document.plain() for document in self.documents),
            self.model,
            self.timings_ms,
            tuple(usage.plain() for usage in self.usage),
            tuple(self.notes),
        )


class DocumentModel(_Response):
    """A file's bytes in a collection, and how far it has come."""

    id: str
    collection: str
    sha256: str
    name: str = Field(description="The one a person gave it, or the newest of its names.")
    names: list[str]
    tags: list[str] = Field(default_factory=list)
    pages: int
    pages_indexed: int
    state: DocumentState
    reason: str | None = Field(description="Why it failed, or a remark on what is missing.")
    added_at: str

    @classmethod
    def of(cls, document: types.Document) -> DocumentModel:
        """The model of a document."""
        return cls(
            id=document.id,
            collection=document.collection,
            sha256=document.sha256,
            name=document.name,
            names=list(document.names),
            tags=list(document.tags),
            pages=document.pages,
            pages_indexed=document.pages_indexed,
            state=document.state,
            reason=document.reason,
            added_at=document.added_at,
        )

    def plain(self) -> types.Document:
        """The document it was made of."""
        return types.Document(
            id=self.id,
            collection=self.collection,
            sha256=self.sha256,
            name=self.name,
            names=tuple(self.names),
            tags=tuple(self.tags),
            pages=self.pages,
            pages_indexed=self.pages_indexed,
            state=self.state,
            reason=self.reason,
            added_at=self.added_at,
        )


class DocumentList(_Response):
    """Documents, oldest first."""

    documents: list[DocumentModel]
    next_cursor: str | None = Field(
        default=None, description="Ask again with ?cursor= this for what follows; null at the end."
    )


class DocumentChange(_Request):
    """What to change of a document; what is left out stays."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"name": "Budget 2024", "tags": ["council", "final"]},
            ]
        }
    )

    name: Label | None = Field(
        default=None,
        min_length=1,
        max_length=255,
        description="What it is called from now on, whatever its files are called.",
    )
    tags: list[Tag] | None = Field(default=None, max_length=50, description="All of its tags.")


class CollectionModel(_Response):
    """A collection, by what it holds."""

    name: str
    documents: int
    pages: int = Field(description="Indexed ones.")


class CollectionList(_Response):
    """The collections there are, by name."""

    collections: list[CollectionModel]


class RefusedFile(_Response):
    """A file of an upload that was not taken, and why."""

    name: str
    code: str
    detail: str


class ReplacedDocument(_Response):
    """A document that another takes the place of."""

    document_id: str
    replaced_by: str


class UploadResponse(_Response):
    """What became of the files of an upload: taken in and queued, or refused."""

    documents: list[DocumentModel]
    job_urls: list[str] = Field(
        default_factory=list, description="Where to follow the work on each of the documents."
    )
    replaced: list[ReplacedDocument] = Field(
        default_factory=list[ReplacedDocument],
        description="Documents that the uploaded ones replace once these are indexed.",
    )
    refused: list[RefusedFile]


class WordModel(_Response):
    """A word as it stands on the page."""

    text: str
    box: Box
    line: int


class StageModel(_Response):
    """How far a page has come with one thing: reading it, OCR, or a collection of vectors."""

    stage: str
    state: Literal["done", "failed"]
    reason: str | None = None


class PageModel(_Response):
    """A page as ingestion read it."""

    document_id: str
    page: int = Field(description="1-based position in the PDF.")
    page_label: str
    width: float = Field(description="In points.")
    height: float = Field(description="In points.")
    text: str
    text_source: TextSource
    image_url: str
    image: str = Field(description="Key of the page image; changes with its content.")
    render_hash: str
    perceptual_hash: str
    words: list[WordModel] | None = Field(None, description="Only with ?words=true.")
    states: list[StageModel] = Field(
        default_factory=list, description="What was done with it, and what failed."
    )

    @classmethod
    def of(cls, page: types.Page, *, words: bool, states: Sequence[StageModel] = ()) -> PageModel:
        """The model of a page, with or without its words' boxes."""
        return cls(
            document_id=page.ref.document_id,
            page=page.ref.number,
            page_label=page.label,
            width=page.width,
            height=page.height,
            text=page.text,
            text_source=page.text_source,
            image_url=image_url(page.ref),
            image=page.image,
            render_hash=page.render_hash,
            perceptual_hash=page.perceptual_hash,
            words=[WordModel(text=w.text, box=w.box, line=w.line) for w in page.words]
            if words
            else None,
            states=list(states),
        )

    def plain(self) -> types.Page:
        """The page it was made of; without words where they were not asked for."""
        return types.Page(
            ref=PageRef(self.document_id, self.page - 1),
            label=self.page_label,
            width=self.width,
            height=self.height,
            words=tuple(Word(w.text, w.box, w.line) for w in self.words or ()),
            text_source=self.text_source,
            image=self.image,
            render_hash=self.render_hash,
            perceptual_hash=self.perceptual_hash,
        )


class JobModel(_Response):
    """The work on one document; the document's id is the job's."""

    document_id: str
    name: str
    collection: str
    state: JobState
    priority: int = Field(description="Higher goes first: 10 what a person added, 0 a folder.")
    attempts: int = Field(description="Since it last made progress.")
    pages: int = Field(description="0 until the document was opened.")
    pages_done: int
    reason: str | None = Field(description="Why the last attempt failed.")
    next_attempt_at: str | None = Field(description="UTC; null where nothing is waited for.")
    queued_at: str
    started_at: str | None
    ended_at: str | None
    pages_per_second: float | None
    seconds_left: float | None

    @classmethod
    def of(cls, job: Job) -> JobModel:
        """The model of a job."""
        waits = job.state == "queued" and job.run_after > 0
        return cls(
            document_id=job.document_id,
            name=job.name,
            collection=job.collection,
            state=job.state,
            priority=job.priority,
            attempts=job.attempts,
            pages=job.pages,
            pages_done=job.pages_done,
            reason=job.reason,
            next_attempt_at=_utc(job.run_after) if waits else None,
            queued_at=_utc(job.queued_at) or "",
            started_at=_utc(job.started_at),
            ended_at=_utc(job.ended_at),
            pages_per_second=_rounded(job.pages_per_second),
            seconds_left=_rounded(job.seconds_left),
        )

    def plain(self) -> Job:
        """The job as the parts know it."""
        return Job(
            document_id=self.document_id,
            collection=self.collection,
            name=self.name,
            state=self.state,
            priority=self.priority,
            attempts=self.attempts,
            pages=self.pages,
            pages_done=self.pages_done,
            reason=self.reason,
            run_after=_seconds(self.next_attempt_at) or 0,
            queued_at=_seconds(self.queued_at) or 0,
            started_at=_seconds(self.started_at),
            ended_at=_seconds(self.ended_at),
            worker=None,
            pages_per_second=self.pages_per_second,
        )


class JobList(_Response):
    """Jobs: running, queued, then the ended, newest first."""

    jobs: list[JobModel]
    counts: dict[str, int] = Field(description="All jobs by state.")
    seconds_left: float | None = Field(description="Until all is indexed, at the present pace.")


class Retried(_Response):
    """How many dead letters are tried again."""

    retried: int


class DeletionModel(_Response):
    """A file of a watched folder that is gone, whose document waits for a person's word."""

    collection: str
    path: str
    missing_since: str | None

    @classmethod
    def of(cls, held: HeldFile) -> DeletionModel:
        """The model of a held removal."""
        return cls(
            collection=held.collection, path=held.path, missing_since=_utc(held.missing_since)
        )

    def plain(self) -> HeldFile:
        """The held removal as the parts know it."""
        return HeldFile(self.collection, self.path, _seconds(self.missing_since))


class DeletionList(_Response):
    """Removals that are held back since too many files were gone at once."""

    deletions: list[DeletionModel]


class DeletionVerdict(_Request):
    """A person's word on the removals that are held back."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"remove": False, "folder": "/srv/papers"},
            ]
        }
    )

    remove: bool = Field(description="Remove these documents, or keep them for good.")
    folder: str | None = Field(default=None, description="Only files below this folder.")


class Settled(_Response):
    """How many held removals were settled."""

    settled: int


class CheckRequest(_Request):
    """How to compare catalog, files and collections."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"repair": True},
            ]
        }
    )

    repair: bool = Field(default=False, description="Set right what can be.")
    deep: bool = Field(default=False, description="Read every file, too.")


class FindingModel(_Response):
    """Something that does not match."""

    what: str
    repaired: bool
    advice: str


class CheckResponse(_Response):
    """Everything that does not match."""

    findings: list[FindingModel]


class BackupResponse(_Response):
    """Where on the server's disk a backup is, and what it holds."""

    folder: str
    files: int
    linked: bool = Field(description="Files take no further room: they are links.")
    vectors: bool = Field(description="Otherwise they are on the Qdrant server only.")


class ThresholdModel(_Response):
    """Below which support a model's answers in a collection are declined, and on what it rests."""

    collection: str
    model: str = Field(description="The answering model it was fitted for; others do not use it.")
    threshold: float
    answerable: int = Field(description="Cases that have an answer.")
    unanswerable: int = Field(description="Cases that have none.")
    false_declines: int = Field(description="Answerable ones that it declines.")
    declined: int = Field(description="Unanswerable ones that it declines.")
    cases_sha256: str
    fitted_at: str


class StatusModel(_Response):
    """What a data folder holds."""

    data_dir: str
    profile: str
    documents: dict[str, int] = Field(description="Documents by state.")
    jobs: dict[str, int] = Field(description="Jobs by state; dead ones were given up.")
    held: int = Field(description="Removals that wait for a person's word: /deletions.")
    outage: str | None = Field(description="Why nothing can be stored at the moment.")
    degraded: str | None = Field(
        default=None, description="What is lost of what the catalog counts on, and what mends it."
    )
    pages: int
    collections: dict[str, int] = Field(description="Indexed pages by collection.")
    disk_bytes: int
    answering_model: str | None = Field(
        default=None, description="What answers say answered; null where its server decides."
    )
    thresholds: list[ThresholdModel] = Field(
        default=[], description="What was fitted to collections: `pageglass eval calibrate`."
    )


class Alive(_Response):
    """That the server answers."""

    alive: Literal[True] = True


class ReadyCheck(_Response):
    """Whether one thing that answers need is there."""

    ready: bool
    detail: str = Field(description="In plain words; nothing about documents.")


class Readiness(_Response):
    """Whether the server can answer now."""

    ready: bool
    degraded: bool = Field(
        default=False, description="Whether pages cannot be found, since their vectors are lost."
    )
    models: ReadyCheck
    store: ReadyCheck
    queue: ReadyCheck

    @classmethod
    def of(
        cls, *, models: ReadyCheck, store: ReadyCheck, queue: ReadyCheck, degraded: bool = False
    ) -> Readiness:
        """Ready where every part is."""
        ready = models.ready and store.ready and queue.ready
        return cls(ready=ready, degraded=degraded, models=models, store=store, queue=queue)


class Version(_Response):
    """What the server is."""

    version: str
    profile: str
    needs_key: bool = Field(description="Whether requests need an API key.")
    can: list[str] = Field(
        description="What this profile can do beside searching and answering: 'heatmap', 'extract'."
    )


class AccessModel(_Response):
    """What the caller may do."""

    scopes: list[str] = Field(description="Of 'search', 'ask', 'ingest' and 'admin'.")
    collections: list[str] | None = Field(
        description="The only collections it may use; null for all."
    )


class InvalidField(_Response):
    """A part of a request that is not as it must be."""

    field: str
    message: str


class Problem(_Response):
    """Why a request failed (RFC 9457). ``code`` is stable and made for programs."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[InvalidField] | None = None


def image_url(ref: PageRef, boxes: tuple[Box, ...] = ()) -> str:
    """Where the server shows a page, with ``boxes`` highlighted."""
    path = f"/documents/{ref.document_id}/pages/{ref.number}/image"
    return f"{path}?highlight={format_boxes(boxes)}" if boxes else path
