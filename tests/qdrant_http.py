"""A Qdrant server on loopback, small enough to be made to fail: REST before the in-memory client.

What it answers is what qdrant-client's own in-memory engine says, over real HTTP.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from qdrant_client import QdrantClient
from qdrant_client.http import models


@dataclass(frozen=True, slots=True)
class Request:
    """What a client sent; ``size`` is the body's, in bytes."""

    method: str
    path: str
    headers: Message
    size: int


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to a request instead of an answer: a status, or nothing for ``hang`` seconds.

    ``done`` lets the request take effect all the same: the answer is what gets lost.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict[str, str])
    body: bytes = b'{"status": {"error": "a fault of the test"}}'
    hang: float = 0.0
    done: bool = False


@dataclass(slots=True)
class QdrantHttp:
    """The server: its address, what it was asked, and the faults that its next requests meet."""

    url: str
    api_key: str | None = None
    requests: list[Request] = field(default_factory=list[Request])
    faults: deque[Fault] = field(default_factory=deque[Fault])
    client: QdrantClient = field(default_factory=lambda: QdrantClient(":memory:"))
    # The in-memory engine is for one thread.
    lock: threading.Lock = field(default_factory=threading.Lock)

    def sent(self, method: str, ending: str) -> list[Request]:
        """The requests of a method to paths with this ending."""
        return [r for r in self.requests if r.method == method and r.path.endswith(ending)]


@contextmanager
def serve(api_key: str | None = None) -> Generator[QdrantHttp]:
    """Serve on a free port until the block is left."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    qdrant = QdrantHttp(f"http://127.0.0.1:{server.server_address[1]}", api_key)
    server.qdrant = qdrant  # pyright: ignore[reportAttributeAccessIssue]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield qdrant
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # One packet an answer: the client's delayed acknowledgements would cost 40 ms each.
    wbufsize = -1
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _handle(self) -> None:
        qdrant: QdrantHttp = self.server.qdrant  # pyright: ignore[reportAttributeAccessIssue]
        path = self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        qdrant.requests.append(Request(self.command, path, self.headers, len(body)))
        fault = qdrant.faults.popleft() if qdrant.faults else None
        if fault is None or fault.done:
            status, answer = _answer(qdrant, self.command, path, self.headers, body)
        else:
            status, answer = fault.status, fault.body
        if fault is not None:
            time.sleep(fault.hang)
            if not fault.status:
                self.close_connection = True
                return
            status, answer = fault.status, fault.body
        self.send_response(status)
        for name, value in (fault.headers if fault else {}).items():
            self.send_header(name, value)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _handle


def _answer(
    qdrant: QdrantHttp, method: str, path: str, headers: Message, body: bytes
) -> tuple[int, bytes]:
    if qdrant.api_key is not None and headers.get("api-key") != qdrant.api_key:
        return 401, b"Must provide an API key or an Authorization bearer token"
    _, _, name, *rest = path.split("/")
    operation = _OPERATIONS.get((method, "/".join(rest)))
    if operation is None:
        return 404, b""
    try:
        with qdrant.lock:
            result = operation(qdrant.client, name, body)
    except TooLarge as error:
        return 422, json.dumps({"status": {"error": str(error)}, "time": 0}).encode()
    except ValueError as error:
        status = 409 if "already exists" in str(error) else 404
        return status, json.dumps({"status": {"error": str(error)}, "time": 0}).encode()
    dumped = result.model_dump(mode="json") if hasattr(result, "model_dump") else result
    return 200, json.dumps({"result": dumped, "status": "ok", "time": 0}).encode()


def _create(client: QdrantClient, name: str, body: bytes) -> bool:
    wanted = models.CreateCollection.model_validate_json(body)
    vectors: Any = wanted.vectors
    return client.create_collection(
        name,
        vectors_config=vectors,
        sparse_vectors_config=wanted.sparse_vectors,
        metadata=wanted.metadata,
    )


def _change(client: QdrantClient, name: str, body: bytes) -> bool:
    wanted = models.UpdateCollection.model_validate_json(body)
    return client.update_collection(name, vectors_config=wanted.vectors)


class TooLarge(Exception):
    """What a server says of a multi-vector that does not fit into a chunk of its storage."""


def _upsert(client: QdrantClient, name: str, body: bytes) -> Any:
    points = models.PointsList.model_validate_json(body).points
    for point in points:
        vectors: dict[str, Any] = point.vector  # pyright: ignore[reportAssignmentType]
        for vector in vectors.values():
            if isinstance(vector, list) and isinstance(vector[0], list):
                total = sum(map(len, vector))
                if total >= 1_048_576:
                    raise TooLarge(
                        f"Validation error in JSON body: Total size of all vectors ({total}) must"
                        " be less than 1048576"
                    )
    return client.upsert(name, points)


def _delete(client: QdrantClient, name: str, body: bytes) -> Any:
    selector = models.FilterSelector if b'"filter"' in body else models.PointIdsList
    return client.delete(name, selector.model_validate_json(body))


def _query(client: QdrantClient, name: str, body: bytes) -> Any:
    wanted = models.QueryRequest.model_validate_json(body)
    return client.query_points(
        name,
        query=wanted.query,
        using=wanted.using,
        prefetch=wanted.prefetch,
        query_filter=wanted.filter,
        search_params=wanted.params,
        limit=wanted.limit or 10,
        with_payload=True,
    )


def _retrieve(client: QdrantClient, name: str, body: bytes) -> list[Any]:
    wanted = models.PointRequest.model_validate_json(body)
    records = client.retrieve(name, wanted.ids, with_vectors=True)
    return [record.model_dump(mode="json") for record in records]


def _scroll(client: QdrantClient, name: str, body: bytes) -> dict[str, Any]:
    wanted = models.ScrollRequest.model_validate_json(body)
    records, offset = client.scroll(
        name, limit=wanted.limit or 10, offset=wanted.offset, with_vectors=True
    )
    points = [record.model_dump(mode="json") for record in records]
    return {"points": points, "next_page_offset": offset}


def _count(client: QdrantClient, name: str, body: bytes) -> Any:
    return client.count(name, models.CountRequest.model_validate_json(body).filter)


_OPERATIONS: dict[tuple[str, str], Callable[[QdrantClient, str, bytes], Any]] = {
    ("GET", "exists"): lambda client, name, _: {"exists": client.collection_exists(name)},
    ("GET", ""): lambda client, name, _: client.get_collection(name),
    ("PUT", ""): _create,
    ("PATCH", ""): _change,
    ("PUT", "index"): lambda client, name, _: {"operation_id": 0, "status": "completed"},
    ("PUT", "points"): _upsert,
    ("POST", "points"): _retrieve,
    ("POST", "points/delete"): _delete,
    ("POST", "points/query"): _query,
    ("POST", "points/scroll"): _scroll,
    ("POST", "points/count"): _count,
}
