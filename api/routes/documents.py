"""Documents and their pages: upload, list, look at, remove."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from pathlib import PurePosixPath
from typing import Annotated

from fastapi import APIRouter, File, Form, Header, Query, Response, UploadFile
from pydantic import AfterValidator

from api import problems
from api.etags import matches
from api.highlight import ImageFormat, highlight
from api.routes import DocumentId, IngestView, LookView, PageNumber, SearchView
from pageglass.boxes import parse_boxes
from pageglass.errors import DocumentError, DocumentExists, NotADocument, UsageError
from pageglass.text import one_line
from pageglass.types import Document, DocumentState, IfExists
from pageglass.wire import (
    CollectionList,
    CollectionModel,
    DocumentChange,
    DocumentList,
    DocumentModel,
    PageModel,
    RefusedFile,
    ReplacedDocument,
    StageModel,
    UploadResponse,
    check_unicode,
)

router = APIRouter(tags=["documents"])

_IMAGE_CACHE = "private, max-age=3600"

Highlight = Annotated[
    str | None,
    Query(
        alias="highlight",
        max_length=4000,
        description="Boxes to mark in yellow: x0-y0-x1-y1 in ten-thousandths of the page, boxes"
        " joined by '.'",
    ),
    AfterValidator(lambda text: text if text is None or parse_boxes(text) else None),
]


@router.post("/documents", status_code=202)
def add_documents(
    file: Annotated[list[UploadFile], File(description="One or more files.")],
    view: IngestView,
    response: Response,
    collection: Annotated[
        str | None,
        Form(description="Default: the key's only collection, or the one named `default`."),
    ] = None,
    source: Annotated[
        str | None,
        Form(
            max_length=4096,
            description="Where a single file comes from: a second upload from the same place"
            " replaces the first.",
        ),
    ] = None,
    if_exists: Annotated[
        IfExists,
        Form(
            description="What becomes of a document of the collection that has the file's name and"
            " other content: it is kept beside the new one, replaced by it once that is indexed, or"
            " the file is refused. A file with a `source` goes by that.",
        ),
    ] = "keep",
) -> UploadResponse:
    """Take files in. They are stored when this returns, and indexed while you go on.

    A file that cannot be read ends in state `failed` with its reason. A file refused at once (an
    empty one) is listed in `refused`, unless it is the only one: then the request fails.
    """
    view.home(collection)
    if source is not None and len(file) > 1:
        raise UsageError("'source' names the place of one file: upload the files one by one")
    taken: list[DocumentModel] = []
    replaced: list[ReplacedDocument] = []
    refusals: list[tuple[str, DocumentError | DocumentExists]] = []
    for upload in file:
        name = _plain_name(upload.filename)
        try:
            if not upload.size:
                raise NotADocument(f"{name} is empty")
            old = None if source else view.replaced(name, collection, if_exists)
            place = old.source if old else source
            document = view.add(upload.file, name=name, collection=collection, source=place)
        except (DocumentError, DocumentExists) as error:
            refusals.append((name, error))
        else:
            taken.append(DocumentModel.of(document))
            if old and old.document_id != document.id:
                replaced.append(
                    ReplacedDocument(document_id=old.document_id, replaced_by=document.id)
                )
    if not taken:
        raise refusals[0][1]
    if len(taken) == 1:
        response.headers["Location"] = _job_url(taken[0].id)
    return UploadResponse(
        documents=taken,
        job_urls=[_job_url(document.id) for document in taken],
        replaced=replaced,
        refused=[
            RefusedFile(name=name, code=error.code, detail=one_line(str(error)))
            for name, error in refusals
        ],
    )


@router.get("/documents")
def list_documents(
    view: LookView,
    collection: Annotated[str | None, Query(description="Only of this collection.")] = None,
    tag: Annotated[
        list[str] | None,
        Query(max_length=20, description="Only with this tag; repeated: with all of them."),
    ] = None,
    state: Annotated[DocumentState | None, Query(description="Only in this state.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[
        str | None,
        Query(max_length=200, description="`next_cursor` of the list before."),
    ] = None,
) -> DocumentList:
    """List documents, oldest first, so many at a time."""
    after = None if cursor is None else _after(cursor)
    # One more than is shown tells whether there are more.
    documents = view.documents(
        collection=collection, tags=tag or (), state=state, after=after, limit=limit + 1
    )
    more = len(documents) > limit
    return DocumentList(
        documents=[DocumentModel.of(document) for document in documents[:limit]],
        next_cursor=_cursor(documents[limit - 1]) if more else None,
    )


@router.get("/documents/{document_id}")
def get_document(document_id: DocumentId, view: LookView) -> DocumentModel:
    """Show a document and how far it has come."""
    return DocumentModel.of(view.document(document_id))


@router.patch("/documents/{document_id}")
def change_document(
    document_id: DocumentId, change: DocumentChange, view: IngestView
) -> DocumentModel:
    """Call a document something else, or give it other tags."""
    return DocumentModel.of(view.change(document_id, name=change.name, tags=change.tags))


@router.delete("/documents/{document_id}", status_code=204)
def remove_document(document_id: DocumentId, view: IngestView) -> None:
    """Remove every trace of a document."""
    view.remove(document_id)


@router.get("/collections")
def list_collections(view: LookView) -> CollectionList:
    """List the collections there are, with what they hold."""
    return CollectionList(
        collections=[
            CollectionModel(name=held.name, documents=held.documents, pages=held.pages)
            for held in view.collections()
        ]
    )


@router.get("/documents/{document_id}/pages/{number}", response_model_exclude_none=True)
def get_page(
    document_id: DocumentId,
    number: PageNumber,
    view: SearchView,
    words: Annotated[bool, Query(description="Also every word with its box.")] = False,
) -> PageModel:
    """Show a page's text, label and size, and what was done with it."""
    states = [
        StageModel(stage=stage.stage, state=stage.state, reason=stage.reason)
        for stage in view.page_stages(document_id, number)
    ]
    return PageModel.of(view.page(document_id, number), words=words, states=states)


