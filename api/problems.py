"""The error table: whatever goes wrong becomes application/problem+json (RFC 9457)."""

from __future__ import annotations

import http
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from api.chat_models import ChatError
from pageglass.cancellation import Cancelled
from pageglass.errors import Overload, PageglassError
from pageglass.text import one_line
from pageglass.wire import InvalidField, Problem

_log = logging.getLogger(__name__)

REQUEST_INVALID = "request-invalid"
NOT_FOUND = "not-found"
INTERNAL = "internal"
CLIENT_CLOSED = 499
"""The status in the log of requests whose client went away; nginx made it common."""

# What the framework itself refuses: status -> (code, detail or None to keep the framework's own).
_BY_STATUS: dict[int, tuple[str, str | None]] = {
    400: (REQUEST_INVALID, "the request's body cannot be read: is it complete and well-formed?"),
    404: (NOT_FOUND, "there is nothing at this address: /docs lists what there is"),
    405: ("method-not-allowed", "this address does not take that method: see /docs"),
    413: ("limit-exceeded", None),
}


_CHAT = "/v1/"
"""Below it are chat clients, which know no problem documents."""


class ProblemResponse(JSONResponse):
    """A problem document; to chat clients, the same as OpenAI would say it."""

    media_type = "application/problem+json"

    def __init__(self, problem: Problem, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(problem.model_dump(exclude_none=True), problem.status, headers)
        self._problem = problem
        self._more_headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        if not scope["path"].startswith(_CHAT):
            await super().__call__(scope, receive, send)
            return
        error = ChatError.of(self._problem).model_dump()
        response = JSONResponse(error, self.status_code, self._more_headers)
        await response(scope, receive, send)


class BodyTooLarge(HTTPException):
    """The request's body is larger than the server takes."""

    def __init__(self, detail: str) -> None:
        super().__init__(413, detail)


def problem(
    request_id: str,
    *,
    status: int,
    code: str,
    title: str,
    detail: str,
    errors: Sequence[InvalidField] | None = None,
    headers: dict[str, str] | None = None,
) -> ProblemResponse:
    """One problem document; ``detail`` is one line for people, ``code`` is for programs."""
    body = Problem(
        type=f"urn:pageglass:problem:{code}",
        title=title,
        status=status,
        detail=detail,
        code=code,
        request_id=request_id,
        errors=list(errors) if errors else None,
    )
    return ProblemResponse(body, headers)


def described(text: str) -> dict[str, Any]:
    """A problem for the description of the API, whose components hold its schema."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": text, "content": {ProblemResponse.media_type: {"schema": schema}}}


def contents(*media_types: str) -> dict[str, Any]:
    """What a response that is no JSON holds, for the description of the API: text as a string,
    pictures and files as bytes (OpenAPI 3.1: a string with the media type of its bytes)."""
    return {
        kind: {
            "schema": {"type": "string"}
            if kind.startswith("text/")
            else {"type": "string", "format": "binary", "contentMediaType": kind}
        }
        for kind in media_types
    }


def request_id_of(scope: Scope) -> str:
    """The request's id, as the middleware chose it."""
    return scope["state"]["request_id"]


def internal_problem(request_id: str) -> ProblemResponse:
    """What is said of a fault of ours: nothing but where to look it up."""
    return problem(
        request_id,
        status=500,
        code=INTERNAL,
        title="Something went wrong inside Pageglass.",
        detail=f"an unexpected error; the server's log has more under request {request_id}",
    )


def pageglass_problem(request_id: str, error: PageglassError) -> ProblemResponse:
    """The problem document of one of our own errors."""
    title = (type(error).__doc__ or "").partition("\n")[0]
    headers: dict[str, str] = {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, Overload) and error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    return problem(
        request_id,
        status=error.status,
        code=error.code,
        title=title,
        detail=one_line(str(error)),
        headers=headers,
    )


def install(app: FastAPI) -> None:
    """Answer every failure inside ``app`` with a problem document."""
    app.add_exception_handler(PageglassError, _on_pageglass_error)
    app.add_exception_handler(Cancelled, _on_cancelled)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)


async def _on_pageglass_error(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, PageglassError)  # noqa: S101 - narrows what add_exception_handler widened
    request_id = request_id_of(request.scope)
    # What this profile or installation does not have (501) is no fault; and a server that is busy
    # must not fill its log, too.
    passing = error.status == http.HTTPStatus.NOT_IMPLEMENTED or isinstance(error, Overload)
    if error.status >= 500 and not passing:
        _log.error("request %s failed: %s", request_id, error.for_operator, exc_info=error)
    return pageglass_problem(request_id, error)


async def _on_cancelled(request: Request, error: Exception) -> ProblemResponse:
    del error
    # Nobody reads it; the status is for the log.
    return problem(
        request_id_of(request.scope),
        status=CLIENT_CLOSED,
        code="cancelled",
        title="The client has gone.",
        detail="the request was called off, since the client closed its connection",
    )


async def _on_http_exception(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, HTTPException)  # noqa: S101
    code, detail = _BY_STATUS.get(error.status_code, (f"http-{error.status_code}", None))
    return problem(
        request_id_of(request.scope),
        status=error.status_code,
        code=code,
        title=http.HTTPStatus(error.status_code).phrase,
        detail=one_line(detail or str(error.detail)),
        headers=dict(error.headers) if error.headers else None,
    )


async def _on_invalid_request(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    errors = list(invalid_fields(error.errors()))
    return problem(
        request_id_of(request.scope),
        status=422,
        code=REQUEST_INVALID,
        title="The request is not as it must be.",
        detail="; ".join(f"{field.field}: {field.message}" for field in errors[:3]),
        errors=errors,
    )


def invalid_fields(errors: Sequence[Any]) -> Iterator[InvalidField]:
    """What pydantic found, without the input itself: it may be long, private or not JSON."""
    for error in errors[:20]:
        # The first part says where the value came from (body, query, path).
        if error["type"] in ("json_invalid", "model_attributes_type", "dict_type"):
            yield InvalidField(field="body", message="is no JSON object, or is not sent as JSON")
            continue
        place = [str(part)[:80] for part in error["loc"]]
        field = ".".join(place[1:] or place)
        message = str(error["msg"]).removeprefix("Value error, ")
        yield InvalidField(field=field, message=one_line(message[:1].lower() + message[1:]))
