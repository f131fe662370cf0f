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

from anyio import CapacityLimiter, to_thread
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
        except sqlite3.Error as error:
            raise StoreError(f"cannot open {path.name}: {error}") from None

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

    def finish(self, caller: str, key: str, status: int, headers: str, body: bytes) -> None:
        """Keep the answer."""
        with self._lock:
            self._db.execute(
                "UPDATE answers SET status = ?, headers = ?, body = ? WHERE caller = ? AND key = ?",
                (status, headers, body, caller, key),
            )

    def forget(self, caller: str, key: str) -> None:
        """There was no answer worth keeping: the next request is the first again."""
        with self._lock:
            self._db.execute("DELETE FROM answers WHERE caller = ? AND key = ?", (caller, key))


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
        body: list[Message] = []
        digest = hashlib.sha256()
        # An upload's multipart boundary differs from one try to the next: what was sent again is
        # told by method and address there, elsewhere by the body, too.
        if not headers.get("content-type", "").lower().startswith("multipart/form-data"):
            more = True
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    return
                body.append(message)
                digest.update(message.get("body", b""))
                more = message.get("more_body", False)
        query = scope["query_string"].decode("latin-1")
        request = f"{scope['method']} {scope['path']}?{query} {digest.hexdigest()}"

        async def replayed() -> Message:
            return body.pop(0) if body else await receive()

        known = await to_thread.run_sync(
            self._answers.begin, caller, key, request, limiter=self._threads
        )
        if known is None:
            await self._first(scope, replayed, send, caller, key)
            return
        before, status, kept, content = known
        if before != request:
            await _refuse(
                scope,
                receive,
                send,
                422,
                "idempotency-key-reused",
                "this Idempotency-Key was used for another request: take a new one",
            )
        elif status is None:
            await _refuse(
                scope,
                receive,
                send,
                409,
                "request-in-progress",
                "the request with this Idempotency-Key is still worked on: ask again in a second",
            )
        else:
            raw = [
                (name.encode("latin-1"), value.encode("latin-1"))
                for name, value in json.loads(kept)
            ]
            raw.append((b"idempotency-replayed", b"true"))
            await send({"type": "http.response.start", "status": status, "headers": raw})
            await send({"type": "http.response.body", "body": content})

    async def _first(
        self, scope: Scope, receive: Receive, send: Send, caller: str, key: str
    ) -> None:
        status, headers, parts = 0, "[]", list[bytes]()

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
                if not message.get("more_body", False) and status < 500 and status not in _PASSING:
                    # Kept before the client hears it: what it heard is what it hears again.
                    await to_thread.run_sync(
                        self._answers.finish,
                        caller,
                        key,
                        status,
                        headers,
                        b"".join(parts),
                        limiter=self._threads,
                    )
            await send(message)

        answered = False
        try:
            await self._app(scope, receive, note)
            answered = status != 0 and status < 500 and status not in _PASSING
        finally:
            if not answered:
                self._answers.forget(caller, key)


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
