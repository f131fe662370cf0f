"""A server under load and among bad clients, as JSON: ``python -m evals.load``.

A real ``pageglass serve`` (profile ``lite``) on a folder of its own holds the sample documents.
``load``: askers who ask one question after another, every second one of them as a stream; how
many a second, how long they wait, and what the server keeps in memory meanwhile. ``bad_clients``:
clients that read or send a byte at a time, hang up in the middle, or break an upload off.
Throughout, somebody looks whether the server is alive. Exit status 1 where something that must
hold (``broken``) does not.

``python -m evals.load --fairness`` measures something else: how long a newcomer waits for a first
answer and a first small file, alone and while another API key asks ``--loud`` questions at once, or
has documents indexed.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import json
import math
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import httpx
import typer

from api.app import WORKER_THREADS
from api.keys import open_keys

SAMPLES = Path("samples/docs")
QUESTIONS = Path("samples/questions.jsonl")
_WARM_UP_SECONDS = 5.0
_LIVEZ_MS = 100.0
_GROWTH_MB = 25.0
"""Room for what the allocator keeps; 5,000 answers that each left 10 KB behind take more."""
_STREAM = {"Accept": "text/event-stream"}
_BAD_CLIENTS = 20
_BOUNDARY = "cut"


@dataclass(frozen=True, slots=True)
class Server:
    """A running server and where it keeps its files."""

    address: str
    pid: int
    data: Path
    temporary: Path

    def uses(self) -> dict[str, Any]:
        """Memory, threads and open files at this moment."""
        process = Path(f"/proc/{self.pid}")
        status = (process / "status").read_text()
        threads = re.search(r"^Threads:\s*(\d+)", status, re.MULTILINE)
        resident = int((process / "statm").read_text().split()[1])
        return {
            "rss_mb": round(resident * os.sysconf("SC_PAGESIZE") / 1e6, 1),
            "threads": int(threads[1]) if threads else 0,
            "open_files": len(list((process / "fd").iterdir())),
        }

    def files(self) -> set[str]:
        """What uploads could leave behind: all files but those of the stores, whose come and go."""
        return {
            str(path)
            for top in (self.data, self.temporary)
            for path in top.rglob("*")
            if path.is_file() and "index" not in path.parts and "sqlite" not in path.name
        }


@dataclass(slots=True)
class Tally:
    """What askers met."""

    seconds: list[float] = field(default_factory=list[float])
    first_event: list[float] = field(default_factory=list[float])
    errors: list[str] = field(default_factory=list[str])


def main(
    seconds: Annotated[float, typer.Option(min=1, help="How long to ask.")] = 60.0,
    askers: Annotated[int, typer.Option(min=1, help="How many ask at the same time.")] = 50,
    fairness: Annotated[
        bool, typer.Option("--fairness", help="Measure how a newcomer fares beside a loud key.")
    ] = False,
    loud: Annotated[int, typer.Option(min=1, help="Questions of the loud key.")] = 380,
) -> None:
    """Print the figures as JSON."""
    if fairness:
        print(json.dumps(_fairness(loud), indent=1))
        return
    with (
        tempfile.TemporaryDirectory(prefix="pageglass-load-") as scratch,
        _serving(Path(scratch)) as server,
    ):
        _take_in(server)
        with _watching(server) as livez:
            found: dict[str, Any] = {
                "load": asyncio.run(_load(server, seconds, askers)),
                # Twice: what the first leave in the allocator's hands must do for the second.
                "bad_clients_before": asyncio.run(_bad_clients(server)),
                "bad_clients": asyncio.run(_bad_clients(server)),
            }
    found["livez_ms"] = _spread(livez)
    found["machine"] = {"cores": os.cpu_count(), "load_average": round(os.getloadavg()[0], 1)}
    found["broken"] = broken = _broken(found)
    print(json.dumps(found, indent=1))
    raise typer.Exit(1 if broken else 0)


def _broken(found: dict[str, Any]) -> list[str]:
    """What must hold and does not."""
    load, bad = found["load"], found["bad_clients"]
    start, end, after = load["start"], load["end"], bad["after"]
    held = {
        "every question is answered": load["errors"] == 0 and load["requests"] > 0,
        # The one worst of thousands says more of the machine than of the server.
        f"99 of 100 /livez answer in {_LIVEZ_MS:g} ms": found["livez_ms"]["p99"] < _LIVEZ_MS,
        "memory stays flat": end["rss_mb"] - start["rss_mb"] < _GROWTH_MB
        and after["rss_mb"] - found["bad_clients_before"]["after"]["rss_mb"] < _GROWTH_MB,
        # Worker threads that uploads began stay for the next ones; there are so many at most.
        "no thread is left over": after["threads"] <= start["threads"] + WORKER_THREADS,
        "no open file is left over": after["open_files"] <= start["open_files"] + 2,
        "who reads slowly gets everything": bad["slow_readers_served"] == _BAD_CLIENTS,
        "who sends slowly is answered": bad["slow_senders_served"] == _BAD_CLIENTS,
        "no work goes on for clients that hung up": bad["in_work"] + bad["waiting"] == 0,
        "an upload that was cut leaves nothing": not bad["left_behind"] and bad["documents_kept"],
    }
    return [what for what, holds in held.items() if not holds]


@contextmanager
def _serving(scratch: Path, **settings: str) -> Generator[Server]:
    """Serve a new folder; ``settings`` are environment variables."""
    data, temporary = scratch / "data", scratch / "tmp"
    temporary.mkdir()
    others = {name: v for name, v in os.environ.items() if not name.startswith("PAGEGLASS_")}
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "api.cli"),
            *("--data-dir", str(data), "serve", "--port", "0"),
        ],
        env={**others, "TMPDIR": str(temporary), **settings},
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline().decode()
        address = re.search(r"http://\S+:\d+", said)
        if address is None:
            raise SystemExit("load: the server did not start")
        yield Server(address[0], process.pid, data, temporary)
    finally:
        process.terminate()
        process.wait()


def _take_in(server: Server, headers: Mapping[str, str] | None = None) -> None:
    with httpx.Client(
        base_url=server.address, timeout=60, trust_env=False, headers=headers
    ) as http:
        for path in sorted(SAMPLES.iterdir()):
            with path.open("rb") as file:
                http.post("/documents", files={"file": (path.name, file)}).raise_for_status()
        until = time.monotonic() + 900
        while True:
            counts = http.get("/jobs").json()["counts"]
            if not counts.get("queued") and not counts.get("running"):
                return
            if time.monotonic() > until:
                raise SystemExit("load: the samples were not indexed in 15 minutes")
            time.sleep(0.5)


@contextmanager
def _watching(server: Server) -> Generator[list[float]]:
    """Ask ten times a second whether the server is alive, from a process of its own, which the
    askers do not hold up; gives seconds, in the end."""
    seen: list[float] = []
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_watch, args=(server.address, theirs), daemon=True)
    process.start()
    ours.recv()
    yield seen
    ours.send("over")
    seen += ours.recv()
    process.join()


def _watch(address: str, told: Connection) -> None:
    seen: list[float] = []
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    told.send("begun")
    while not told.poll(0.1):
        began = time.perf_counter()
        connection.request("GET", "/livez")
        connection.getresponse().read()
        seen.append(time.perf_counter() - began)
    told.send(seen)


async def _load(server: Server, seconds: float, askers: int) -> dict[str, Any]:
    asked = [json.loads(line)["question"] for line in QUESTIONS.read_text("utf-8").splitlines()]
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=server.address, timeout=120, limits=limits, trust_env=False
    ) as client:
        await _ask_for(client, _WARM_UP_SECONDS, askers, asked, Tally())
        tally = Tally()
        start = server.uses()
        began = time.perf_counter()
        await _ask_for(client, seconds / 2, askers, asked, tally)
        middle = server.uses()
        await _ask_for(client, seconds / 2, askers, asked, tally)
        took = time.perf_counter() - began
        end = server.uses()
    return {
        "askers": askers,
        "requests": len(tally.seconds),
        "errors": len(tally.errors),
        "first_errors": tally.errors[:5],
        "requests_per_second": round(len(tally.seconds) / took, 1),
        "answer_ms": _spread(tally.seconds),
        "first_event_ms": _spread(tally.first_event),
        "start": start,
        "middle": middle,
        "end": end,
    }


async def _ask_for(
    client: httpx.AsyncClient, seconds: float, askers: int, asked: list[str], tally: Tally
) -> None:
    """``askers`` ask one question after another until the time is over; every second one has the
    answer streamed."""
    until = time.monotonic() + seconds

    async def ask(number: int) -> None:
        for question in itertools.islice(itertools.cycle(asked), number % len(asked), None):
            if time.monotonic() >= until:
                return
            began = time.perf_counter()
            try:
                if number % 2:
                    tally.first_event.append(await _stream(client, question) - began)
                else:
                    response = await client.post("/ask", json={"question": question})
                    response.raise_for_status()
            except (httpx.HTTPError, ValueError) as error:
                tally.errors.append(repr(error)[:300])
            else:
                tally.seconds.append(time.perf_counter() - began)

    await asyncio.gather(*map(ask, range(askers)))


async def _stream(client: httpx.AsyncClient, question: str) -> float:
    """Follow a stream to its end; when its first event came. ValueError where it broke off."""
    first, events = 0.0, list[str]()
    async with client.stream("POST", "/ask", json={"question": question}, headers=_STREAM) as said:
        said.raise_for_status()
        async for line in said.aiter_lines():
            if line.startswith("event: "):
                first = first or time.perf_counter()
                events.append(line.removeprefix("event: "))
    if not events or events[-1] != "answer":
        raise ValueError(f"the stream ended with {events[-1:]}")
    return first


async def _bad_clients(server: Server) -> dict[str, Any]:
    """All of them at once, then a look at what they left."""
    async with httpx.AsyncClient(base_url=server.address, timeout=60, trust_env=False) as client:
        documents = await _get(client, "/documents")
        files = server.files()
        await asyncio.gather(
            *(_hang_up(server, question_headers=kind) for kind in _times("Accept: */*")),
            *(_hang_up(server, question_headers=kind) for kind in _times(_ACCEPT_STREAM)),
            *(_cut_upload(server) for _ in range(_BAD_CLIENTS)),
        )
        gone = time.monotonic()
        while sum(work := await _questions(client)) and time.monotonic() < gone + 10:
            await asyncio.sleep(0.05)
        called_off = time.monotonic() - gone
        slow = [_slowly(server, read=True) for _ in range(_BAD_CLIENTS)]
        late = [_slowly(server, read=False) for _ in range(_BAD_CLIENTS)]
        read, sent = await asyncio.gather(asyncio.gather(*slow), asyncio.gather(*late))
        await _until(lambda: _same(server, files))
        return {
            "clients_of_each_kind": _BAD_CLIENTS,
            "slow_readers_served": sum(read),
            "slow_senders_served": sum(sent),
            "called_off_after_seconds": round(called_off, 2),
            "in_work": work[0],
            "waiting": work[1],
            "left_behind": sorted(server.files() - files)[:5],
            "documents_kept": await _get(client, "/documents") == documents,
            "after": server.uses(),
        }


# Fairness


def _fairness(loud: int) -> dict[str, Any]:
    """What a newcomer waits for, alone and beside a key that asks and uploads much."""
    with tempfile.TemporaryDirectory(prefix="pageglass-fair-") as scratch:
        with open_keys(Path(scratch) / "data") as keys:
            headers = {
                name: {"Authorization": f"Bearer {keys.add(name, ['admin'])[1]}"}
                for name in ("loud", "newcomer")
            }
        with _serving(
            Path(scratch),
            PAGEGLASS_SERVER__KEYS="on",
            PAGEGLASS_SERVER__REQUESTS_PER_MINUTE="1000000",
        ) as server:
            _take_in(server, headers["loud"])
            return asyncio.run(_beside(server, headers, loud))


async def _beside(
    server: Server, headers: Mapping[str, Mapping[str, str]], loud: int
) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=None)

    def client(name: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=server.address,
            timeout=300,
            limits=limits,
            trust_env=False,
            headers=headers[name],
        )

    async with client("loud") as crowd, client("newcomer") as newcomer:
        await _first_answer(newcomer)
        alone = statistics.median([(await _first_answer(newcomer))[0] for _ in range(5)])
        many = [asyncio.create_task(_first_answer(crowd)) for _ in range(loud)]
        await asyncio.sleep(1.0)
        beside, refusals = await _first_answer(newcomer)
        refused = sum(more for _, more in await asyncio.gather(*many))

        small = min(SAMPLES.glob("*.pdf"), key=lambda path: path.stat().st_size)
        file_alone = await _first_file(newcomer, small.read_bytes(), "alone")
        for number in range(_LOUD_FILES):
            data = _LOUD_FILE.read_bytes() + f"% {number}\n".encode()
            await _upload(crowd, data, f"{number}.pdf", "loud")
        file_beside = await _first_file(newcomer, small.read_bytes() + b"% beside\n", "beside")
    return {
        "questions_of_the_loud_key": loud,
        "refusals": {"loud": refused, "newcomer": refusals},
        "first_answer_seconds": _ratio(alone, beside),
        "documents_of_the_loud_key": _LOUD_FILES,
        "first_file_seconds": _ratio(file_alone, file_beside),
    }


_LOUD_FILES = 30
_LOUD_FILE = SAMPLES / "calder_vale_water_handbook.pdf"


def _ratio(alone: float, beside: float) -> dict[str, float]:
    return {
        "alone": round(alone, 3),
        "beside": round(beside, 3),
        "ratio": round(beside / alone, 1),
    }


async def _first_answer(client: httpx.AsyncClient) -> tuple[float, int]:
    """Seconds until an answer, and how often the server said that it was busy before."""
    began, refused = time.perf_counter(), 0
    question = {"question": "How many thousand passengers did Skerrin Line carry in 2019?"}
    while (response := await client.post("/ask", json=question)).status_code == 503:
        refused += 1
        await asyncio.sleep(float(response.headers["Retry-After"]))
    response.raise_for_status()
    return time.perf_counter() - began, refused


async def _first_file(client: httpx.AsyncClient, data: bytes, name: str) -> float:
    """Seconds from an upload until its pages can be found."""
    began = time.perf_counter()
    document = await _upload(client, data, f"{name}.pdf", "newcomer")
    while (await _get(client, f"/documents/{document}"))["state"] != "indexed":
        await asyncio.sleep(0.02)
    return time.perf_counter() - began


async def _upload(client: httpx.AsyncClient, data: bytes, name: str, collection: str) -> str:
    response = await client.post(
        "/documents", files={"file": (name, data)}, data={"collection": collection}
    )
    return response.raise_for_status().json()["documents"][0]["id"]


_ACCEPT_STREAM = "Accept: text/event-stream"
_BODY = b'{"question": "How many thousand passengers did Skerrin Line carry in 2019?"}'


def _times(header: str) -> list[str]:
    return [header] * _BAD_CLIENTS


def _head(path: str, length: int, *more: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {length}", *more]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode()


@contextlib.asynccontextmanager
async def _connected(
    server: Server,
) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    address = urlsplit(server.address)
    reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=1024)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def _hang_up(server: Server, *, question_headers: str) -> None:
    """Ask, and be gone before the answer is out."""
    async with _connected(server) as (reader, writer):
        writer.write(_head("/ask", len(_BODY), "Content-Type: application/json", question_headers))
        writer.write(_BODY)
        await writer.drain()
        if question_headers == _ACCEPT_STREAM:
            await reader.read(1)
        else:
            await asyncio.sleep(0.02)


async def _cut_upload(server: Server) -> None:
    """Announce 64 MB, send eight, and be gone."""
    kind = f"Content-Type: multipart/form-data; boundary={_BOUNDARY}"
    async with _connected(server) as (_, writer):
        writer.write(_head("/documents", 64 << 20, kind))
        part = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="cut.pdf"'
        writer.write(f"{part}\r\n\r\n%PDF-1.7\n".encode())
        for _ in range(8):
            writer.write(bytes(1 << 20))
            await writer.drain()


async def _slowly(server: Server, *, read: bool) -> bool:
    """Ask by a body that comes a byte at a time, or read the answer like that; whether all of it
    came."""
    more = ("Content-Type: application/json", _ACCEPT_STREAM)
    async with _connected(server) as (reader, writer):
        writer.write(_head("/ask", len(_BODY), *more))
        for byte in _BODY:
            writer.write(bytes([byte]))
            if not read:
                await writer.drain()
                await asyncio.sleep(0.02)
        said = bytearray()
        while byte := await reader.read(1):
            said += byte
            if read and len(said) % 50 == 0:
                await asyncio.sleep(0.01)
    return said.startswith(b"HTTP/1.1 200") and b"event: answer" in said


async def _questions(client: httpx.AsyncClient) -> tuple[int, int]:
    """Questions in work and waiting."""
    text = (await client.get("/metrics")).text
    found = [
        float(number)
        for name in ("in_work", "waiting")
        for number in re.findall(rf"^pageglass_questions_{name} (\S+)", text, re.MULTILINE)
    ]
    return int(found[0]), int(found[1])


async def _get(client: httpx.AsyncClient, path: str) -> Any:
    return (await client.get(path)).raise_for_status().json()


async def _same(server: Server, files: set[str]) -> bool:
    return server.files() <= files


async def _until(true: Callable[[], Awaitable[bool]], seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not await true() and time.monotonic() < until:
        await asyncio.sleep(0.05)


def _spread(seconds: list[float]) -> dict[str, float]:
    """Percentiles in milliseconds."""
    if len(seconds) < 2:
        return {"p99": math.inf, "worst": math.inf}
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    spread = {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "worst": max(seconds)}
    return {name: round(1000 * value, 1) for name, value in spread.items()}


if __name__ == "__main__":
    typer.run(main)
