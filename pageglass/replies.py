"""Replies of other servers within bounds of bytes and time.

Bytes count after decompression: a compressed reply of a kilobyte may be a megabyte. Clients put
what is here between the connection and whoever reads, so that bodies of errors and streams without
an end are bounded, too.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from typing import cast

import httpx

ACCEPT_ENCODING = "gzip, deflate"
"""What a client must ask for whose replies are read here."""

# Deflate makes at most 1,032 bytes of one: a slice becomes a megabyte at most.
_SLICE = 1024


class ReplyRefused(Exception):
    """A reply is not read any further; the message says why, after "the server ..."."""


class Intake:
    """The body of one reply, decompressed and counted as it comes."""

    def __init__(
        self, headers: MutableMapping[str, str], *, limit: int, seconds: float = math.inf
    ) -> None:
        """``limit`` is in bytes; ``seconds`` count from now. Content-Encoding is taken out of
        ``headers``, since what ``decoded`` gives has none."""
        encoding = headers.pop("Content-Encoding", "identity").strip().lower()
        if encoding not in ("identity", "gzip", "x-gzip", "deflate"):
            raise ReplyRefused("compresses its replies in a way that was not asked for")
        # 32: told by its head whether it is gzip or zlib.
        self._unzip = None if encoding == "identity" else zlib.decompressobj(zlib.MAX_WBITS | 32)
        self._limit = self._left = limit
        self._seconds = seconds
        self._ends = time.monotonic() + seconds

    def decoded(self, raw: bytes) -> Iterator[bytes]:
        """The bytes that ``raw`` stands for; ReplyRefused at the limit."""
        if time.monotonic() > self._ends:
            raise ReplyRefused(f"sent one reply for more than {self._seconds:.3g} s")
        if self._unzip is None:
            yield self._counted(raw)
            return
        for start in range(0, len(raw), _SLICE):
            try:
                piece = self._unzip.decompress(raw[start : start + _SLICE])
            except zlib.error:
                raise ReplyRefused("sent a reply that cannot be decompressed") from None
            yield self._counted(piece)

    def _counted(self, piece: bytes) -> bytes:
        self._left -= len(piece)
        if self._left < 0:
            raise ReplyRefused(f"sent a reply of more than {self._limit >> 20} MB")
        return piece


class BoundedStream(httpx.SyncByteStream, httpx.AsyncByteStream):
    """The body of one of httpx's responses, through an intake."""

    def __init__(
        self, stream: httpx.SyncByteStream | httpx.AsyncByteStream, intake: Intake
    ) -> None:
        self._stream = stream
        self._intake = intake

    def __iter__(self) -> Iterator[bytes]:
        for raw in cast(httpx.SyncByteStream, self._stream):
            yield from self._intake.decoded(raw)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for raw in cast(httpx.AsyncByteStream, self._stream):
            for piece in self._intake.decoded(raw):
                yield piece

    def close(self) -> None:
        """Let go of the connection."""
        cast(httpx.SyncByteStream, self._stream).close()

    async def aclose(self) -> None:
        """Let go of the connection."""
        await cast(httpx.AsyncByteStream, self._stream).aclose()


def bounded(limit: int, seconds: float) -> Callable[[httpx.Response], None]:
    """A hook on responses, for httpx.Client: at most ``limit`` bytes, read in ``seconds``; a stream
    of events may take as long as it likes."""

    def bound(response: httpx.Response) -> None:
        kind = response.headers.get("Content-Type", "")
        patience = math.inf if kind.startswith("text/event-stream") else seconds
        intake = Intake(response.headers, limit=limit, seconds=patience)
        response.stream = BoundedStream(response.stream, intake)

    return bound


def bounded_async(limit: int, seconds: float) -> Callable[[httpx.Response], Awaitable[None]]:
    """``bounded`` for httpx.AsyncClient."""
    bound = bounded(limit, seconds)

    async def hook(response: httpx.Response) -> None:
        bound(response)

    return hook
