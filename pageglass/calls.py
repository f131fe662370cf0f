"""What clients send and how what comes back is read, as plain data: nothing is sent here.

pageglass.client has the two clients that send it, one that blocks and one for event loops.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, BinaryIO, Generic, Literal, TypedDict, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from pageglass import wire
from pageglass.boxes import format_boxes
from pageglass.errors import (
    DocumentNotFound,
    Overload,
    PageglassError,
    ServerError,
    UsageError,
)
from pageglass.replies import ACCEPT_ENCODING, ReplyRefused
from pageglass.types import DEFAULT_COLLECTION, Box, DocumentState, IfExists, JobState

REPLY_BYTES = 256 << 20
"""The longest reply that is read, in bytes."""

LONGEST_PAUSE = 30.0
"""Seconds; a server that wants a longer pause before the next try is not tried again."""

T = TypeVar("T")
N = TypeVar("N", bound=str)
M = TypeVar("M", bound=BaseModel)

File = str | Path | tuple[str, bytes | BinaryIO]
"""A file to upload: its path, or its name and its bytes or a file that is open and can seek."""


@dataclass(frozen=True, slots=True)
class Event(Generic[N, T]):
    """What happened while an answer was made; ``name`` says what ``model`` is."""

    name: N
    number: int
    model: T


AskEvent = (
    Event[Literal["search"], wire.SearchResponse]
    | Event[Literal["token"], wire.TokenEvent]
    | Event[Literal["citation"], wire.CitationEvent]
    | Event[Literal["answer"], wire.AnswerModel]
)


class Scope(TypedDict, total=False):
    """What a question may come with; see wire.SearchRequest."""

    image: bytes | None
    collection: str | None
    documents: Sequence[str]
    tags: Sequence[str]
    top_k: int | None


class Destination(TypedDict, total=False):
    """Where an upload goes. ``source`` is where a single file comes from: a later one from there
    replaces it. ``if_exists`` says what becomes of a document that has a file's name. An upload
    with an ``idempotency_key`` that breaks off is tried again."""

    collection: str
    source: str
    if_exists: IfExists
    idempotency_key: str


class Selection(TypedDict, total=False):
    """Which documents are meant: those with all of this, and every one of the tags."""

    collection: str | None
    tags: Sequence[str]
    state: DocumentState | None


class View(TypedDict, total=False):
    """How a page is shown: how many pixels wide, with boxes in yellow or with what answers the
    question ``heatmap`` (or only its ``word``) glowing."""

    width: int
    highlight: Sequence[Box]
    heatmap: str
    word: str
    format: Literal["jpeg", "webp", "png"]


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request, and how its answer is read."""

    method: str
    path: str
    read: Callable[[bytes], T]
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    json: Any = None
    form: Mapping[str, str] | None = None
    files: Sequence[tuple[str, tuple[str, bytes | BinaryIO, str]]] | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    repeatable: bool = False
    """Whether it does no harm to send it twice, as with every GET."""
    answers: int | None = None
    """A status that is an answer, too, however much it looks like an error."""

    def request(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """The request, to be sent once."""
        return http.build_request(
            self.method,
            self.path,
            params=self.params,
            json=self.json,
            data=self.form,
            files=self.files,
            headers=self.headers,
        )

    def answered(self, response: httpx.Response) -> bool:
        """Whether this is what was asked for, and no error."""
        return response.is_success or response.status_code == self.answers

    def result(self, url: str, response: httpx.Response) -> T:
        """What the answer says; ServerError where it cannot be read."""
        try:
            return self.read(response.content)
        except ValidationError:
            raise _unknown(url, f"{self.method} {self.path}") from None


# The calls


def search(question: str, scope: Scope) -> Call[wire.SearchResponse]:
    """POST /search."""
    asked = _checked(wire.SearchRequest, question=question, **scope).as_json()
    read = wire.SearchResponse.model_validate_json
    return Call("POST", "/search", read, json=asked, repeatable=True)


def ask(question: str, scope: Scope, *, streamed: bool = False) -> Call[wire.AnswerModel]:
    """POST /ask."""
    asked = _checked(wire.AskRequest, question=question, **scope).as_json()
    headers = {"Accept": "text/event-stream"} if streamed else {}
    read = wire.AnswerModel.model_validate_json
    return Call("POST", "/ask", read, json=asked, headers=headers, repeatable=True)


def extract(
    schema: Mapping[str, Any],
    documents: Sequence[str],
    pages: Sequence[tuple[str, int]],
    instructions: str | None,
) -> Call[wire.ExtractResponse]:
    """POST /extract."""
    asked = _checked(
        wire.ExtractRequest,
        schema=dict(schema),
        documents=documents,
        pages=[{"document_id": id, "page": number} for id, number in pages],
        instructions=instructions,
    ).as_json()
    read = wire.ExtractResponse.model_validate_json
    return Call("POST", "/extract", read, json=asked, repeatable=True)


def add_documents(
    opened: ExitStack, files: Sequence[File], to: Destination
) -> Call[wire.UploadResponse]:
    """POST /documents. Files given by path are opened; whoever holds ``opened`` closes them."""
    parts: list[tuple[str, tuple[str, bytes | BinaryIO, str]]] = []
    for file in files:
        if isinstance(file, tuple):
            name, content = file
        else:
            name = Path(file).name
            content = opened.enter_context(open(file, "rb"))  # noqa: SIM115, PTH123
        parts.append(("file", (utf8(name), content, "application/octet-stream")))
    key = to.get("idempotency_key")
    form = {"collection": to.get("collection", DEFAULT_COLLECTION)}
    if "source" in to:
        form["source"] = to["source"]
    if "if_exists" in to:
        form["if_exists"] = to["if_exists"]
    return Call(
        "POST",
        "/documents",
        wire.UploadResponse.model_validate_json,
        form=form,
        files=parts,
        headers={"Idempotency-Key": key} if key else {},
        repeatable=key is not None,
    )


def list_documents(selection: Selection, cursor: str | None) -> Call[wire.DocumentList]:
    """GET /documents: the documents that follow the cursor."""
    params = _given(
        collection=selection.get("collection"),
        tag=list(selection.get("tags", ())),
        state=selection.get("state"),
        cursor=cursor,
    )
    return Call("GET", "/documents", wire.DocumentList.model_validate_json, params)


def get_document(id: str) -> Call[wire.DocumentModel]:
    """GET /documents/{id}."""
    return Call("GET", _path("documents", id), wire.DocumentModel.model_validate_json)


def change_document(
    id: str, name: str | None, tags: Sequence[str] | None
) -> Call[wire.DocumentModel]:
    """PATCH /documents/{id}."""
    change = _checked(wire.DocumentChange, **_given(name=name, tags=tags)).model_dump(
        exclude_unset=True
    )
    read = wire.DocumentModel.model_validate_json
    return Call("PATCH", _path("documents", id), read, json=change, repeatable=True)


def remove_document(id: str) -> Call[None]:
    """DELETE /documents/{id}."""
    return Call("DELETE", _path("documents", id), nothing)


def get_page(id: str, number: int, words: bool) -> Call[wire.PageModel]:
    """GET /documents/{id}/pages/{n}."""
    path = f"{_path('documents', id)}/pages/{number}"
    params = {"words": "true"} if words else {}
    return Call("GET", path, wire.PageModel.model_validate_json, params)


def get_page_image(id: str, number: int, view: View) -> Call[bytes]:
    """GET /documents/{id}/pages/{n}/image."""
    params = _given(
        width=view.get("width"),
        highlight=format_boxes(tuple(view.get("highlight", ()))) or None,
        heatmap=view.get("heatmap"),
        word=view.get("word") or None,
    )
    path = f"{_path('documents', id)}/pages/{number}/image"
    accept = {"Accept": f"image/{view.get('format', 'jpeg')}"}
    return Call("GET", path, bytes, params, headers=accept)


def list_collections() -> Call[wire.CollectionList]:
    """GET /collections."""
    return Call("GET", "/collections", wire.CollectionList.model_validate_json)


def list_jobs(states: Sequence[JobState], limit: int) -> Call[wire.JobList]:
    """GET /jobs."""
    params = {"state": list(states), "limit": limit}
    return Call("GET", "/jobs", wire.JobList.model_validate_json, params)


def get_job(id: str) -> Call[wire.JobModel]:
    """GET /jobs/{id}."""
    return Call("GET", _path("jobs", id), wire.JobModel.model_validate_json)


def change_job(id: str, verb: Literal["cancel", "retry"]) -> Call[wire.JobModel]:
    """POST /jobs/{id}/cancel or retry."""
    return Call("POST", f"{_path('jobs', id)}/{verb}", wire.JobModel.model_validate_json)


def readyz() -> Call[wire.Readiness]:
    """GET /readyz."""
    return Call("GET", "/readyz", wire.Readiness.model_validate_json, answers=503)


def version() -> Call[wire.Version]:
    """GET /version."""
    return Call("GET", "/version", wire.Version.model_validate_json)


def nothing(content: bytes) -> None:
    """How an answer is read that says nothing."""
    del content


def utf8(name: str) -> str:
    """A file name as text: bytes of it that are no UTF-8 become escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


def _path(below: str, id: str) -> str:
    # Ids are hex; anything else must not become another path on its way.
    if not id.isalnum():
        raise DocumentNotFound.of(id)
    return f"/{below}/{id}"


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _checked(model: type[M], **fields: Any) -> M:
    # The models are strict, since what comes over the wire is; callers may give any sequence.
    plain = {
        name: list(value)
        if isinstance(value, Sequence) and not isinstance(value, str | bytes)
        else value
        for name, value in fields.items()
    }
    try:
        return model(**plain)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{place}: {first['msg'].removeprefix('Value error, ')}") from None


# Over the wire


class Connection(TypedDict):
    """What both of httpx's clients take."""

    base_url: str
    headers: dict[str, str]
    timeout: httpx.Timeout


def connection(url: str, key: str | None, timeout: float) -> Connection:
    """How a server is reached; UsageError where address or key cannot be one."""
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError):
        parsed = httpx.URL()
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo:
        raise UsageError("a server's address is like http://host:8321, with no user name in it")
    if key is not None and not (key.isascii() and key.isprintable() and key.split() == [key]):
        raise UsageError("the API key has characters that are in no key: is all of it there?")
    return {
        "base_url": url,
        "headers": {"Accept-Encoding": ACCEPT_ENCODING}
        | ({} if key is None else {"Authorization": f"Bearer {key}"}),
        "timeout": httpx.Timeout(timeout, connect=min(timeout, 10.0)),
    }


