"""What every request goes through before a route sees it. Plain ASGI: bodies stay streams.

``RequestIds`` (id, log line, last resort for errors), ``LocalOnly`` (whose pages may talk to us),
``BodyLimits`` (how much they may say). Others are in modules of their own: who is asking
(api.access), and what was answered before (api.idempotency). api.app puts them in order.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Collection, Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import BodyTooLarge, internal_problem, problem, request_id_of
from pageglass.settings import LOOPBACK

_log = logging.getLogger(__name__)

JSON_BYTES = 1024 * 1024
"""Largest body that is no upload: a question of 100,000 characters fits and gets its own error."""

_SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class RequestIds:
    """Gives every request an id and one log line, and every response the id and ``nosniff``.

    A client's own X-Request-Id is kept where it is short and plain. Questions, query strings and
    document text are never logged.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request under its id."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _SANE_ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        status = 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        try:
            await self._app(scope, receive, send_marked)
        except Exception:
            _log.exception("request %s failed", request_id)
            if status:
                # Half a response is out: only breaking off tells the client.
                raise
            await internal_problem(request_id)(scope, receive, send_marked)
        finally:
            # The path as it was sent: escapes cannot forge a log line.
            path = scope.get("raw_path", b"").decode("ascii", "replace")[:200]
            elapsed = 1000 * (time.perf_counter() - started)
            _log.info("%s %s %d %.0f ms %s", scope["method"], path, status, elapsed, request_id)


class LocalOnly:
    """Keeps other people's web pages from using the reader's browser against us.

    Where no key is needed, a server that listens on loopback answers only to loopback names (else
    any site could point its own name at 127.0.0.1 and read along), and what changes something must
    not come from the page of a site that is not named.
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
                " use one of them, or let it listen on another address (setting server.host)"
            )
        origin = headers.get("origin")
        if (
            origin is not None
            and scope["method"] not in _SAFE_METHODS
            and origin not in self._origins
            and urlsplit(origin).netloc != host
        ):
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
        limit, detail = self._limit(scope["method"], scope["path"])
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > limit:
            response = problem(
                request_id_of(scope),
                status=413,
                code="limit-exceeded",
                title="Content Too Large",
                detail=detail,
            )
            await response(scope, receive, send)
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

        await self._app(scope, receive_limited, send)

    def _limit(self, method: str, path: str) -> tuple[int, str]:
        """The largest body in bytes, and what is said of a larger one."""
        if method == "POST" and path in ("/documents", "/sources"):
            limit, over = self._upload_bytes, f"{self._upload_mb:,} MB (setting server.upload_mb)"
            return limit, f"the upload is larger than {over}"
        if method == "POST" and path in ("/ask", "/search", "/v1/chat/completions"):
            limit = self._question_bytes
            over = f"{limit >> 20:,} MB as JSON (setting search.picture_mb; base64 adds a third)"
            return limit, f"the question and its picture are larger than {over}"
        return JSON_BYTES, f"the request's body is larger than {JSON_BYTES >> 20} MB"


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
