"""Documents and their pages: upload, list, look at, remove."""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath
from typing import Annotated

from fastapi import APIRouter, File, Form, Header, Query, Response, UploadFile
from pydantic import AfterValidator

from api.highlight import highlight
from api.problems import one_line
from api.routes import DocumentId, OpenServices, PageNumber
from pageglass.boxes import parse_boxes
from pageglass.errors import DocumentError, NotADocument, UsageError
from pageglass.types import DEFAULT_COLLECTION, check_collection_name
from pageglass.wire import DocumentList, DocumentModel, PageModel, RefusedFile, UploadResponse

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
    file: Annotated[list[UploadFile], File(description="One or more PDF files.")],
    services: OpenServices,
    response: Response,
    collection: Annotated[str, Form()] = DEFAULT_COLLECTION,
    source: Annotated[
        str | None,
        Form(
            max_length=4096,
            description="Where a single file comes from: a second upload from the same place"
            " replaces the first.",
        ),
    ] = None,
) -> UploadResponse:
    """Take files in. They are stored when this returns, and indexed while you go on.

    A file that turns out to be no PDF ends in state ``failed`` with its reason. A file refused at
    once (an empty one) is listed in ``refused``, unless it is the only one: then the request fails.
    """
    check_collection_name(collection)
    if source is not None and len(file) > 1:
        raise UsageError("'source' names the place of one file: upload the files one by one")
    taken: list[DocumentModel] = []
    refusals: list[tuple[str, DocumentError]] = []
    for upload in file:
        name = _plain_name(upload.filename)
        try:
            if not upload.size:
                raise NotADocument(f"{name} is empty")
            document = services.add(upload.file, name=name, collection=collection, source=source)
        except DocumentError as error:
            refusals.append((name, error))
        else:
            taken.append(DocumentModel.of(document))
    if not taken:
        raise refusals[0][1]
    if len(taken) == 1:
        response.headers["Location"] = f"/documents/{taken[0].id}"
    return UploadResponse(
        documents=taken,
        refused=[
            RefusedFile(name=name, code=error.code, detail=one_line(str(error)))
            for name, error in refusals
        ],
    )


@router.get("/documents")
def list_documents(services: OpenServices, collection: str | None = None) -> DocumentList:
    """List every document, oldest first."""
    documents = services.documents(collection=collection)
    return DocumentList(documents=[DocumentModel.of(document) for document in documents])


@router.get("/documents/{document_id}")
def get_document(document_id: DocumentId, services: OpenServices) -> DocumentModel:
    """Show a document and how far it has come."""
    return DocumentModel.of(services.document(document_id))


@router.delete("/documents/{document_id}", status_code=204)
def remove_document(document_id: DocumentId, services: OpenServices) -> None:
    """Remove every trace of a document."""
    services.remove(document_id)


@router.get("/documents/{document_id}/pages/{number}", response_model_exclude_none=True)
def get_page(
    document_id: DocumentId,
    number: PageNumber,
    services: OpenServices,
    words: Annotated[bool, Query(description="Also every word with its box.")] = False,
) -> PageModel:
    """Show a page's text, label and size."""
    return PageModel.of(services.page(document_id, number), words=words)


@router.get(
    "/documents/{document_id}/pages/{number}/image",
    response_class=Response,
    responses={
        200: {"content": {"image/jpeg": {}}, "description": "The page's image."},
        304: {"description": "The image you have is still the page's image."},
    },
)
def get_page_image(
    document_id: DocumentId,
    number: PageNumber,
    services: OpenServices,
    marked: Highlight = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Show a page as a JPEG image, with boxes marked in yellow where you give some."""
    page = services.page(document_id, number)
    tag = _entity_tag(page.image, marked)
    headers = {"ETag": tag, "Cache-Control": _IMAGE_CACHE}
    if if_none_match is not None and _matches(if_none_match, tag):
        return Response(status_code=304, headers=headers)
    image = services.page_image(page)
    if marked:
        image = highlight(image, parse_boxes(marked), format="JPEG")
    return Response(image, media_type="image/jpeg", headers=headers)


@router.get(
    "/documents/{document_id}/pages/{number}/heatmap",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}, "description": "The page, glowing."}},
)
def get_page_heatmap(
    document_id: DocumentId,
    number: PageNumber,
    services: OpenServices,
    question: Annotated[str, Query(description="What was asked.")],
    word: Annotated[
        str, Query(max_length=100, description="Only what answered this word of the question.")
    ] = "",
) -> Response:
    """Show which parts of a page answered a question, by the page-image model in use."""
    image = services.heat_map(document_id, number, question, word=word)
    return Response(image, media_type="image/png", headers={"Cache-Control": _IMAGE_CACHE})


def _entity_tag(image: str, boxes: str | None) -> str:
    """The image's key, which is a hash of its bytes, and a hash of what is drawn on it."""
    drawn = f".{hashlib.sha256(boxes.encode()).hexdigest()[:16]}" if boxes else ""
    return f'"{image}{drawn}"'


def _matches(if_none_match: str, tag: str) -> bool:
    """Whether If-None-Match names the tag (weak comparison, RFC 9110 section 13.1.2)."""
    named = [part.strip().removeprefix("W/") for part in if_none_match.split(",")]
    return tag in named or "*" in named


def _plain_name(filename: str | None) -> str:
    """An upload's file name without folders and control characters."""
    name = PurePosixPath((filename or "").replace("\\", "/")).name
    name = "".join(letter for letter in name if letter.isprintable()).strip()[-255:]
    return name or "upload.pdf"
