"""Clients that do nothing, or next to nothing, hold nobody up."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.served import Served, served
from tests.tiny import pdf

FEW_FILES = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))"
PUMP = "The feed pump of line two failed since its bearing ran dry in March."


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One that may open 256 files, and waits a second for heads and two for bodies."""
    limits = {"server__head_seconds": 1, "server__body_seconds": 2}
    with served(tmp_path_factory.mktemp("served"), before=FEW_FILES, **limits) as one:
        yield one


@pytest.fixture
def connect(server: Served) -> Iterator[Callable[[bytes], socket.socket]]:
    """Opens a connection and sends the beginning of a request."""
    target = urlsplit(str(server.http.base_url))
    with ExitStack() as stack:

        def connected(start: bytes) -> socket.socket:
            client = socket.create_connection((target.hostname or "", target.port or 0), timeout=20)
            stack.enter_context(client)
            client.sendall(start)
            return client

        yield connected


def ask(server: Served) -> float:
    """How long a new client waits for an answer, in seconds."""
    began = time.monotonic()
    assert (
        httpx.get(f"{server.http.base_url}/livez", trust_env=False, timeout=20).status_code == 200
    )
    return time.monotonic() - began


def open_files(server: Served) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def until_closed(client: socket.socket) -> bytes:
    """What comes until the server closes."""
    received = b""
    try:
        while part := client.recv(65536):
            received += part
    except ConnectionResetError:
        pass
    return received


def test_half_sent_requests_keep_nobody_out(
    server: Served, connect: Callable[[bytes], socket.socket]
) -> None:
    before = len(server.lines())
    clients = [connect(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n") for _ in range(300)]
    assert ask(server) < 5
    assert open_files(server) < 256
    # Those that were let in are ended soon.
    assert all(until_closed(client)[:12] in (b"", b"HTTP/1.1 408") for client in clients)
    said = server.lines()[before:]
    assert len(said) < 5, said
    assert any("were turned away (setting server.connections)" in line for line in said)
    assert "Too many open files" not in "".join(said)


def test_a_silent_connection_is_closed_without_a_word(
    connect: Callable[[bytes], socket.socket],
) -> None:
    began = time.monotonic()
    assert until_closed(connect(b"")) == b""
    assert time.monotonic() - began < 10


def test_a_head_that_comes_byte_by_byte_is_ended(
    connect: Callable[[bytes], socket.socket],
) -> None:
    client = connect(b"GET /livez HTTP/1.1\r\nX: ")
    began = time.monotonic()
    with pytest.raises(OSError):
        while time.monotonic() - began < 15:
            client.sendall(b"x")
            time.sleep(0.1)
    assert time.monotonic() - began < 10


def test_a_second_head_has_its_own_time(connect: Callable[[bytes], socket.socket]) -> None:
    request = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    client = connect(request)
    for _ in range(3):
        # An idle connection is kept; what has begun must go on.
        time.sleep(0.7)
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
        client.sendall(request)
    client.recv(65536)
    client.sendall(b"GET /livez HT")
    assert b"HTTP/1.1 408" in until_closed(client)


def test_what_is_no_http_is_logged_seldom(
    server: Served, connect: Callable[[bytes], socket.socket]
) -> None:
    before = len(server.lines())
    for _ in range(50):
        assert until_closed(connect(b"\x00\x01 nonsense\r\n\r\n")).startswith(b"HTTP/1.1 400")
    assert len(server.lines()) - before < 10


BODY = (
    b"POST /ask HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"Content-Length: 900000\r\n\r\n"
)


def test_a_body_that_trickles_is_ended(
    server: Served, connect: Callable[[bytes], socket.socket]
) -> None:
    client = connect(BODY)
    client.settimeout(0.05)
    began = time.monotonic()
    received = b""
    while time.monotonic() - began < 20:
        try:
            client.sendall(b" ")
            if not (part := client.recv(65536)):
                break
            received += part
        except TimeoutError:
            continue
        except OSError:
            break
    assert time.monotonic() - began < 15
    assert received == b"" or received.startswith(b"HTTP/1.1 408")
    assert ask(server) < 5


def test_a_body_at_a_modest_pace_arrives(
    server: Served, connect: Callable[[bytes], socket.socket]
) -> None:
    """Some 30 KB a second for five seconds, more than twice the time that a body has for 16 KB."""
    question = b'{"question": "Why?"' + b" " * 150_000 + b"}"
    head = BODY.replace(b"900000", str(len(question)).encode())
    client = connect(head)
    for start in range(0, len(question), 15_000):
        client.sendall(question[start : start + 15_000])
        time.sleep(0.5)
    assert client.recv(65536).startswith(b"HTTP/1.1 200")


def test_uploads_and_answers_go_on_as_before(server: Served, tmp_path: Path) -> None:
    server.indexed(pdf(tmp_path / "log.pdf", [PUMP]))
    asked = {"question": "Why did the feed pump fail?"}
    accept = {"accept": "text/event-stream"}
    with server.http.stream("POST", "/ask", json=asked, headers=accept) as answer:
        assert "event: answer" in answer.read().decode()


def test_a_stream_of_events_outlives_the_limits(server: Served) -> None:
    with server.http.stream("GET", "/jobs/events", timeout=20) as events:
        began = time.monotonic()
        for _ in events.iter_bytes():
            if time.monotonic() - began > 4:
                break
        else:
            raise AssertionError("the stream ended")
