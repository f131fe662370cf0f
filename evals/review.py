"""A local page on which a person accepts, edits or rejects cases: `pageglass eval review`.

It listens on 127.0.0.1, answers to loopback names only, and its address holds a token: no other
site and no other user can drive it. Every decision is written to the files of cases before it is
answered, so nothing is lost with the process. It loads nothing from elsewhere.
"""

from __future__ import annotations

import hashlib
import secrets
import socket
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import problems
from api.facts import Facts
from api.highlight import highlight
from api.middleware import BodyLimits, LocalOnly, RequestIds
from api.routes.web import PAGE_POLICY
from evals.cases import (
    Case,
    CasesError,
    Shelf,
    alone,
    listed_cases,
    move_case,
    problem_of,
)
from generate.citations import boxes_of, find_quote
from pageglass.errors import SettingsError, UsageError
from pageglass.types import Document, Page, PageRef

HOST = "127.0.0.1"

_HEADERS = {
    "Content-Security-Policy": PAGE_POLICY,
    "Referrer-Policy": "no-referrer",  # The address holds the token.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_WEB = {
    "": ("index.html", "text/html"),
    "review.js": ("review.js", "text/javascript"),
    "review.css": ("review.css", "text/css"),
}
_WIDTH = 1400

State = Literal["open", "accepted", "rejected"]


class DecisionError(UsageError):
    """A case cannot be accepted as it is."""

    code = "decision"


class ChangedMeanwhile(UsageError):
    """The case is no longer as the person saw it who decided on it."""

    code = "changed-meanwhile"
    status = 409


