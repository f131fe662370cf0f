"""A logged request as a case: `pageglass eval save`.

The log's lines are JSON objects (``log_format = "json"``) and hold texts only where the setting
``server.log_text`` asks for them (docs/observability.md).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import BaseModel, Field

from evals.cases import Case
from pageglass.errors import UsageError


class LogError(UsageError):
    """The log holds no request that a case can be made of."""

    code = "log"


class _Place(BaseModel):
    document_id: str
    document: str
    page: int = Field(ge=1)
    quote: str = ""
    verified: bool = False


class _Line(BaseModel):
    """What a case is made of, of a request's line in the log."""

    request_id: str
    method: str = ""
    path: str = ""
    question: str | None = None
    question_characters: int | None = None
    answer: str = ""
    answer_status: str | None = None
    citations: list[_Place] | None = None
    found: list[_Place] = []


@dataclass(frozen=True, slots=True)
class Saved:
    """A case to be reviewed, and what a person should know of how it was made."""

    case: Case
    notes: tuple[str, ...]


def find_request(lines: Iterable[str], request_id: str) -> Saved:
    """The last request of this id among the log's lines, as a case; LogError.

    What stands before a line's first brace (of a container's log) and lines that are no JSON are
    passed over.
    """
    found: _Line | None = None
    objects = 0
    for line in lines:
        at = line.find("{")
        # Most lines are other requests': only those that can be it are read whole.
        if at < 0:
            continue
        objects += 1
        if request_id not in line:
            continue
        try:
            read = _Line.model_validate(json.loads(line[at:]))
        except (ValueError, RecursionError):
            continue
        if read.request_id == request_id:
            found = read
    if found is not None:
        return _saved(found)
    if objects == 0:
        raise LogError(
            "the log has no JSON lines: let the server write them (setting log_format = json,"
            " log_level = INFO)"
        )
    raise LogError(f"the log has no request {request_id[:64]!r}: it is the answer's X-Request-Id")


def _saved(line: _Line) -> Saved:
    if line.question is None:
        if line.question_characters is None:
            raise LogError(f"the request {line.method} {line.path} asks no question")
        raise LogError(
            "the log leaves out what was asked: set server.log_text to true"
            " (PAGEGLASS_SERVER__LOG_TEXT=true), restart the server, and ask again"
        )
    if not line.question.strip():
        raise LogError("the request asked with a picture alone: a case needs words")
    notes: list[str] = []
    citations = line.citations or []
    # Words that stand on their page tell more than those that do not.
    trusted = [place for place in citations if place.verified] or citations
    if not (trusted or line.found):
        raise LogError("the request found no page, so its case would name no document")
    document = (
        Counter(place.document_id for place in trusted).most_common(1)[0][0]
        if trusted
        else line.found[0].document_id
    )
    gold = [place for place in trusted if place.document_id == document]
    if elsewhere := len(trusted) - len(gold):
        notes.append(f"{elsewhere} of {len(trusted)} citations are of other documents: left out")
    declined = line.answer_status == "not_found"
    if declined:
        notes.append("it was declined, so the case says that there is no answer: review it")
    elif not gold:
        notes.append("nothing was cited, so the case has no gold pages: review it")
    case = Case(
        id=f"logged-{line.request_id}",
        question=line.question,
        document=_called(document, [*trusted, *line.found]),
        pages=tuple(sorted({place.page for place in gold})),
        answer=line.answer if line.answer and not declined else None,
        answerable=not declined,
        quote=gold[0].quote if gold else "",
        origin="logged",
    )
    return Saved(case, tuple(notes))


def _called(document_id: str, places: Iterable[_Place]) -> str:
    """The document's name, which people can read; its id where another one is named so."""
    named: dict[str, set[str]] = {}
    for place in places:
        named.setdefault(place.document, set()).add(place.document_id)
    names = [name for name, ids in named.items() if ids == {document_id}]
    return names[0] if names else document_id
