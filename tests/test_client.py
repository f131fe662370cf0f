"""The Python client, blocking and not, against real servers: ours, and ones that misbehave."""

from __future__ import annotations

import asyncio
import io
import json
import re
import threading
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import pytest
from PIL import Image

from api.services import Services
from pageglass import wire
from pageglass.calls import AskEvent, File
from pageglass.client import AsyncClient, Client
from pageglass.errors import (
    Busy,
    CollectionNameError,
    DocumentNotFound,
    JobConflict,
    JobNotFound,
    KeyInvalid,
    KeyMissing,
    ModelTimeout,
    Overload,
    PageglassError,
    PageNotFound,
    QuestionError,
    ServerError,
    TooManyRequests,
    UsageError,
)
from pageglass.settings import load_settings
from tests.serving import serving
from tests.test_app import FERRY, TURBINE
from tests.tiny import pdf

CRANES = "Migrating cranes rest on the flooded meadows and leave before the first frost."
QUESTION = "When does the ferry leave the pier?"
DOCS = Path(__file__).parents[1] / "docs"

T = TypeVar("T")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("client")
    docs = [pdf(folder / "ferry.pdf", FERRY), pdf(folder / "turbine.pdf", TURBINE)]
    with Services(load_settings({"data_dir": folder / "data"}), command="test") as services:
        for report in services.ingest(docs):
            assert report.outcome == "indexed", report.reason
        services.start_worker()
        with serving(services) as address:
            yield address


def awaited(url: str, use: Callable[[AsyncClient], Awaitable[T]]) -> T:
    """What becomes of an AsyncClient's use on a loop of its own."""

    async def main() -> T:
        async with AsyncClient(url) as client:
            return await use(client)

    return asyncio.run(main())


# Servers that misbehave


@dataclass
class Seen:
    """A request that came in; its body is thrown away where it may be large."""

    path: str
    headers: Message
    size: int = 0
    body: bytes = b""


class Exchange(BaseHTTPRequestHandler):
    """A request, and what may be done with the connection it came by."""

    protocol_version = "HTTP/1.1"
    server: Misbehaving  # pyright: ignore[reportIncompatibleVariableOverride]

    def answer(self) -> None:
        seen = Seen(self.path, self.headers)
        self.server.seen.append(seen)
        size = int(self.headers.get("Content-Length", 0))
        while seen.size < size:
            chunk = self.rfile.read(min(size - seen.size, 1 << 16))
            seen.size += len(chunk)
            seen.body += chunk if size < 1 << 20 else b""
        script = self.server.script
        script[min(len(self.server.seen), len(script)) - 1](self)

    do_GET = do_POST = answer

    def log_message(self, format: str, *args: object) -> None:
        del format, args