@router.get(
    "/documents/{document_id}/pages/{number}/image",
    response_class=Response,
    responses={
        200: {
            "content": problems.contents("image/jpeg", "image/webp", "image/png"),
            "description": "The page's image, of the type that Accept likes best; JPEG if in"
            " doubt.",
        },
        304: {"description": "The image you have is still the page's image."},
        501: problems.described("This profile draws no heat-maps."),
    },
)
def get_page_image(
    document_id: DocumentId,
    number: PageNumber,
    view: SearchView,
    marked: Highlight = None,
    width: Annotated[
        int | None, Query(ge=16, le=4096, description="At most so many pixels wide.")
    ] = None,
    heatmap: Annotated[
        str | None,
        Query(
            max_length=4000,
            description="A question: what answered it glows, by the page-image model in use"
            " (profiles cpu and gpu).",
        ),
    ] = None,
    word: Annotated[
        str, Query(max_length=100, description="The heat-map of this word of the question only.")
    ] = "",
    accept: Annotated[str, Header(include_in_schema=False)] = "",
    if_none_match: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Response:
    """Show a page as an image: smaller, with boxes marked in yellow, or as a heat-map."""
    page = view.page(document_id, number)
    format = _best_format(accept)
    tag = _entity_tag(page.image, marked, width, heatmap, word, format)
    headers = {"ETag": tag, "Cache-Control": _IMAGE_CACHE, "Vary": "Accept, Authorization"}
    if matches(if_none_match, tag):
        return Response(status_code=304, headers=headers)
    if heatmap is not None:
        image = view.heat_map(document_id, number, heatmap, word=word)
    else:
        image = view.page_image(page)
    if marked or width or heatmap is not None or format != "JPEG":
        boxes = parse_boxes(marked) if marked else ()
        image = highlight(image, boxes, format=format, width=width)
    return Response(image, media_type=f"image/{format.lower()}", headers=headers)


def _job_url(document_id: str) -> str:
    return f"/jobs/{document_id}"


def _cursor(last: Document) -> str:
    place = json.dumps([last.added_at, last.id]).encode()
    return base64.urlsafe_b64encode(place).decode().rstrip("=")


def _after(cursor: str) -> tuple[str, str]:
    """What ``_cursor`` was made of; UsageError."""
    try:
        place = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        added_at, id = place
        if not (isinstance(added_at, str) and isinstance(id, str)):
            raise TypeError
        # Half of a surrogate pair, which JSON can spell, would be the database's error.
        return check_unicode(added_at), check_unicode(id)
    except (binascii.Error, ValueError, TypeError):
        raise UsageError("cursor: must be the next_cursor of a list of documents") from None


_FORMATS: dict[str, ImageFormat] = {
    "image/jpeg": "JPEG",
    "image/webp": "WEBP",
    "image/png": "PNG",
}


def _best_format(accept: str) -> ImageFormat:
    """The image type that an Accept header (RFC 9110, section 12.5.1) names with the highest
    weight, WebP before JPEG before PNG; JPEG where it names none of them."""
    weights: dict[ImageFormat, float] = {}
    for part in accept.split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if kind in _FORMATS:
            given = next((p[2:] for p in parameters if p.startswith("q=")), "1")
            try:
                weights[_FORMATS[kind]] = float(given)
            except ValueError:
                continue
    order: tuple[ImageFormat, ...] = ("WEBP", "JPEG", "PNG")
    best = max(order, key=lambda format: weights.get(format, 0))
    return best if weights.get(best, 0) > 0 else "JPEG"


def _entity_tag(image: str, *drawn: object) -> str:
    """The image's key, which is a hash of its bytes, and a hash of what is done to it."""
    return f'"{image}.{hashlib.sha256(repr(drawn).encode()).hexdigest()[:16]}"'


def _plain_name(filename: str | None) -> str:
    """An upload's file name as it was written, on one line, without folders and characters that
    show nothing.

    Browsers, and most libraries, write a quote and line breaks as %22, %0D and %0A (WHATWG HTML,
    multipart/form-data encoding) and leave a percent sign as it is, so that a name which holds
    those three characters itself cannot be told from one which holds a quote.
    """
    name = _ESCAPED.sub(lambda found: _ESCAPES[found[0].upper()], filename or "")
    name = " ".join(PurePosixPath(name.replace("\\", "/")).name.split())
    return "".join(filter(str.isprintable, name)).strip()[-255:] or "upload.pdf"


_ESCAPES = {"%22": '"', "%0D": " ", "%0A": " "}
_ESCAPED = re.compile("%22|%0[AD]", re.IGNORECASE)
