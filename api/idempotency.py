"""Idempotency-Key on writes: whoever did not hear the answer asks again and gets the same one.

After the draft of the IETF's HTTPAPI group (draft-ietf-httpapi-idempotency-key-header). Answers
are kept a day, on disk, so that a restart in between changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from anyio import CapacityLimiter, to_thread
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.access import PUBLIC, access_of
from api.problems import problem, request_id_of
from pageglass.errors import StoreError
from pageglass.private import private_folder

_KEPT_SECONDS = 24 * 3600.0
_GOOD_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_WRITES = frozenset({"POST", "PATCH", "DELETE"})
# Asking changes nothing, and an answer may be a stream.
NO_WRITES = ("/ask", "/search", "/extract", "/v1/")
"""What addresses begin with where an Idempotency-Key means nothing."""
# What says nothing of the request itself: asking again may well go better. 400 is what comes of a
# body that was cut off on its way.
_PASSING = frozenset({400, 401, 403, 408, 409, 429, 499})
_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    caller TEXT NOT NULL,
    key TEXT NOT NULL,
    request TEXT NOT NULL,
    began_at REAL NOT NULL,
    status INTEGER,
    headers TEXT,
    body BLOB,
    PRIMARY KEY (caller, key)
) WITHOUT ROWID
"""


class Answers:
    """The answers to writes that carried a key, by caller and key. Thread-safe."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Open or create. What an earlier process began and did not answer is forgotten: there is
        one server at a time. StoreError where the file cannot be used."""
        self._clock = clock
        self._lock = threading.Lock()
        try:
            private_folder(path.parent)
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            # Whoever got an answer gets it again, after a power cut too.
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute(_SCHEMA)
            self._db.execute("DELETE FROM answers WHERE status IS NULL")
        except sqlite3.OperationalError as error:
            raise StoreError(f"cannot open {path.name}: {error}") from None
        except sqlite3.Error as error:
            raise StoreError(
                f"cannot open {path}: {error}. Remove the file: it holds a day's answers to writes"
                " with an Idempotency-Key, and nothing else"
            ) from None

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._db.close()

    def begin(
        self, caller: str, key: str, request: str
    ) -> tuple[str, int | None, str, bytes] | None:
        """None where this is the first request with the key, which then is under way; else what is
        known of it: request, status (None: under way), headers as JSON, body."""
        now = self._clock()
        with self._lock:
            self._db.execute("DELETE FROM answers WHERE began_at < ?", (now - _KEPT_SECONDS,))
            begun = self._db.execute(
                "INSERT OR IGNORE INTO answers (caller, key, request, began_at)"
                " VALUES (?, ?, ?, ?)",
                (caller, key, request, now),
            ).rowcount
            if begun:
                return None
            return self._db.execute(
                "SELECT request, status, headers, body FROM answers WHERE caller = ? AND key = ?",
                (caller, key),
            ).fetchone()

    def finish(
        self,
        caller: str,
        key: str,
        request: str | None,
        status: int,
        headers: str,
        body: bytes,
    ) -> None:
        """Keep the answer, and what it answers where that is known only now."""
        with self._lock:
            self._db.execute(
                "UPDATE answers SET request = COALESCE(?, request), status = ?, headers = ?,"
                " body = ? WHERE caller = ? AND key = ?",
                (request, status, headers, body, caller, key),
            )

    def forget(self, caller: str, key: str) -> None:
        """There was no answer worth keeping: the next request is the first again."""
        with self._lock:
            self._db.execute("DELETE FROM answers WHERE caller = ? AND key = ?", (caller, key))


class _Known(NamedTuple):
    """What was asked for under a key, and the answer; ``status`` None while it is worked on."""

    request: str
    status: int | None
    headers: str
    body: bytes


