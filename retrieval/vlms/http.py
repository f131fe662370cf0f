"""The HTTP client that model servers are asked with: replies are bounded, and pages of documents
are sent to no other origin than the one that the settings name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import cast

import httpx2
import openai

from pageglass.replies import ACCEPT_ENCODING, Intake, ReplyRefused

REPLY_BYTES = 16 << 20
"""The longest reply that is read, in bytes. A streamed token takes some 300 of them."""


def http_client() -> httpx2.AsyncClient:
    """The library's own client, bounded; whoever asks with it bounds the time."""
    return openai.DefaultAsyncHttpxClient(
        headers={"Accept-Encoding": ACCEPT_ENCODING},
        event_hooks={"response": [_bound]},
    )


async def _bound(response: httpx2.Response) -> None:
    # Before the redirect is followed: 307 and 308 would send the pages again.
    if response.has_redirect_location:
        to = response.url.join(response.headers["Location"])
        if _origin(to) != _origin(response.url):
            raise ReplyRefused(f"redirects to another origin ({to.scheme}://{to.host})")
    stream = cast(httpx2.AsyncByteStream, response.stream)
    response.stream = _Bounded(stream, Intake(response.headers, limit=REPLY_BYTES))


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, intake: Intake) -> None:
        self._stream = stream
        self._intake = intake

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for raw in self._stream:
            for piece in self._intake.decoded(raw):
                yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()