@dataclass(slots=True)
class Tries:
    """How often a call may still be tried, and when."""

    url: str
    call: Call[Any]
    left: int
    backoff: float = 0.2

    def pause_after(self, failed: httpx.Response | httpx.HTTPError | ReplyRefused) -> float:
        """Seconds to wait before the next try; the error is raised where there is none."""
        if isinstance(failed, httpx.Response):
            # It was turned away before anything was done.
            error, pause = error_of(self.url, failed), _retry_after(failed)
        else:
            error, pause = unanswered(self.url, failed), None
            unsent = isinstance(failed, httpx.ConnectError | httpx.ConnectTimeout)
            broke_off = isinstance(failed, httpx.NetworkError | httpx.RemoteProtocolError)
            if unsent or (broke_off and (self.call.repeatable or self.call.method == "GET")):
                # Many clients that lost one server must not come back all at once.
                pause = self.backoff * random.uniform(1, 2)  # noqa: S311
                self.backoff *= 2
        if pause is None or pause > LONGEST_PAUSE or self.left < 1:
            raise error from None
        self.left -= 1
        return pause


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds, where a server that is too busy, or has the same upload under way, says when to
    come back (RFC 9110, 10.2.3)."""
    said = response.headers.get("Retry-After", "")
    if response.status_code not in (409, 429, 503) or not said:
        return None
    if said.isascii() and said.isdigit():
        return float(said)
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except ValueError:
        return None


class Events:
    """The events of a streamed answer, out of bytes however they were cut.

    Lines end in LF or CRLF only, as servers write them: a page's text may have any other character
    in it that ends a line somewhere.
    """

    def __init__(self, url: str, response: httpx.Response) -> None:
        if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
            raise _unknown(url, "a question whose answer was to be streamed")
        self.ended = False
        self._url = url
        self._line: list[bytes] = []
        self._name, self._number = "", 0
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[AskEvent]:
        """The events that end in these bytes; the error that one of them says is raised."""
        first, *others = chunk.split(b"\n")
        self._line.append(first)
        for begun in others:
            line = b"".join(self._line).removesuffix(b"\r").decode("utf-8", "replace")
            self._line = [begun]
            if line:
                self._take(line)
            elif (event := self._event()) is not None and not self.ended:
                self.ended = event.name == "answer"
                yield event

    def _take(self, line: str) -> None:
        name, _, value = line.partition(":")  # A line that begins with a colon is a heartbeat.
        value = value.removeprefix(" ")
        if name == "event":
            self._name = value
        elif name == "data":
            self._data.append(value)
        elif name == "id" and value.isascii() and value.isdigit():
            self._number = int(value)

    def _event(self) -> AskEvent | None:
        name, data, number = self._name, "\n".join(self._data), self._number
        self._name, self._data = "", []
        try:
            match name:
                case "search":
                    return Event(name, number, wire.SearchResponse.model_validate_json(data))
                case "token":
                    return Event(name, number, wire.TokenEvent.model_validate_json(data))
                case "citation":
                    return Event(name, number, wire.CitationEvent.model_validate_json(data))
                case "answer":
                    return Event(name, number, wire.AnswerModel.model_validate_json(data))
                case "error":
                    raise _as_error(self._url, wire.Problem.model_validate_json(data))
                case _:  # Of a newer server, or none: a heartbeat.
                    return None
        except ValidationError:
            raise _unknown(self._url, f"with an event {name!r}") from None

    @contextmanager
    def to_the_end(self) -> Generator[None]:
        """ServerError where the stream breaks off before the answer."""
        try:
            yield
        except (httpx.HTTPError, ReplyRefused) as error:
            raise unanswered(self._url, error) from None
        if not self.ended:
            raise ServerError(f"the server at {self._url} broke off before the answer: ask again")


# What went wrong


def _by_code(kind: type[PageglassError]) -> Mapping[str, type[PageglassError]]:
    table = {kind.code: kind}
    for narrower in kind.__subclasses__():
        table |= _by_code(narrower)
    return table


_BY_CODE = {code: kind for code, kind in _by_code(PageglassError).items() if code != "internal"}


def error_of(url: str, response: httpx.Response) -> PageglassError:
    """The error a problem document stands for; ServerError where it is not one of ours."""
    try:
        problem = wire.Problem.model_validate_json(response.content)
        return _as_error(url, problem, _retry_after(response))
    except ValidationError:
        said = f"{response.status_code} {httpx.codes.get_reason_phrase(response.status_code)}"
        return ServerError(f"the server at {url} answered {said.strip()}")


def _as_error(url: str, problem: wire.Problem, retry_after: float | None = None) -> PageglassError:
    if (kind := _BY_CODE.get(problem.code)) is not None:
        if issubclass(kind, Overload):
            return kind(problem.detail, retry_after)
        return kind(problem.detail)
    if problem.code == "request-invalid":
        return UsageError(problem.detail)
    return ServerError(f"{problem.detail} (from the server at {url})")


def unanswered(url: str, error: httpx.HTTPError | ReplyRefused) -> ServerError:
    """That the server did not answer, or not to the end."""
    if isinstance(error, ReplyRefused):
        return ServerError(f"the server at {url} {error}: is it a Pageglass server?")
    if isinstance(error, httpx.TimeoutException):
        return ServerError(f"the server at {url} did not answer in time")
    why = error or type(error).__name__
    return ServerError(f"the server at {url} does not answer ({why}): is it still running?")


def _unknown(url: str, what: str) -> ServerError:
    return ServerError(
        f"the server at {url} answered {what} in an unknown way:"
        " is it another version of Pageglass?"
    )
