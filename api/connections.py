"""Connections that do nothing hold nothing up: how many there may be, and how long each may wait.

uvicorn bounds how long a connection may idle between two requests, and nothing else: heads and
bodies may take for ever, and when the process is out of open files nobody gets in. ``Connection``
is its protocol with these limits (docs/decisions/0011-limits-of-connections.md):

head
    ``head_seconds`` from its first byte, or from the connection's beginning, to its end.
body
    ``_BODY_BYTES`` in every ``body_seconds``, unless it is us who do not read on.
response
    some of it taken in every ``_UNREAD_SECONDS``.
number
    ``connections`` at most, fewer where the process may not open so many files; half of them from
    one address. One more takes the place of the one that has waited longest for a request; where
    all are at work, it is told to come back.

All of it happens on the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from pageglass.settings import ServerSettings

_log = logging.getLogger(__name__)

_BODY_BYTES = 16 * 1024
_UNREAD_SECONDS = 60.0
_RESERVE = 64
"""Files kept for what is opened to answer: databases, page images, model servers."""
_LOG_SECONDS = 60.0
_LATE = "The request did not arrive in time."
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"retry-after: 5\r\nconnection: close\r\ncontent-length: 22\r\n\r\n"
    b"Too many connections.\n"
)


class Limits:
    """What connections may do, and those that are open. One object a server."""

    def __init__(self, settings: ServerSettings) -> None:
        self.head_seconds = settings.head_seconds
        self.body_seconds = settings.body_seconds
        room = _room_for_files()
        self.most = min(settings.connections, room)
        if self.most < settings.connections:
            _log.warning(
                "%d connections at a time and not %d (setting server.connections): this process"
                " may open no more files; raise its limit (ulimit -n)",
                self.most,
                settings.connections,
            )
        self.backlog = max(1, min(128, room // 4))
        """Connections that asyncio may take at once, before any can be turned away."""
        self.open: dict[Connection, None] = {}
        # Without a request at the moment: the one that waits longest comes first.
        self.waiting: dict[Connection, None] = {}
        self._by_address: Counter[str] = Counter()
        self._turned_away = 0
        self._logged_at = float("-inf")

    def admit(self, connection: Connection) -> bool:
        """Take a new connection in, perhaps in another's place; False where there is no room."""
        address = connection.address
        of_address = self._by_address[address] >= max(1, self.most // 2)
        if of_address or len(self.open) >= self.most:
            for other in self.waiting:
                if not of_address or other.address == address:
                    self._count_turned_away()
                    other.drop()
                    break
            else:
                self._count_turned_away()
                return False
        self.open[connection] = self.waiting[connection] = None
        self._by_address[address] += 1
        return True

    def forget(self, connection: Connection) -> None:
        """It is closed, or about to be."""
        self.waiting.pop(connection, None)
        if connection in self.open:
            del self.open[connection]
            self._by_address[connection.address] -= 1
            if not self._by_address[connection.address]:
                del self._by_address[connection.address]

    def check(self, now: float) -> None:
        """End what waits for too long; to be called every second or so."""
        for connection in list(self.open):
            connection.check(now)

    def _count_turned_away(self) -> None:
        self._turned_away += 1
        now = time.monotonic()
        if now - self._logged_at >= _LOG_SECONDS:
            _log.warning(
                "%d connections at a time are the most: %d were turned away (setting"
                " server.connections)",
                self.most,
                self._turned_away,
            )
            self._logged_at, self._turned_away = now, 0


class Connection(H11Protocol):
    """A connection of a browser or program, within ``Limits``."""

    def __init__(self, limits: Limits, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._limits = limits
        self._head_since: float | None = None  # None: no byte of a head is here
        self._body_since: float | None = None  # None: no body is on its way
        self._body_bytes = 0
        self._unread = (0, 0.0)  # what of the response is not taken yet, since when
        self.address = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take part, unless there is no room."""
        super().connection_made(transport)
        # A socket of the file system has no address.
        self.address = self.client[0] if self.client else ""
        self._head_since = time.monotonic()
        if not self._limits.admit(self):
            transport.write(_BUSY)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Make room."""
        self._limits.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count, and pass on."""
        if self not in self._limits.open:
            return  # dropped, and what was on its way still comes
        now = time.monotonic()
        if self in self._limits.waiting and self._head_since is None:
            self._head_since = now
        self._body_bytes += len(data)
        super().data_received(data)

    def handle_events(self) -> None:
        """See whether a request has begun, once its head is here."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._limits.waiting.pop(self, None)
            self._head_since = None
            self._body_since, self._body_bytes = time.monotonic(), 0

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._body_since = None
        if self in self._limits.open:
            self._limits.waiting[self] = None
        # Begins a request that is here already.
        super().on_response_complete()

    def drop(self) -> None:
        """Close at once, whatever is on its way."""
        self._limits.forget(self)
        self.transport.abort()

    def check(self, now: float) -> None:
        """End the connection where its request or its client takes too long."""
        limits = self._limits
        if self in limits.waiting:
            if self._head_since is not None and now - self._head_since > limits.head_seconds:
                self._refuse()
            return
        if self._body_since is not None:
            if not self.cycle or not self.cycle.more_body:
                self._body_since = None
            elif self.flow.read_paused or self._body_bytes >= _BODY_BYTES:
                self._body_since, self._body_bytes = now, 0
            elif now - self._body_since > limits.body_seconds:
                self._refuse()
                return
        unread = self.transport.get_write_buffer_size()
        if not unread or unread != self._unread[0]:
            self._unread = unread, now
        elif now - self._unread[1] > _UNREAD_SECONDS:
            self.drop()

    def _refuse(self) -> None:
        """Say 408 where that can still be said, and close."""
        cycle = cast(RequestResponseCycle | None, self.cycle)
        silent = cycle is None and self.conn.trailing_data[0] == b""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE) and not silent:
            body = f"{_LATE}\n".encode()
            headers = [
                (b"content-type", b"text/plain; charset=utf-8"),
                (b"connection", b"close"),
                (b"content-length", str(len(body)).encode()),
            ]
            response = h11.Response(status_code=408, headers=headers, reason=b"Request Timeout")
            self.transport.write(self.conn.send(response) or b"")
            self.transport.write(self.conn.send(h11.Data(data=body)) or b"")
        if cycle is not None and not cycle.response_complete:
            # What reads the body learns that nobody is there any more.
            cycle.disconnected = True
            cycle.message_event.set()
        self._limits.forget(self)
        self.transport.close()


def _room_for_files() -> int:
    """How many connections this process can have open beside all else that it opens."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return 1 << 16
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return 1 << 16
    try:
        used = len(os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"))  # noqa: PTH112, PTH208
    except OSError:
        used = _RESERVE
    return max(8, most - used - max(_RESERVE, most // 4))
