"""Questions at work and their events, over a real socket, down to the model's server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from api.app import create_app
from api.services import Services
from api.streaming import Asker, Emit, Event, EventStream, Questions
from pageglass.cancellation import Cancellation, Cancelled, current
from pageglass.client import Client
from pageglass.errors import Busy, ModelServerError, QuestionError
from pageglass.settings import load_settings
from pageglass.wire import Alive, AnswerModel, SearchResponse
from tests.openai_server import OpenAIServer, openai_server
from tests.tiny import pdf

CRANES = (
    "Migrating cranes rest on the flooded meadows of the delta until the first frost of autumn."
)
QUESTION = "Where do migrating cranes rest?"


def until(condition: Callable[[], bool], what: str) -> None:
    ends = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < ends, what
        time.sleep(0.02)


@pytest.fixture(scope="module")
def model() -> Iterator[OpenAIServer]:
    with openai_server() as server:
        yield server


@pytest.fixture(autouse=True)
def _behaving(model: OpenAIServer) -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    yield
    model.behave()


class Running:
    """An application on a socket."""

    def __init__(self, app: Any, **settings: Any) -> None:
        self.app = app
        listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None, **settings))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]})

    def __enter__(self) -> Running:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture(scope="module")
def server(model: OpenAIServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("streaming")
    settings = load_settings(
        {
            "data_dir": folder / "data",
            "answer": {"url": model.url, "seconds": 60},
            "rerank": {"pages": 0},
            "server": {"at_once": 2, "waiting": 1},
        }
    )
    with Services(settings, command="test") as services:
        (report,) = services.ingest([pdf(folder / "cranes.pdf", [CRANES])])
        assert report.outcome == "indexed", report.reason
        with Running(create_app(services)) as running:
            yield running


def questions(server: Running) -> Questions:
    return server.app.state.questions


def lines(server: Running, question: str = QUESTION) -> str:
    """The whole stream as it comes."""
    response = httpx.post(
        f"{server.address}/ask",
        json={"question": question},
        headers={"Accept": "text/event-stream"},
        timeout=60,
    )
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    assert "content-encoding" not in response.headers
    return response.text


def test_events_come_in_order_and_are_numbered(server: Running) -> None:
    events = [
        dict(line.split(": ", 1) for line in event.splitlines())
        for event in lines(server).strip().split("\n\n")
        if not event.startswith(":")
    ]
    assert [event["id"] for event in events] == [str(n + 1) for n in range(len(events))]
    names = [event["event"] for event in events]
    assert names[0] == "search"
    assert names[-2:] == ["citation", "answer"]
    assert set(names[1:-2]) == {"token"}
    found = SearchResponse.model_validate_json(events[0]["data"])
    final = AnswerModel.model_validate_json(events[-1]["data"])
    assert found.pages == final.pages
    assert found.request_id == final.request_id


def test_the_pages_are_told_before_the_model_has_said_anything(
    server: Running, model: OpenAIServer
) -> None:
    model.misbehave("slow")
    model.pause = 0.05
    with Client(server.address) as client:
        told = {event.name: time.monotonic() for event in client.ask_events(QUESTION)}
    assert told["answer"] - told["search"] > 0.1


def test_what_is_wrong_before_the_first_event_is_an_ordinary_problem(server: Running) -> None:
    response = httpx.post(
        f"{server.address}/ask",
        json={"question": "  "},
        headers={"Accept": "text/event-stream"},
    )
    assert response.status_code == 422
    assert response.json()["code"] == "question-invalid"


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("fault", ["hanging", "slow"])
def test_a_client_that_goes_calls_the_model_off(
    server: Running, model: OpenAIServer, streamed: bool, fault: Any
) -> None:
    model.misbehave(fault, times=1)
    model.pause = 1.0
    before, hung_up = len(model.completions), model.hung_up
    parts = urlsplit(server.address)
    body = b'{"question": "%s"}' % QUESTION.encode()
    accept = b"text/event-stream" if streamed else b"application/json"
    with socket.create_connection((parts.hostname or "", parts.port or 0)) as client:
        client.sendall(
            b"POST /ask HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Accept: %s\r\nContent-Length: %d\r\n\r\n%s" % (accept, len(body), body)
        )
        until(lambda: len(model.completions) > before, "the model was not asked")
        assert questions(server).in_work == 1
    until(lambda: questions(server).in_work == 0, "the work went on")
    if fault == "slow":
        until(lambda: model.hung_up > hung_up, "the model's server was not left")


def test_so_many_wait_and_one_more_is_told_to_come_back(
    server: Running, model: OpenAIServer
) -> None:
    model.misbehave("hanging", times=3)
    stopped = threading.Event()

    def ask() -> None:
        with (
            httpx.Client() as client,
            client.stream("POST", f"{server.address}/ask", json={"question": QUESTION}, timeout=1),
        ):
            pass

    def asking() -> None:
        try:
            ask()
        except httpx.TimeoutException:
            stopped.set()

    threads = [threading.Thread(target=asking) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: questions(server).waiting == 1, "nobody waits")
    response = httpx.post(f"{server.address}/search", json={"question": QUESTION})
    assert response.status_code == 503
    assert response.json()["code"] == "busy"
    assert int(response.headers["retry-after"]) > 0
    # Neither of these needs a thread that questions have.
    assert httpx.get(f"{server.address}/livez").json() == {"alive": True}
    assert httpx.get(f"{server.address}/documents").status_code == 200
    for thread in threads:
        thread.join()
    until(lambda: not (questions(server).in_work or questions(server).waiting), "work goes on")
    assert stopped.is_set()


# The stream itself


def streaming(work: Callable[[Emit], None], **options: Any) -> Any:
    """An application that streams one piece of work."""
    questions = Questions(at_once=2, waiting=2)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return
        scope["state"] = {"request_id": "r1"}
        await receive()
        await EventStream(questions, work, **options)(scope, receive, send)

    app.questions = questions  # pyright: ignore[reportFunctionMemberAccess]
    return app


def test_a_silent_stream_is_kept_open_by_heartbeats() -> None:
    go_on = threading.Event()

    def work(emit: Emit) -> None:
        go_on.wait(20)
        emit(Event("alive", Alive()))

    with (
        Running(streaming(work, heartbeat_seconds=0.05), lifespan="off") as server,
        httpx.stream("POST", server.address, timeout=20) as response,
    ):
        said = response.iter_lines()
        assert [next(said) for _ in range(4)] == [": still here", "", ": still here", ""]
        go_on.set()
        rest = [line for line in said if line and not line.startswith(":")]
        assert rest == ["id: 1", "event: alive", 'data: {"alive":true}']


def test_what_goes_wrong_later_is_the_last_event() -> None:
    def work(emit: Emit) -> None:
        emit(Event("alive", Alive()))
        raise ModelServerError("the model's server broke off")

    with Running(streaming(work), lifespan="off") as server:
        text = httpx.post(server.address).text
    *_, last = text.strip().split("\n\n")
    assert last.startswith("id: 2\nevent: error\n")
    assert '"code":"model-server-error"' in last
    assert '"request_id":"r1"' in last


def test_a_fault_of_ours_ends_the_stream_and_tells_nothing_of_itself() -> None:
    def work(emit: Emit) -> None:
        emit(Event("alive", Alive()))
        raise RuntimeError("a secret")

    with Running(streaming(work), lifespan="off") as server:
        heard = b""
        with pytest.raises(httpx.RemoteProtocolError), httpx.stream("POST", server.address) as said:
            for piece in said.iter_bytes():
                heard += piece
    assert b'"code":"internal"' in heard
    assert b"secret" not in heard


def test_a_stop_of_the_server_lets_an_answer_end() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work(emit: Emit) -> None:
        begun.set()
        go_on.wait(20)
        emit(Event("alive", Alive()))

    said: list[str] = []
    with Running(streaming(work), lifespan="off", timeout_graceful_shutdown=20) as server:
        asking = threading.Thread(
            target=lambda: said.append(httpx.post(server.address, timeout=30).text)
        )
        asking.start()
        assert begun.wait(20)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        go_on.set()
        asking.join()
        stopping.join()
    assert '{"alive":true}' in said[0]


def test_work_that_outlives_the_grace_is_called_off() -> None:
    begun, called_off = threading.Event(), threading.Event()

    def work(emit: Emit) -> None:
        with current().stopping(called_off.set):
            begun.set()
            called_off.wait(20)
        current().check()

    with Running(streaming(work), lifespan="off", timeout_graceful_shutdown=0) as server:

        def ask() -> None:
            # What the client hears of it is not ours to say any more.
            with contextlib.suppress(httpx.HTTPError):
                httpx.post(server.address, timeout=30)

        asking = threading.Thread(target=ask)
        asking.start()
        assert begun.wait(20)
        server.stop()
        assert called_off.is_set()
        asking.join()


# Calling off


def test_a_cancellation_stops_what_is_there_and_what_comes_later() -> None:
    cancellation = Cancellation()
    stopped: list[str] = []
    with cancellation.stopping(lambda: stopped.append("ended")):
        pass
    with cancellation.stopping(lambda: stopped.append("under way")):
        cancellation.cancel()
        cancellation.cancel()
    with cancellation.stopping(lambda: stopped.append("later")):
        pass
    assert stopped == ["under way", "later"]
    with pytest.raises(Cancelled):
        cancellation.check()


def test_nothing_is_called_off_where_nobody_could() -> None:
    current().check()
    cancellation = Cancellation()
    with cancellation.applied():
        assert current() is cancellation
    assert current() is not cancellation


def test_questions_beyond_those_that_may_wait_are_busy() -> None:
    go_on, begun = threading.Event(), threading.Event()

    def work() -> str:
        begun.set()
        go_on.wait(20)
        return "done"

    async def ask_four() -> list[Any]:
        questions = Questions(at_once=1, waiting=2)
        tasks = [asyncio.create_task(questions.run(work, Cancellation())) for _ in range(4)]
        while not tasks[-1].done():
            await asyncio.sleep(0.01)
        assert (questions.in_work, questions.waiting) == (1, 2)
        go_on.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    *answers, refused = asyncio.run(ask_four())
    assert answers == ["done"] * 3
    assert isinstance(refused, Busy)
    assert refused.retry_after


def test_a_newcomer_s_question_is_next_and_busy_is_said_to_who_filled_the_queue() -> None:
    go_on, order = threading.Event(), list[str]()

    def work(who: str) -> str:
        go_on.wait(20)
        order.append(who)
        return who

    async def ask() -> list[Any]:
        questions = Questions(at_once=1, waiting=4, weights={"important": 2.0})

        def asked(who: str, name: str | None = None) -> asyncio.Task[str]:
            asker = Asker(who, name)
            return asyncio.create_task(questions.run(lambda: work(who), Cancellation(), asker))

        loud = [asked("loud") for _ in range(5)]
        while questions.waiting < 4:
            await asyncio.sleep(0.01)
        new = asked("new")
        while not loud[-1].done():
            await asyncio.sleep(0.01)
        assert (questions.in_work, questions.waiting, questions.callers_waiting) == (1, 4, 2)
        go_on.set()
        return await asyncio.gather(*loud, new, return_exceptions=True)

    *answers, refused, new = asyncio.run(ask())
    assert (answers, new) == (["loud"] * 4, "new")
    assert isinstance(refused, Busy)
    assert refused.retry_after
    assert "of them yours" in str(refused)
    assert order[:3] == ["loud", "loud", "new"]


def test_a_question_whose_client_goes_leaves_its_place_at_once() -> None:
    go_on, begun = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait(20)

    async def ask() -> None:
        questions = Questions(at_once=1, waiting=1)
        first = asyncio.create_task(questions.run(work, Cancellation()))
        while not begun.is_set():
            await asyncio.sleep(0.01)
        calling_off = Cancellation()
        second = asyncio.create_task(questions.run(work, calling_off))
        third = asyncio.create_task(questions.run(work, Cancellation()))
        with pytest.raises(Busy):
            await third
        calling_off.cancel()
        with pytest.raises(Cancelled):
            await second
        assert questions.waiting == 0
        fourth = asyncio.create_task(questions.run(work, Cancellation()))
        await asyncio.sleep(0)
        fourth.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fourth
        assert questions.waiting == 0
        go_on.set()
        await first
        assert questions.in_work == 0

    asyncio.run(ask())


def test_a_question_that_was_called_off_while_it_waited_is_never_begun() -> None:
    async def ask() -> None:
        cancellation = Cancellation()
        cancellation.cancel()
        with pytest.raises(Cancelled):
            await Questions(at_once=1, waiting=0).run(lambda: 1 / 0, cancellation)

    asyncio.run(ask())


def test_errors_come_out_of_questions_as_they_are() -> None:
    async def ask() -> None:
        never = asyncio.Event()

        async def receive() -> Any:
            await never.wait()

        def work() -> None:
            raise QuestionError("the question is empty")

        with pytest.raises(QuestionError):
            await Questions(at_once=1, waiting=0).answer(receive, work)

    asyncio.run(ask())


def test_the_folder_is_free_again_after_a_stop(server: Running, tmp_path: Path) -> None:
    del server
    settings = load_settings({"data_dir": tmp_path / "data"})
    for _ in range(2):
        with Services(settings, command="test") as services, Running(create_app(services)) as again:
            assert httpx.get(f"{again.address}/livez").status_code == 200
