"""A Pageglass server, used from Python.

    from pageglass.client import Client

    with Client("http://127.0.0.1:8321") as pageglass:
        added = pageglass.add_documents(["report.pdf"])
        pageglass.wait(added.documents[0].id)
        answer = pageglass.ask("What did the second phase cost?")
        for citation in answer.citations:
            print(citation.document_name, citation.page_label, citation.quote)

``AsyncClient`` has the same methods for asyncio and trio. Results are the models of pageglass.wire.
Problems the server answers with are raised as the errors of pageglass.errors that they were there;
ServerError says that it did not answer, or not as a Pageglass server does.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, aclosing, closing
from math import inf
from typing import Any, TypeVar, Unpack

import anyio
import httpx
from anyio import to_thread

from pageglass import calls, wire
from pageglass.calls import AskEvent, Call, Destination, File, Scope, Selection, Tries, View
from pageglass.replies import ReplyRefused, bounded, bounded_async
from pageglass.types import JobState

_ENDED: tuple[JobState, ...] = ("done", "dead", "cancelled")

T = TypeVar("T")


class Client:
    """A server at ``url`` (http://host:port), with an API ``key`` where it needs one.

    What the server is too busy for, and calls that broke off and may be sent twice, are tried
    ``retries`` times more. ``timeout`` is how long it may be silent, and how long the reply to
    anything but a streamed question may take to arrive, in seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout: float = 600.0,
        retries: int = 2,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url
        self._retries = retries
        self._http = httpx.Client(
            **calls.connection(url, key, timeout),
            transport=transport,
            event_hooks={"response": [bounded(calls.REPLY_BYTES, timeout)]},
        )

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def search(self, question: str, **scope: Unpack[Scope]) -> wire.SearchResponse:
        """Rank the pages by how well they match."""
        return self.send(calls.search(question, scope))

    def ask(self, question: str, **scope: Unpack[Scope]) -> wire.AnswerModel:
        """Answer from the pages, citing them, or decline and show the nearest."""
        return self.send(calls.ask(question, scope))

    def ask_events(self, question: str, **scope: Unpack[Scope]) -> Generator[AskEvent]:
        """Answer as ``ask``, piece by piece; the last event is the whole answer.

        Close it (contextlib.closing) to hear no more of it: then the server stops, too.
        """
        with closing(self._open(calls.ask(question, scope, streamed=True), True)) as response:
            events = calls.Events(self.url, response)
            with events.to_the_end():
                for chunk in response.iter_bytes():
                    yield from events.feed(chunk)
                    if events.ended:
                        break

    def extract(
        self,
        schema: Mapping[str, Any],
        *,
        documents: Sequence[str] = (),
        pages: Sequence[tuple[str, int]] = (),
        instructions: str | None = None,
    ) -> wire.ExtractResponse:
        """Values in the shape of a JSON schema, read off documents or pages (id, number);
        NotInProfile where no model looks at pages."""
        return self.send(calls.extract(schema, documents, pages, instructions))

    def add_documents(
        self, files: Sequence[File], **to: Unpack[Destination]
    ) -> wire.UploadResponse:
        """Upload files. They are stored when this returns, and indexed while you go on."""
        with ExitStack() as opened:
            return self.send(calls.add_documents(opened, files, to))

    def documents(self, **selection: Unpack[Selection]) -> Iterator[wire.DocumentModel]:
        """Every document, oldest first; they are fetched as you go on."""
        cursor = None
        while cursor != "":
            listed = self.send(calls.list_documents(selection, cursor))
            yield from listed.documents
            cursor = listed.next_cursor or ""

    def document(self, document_id: str) -> wire.DocumentModel:
        """A document and how far it has come; DocumentNotFound."""
        return self.send(calls.get_document(document_id))

    def change_document(
        self, document_id: str, *, name: str | None = None, tags: Sequence[str] | None = None
    ) -> wire.DocumentModel:
        """Give a document another name, or other tags; what is None stays."""
        return self.send(calls.change_document(document_id, name, tags))

    def remove_document(self, document_id: str) -> None:
        """Remove every trace of a document; DocumentNotFound."""
        return self.send(calls.remove_document(document_id))

    def page(self, document_id: str, number: int, *, words: bool = False) -> wire.PageModel:
        """A page by its 1-based number, with its words' boxes if asked for; PageNotFound."""
        return self.send(calls.get_page(document_id, number, words))

    def page_image(self, document_id: str, number: int, **view: Unpack[View]) -> bytes:
        """A page's image, as JPEG or WebP; NotInProfile where no heat-map is to be had."""
        return self.send(calls.get_page_image(document_id, number, view))

    def collections(self) -> list[wire.CollectionModel]:
        """The collections there are, by name."""
        return self.send(calls.list_collections()).collections

    def jobs(self, states: Sequence[JobState] = (), *, limit: int = 1000) -> wire.JobList:
        """Jobs in these states (none: all): running, queued, then the ended, newest first."""
        return self.send(calls.list_jobs(states, limit))

    def job(self, document_id: str) -> wire.JobModel:
        """The work on a document; JobNotFound."""
        return self.send(calls.get_job(document_id))

    def cancel(self, document_id: str) -> wire.JobModel:
        """Stop the work on a document; its indexed pages stay. JobNotFound, JobConflict."""
        return self.send(calls.change_job(document_id, "cancel"))

    def retry(self, document_id: str) -> wire.JobModel:
        """Try again what failed, was cancelled or waits. JobNotFound, JobConflict."""
        return self.send(calls.change_job(document_id, "retry"))

    def wait(self, document_id: str, *, seconds: float = inf, poll: float = 0.5) -> wire.JobModel:
        """The job once it has ended, well or not; TimeoutError after so many seconds."""
        end = time.monotonic() + seconds
        while (job := self.job(document_id)).state not in _ENDED:
            time.sleep(_until_next_look(job, end, poll))
        return job

    def ready(self) -> wire.Readiness:
        """Whether the server can answer now, and if not, what is missing."""
        return self.send(calls.readyz())

    def version(self) -> wire.Version:
        """What the server is, and whether it needs a key."""
        return self.send(calls.version())

    def send(self, call: Call[T]) -> T:
        """Send any call; the error it ends in is raised."""
        return call.result(self.url, self._open(call))

    def _open(self, call: Call[Any], streamed: bool = False) -> httpx.Response:
        """The answer; where it is streamed, its body is left to be read, and it to be closed."""
        tries = Tries(self.url, call, self._retries)
        while True:
            try:
                response = self._http.send(call.request(self._http), stream=streamed)
                if call.answered(response):
                    return response
                with closing(response):
                    response.read()
                failed = response
            except (httpx.HTTPError, ReplyRefused) as error:
                failed = error
            time.sleep(tries.pause_after(failed))


class AsyncClient:
    """As Client, for asyncio and trio."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout: float = 600.0,
        retries: int = 2,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url
        self._retries = retries
        self._http = httpx.AsyncClient(
            **calls.connection(url, key, timeout),
            transport=transport,
            event_hooks={"response": [bounded_async(calls.REPLY_BYTES, timeout)]},
        )

    async def close(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def search(self, question: str, **scope: Unpack[Scope]) -> wire.SearchResponse:
        """As Client.search."""
        return await self.send(calls.search(question, scope))

    async def ask(self, question: str, **scope: Unpack[Scope]) -> wire.AnswerModel:
        """As Client.ask."""
        return await self.send(calls.ask(question, scope))

    async def ask_events(self, question: str, **scope: Unpack[Scope]) -> AsyncGenerator[AskEvent]:
        """As Client.ask_events; contextlib.aclosing closes it."""
        response = await self._open(calls.ask(question, scope, streamed=True), True)
        async with aclosing(response):
            events = calls.Events(self.url, response)
            with events.to_the_end():
                async for chunk in response.aiter_bytes():
                    for event in events.feed(chunk):
                        yield event
                    if events.ended:
                        break

    async def extract(
        self,
        schema: Mapping[str, Any],
        *,
        documents: Sequence[str] = (),
        pages: Sequence[tuple[str, int]] = (),
        instructions: str | None = None,
    ) -> wire.ExtractResponse:
        """As Client.extract."""
        return await self.send(calls.extract(schema, documents, pages, instructions))

    async def add_documents(
        self, files: Sequence[File], **to: Unpack[Destination]
    ) -> wire.UploadResponse:
        """As Client.add_documents; files are opened and read on worker threads."""
        with ExitStack() as opened:
            call = await to_thread.run_sync(calls.add_documents, opened, files, to)
            return await self.send(call)

    async def documents(self, **selection: Unpack[Selection]) -> AsyncGenerator[wire.DocumentModel]:
        """As Client.documents."""
        cursor = None
        while cursor != "":
            listed = await self.send(calls.list_documents(selection, cursor))
            for document in listed.documents:
                yield document
            cursor = listed.next_cursor or ""

    async def document(self, document_id: str) -> wire.DocumentModel:
        """As Client.document."""
        return await self.send(calls.get_document(document_id))

    async def change_document(
        self, document_id: str, *, name: str | None = None, tags: Sequence[str] | None = None
    ) -> wire.DocumentModel:
        """As Client.change_document."""
        return await self.send(calls.change_document(document_id, name, tags))

    async def remove_document(self, document_id: str) -> None:
        """As Client.remove_document."""
        return await self.send(calls.remove_document(document_id))

    async def page(self, document_id: str, number: int, *, words: bool = False) -> wire.PageModel:
        """As Client.page."""
        return await self.send(calls.get_page(document_id, number, words))

    async def page_image(self, document_id: str, number: int, **view: Unpack[View]) -> bytes:
        """As Client.page_image."""
        return await self.send(calls.get_page_image(document_id, number, view))

    async def collections(self) -> list[wire.CollectionModel]:
        """As Client.collections."""
        return (await self.send(calls.list_collections())).collections

    async def jobs(self, states: Sequence[JobState] = (), *, limit: int = 1000) -> wire.JobList:
        """As Client.jobs."""
        return await self.send(calls.list_jobs(states, limit))

    async def job(self, document_id: str) -> wire.JobModel:
        """As Client.job."""
        return await self.send(calls.get_job(document_id))

    async def cancel(self, document_id: str) -> wire.JobModel:
        """As Client.cancel."""
        return await self.send(calls.change_job(document_id, "cancel"))

    async def retry(self, document_id: str) -> wire.JobModel:
        """As Client.retry."""
        return await self.send(calls.change_job(document_id, "retry"))

    async def wait(
        self, document_id: str, *, seconds: float = inf, poll: float = 0.5
    ) -> wire.JobModel:
        """As Client.wait."""
        end = time.monotonic() + seconds
        while (job := await self.job(document_id)).state not in _ENDED:
            await anyio.sleep(_until_next_look(job, end, poll))
        return job

    async def ready(self) -> wire.Readiness:
        """As Client.ready."""
        return await self.send(calls.readyz())

    async def version(self) -> wire.Version:
        """As Client.version."""
        return await self.send(calls.version())

    async def send(self, call: Call[T]) -> T:
        """As Client.send."""
        return call.result(self.url, await self._open(call))

    async def _open(self, call: Call[Any], streamed: bool = False) -> httpx.Response:
        tries = Tries(self.url, call, self._retries)
        while True:
            request = call.request(self._http)
            if call.files is not None and isinstance(request.stream, httpx.SyncByteStream):
                request.stream = _OnAThread(request.stream)
            try:
                response = await self._http.send(request, stream=streamed)
                if call.answered(response):
                    return response
                async with aclosing(response):
                    await response.aread()
                failed = response
            except (httpx.HTTPError, ReplyRefused) as error:
                failed = error
            await anyio.sleep(tries.pause_after(failed))


class _OnAThread(httpx.AsyncByteStream):
    """A body that comes off a disk, which must not hold up the event loop."""

    def __init__(self, stream: httpx.SyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = iter(self._stream)
        while (chunk := await to_thread.run_sync(next, chunks, None)) is not None:
            yield chunk


def _until_next_look(job: wire.JobModel, end: float, poll: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError(f"{job.name} is {job.state}: {job.pages_done} of {job.pages} pages done")
    return min(poll, left)