@dataclass
class Misbehaving(ThreadingHTTPServer):
    """Answers the first request by the first entry of the script, and so on; then by the last."""

    script: list[Callable[[Exchange], None]]
    seen: list[Seen] = field(default_factory=list[Seen])

    def __post_init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)

    def handle_error(self, request: object, client_address: object) -> None:
        del request, client_address  # Clients hang up here.

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def misbehaving(*script: Callable[[Exchange], None]) -> Generator[Misbehaving]:
    with Misbehaving(list(script)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def says(body: Any, status: int = 200, **headers: str) -> Callable[[Exchange], None]:
    """Answers in JSON; ``Retry_After="0"`` is a header."""

    def answer(exchange: Exchange) -> None:
        data = json.dumps(body).encode()
        exchange.send_response(status)
        for name, value in headers.items():
            exchange.send_header(name.replace("_", "-"), value)
        exchange.send_header("Content-Length", str(len(data)))
        exchange.end_headers()
        exchange.wfile.write(data)

    return answer


def problem(status: int, code: str, detail: str = "because", **headers: str) -> Any:
    body = {"type": code, "title": "No.", "detail": detail, "request_id": "r"}
    return says(body | {"status": status, "code": code}, status, **headers)


def hangs_up(exchange: Exchange) -> None:
    exchange.close_connection = True


def streams(*pieces: bytes, cut: bool = False) -> Callable[[Exchange], None]:
    """Sends the pieces, each by itself; ``cut``: and hangs up amidst."""

    def answer(exchange: Exchange) -> None:
        exchange.send_response(200)
        exchange.send_header("Content-Type", "text/event-stream; charset=utf-8")
        exchange.send_header("Transfer-Encoding", "chunked")
        exchange.end_headers()
        for piece in pieces:
            exchange.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            exchange.wfile.flush()
        if cut:
            exchange.close_connection = True
        else:
            exchange.wfile.write(b"0\r\n\r\n")

    return answer


VERSION = {"version": "9", "profile": "lite", "needs_key": False, "can": [], "news": 1}
JOB: dict[str, Any] = {
    "document_id": "a",
    "name": "a.pdf",
    "collection": "default",
    "state": "running",
    "priority": 10,
    "attempts": 1,
    "pages": 9,
    "pages_done": 4,
    "reason": None,
    "next_attempt_at": None,
    "queued_at": "2026-01-01T00:00:00+00:00",
    "started_at": None,
    "ended_at": None,
    "pages_per_second": None,
    "seconds_left": None,
}


# Our own


def test_questions_are_answered_as_the_models_of_the_wire(address: str) -> None:
    with Client(address) as client:
        found = client.search(QUESTION, top_k=2)
        answer = client.ask(QUESTION, collection="default")
        turbine = next(one.id for one in client.documents() if one.name == "turbine.pdf")
        kept_to = client.search(QUESTION, documents=[turbine])
    assert {page.document_id for page in kept_to.pages} == {turbine}
    assert found.pages[0].document_name == "ferry.pdf"
    assert answer.answer_status == "answered"
    assert answer.citations[0].verified
    there = awaited(address, lambda client: client.ask(QUESTION, collection="default"))
    assert (there.answer, there.citations) == (answer.answer, answer.citations)
    assert awaited(address, lambda client: client.search(QUESTION, top_k=2)).pages == found.pages


def test_a_document_comes_and_goes(address: str, tmp_path: Path) -> None:
    path = pdf(tmp_path / "cräne.pdf", [CRANES, CRANES])
    with Client(address) as client:
        [document] = client.add_documents([path], collection="birds").documents
        job = client.wait(document.id, seconds=60, poll=0.05)
        assert (job.state, job.pages_done) == ("done", 2)
        assert job in client.jobs(["done"]).jobs
        assert client.document(document.id).state == "indexed"
        assert [one.name for one in client.documents(collection="birds")] == ["cräne.pdf"]
        page = client.page(document.id, 2, words=True)
        assert page.words is not None
        assert page.text.split() == [word.text for word in page.words]
        assert client.page(document.id, 2).words is None
        renamed = client.change_document(document.id, name="Cranes", tags=["birds", "frost"])
        assert (renamed.name, renamed.tags) == ("Cranes", ["birds", "frost"])
        assert client.change_document(document.id, tags=["birds"]).name == "Cranes"
        assert [one.name for one in client.documents(tags=["birds"], state="indexed")] == ["Cranes"]
        assert "birds" in [collection.name for collection in client.collections()]
        assert client.search("frost", tags=["birds"]).pages[0].document_id == document.id
        small = Image.open(io.BytesIO(client.page_image(document.id, 1, width=100, format="webp")))
        assert (small.format, small.width) == ("WEBP", 100)
        plain = client.page_image(document.id, 1)
        marked = client.page_image(document.id, 1, highlight=[page.words[0].box])
        assert Image.open(io.BytesIO(plain)).size == Image.open(io.BytesIO(marked)).size
        assert plain != marked
        client.remove_document(document.id)
        assert list(client.documents(collection="birds")) == []
        with pytest.raises(DocumentNotFound):
            client.remove_document(document.id)
        assert client.ready().ready
        assert not client.version().needs_key


def test_it_comes_and_goes_without_blocking_a_loop(address: str, tmp_path: Path) -> None:
    path = pdf(tmp_path / "crane.pdf", [CRANES])

    async def use(client: AsyncClient) -> None:
        files: list[File] = [path, ("heron.pdf", io.BytesIO(b"%PDF no")), ("empty.pdf", b"")]
        uploaded = await client.add_documents(files, collection="waders")
        assert [one.name for one in uploaded.documents] == ["crane.pdf", "heron.pdf"]
        assert [one.code for one in uploaded.refused] == ["not-a-document"]
        crane, heron = uploaded.documents
        jobs = await asyncio.gather(client.wait(crane.id, poll=0.05), client.wait(heron.id))
        assert [job.state for job in jobs] == ["done", "dead"]
        assert (await client.retry(heron.id)).document_id == heron.id
        with pytest.raises(JobConflict):
            await client.cancel(crane.id)
        names = {one.name async for one in client.documents(collection="waders")}
        assert names == {"crane.pdf", "heron.pdf"}
        assert (await client.document(crane.id)).pages == 1
        assert (await client.page(crane.id, 1)).page == 1
        assert Image.open(io.BytesIO(await client.page_image(crane.id, 1))).format == "JPEG"
        assert (await client.job(crane.id)).state == "done"
        assert (await client.jobs()).counts["done"] >= 1
        assert (await client.ready()).ready
        assert (await client.version()).profile == "lite"
        await client.remove_document(crane.id)

    awaited(address, use)


def test_errors_are_raised_as_what_they_were(address: str) -> None:
    with Client(address) as client:
        with pytest.raises(QuestionError, match="empty"):
            client.ask(" ")
        with pytest.raises(CollectionNameError):
            list(client.documents(collection="a/b"))
        with pytest.raises(JobNotFound):
            client.job("0" * 32)
        with pytest.raises(DocumentNotFound):
            client.document("../version")
        ferry = next(one for one in client.documents() if one.name == "ferry.pdf")
        with pytest.raises(PageNotFound, match=r"ferry\.pdf"):
            client.page_image(ferry.id, 3)
        with pytest.raises(UsageError, match="top_k"):
            client.search("hi", top_k=0)
        with pytest.raises(UsageError, match="surrogate"):
            client.search("\ud800")
        with pytest.raises(OSError, match="No such file"):
            client.add_documents(["missing.pdf"])
    with pytest.raises(QuestionError, match="empty"):
        awaited(address, lambda client: client.search(""))


def test_what_the_documentation_shows_works(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pdf(tmp_path / "report.pdf", ["The second phase cost twelve million euros, all of it in 2019."])
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "client.md").read_text(), re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        exec(block.replace("http://127.0.0.1:8321", address), {"__name__": "example"})
    assert "twelve million" in capsys.readouterr().out


# Streamed answers


def happenings(address: str) -> list[tuple[str, Any]]:
    """The events of a real answer, with every kind of character that ends a line somewhere."""
    with Client(address) as client:
        found, answer = client.search(QUESTION), client.ask(QUESTION)
    answer = answer.model_copy(update={"answer": "a\u2028b\x85c\x0b\r\nd ∮"})
    cited = wire.CitationEvent(number=1, **answer.citations[0].model_dump())
    token = wire.TokenEvent(text="six\u2029, ", restart=True)
    return [("search", found), ("token", token), ("citation", cited), ("answer", answer)]


def written(events: list[tuple[str, Any]], end: str = "\n") -> bytes:
    lines = [": still here", ""]
    for number, (name, model) in enumerate(events, start=1):
        lines += [f"id: {number}", f"event: {name}", f"data: {model.model_dump_json()}", ""]
        lines += [": still here", ""]
    return "".join(line + end for line in lines).encode()


def seen(events: list[AskEvent]) -> list[tuple[str, Any]]:
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    return [(event.name, event.model) for event in events]


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_events_arrive_however_they_were_cut(address: str, size: int) -> None:
    told = happenings(address)
    for end in ("\n", "\r\n"):
        body = written(told, end)
        pieces = [body[at : at + size] for at in range(0, len(body), size)]
        with misbehaving(streams(*pieces)) as server:
            with Client(server.url) as client:
                assert seen(list(client.ask_events(QUESTION, top_k=2))) == told

            async def collect(client: AsyncClient) -> list[AskEvent]:
                return [event async for event in client.ask_events(QUESTION)]

            assert seen(awaited(server.url, collect)) == told
        asked = json.loads(server.seen[0].body)
        assert asked == {"question": QUESTION, "documents": [], "tags": [], "top_k": 2}
        assert server.seen[0].headers["Accept"] == "text/event-stream"


def test_an_event_may_have_several_lines_of_data_and_new_ones_are_passed_over() -> None:
    body = b'id: 1\nevent: hum\ndata: ?\n\nid: 2\nevent: token\ndata: {"text":\ndata:  "a"}\n\n'
    with misbehaving(streams(body)) as server, Client(server.url) as client:
        events = client.ask_events("hi")
        event = next(events)
        assert (event.name, event.number, event.model) == ("token", 2, wire.TokenEvent(text="a"))
        with pytest.raises(ServerError, match="broke off"):
            next(events)


@pytest.mark.parametrize(
    ("script", "error", "words"),
    [
        (problem(422, "question-invalid", "too long"), QuestionError, "too long"),
        (says(VERSION), ServerError, "unknown way"),
        (streams(b"event: token\ndata: {}\n\n"), ServerError, "unknown way"),
        (streams(b"event: token\n", cut=True), ServerError, "does not answer"),
        (
            streams(
                b'event: error\ndata: {"type": "t", "title": "t", "status": 504, "detail": "slow",'
                b' "code": "model-timeout", "request_id": "r"}\n\n'
            ),
            ModelTimeout,
            "slow",
        ),
    ],
)
def test_a_stream_that_fails_raises_what_went_wrong(
    script: Callable[[Exchange], None], error: type[Exception], words: str
) -> None:
    async def collect(client: AsyncClient) -> list[AskEvent]:
        return [event async for event in client.ask_events("hi")]

    with misbehaving(script) as server:
        with Client(server.url) as client, pytest.raises(error, match=words):
            list(client.ask_events("hi"))
        with pytest.raises(error, match=words):
            awaited(server.url, collect)


def test_who_hears_no_more_hangs_up() -> None:
    gone = threading.Semaphore(0)

    def goes_on(exchange: Exchange) -> None:
        try:
            streams(*[b'event: token\ndata: {"text": "a"}\n\n'] * 1_000_000)(exchange)
        except OSError:
            gone.release()

    async def first(client: AsyncClient) -> str:
        async with aclosing(client.ask_events("hi")) as events:
            return (await anext(events)).name

    with misbehaving(goes_on) as server:
        with Client(server.url) as client:
            with closing(client.ask_events("hi")) as events:
                assert next(events).name == "token"
            assert gone.acquire(timeout=10)
        assert awaited(server.url, first) == "token"
        assert gone.acquire(timeout=10)


def test_an_answer_is_told_as_it_is_made(address: str) -> None:
    async def collect(client: AsyncClient) -> list[AskEvent]:
        return [event async for event in client.ask_events(QUESTION)]

    with Client(address) as client:
        for told in (seen(list(client.ask_events(QUESTION))), seen(awaited(address, collect))):
            names, models = zip(*told, strict=True)
            assert (names[0], names[-1]) == ("search", "answer")
            assert "citation" in names
            assert models[-1].answer == client.ask(QUESTION).answer
        with pytest.raises(QuestionError, match="empty"):
            next(client.ask_events(" "))


# Uploads and listings


def test_a_large_file_is_read_as_it_is_sent(tmp_path: Path) -> None:
    size = 64 << 20
    path = tmp_path / "large.pdf"
    with path.open("wb") as file:
        file.truncate(size)
    with misbehaving(says({"documents": [], "refused": []})) as server:
        tracemalloc.start()
        try:
            with Client(server.url) as client:
                client.add_documents([path], source="/x/large.pdf")
            awaited(server.url, lambda client: client.add_documents([path]))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert [exchange.size > size for exchange in server.seen] == [True, True]
    assert peak < 16 << 20


def test_all_documents_are_listed_page_by_page_as_they_are_wanted() -> None:
    def listing(*names: str, next_cursor: str | None) -> Callable[[Exchange], None]:
        document = {"collection": "c", "sha256": "s", "names": [], "pages": 1, "pages_indexed": 1}
        document |= {"state": "indexed", "reason": None, "added_at": "2026-01-01T00:00:00"}
        listed = [document | {"id": name, "name": name} for name in names]
        return says({"documents": listed, "next_cursor": next_cursor})

    pages = [
        listing("a", "b", next_cursor="x/&"),
        listing(next_cursor="y"),
        listing("c", next_cursor=None),
    ]
    with misbehaving(*pages) as server, Client(server.url) as client:
        documents = client.documents(collection="c", tags=["t", "u"], state="indexed")
        assert next(documents).name == "a"
        assert len(server.seen) == 1
        assert [document.name for document in documents] == ["b", "c"]
        asked = "/documents?collection=c&tag=t&tag=u&state=indexed"
        assert [exchange.path for exchange in server.seen] == [
            asked,
            f"{asked}&cursor=x%2F%26",
            f"{asked}&cursor=y",
        ]

    async def collect(client: AsyncClient) -> list[str]:
        return [document.name async for document in client.documents()]

    with misbehaving(*pages) as server:
        assert awaited(server.url, collect) == ["a", "b", "c"]


def test_a_view_of_a_page_is_asked_for_by_its_address() -> None:
    with misbehaving(says("image")) as server, Client(server.url) as client:
        assert client.page_image("a", 1, width=300, format="webp") == b'"image"'
        client.page_image("a", 2, heatmap="how much?", word="much")
    first, second = server.seen
    assert (first.path, first.headers["Accept"]) == (
        "/documents/a/pages/1/image?width=300",
        "image/webp",
    )
    assert second.path == "/documents/a/pages/2/image?heatmap=how+much%3F&word=much"


def test_values_are_asked_for_in_the_shape_of_a_schema() -> None:
    schema = {"type": "object", "properties": {"total": {"type": "number"}}}
    found = {"documents": [], "model": "m", "timings_ms": {"extract": 3.0}}
    read = wire.ExtractResponse(documents=[], model="m", timings_ms={"extract": 3})

    def use(client: AsyncClient) -> Awaitable[wire.ExtractResponse]:
        return client.extract(schema, documents=["a"])

    with misbehaving(says(found)) as server:
        with Client(server.url) as client:
            assert client.extract(schema, pages=[("a", 2)], instructions="in euros") == read
        assert awaited(server.url, use) == read
    first, second = [json.loads(request.body) for request in server.seen]
    pages = [{"document_id": "a", "page": 2}]
    assert first == {"schema": schema, "documents": [], "pages": pages, "instructions": "in euros"}
    assert second == {"schema": schema, "documents": ["a"], "pages": []}


# Trying again


def test_a_busy_server_is_tried_again_when_it_says() -> None:
    busy = problem(503, "busy", Retry_After="0")
    with misbehaving(problem(429, "too-many-requests", Retry_After="0"), busy, says(VERSION)) as s:
        with Client(s.url) as client:
            assert client.version().version == "9"
        assert len(s.seen) == 3
    with misbehaving(problem(429, "too-many-requests", Retry_After="1"), says(JOB)) as server:
        began = time.monotonic()
        assert awaited(server.url, lambda client: client.retry("a")).name == "a.pdf"
        assert time.monotonic() - began >= 1
        assert len(server.seen) == 2


def test_an_upload_that_is_under_way_is_asked_for_again() -> None:
    under_way = problem(409, "request-in-progress", Retry_After="0")
    with misbehaving(under_way, says({"documents": [], "refused": []})) as server:
        with Client(server.url) as client:
            client.add_documents([("a.pdf", b"%PDF")], idempotency_key="k")
        assert len(server.seen) == 2


@pytest.mark.parametrize(
    ("code", "error"),
    [("too-many-requests", TooManyRequests), ("busy", Busy), ("key-missing", KeyMissing)],
)
def test_who_is_turned_away_is_told_when_to_come_back(
    code: str, error: type[PageglassError]
) -> None:
    with misbehaving(problem(error.status, code, Retry_After="3600")) as server:
        with Client(server.url) as client, pytest.raises(error) as caught:
            client.search("hi")
        told = caught.value.retry_after if isinstance(caught.value, Overload) else 3600
        assert (told, len(server.seen)) == (3600, 1)


@pytest.mark.parametrize(
    ("retry_after", "tries"),
    [
        ({"Retry_After": "0"}, 3),
        ({"Retry_After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 3),
        ({"Retry_After": "3600"}, 1),
        ({"Retry_After": "soon"}, 1),
        ({}, 1),
    ],
)
def test_it_is_tried_a_few_times_and_not_for_long(retry_after: dict[str, str], tries: int) -> None:
    with misbehaving(problem(503, "store-unusable", "later", **retry_after)) as server:
        with Client(server.url) as client, pytest.raises(Exception, match="later"):
            client.version()
        assert len(server.seen) == tries


def test_only_what_does_no_harm_twice_is_sent_again(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(b"%PDF-1.7 whole")
    with misbehaving(hangs_up, says(VERSION)) as server, Client(server.url) as client:
        assert client.version().version == "9"
    with misbehaving(hangs_up, says(JOB)) as server, Client(server.url) as client:
        with pytest.raises(ServerError, match="does not answer"):
            client.retry("a")
        assert len(server.seen) == 1
    uploaded = says({"documents": [], "refused": []})
    with misbehaving(hangs_up, uploaded) as server, Client(server.url) as client:
        client.add_documents([path], idempotency_key="k")
        assert [exchange.headers["Idempotency-Key"] for exchange in server.seen] == ["k", "k"]
        assert all(b"%PDF-1.7 whole" in exchange.body for exchange in server.seen)
    with misbehaving(hangs_up, uploaded) as server:
        awaited(server.url, lambda client: client.add_documents([path], idempotency_key="k"))
        assert all(b"%PDF-1.7 whole" in exchange.body for exchange in server.seen)
    with misbehaving(hangs_up, uploaded) as server, Client(server.url) as client:
        with pytest.raises(ServerError):
            client.add_documents([path])
        assert len(server.seen) == 1


# Waiting, keys and addresses


def test_waiting_ends_in_time_and_says_how_far_it_came() -> None:
    with misbehaving(says(JOB), says(JOB), says(JOB | {"state": "cancelled"})) as server:
        with Client(server.url) as client:
            assert client.wait("a", poll=0.01).state == "cancelled"
        assert len(server.seen) == 3
    with misbehaving(says(JOB)) as server:
        with Client(server.url) as client, pytest.raises(TimeoutError, match="4 of 9 pages"):
            client.wait("a", seconds=0.05, poll=10)
        with pytest.raises(TimeoutError, match=r"a\.pdf is running"):
            awaited(server.url, lambda client: client.wait("a", seconds=0))


def test_a_server_that_cannot_answer_says_what_is_missing() -> None:
    missing = {"ready": False, "detail": "no models"}
    body = {"ready": False, "models": missing, "store": missing, "queue": missing}
    with misbehaving(says(body, 503)) as server, Client(server.url) as client:
        assert client.ready().models.detail == "no models"


def test_the_key_goes_with_every_request_and_into_no_message() -> None:
    with misbehaving(says(VERSION)) as server:
        with Client(server.url, key="pk_abc") as client:
            client.version()
        with Client(server.url) as client:
            client.version()
        sent = [exchange.headers["Authorization"] for exchange in server.seen]
        assert sent == ["Bearer pk_abc", None]
    for key in ("pk abc", "pk_abc\n", "pk_äbc", ""):
        with pytest.raises(UsageError, match="characters") as caught:
            Client("http://127.0.0.1:1", key=key)
        assert not key or key not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8321", "ftp://host", "http://", "http://me:secret@host", "http://[::"]
)
def test_addresses_that_are_none_are_refused(url: str) -> None:
    with pytest.raises(UsageError, match="address is like") as caught:
        Client(url)
    assert "secret" not in str(caught.value)
    with pytest.raises(UsageError, match="address is like"):
        AsyncClient(url)


def test_a_server_behind_a_path_is_asked_there() -> None:
    with misbehaving(says(VERSION)) as server, Client(f"{server.url}/glass/") as client:
        client.version()
        assert server.seen[0].path == "/glass/version"


def test_what_is_no_answer_of_ours_is_said_plainly() -> None:
    script = says({}, 301, Location="/x"), says([]), says({}, 599)
    with misbehaving(*script) as server, Client(server.url) as client:
        with pytest.raises(ServerError, match="301 Moved Permanently"):
            client.version()
        with pytest.raises(ServerError, match="unknown way"):
            client.version()
        with pytest.raises(ServerError, match=r"answered 599$"):
            client.version()
    with Client(server.url, retries=0) as client, pytest.raises(ServerError, match="not answer"):
        client.version()


def test_files_are_read_off_the_event_loop() -> None:
    """A disk that hangs must not hold up what else the loop does."""
    main = threading.get_ident()
    readers: set[int] = set()

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            readers.add(threading.get_ident())
            return super().read(size)

    with misbehaving(says({"documents": [], "refused": []})) as server:
        awaited(server.url, lambda client: client.add_documents([("a.pdf", Slow(b"%PDF"))]))
        assert b"%PDF" in server.seen[0].body
    assert readers
    assert main not in readers


def test_a_server_that_wants_keys_wants_the_right_one(tmp_path: Path) -> None:
    settings = load_settings({"data_dir": tmp_path / "data", "server": {"keys": "on"}})
    with Services(settings, command="test") as services, serving(services) as address:
        with Client(address, key=services.token) as client:
            assert list(client.documents()) == []
        with Client(address) as client:
            assert client.version().needs_key
            with pytest.raises(KeyMissing):
                list(client.documents())
        with Client(address, key="pg_0000") as client, pytest.raises(KeyInvalid):
            list(client.documents())