class Idempotency:
    """Answers a write whose Idempotency-Key it knows as it was answered before."""

    def __init__(self, app: ASGIApp, *, answers: Answers) -> None:
        self._app = app
        self._answers = answers
        self._threads = CapacityLimiter(4)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it from memory."""
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        key = headers.get("idempotency-key")
        if (
            key is None
            or scope["method"] not in _WRITES
            or scope["path"] in PUBLIC
            or scope["path"].startswith(NO_WRITES)
        ):
            await self._app(scope, receive, send)
            return
        if not _GOOD_KEY.fullmatch(key):
            await _refuse(
                scope,
                receive,
                send,
                422,
                "idempotency-key-invalid",
                "Idempotency-Key: must be 1 to 255 visible ASCII characters",
            )
            return
        caller = access_of(scope).key_id or ""
        query = scope["query_string"].decode("latin-1")
        address = f"{scope['method']} {scope['path']}?{query}"
        boundary = _boundary(headers.get("content-type", ""))
        if boundary == b"":
            await self._app(scope, receive, send)  # it says that this is no form
            return
        if boundary is not None:
            await self._form(scope, receive, send, caller, key, address, boundary)
            return
        body: list[Message] = []
        digest = hashlib.sha256()
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            body.append(message)
            digest.update(message.get("body", b""))
            more = message.get("more_body", False)
        request = f"{address} {digest.hexdigest()}"

        async def replayed() -> Message:
            return body.pop(0) if body else await receive()

        known = await self._begin(caller, key, request)
        if known is None:
            await self._first(scope, replayed, send, caller, key)
        elif known.request != request:
            await _refuse_reused(scope, receive, send)
        else:
            await _answer_again(known, scope, receive, send)

    async def _form(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        caller: str,
        key: str,
        address: str,
        boundary: bytes,
    ) -> None:
        """As above for a form, which may be gigabytes: its digest is made of what passes by, so it
        is known at the end."""
        digest = FormDigest(boundary)
        ended = False

        async def hashed() -> Message:
            nonlocal ended
            message = await receive()
            if message["type"] == "http.request":
                digest.update(message.get("body", b""))
                ended = not message.get("more_body", False)
            return message

        def request() -> str | None:
            """What was asked for; None where the form was not read to its end."""
            return f"{address} {digest.hexdigest()}" if ended else None

        known = await self._begin(caller, key, address)
        if known is None:
            await self._first(scope, hashed, send, caller, key, request)
            return
        if known.status is not None:
            # Read it to its end, and keep nothing: it is compared with the one before.
            while not ended:
                if (await hashed())["type"] != "http.request":
                    return
            if known.request != request():
                await _refuse_reused(scope, receive, send)
                return
        await _answer_again(known, scope, receive, send)

    async def _begin(self, caller: str, key: str, request: str) -> _Known | None:
        found = await to_thread.run_sync(
            self._answers.begin, caller, key, request, limiter=self._threads
        )
        return None if found is None else _Known(*found)

    async def _first(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        caller: str,
        key: str,
        request: Callable[[], str | None] | None = None,
    ) -> None:
        """Have it answered, and keep that; ``request`` says in the end what it was an answer to,
        where that was not known before."""
        status, headers, parts = 0, "[]", list[bytes]()

        def _is_kept() -> bool:
            whole = request is None or request() is not None
            return whole and 0 < status < 500 and status not in _PASSING

        async def note(message: Message) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = json.dumps(
                    [
                        (name.decode("latin-1"), value.decode("latin-1"))
                        for name, value in message["headers"]
                    ]
                )
            elif message["type"] == "http.response.body":
                parts.append(message.get("body", b""))
                if not message.get("more_body", False) and _is_kept():
                    # Kept before the client hears it: what it heard is what it hears again.
                    await to_thread.run_sync(
                        self._answers.finish,
                        caller,
                        key,
                        request() if request else None,
                        status,
                        headers,
                        b"".join(parts),
                        limiter=self._threads,
                    )
            await send(message)

        answered = False
        try:
            await self._app(scope, receive, note)
            answered = _is_kept()
        finally:
            if not answered:
                self._answers.forget(caller, key)


class FormDigest:
    """A digest of a multipart form that does not depend on its boundary, which clients choose anew
    each time. Nothing of the form is kept."""

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = b"--" + boundary
        self._digest = hashlib.sha256()
        self._tail = b""

    def update(self, data: bytes) -> None:
        """Take more of the form."""
        *whole, rest = (self._tail + data).split(self._delimiter)
        for part in whole:
            self._digest.update(part)
            self._digest.update(_DELIMITED)
        # A delimiter may have begun.
        keep = min(len(rest), len(self._delimiter) - 1)
        self._digest.update(rest[: len(rest) - keep])
        self._tail = rest[len(rest) - keep :]

    def hexdigest(self) -> str:
        """Of all that was taken."""
        digest = self._digest.copy()
        digest.update(self._tail)
        return digest.hexdigest()


_DELIMITED = b"\0--\0"


def _boundary(content_type: str) -> bytes | None:
    """The boundary of a form (RFC 2046, 5.1.1), empty where it has none; None for what is no
    form."""
    kind, options = parse_options_header(content_type)
    return options.get(b"boundary", b"") if kind.lower() == b"multipart/form-data" else None


async def _refuse_reused(scope: Scope, receive: Receive, send: Send) -> None:
    await _refuse(
        scope,
        receive,
        send,
        422,
        "idempotency-key-reused",
        "this Idempotency-Key was used for another request: take a new one",
    )


async def _answer_again(known: _Known, scope: Scope, receive: Receive, send: Send) -> None:
    if known.status is None:
        await _refuse(
            scope,
            receive,
            send,
            409,
            "request-in-progress",
            "the request with this Idempotency-Key is still worked on: ask again in a second",
        )
        return
    raw = [
        (name.encode("latin-1"), value.encode("latin-1"))
        for name, value in json.loads(known.headers)
    ]
    raw.append((b"idempotency-replayed", b"true"))
    await send({"type": "http.response.start", "status": known.status, "headers": raw})
    await send({"type": "http.response.body", "body": known.body})


async def _refuse(
    scope: Scope, receive: Receive, send: Send, status: int, code: str, detail: str
) -> None:
    response = problem(
        request_id_of(scope),
        status=status,
        code=code,
        title="This request cannot be told from another.",
        detail=detail,
        headers={"Retry-After": "1"} if status == 409 else None,
    )
    await response(scope, receive, send)