class Decision(BaseModel):
    """What a person decided on a case, and the case as they left it; ``document`` is an id.
    ``version`` is that of the case they saw, as the list of cases has it; with None a case that
    was changed since is decided on all the same."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: str
    state: Literal["accepted", "rejected"]
    question: str = Field(max_length=100_000)
    document: str
    answerable: bool
    pages: list[int]
    answer: str = Field(max_length=100_000)
    quote: str = Field(max_length=100_000)
    version: str | None = None


def rejected_file(file: Path) -> Path:
    """Where the cases go that were rejected: beside ``file``, so that they are not proposed
    again."""
    return file.with_name(f"{file.stem}.rejected{file.suffix or '.jsonl'}")


def decide(file: Path, decision: Decision, shelf: Shelf) -> tuple[Case, State]:
    """Write a decision down: the case goes to ``file`` or to its rejected_file, as it was edited.

    DecisionError where it cannot be accepted so, ChangedMeanwhile where the case is no longer of
    the decision's version, CasesError where there is no such case.
    """
    # From the first look to the last line written: two decisions on a case come one by one.
    with alone(file):
        return _decide(file, decision, shelf)


def _decide(file: Path, decision: Decision, shelf: Shelf) -> tuple[Case, State]:
    rejected = rejected_file(file)
    known: dict[str, tuple[Case, State]] = {
        case.id: (case, "rejected") for case in listed_cases(rejected)
    }
    known |= {case.id: (case, _state(case)) for case in listed_cases(file)}
    if decision.id not in known:
        raise CasesError(f"{file.name} has no case with the id {decision.id!r} any more")
    old, state = known[decision.id]
    if decision.version is not None and decision.version != _version(old, state):
        raise ChangedMeanwhile(
            "this case was changed elsewhere meanwhile: look at it as it is now, and decide again"
        )
    if decision.state == "rejected":
        # As it was proposed: that is what must not be proposed again.
        move_case(old, rejected, file)
        return old, "rejected"
    case = old.model_copy(
        update={
            "question": decision.question.strip(),
            "document": _called(decision.document, old, shelf),
            "answerable": decision.answerable,
            "pages": tuple(sorted(set(decision.pages))) if decision.answerable else (),
            "answer": _answer_of(decision.answer, old) if decision.answerable else None,
            "quote": decision.quote.strip() if decision.answerable else "",
            "reviewed": True,
        }
    )
    if (case.answer, case.answerable) != (old.answer, old.answerable):
        # It was that of another answer, and matching goes by it.
        case = case.model_copy(update={"answer_format": "", "derivation": ""})
    if problem := problem_of(case, shelf):
        raise DecisionError(problem)
    if case.answerable and not case.pages:
        raise DecisionError("name the pages that answer it, or say that none does")
    move_case(case, file, rejected)
    return case, "accepted"


def _as_lines(answer: str | tuple[str, ...] | None) -> str:
    """An answer as it is shown: a list has an element a line."""
    return "\n".join(answer) if isinstance(answer, tuple) else answer or ""


def _answer_of(text: str, old: Case) -> str | tuple[str, ...] | None:
    """The answer that was left in the field where that of ``old`` was shown."""
    if text.strip() == _as_lines(old.answer).strip():
        return old.answer
    if isinstance(old.answer, tuple):
        return tuple(line.strip() for line in text.splitlines() if line.strip()) or None
    return text.strip() or None


def _state(case: Case) -> State:
    """The state of a case in the file itself."""
    return "open" if case.open else "accepted"


def _version(case: Case, state: State) -> str:
    return hashlib.sha256(f"{state} {case.model_dump_json()}".encode()).hexdigest()[:16]


def _called(document_id: str, old: Case, shelf: Shelf) -> str:
    """What the case calls the document: as it did, or else by its name."""
    try:
        if shelf.id_of(old.document) == document_id:
            return old.document
    except KeyError:
        pass
    names = [name for name, id in shelf.ids.items() if id == document_id]
    return next((name for name in names if name != document_id), document_id)


def create_review(
    file: Path,
    *,
    documents: Sequence[Document],
    page_of: Callable[[PageRef], Page],
    image_of: Callable[[Page], bytes],
    token: str,
) -> FastAPI:
    """The application over a file of cases; all its paths begin with ``token``."""
    shelf = Shelf.of(documents)
    pages = {document.id: document.pages for document in documents}

    def entered(given: str) -> None:
        if not secrets.compare_digest(given.encode(), token.encode()):
            raise HTTPException(404)

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    problems.install(app)
    app.add_middleware(BodyLimits, upload_bytes=0, picture_bytes=0)
    app.add_middleware(LocalOnly, host=HOST, origins=())
    app.add_middleware(_Headers)
    app.add_middleware(RequestIds, ended=_forget)
    entry = [Depends(entered)]

    @app.get("/{given}/cases", dependencies=entry)
    def cases() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """All cases, decided or not, and the documents they may be about."""
        kept = [_shown(case, _state(case), shelf) for case in listed_cases(file)]
        here = {case["id"] for case in kept}
        away = [case for case in listed_cases(rejected_file(file)) if case.id not in here]
        return {
            "file": file.name,
            "cases": kept + [_shown(case, "rejected", shelf) for case in away],
            "documents": [
                {"id": d.id, "called": d.name, "pages": d.pages} for d in documents if d.pages
            ],
        }

    @app.post("/{given}/decisions", dependencies=entry)
    def decisions(decision: Decision) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """Take a decision; it is on disk when this answers."""
        case, state = decide(file, decision, shelf)
        return _shown(case, state, shelf)

    @app.get("/{given}/pages/{document}/{number}", dependencies=entry)
    def page(document: str, number: int, quote: str = "") -> Response:  # pyright: ignore[reportUnusedFunction]
        """The page's image with the quote marked, if it stands there."""
        if not 1 <= number <= pages.get(document, 0):
            raise HTTPException(404)
        shown = page_of(PageRef(document, number - 1))
        words = find_quote(shown, quote) if quote.strip() else None
        boxes = boxes_of(shown.words[i] for i in words or ())
        image = highlight(image_of(shown), boxes, format="JPEG", width=_WIDTH)
        found = "missing" if words is None else "found"
        return Response(image, media_type="image/jpeg", headers={"X-Quote": found})

    @app.get("/{given}/", dependencies=entry)
    def index() -> Response:  # pyright: ignore[reportUnusedFunction]
        """The page."""
        return _web("")

    @app.get("/{given}/{name}", dependencies=entry)
    def web(name: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Its script and style."""
        return _web(name)

    return app


def serve_review(
    file: Path,
    *,
    documents: Sequence[Document],
    page_of: Callable[[PageRef], Page],
    image_of: Callable[[Page], bytes],
    port: int,
    listening: Callable[[str], None],
) -> None:
    """Serve the page until a signal ends it; ``listening`` is called with its address.
    CasesError where there is no such file, SettingsError where the port cannot be had."""
    if not file.is_file():
        raise CasesError(f"no such file: {file}: `pageglass eval new` makes one")
    token = secrets.token_urlsafe(16)
    app = create_review(file, documents=documents, page_of=page_of, image_of=image_of, token=token)
    try:
        listener = socket.create_server((HOST, port))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SettingsError(
            f"cannot listen on port {port}: {reason} (--port 0 picks one)"
        ) from None
    with listener:
        listening(f"http://{HOST}:{listener.getsockname()[1]}/{token}/")
        config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False)
        uvicorn.Server(config).run(sockets=[listener])


def _shown(case: Case, state: State, shelf: Shelf) -> dict[str, Any]:
    try:
        id = shelf.id_of(case.document)
    except KeyError:
        id = None
    more = {
        "answer": _as_lines(case.answer) or None,
        "state": state,
        "document_id": id,
        "version": _version(case, state),
    }
    return case.model_dump(mode="json") | more


def _web(name: str) -> Response:
    if name not in _WEB:
        raise HTTPException(404)
    file, media_type = _WEB[name]
    text = files("evals").joinpath("web", file).read_text("utf-8")
    return Response(text, media_type=f"{media_type}; charset=utf-8")


def _forget(facts: Facts) -> None:
    del facts


class _Headers:
    """Sends the headers that keep others out with every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        await self._app(scope, receive, send_with_headers)
