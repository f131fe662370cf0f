"""What every request goes through before a route sees it. Plain ASGI: bodies stay streams.

``RequestIds`` (id, facts, span, last resort for errors), ``LocalOnly`` (whose pages may talk to
us), ``BodyLimits`` (how much they may say). Others are in modules of their own: who is asking
(api.access), and what was answered before (api.idempotency). api.app puts them in order.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import facts
from api.access import PUBLIC, credential_of, is_key
from api.facts import Facts
from api.problems import BodyTooLarge, internal_problem, problem, request_id_of
from pageglass import tracing
from pageglass.settings import LOOPBACK

_log = logging.getLogger(__name__)

JSON_BYTES = 1024 * 1024
"""Largest body that is no upload: a question of 100,000 characters fits and gets its own error."""

_SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
_LOOKING = frozenset({"/livez", "/readyz", "/metrics"})
_ENDLESS = frozenset({"/jobs/events"})
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class RequestIds:
    """Gives every request an id, facts and a span, and every response the id, ``nosniff`` and
    a Cross-Origin-Resource-Policy (pages of other sites that may read use CORS).

    A client's own X-Request-Id is kept where it is short and plain, and its trace goes on
    (traceparent). Query strings are never looked at: they may hold questions.
    """

    def __init__(self, app: ASGIApp, *, ended: Callable[[Facts], None]) -> None:
        """``ended`` is called with a request's facts once its last byte is out."""
        self._app = app
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request under its id."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _SANE_ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        # The path as it was sent: escapes cannot forge a log line.
        path = scope.get("raw_path", b"").decode("ascii", "replace")[:200]
        known = Facts(request_id, scope["method"], path)
        with (
            tracing.carrying(headers.get("traceparent", ""), headers.get("tracestate", "")),
            facts.noting(known),
        ):
            await self._serve(known, scope, receive, send)

    async def _serve(self, known: Facts, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        request_id = known.request_id

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                known.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
            await send(message)
            known.bytes_sent += len(message.get("body", b""))

        try:
            with _span(known, scope):
                await self._app(scope, receive, send_marked)
        except Exception:
            _log.exception("request %s failed", request_id)
            if known.status:
                # Half a response is out: only breaking off tells the client.
                raise
            await internal_problem(request_id)(scope, receive, send_marked)
        finally:
            known.seconds = time.perf_counter() - started
            known.route = _route(scope)
            known.key_id = getattr(scope["state"].get("access"), "key_id", None)
            self._ended(known)


def _route(scope: Scope) -> str | None:
    """The template of the route that took the request."""
    return getattr(scope.get("route"), "path", None)


@contextmanager
def _span(known: Facts, scope: Scope) -> Generator[None]:
    """The request's span, unless it only looks whether the server is well; its route is known at
    its end."""
    if scope["path"] in _LOOKING:
        yield
        return
    attributes = {
        "http.request.method": known.method,
        "url.path": known.path,
        "url.scheme": scope["scheme"],
        "network.protocol.version": scope["http_version"],
        "pageglass.request_id": known.request_id,
    }
    with tracing.span(known.method, attributes, kind="server") as span:
        known.trace_id = tracing.trace_id()
        try:
            yield
        finally:
            if (route := _route(scope)) is not None:
                span.rename(f"{known.method} {route}")
                span.set("http.route", route)
            if known.status:
                span.set("http.response.status_code", known.status)
            if known.status >= 500:
                span.set("error.type", str(known.status))


class Heads:
    """Answers HEAD as GET is answered, without the body (RFC 9110, section 9.3.2)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; a stream of events would never end, and has no HEAD."""
        if scope["type"] != "http" or scope["method"] != "HEAD" or scope["path"] in _ENDLESS:
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self._app({**scope, "method": "GET"}, receive, send_head)


class LocalOnly:
    """Keeps other people's web pages from using the reader's browser against us.

    Where no key is needed, a server that listens on loopback answers only to loopback names (else
    any site could point its own name at 127.0.0.1 and read along), and pages of sites that are not
    named get nothing: they could tell by an image that loads which files are here. Where such a
    page sends an API key, api.access decides from where that key may be used.
    """

    def __init__(self, app: ASGIApp, *, host: str, origins: Sequence[str]) -> None:
        """``host`` is the address listened on, ``origins`` are the sites that may use it."""
        self._app = app
        self._names: Collection[str] = LOOPBACK if host in LOOPBACK else ()
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
            return
        response = problem(
            request_id_of(scope),
            status=403,
            code="origin-forbidden",
            title="This request may come from another site's page.",
            detail=refusal,
        )
        await response(scope, receive, send)

    def _refusal(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._names and _hostname(f"//{host}") not in self._names:
            return (
                "this server listens on this machine only and answers to 127.0.0.1 and localhost:"
                " use one of them, or let it listen on another address (setting server.host);"
                ' behind a proxy that keeps the Host header, set server.keys = "on"'
            )
        safe = scope["method"] in _SAFE_METHODS
        if (safe and scope["path"] in PUBLIC) or is_key(credential_of(headers)):
            return None
        origin = headers.get("origin")
        if origin is None:
            # Images, scripts and frames say no origin; a link that was followed may be shown.
            other = headers.get("sec-fetch-site") in ("cross-site", "same-site")
            followed = safe and headers.get("sec-fetch-dest") == "document"
            foreign = other and not followed
        else:
            foreign = origin not in self._origins and _authority(origin) != host
        if foreign:
            return (
                "pages of other sites may not use this server unless the setting server.origins"
                " names them (a proxy in front of it must pass the Host header on)"
            )
        return None


class BodyLimits:
    """Refuses bodies over a limit: at once where the length is announced, else while they come."""

    def __init__(self, app: ASGIApp, *, upload_bytes: int, picture_bytes: int) -> None:
        """``upload_bytes`` bounds the files of POST /documents and /sources, ``picture_bytes`` the
        picture of a question, JSON_BYTES every other body and what else a question says."""
        self._app = app
        # Base64 makes four letters of three bytes.
        self._question_bytes = JSON_BYTES + picture_bytes * 4 // 3
        # Room for the multipart frame, so that a file of exactly the limit fits.
        self._upload_bytes = upload_bytes + 64 * 1024
        self._upload_mb = upload_bytes // (1024 * 1024)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the body on, up to the limit."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        kind, announced = headers.get("content-type", ""), headers.get("content-length", "")
        limit, detail = self._limit(scope["method"], scope["path"], kind)
        refusal = problem(
            request_id_of(scope),
            status=413,
            code="limit-exceeded",
            title="Content Too Large",
            detail=detail,
        )
        if announced.isdecimal() and int(announced) > limit:
            await refusal(scope, receive, send)
            return
        total = 0

        async def receive_limited() -> Message:
            nonlocal total
            message = await receive()
            if message["type"] == "http.request":
                total += len(message.get("body", b""))
                if total > limit:
                    # Raised where the route reads its body, so it ends there like other refusals.
                    raise BodyTooLarge(detail)
            return message

        try:
            await self._app(scope, receive_limited, send)
        except BodyTooLarge:
            # It was read before a route was reached (api.idempotency).
            await refusal(scope, receive, send)

    def _limit(self, method: str, path: str, kind: str) -> tuple[int, str]:
        """The largest body in bytes, and what is said of a larger one."""
        # Only forms go to disk as they come; whatever else is sent there is kept in memory.
        form = kind.lower().startswith("multipart/form-data")
        if method == "POST" and path in ("/documents", "/sources") and form:
            limit, over = self._upload_bytes, f"{self._upload_mb:,} MB"
            return limit, f"the upload is larger than {over}"
        if method == "POST" and path in ("/ask", "/search", "/v1/chat/completions"):
            limit = self._question_bytes
            over = f"{limit >> 20:,} MB as JSON (base64 adds a third)"
            return limit, f"the question and its picture are larger than {over}"
        return JSON_BYTES, f"the request's body is larger than {JSON_BYTES >> 20} MB"


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _authority(url: str) -> str | None:
    try:
        return urlsplit(url).netloc
    except ValueError:
        return None
