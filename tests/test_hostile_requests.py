"""Requests that nobody honest sends, to a real server on a socket.

Each gets the right status and one line of why, hears nothing of the server's inside, and leaves the
server well and its documents there.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import socket
import time
import zipfile
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import httpx
import pymupdf
import pytest
from PIL import Image

from tests import tiny
from tests.served import Served, served

_FERRY = "The ferry to Hest leaves at seven in the morning and takes one hundred and four cars."
_SCRIPT = "<script>alert(1)</script>"
_RTL = "\u202efdp.exe"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, str]]:
    """A running server, and the id of the document it holds."""
    folder = tmp_path_factory.mktemp("hostile")
    with served(folder, server__upload_mb=1) as running:
        id = running.indexed(tiny.pdf(folder / "ferry.pdf", [_FERRY]))
        yield running, id
        said = running.http.post("/ask", json={"question": "When does the ferry to Hest leave?"})
        assert "seven in the morning" in said.json()["answer"]
        assert running.http.get("/readyz").json()["ready"] is True
        assert [one["id"] for one in running.http.get("/documents").json()["documents"]] == [id]
        assert not [line for line in running.lines() if "Traceback" in line or "ERROR" in line]


@pytest.fixture
def ferry(server: tuple[Served, str]) -> str:
    """The id of the document that must always be there."""
    return server[1]


@pytest.fixture
def http(server: tuple[Served, str], ferry: str) -> Iterator[httpx.Client]:
    """A client; what it did has done no harm."""
    running, _ = server
    yield running.http
    assert running.process.poll() is None
    assert running.http.get("/livez").json() == {"alive": True}
    assert running.http.get(f"/documents/{ferry}").json()["state"] == "indexed"


def _is_problem(response: httpx.Response, *statuses: int) -> dict[str, Any]:
    """One line of why, and nothing of the inside."""
    assert response.status_code in statuses, response.text[:500]
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Content-Type"] == "application/problem+json"
    said = response.json()
    assert said["status"] == response.status_code
    assert said["detail"]
    assert len(said["detail"]) < 1000
    assert "\n" not in said["detail"]
    _leaks_nothing(response.text)
    return said


def _leaks_nothing(text: str) -> None:
    for inside in ("Traceback", "site-packages", 'File "', "/tmp/", "/home/", "/root/", ".sqlite"):
        assert inside not in text


# Every route that takes a JSON body, with one that is right but for what is tried.
_BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/search"): {"question": "ferry"},
    ("POST", "/ask"): {"question": "ferry"},
    ("PATCH", "/documents/{id}"): {"name": "ferry.pdf"},
    ("POST", "/deletions"): {"remove": False},
    ("POST", "/check"): {"repair": False},
    ("POST", "/sources/missing"): {"sources": []},
    ("POST", "/sources/hold"): {"sources": []},
    ("POST", "/sources/forget"): {"sources": []},
}
_SOURCE = {
    "collection": "default",
    "path": "/x",
    "sha256": "0" * 64,
    "state": {"size": 1, "mtime_ns": 1, "inode": 1, "device": 1},
}
_BODIES[("POST", "/sources/renamed")] = {"source": _SOURCE, "path": "/y", "state": _SOURCE["state"]}

_TO = [pytest.param(*to, id=" ".join(to)) for to in _BODIES]


def _right(method: str, path: str) -> str:
    return json.dumps(_BODIES[method, path])


def test_every_route_that_takes_json_is_tried(http: httpx.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    takes = {
        (method.upper(), re.sub(r"\{.*?\}", "{id}", path))
        for path, operations in paths.items()
        for method, operation in operations.items()
        if "application/json" in operation.get("requestBody", {}).get("content", {})
    }
    # Extracting is said not to be in the profile, whatever is sent; chats have errors of their own.
    assert takes - {("POST", "/extract"), ("POST", "/v1/chat/completions")} == set(_BODIES)


@pytest.mark.parametrize(("method", "path"), _TO)
def test_bodies_that_are_no_right_json(
    http: httpx.Client, ferry: str, method: str, path: str
) -> None:
    right = _right(method, path)
    key = next(iter(_BODIES[method, path]))
    for body in (
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"{",
        b"\xff\xfe{",
        b"\0" * 100,
        b"[" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        right[:-1].encode() + b', "no such field": 1}',
        json.dumps({key: {"deep": [1]}}).encode(),
        json.dumps({key: None}).encode() if path != "/documents/{id}" else b'{"tags": [1]}',
        b'{"%s": NaN}' % key.encode(),
        b'{"%s": 1e999}' % key.encode(),
        b'{"%s": %s}' % (key.encode(), b"9" * 5_000),
        b'{"%s": "\\ud800"}' % key.encode(),
    ):
        response = http.request(
            method,
            path.replace("{id}", ferry),
            content=body,
            headers={"Content-Type": "application/json"},
        )
        _is_problem(response, 400, 422)


@pytest.mark.parametrize(("method", "path"), _TO)
def test_wrong_content_types(http: httpx.Client, ferry: str, method: str, path: str) -> None:
    address = path.replace("{id}", ferry)
    for kind in ("text/plain", "application/xml", "multipart/form-data", "image/png", "?", ""):
        headers = {"Content-Type": kind}
        response = http.request(method, address, content=_right(method, path), headers=headers)
        _is_problem(response, 415, 422)


@pytest.mark.parametrize(("method", "path"), _TO)
def test_bodies_that_are_too_large(http: httpx.Client, ferry: str, method: str, path: str) -> None:
    address = path.replace("{id}", ferry)
    kind = {"Content-Type": "application/json"}
    # Questions may have a picture beside them.
    size = 40 << 20 if path in ("/ask", "/search") else 2 << 20
    large = b" " * size
    _is_problem(http.request(method, address, content=large, headers=kind), 413)

    def pieces() -> Iterator[bytes]:
        for _ in range(size >> 16):
            yield bytes(1 << 16)

    # Its connection may be closed before all of it was sent.
    with contextlib.suppress(httpx.WriteError):
        _is_problem(http.request(method, address, content=pieces(), headers=kind), 413)


def test_of_keys_that_come_twice_the_last_counts(http: httpx.Client) -> None:
    said = http.post(
        "/search",
        content='{"question": "nothing", "question": "ferry", "top_k": 0, "top_k": 1}',
        headers={"Content-Type": "application/json"},
    )
    assert said.status_code == 200
    assert len(said.json()["pages"]) == 1


@pytest.mark.parametrize(
    "question",
    [
        "متى تغادر العبارة إلى هيست؟",
        "מתי יוצאת המעבורת להסט?",
        "🛳️ ➡️ Hest 🕖❓",
        "\u202eferry\u202c \u200f\u200e\ufeff",
        "ferry\0to\0Hest",
        "f\u0300\u0301" * 500,
        "\U0010ffff\ufffe",
        _SCRIPT,
        "'; DROP TABLE documents; --",
        '" OR NEAR( * ^ :',
    ],
)
@pytest.mark.parametrize("path", ["/search", "/ask"])
def test_questions_of_every_script_are_answered(
    http: httpx.Client, question: str, path: str
) -> None:
    said = http.post(path, json={"question": question})
    assert said.status_code == 200, said.text
    assert said.headers["Content-Type"] == "application/json"
    _leaks_nothing(said.text)


@pytest.mark.parametrize("accept", ["text/event-stream", "text/event-stream;q=0.1, */*"])
def test_questions_of_every_script_are_streamed(http: httpx.Client, accept: str) -> None:
    said = http.post(
        "/ask", json={"question": f"🛳️ {_SCRIPT}\n\nevent: x"}, headers={"Accept": accept}
    )
    assert said.status_code == 200
    assert said.headers["Content-Type"].startswith("text/event-stream")
    assert "\nevent: x" not in said.text


@pytest.mark.parametrize(
    "accept", [b"*/*", b"image/webp;q=x", b"text/html", b",,;q=", b"a" * 5000, b"\xff"]
)
def test_odd_accept_headers(http: httpx.Client, ferry: str, accept: bytes) -> None:
    raw = {b"Accept": accept}
    image = http.get(f"/documents/{ferry}/pages/1/image", headers=raw)
    assert image.status_code == 200
    assert image.headers["Content-Type"].startswith("image/")
    assert http.post("/search", json={"question": "ferry"}, headers=raw).status_code == 200


def test_head_and_range_do_no_harm(http: httpx.Client, ferry: str) -> None:
    image = f"/documents/{ferry}/pages/1/image"
    head = http.head(image)
    assert head.status_code in (200, 405)
    assert not head.content
    whole = http.get(image)
    for ranges in ("bytes=0-10", "bytes=-1", "bytes=9-1", "bytes=" + "0-1," * 1000, "lines=1"):
        part = http.get(image, headers={"Range": ranges})
        # Ranges are not served; then the whole is right (RFC 9110, section 14.2).
        assert (part.status_code, part.content) == (200, whole.content)


_TRICKS = [
    "..%2f..%2f..%2fetc%2fpasswd",
    "..%5c..%5cetc%5cpasswd",
    "%2e%2e/%2e%2e/etc/passwd",
    "....//....//etc/passwd",
    "%2fetc%2fpasswd",
    "%00",
    "%ff%fe",
    "a%0d%0aSet-Cookie:%20a=b",
    "'%20OR%20'1'='1",
    "%F0%9F%9B%B3",
    "%E2%80%AE",
    "a" * 65,
    "a" * 20_000,
]


@pytest.mark.parametrize("trick", _TRICKS)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/documents/{}"),
        ("PATCH", "/documents/{}"),
        ("DELETE", "/documents/{}"),
        ("GET", "/documents/{}/pages/1"),
        ("GET", "/documents/{}/pages/1/image"),
        ("GET", "/jobs/{}"),
        ("POST", "/jobs/{}/cancel"),
        ("POST", "/jobs/{}/retry"),
    ],
)
def test_ids_that_are_paths(server: tuple[Served, str], method: str, path: str, trick: str) -> None:
    # Over a bare socket: clients tidy addresses up.
    body = b'{"name": "x"}' if method == "PATCH" else b""
    said = _exchange(
        server[0],
        f"{method} {path.format(trick)} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body,
    )
    status = int(said.split(b" ", 2)[1])
    assert status in (404, 405, 422), said[:300]
    assert b"application/problem+json" in said
    head, _, content = said.partition(b"\r\n\r\n")
    assert b"Set-Cookie" not in head
    assert b"root:" not in content
    assert "\n" not in json.loads(content)["detail"]
    _leaks_nothing(content.decode())


def _exchange(running: Served, sent: bytes, *, seconds: float = 10) -> bytes:
    """What comes back on a connection of its own until the server closes it."""
    address = urlsplit(str(running.http.base_url))
    with socket.create_connection((address.hostname or "", address.port or 0), seconds) as there:
        # The server may have had enough; what it said can still be read.
        with contextlib.suppress(OSError):
            there.sendall(sent)
        said = bytearray()
        with contextlib.suppress(TimeoutError, ConnectionError):
            while piece := there.recv(65_536):
                said += piece
        return bytes(said)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0" * 1000,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET  HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n\xff: \xff\r\n\r\n",
        b"POST /ask HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /ask HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /ask HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"A: b\r\n" * 100_000 + b"\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    ],
)
def test_what_is_no_http(server: tuple[Served, str], http: httpx.Client, garbage: bytes) -> None:
    said = _exchange(server[0], garbage + b"\r\n\r\nGARBAGE" * 50)
    assert re.match(rb"HTTP/1\.1 (4\d\d|505) ", said) or not said, said[:300]
    _leaks_nothing(said.decode("latin-1"))


def test_garbage_behind_a_good_request_harms_nobody_else(
    server: tuple[Served, str], http: httpx.Client
) -> None:
    good = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    said = _exchange(server[0], good * 3 + b"\0\1\2 garbage\r\n\r\n" + good)
    assert said.count(b'{"alive":true}') == 3
    assert b"HTTP/1.1 400" in said


def test_connections_that_never_finish_their_headers_keep_nobody_out(
    server: tuple[Served, str], http: httpx.Client
) -> None:
    address = urlsplit(str(server[0].http.base_url))
    slow = [
        socket.create_connection((address.hostname or "", address.port or 0)) for _ in range(200)
    ]
    for connection in slow:
        connection.sendall(b"POST /ask HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: ")
    began = time.monotonic()
    said = http.post("/ask", json={"question": "When does the ferry to Hest leave?"})
    assert said.status_code == 200
    assert time.monotonic() - began < 10
    for connection in slow:
        connection.close()


# Uploads


def _upload(http: httpx.Client, name: str, data: bytes) -> httpx.Response:
    # By hand: clients escape what is odd in a name.
    head = f'Content-Disposition: form-data; name="file"; filename="{name}"'
    body = b"--b\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n--b--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    return http.post("/documents", content=body, headers=kind)


def _became(http: httpx.Client, response: httpx.Response) -> dict[str, Any]:
    """The only document of an upload, once nothing more becomes of it."""
    assert response.status_code == 202, response.text
    (document,) = response.json()["documents"]
    until = time.monotonic() + 60
    while document["state"] not in ("indexed", "failed"):
        assert time.monotonic() < until, document
        time.sleep(0.05)
        document = http.get(f"/documents/{document['id']}").json()
    return document


def _pdf(text: str, **metadata: str) -> bytes:
    with closing(pymupdf.open()) as document:
        document.new_page().insert_textbox(pymupdf.Rect(72, 72, 523, 770), text, fontsize=11)
        document.set_metadata(metadata)
        return document.tobytes()


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("../../../etc/passwd", "passwd"),
        ("..\\..\\windows\\win.ini", "win.ini"),
        ("/etc/cron.d/x.pdf", "x.pdf"),
        ("a\x01b\x7fc.pdf", "abc.pdf"),
        (f"invoice{_RTL}", "invoicefdp.exe"),
        ("..", None),
        ("a" * 2000 + ".pdf", "a" * 251 + ".pdf"),
        (f"{_SCRIPT}.pdf", "script>.pdf"),
        ("ferry 🛳️ שלום.pdf", None),
    ],
)
def test_names_of_uploads_are_names(
    server: tuple[Served, str], http: httpx.Client, sent: str, kept: str | None
) -> None:
    data = _pdf(f"Of number {len(sent)} nothing is known but this one line of text on its page.")
    response = _upload(http, sent, data)
    assert response.headers["Content-Type"] == "application/json"
    document = _became(http, response)
    name = document["name"]
    assert 0 < len(name) <= 255
    assert "/" not in name
    assert "\\" not in name
    assert name.isprintable()
    if kept is not None:
        assert name == kept
    http.delete(f"/documents/{document['id']}").raise_for_status()


def test_a_pdf_is_one_whatever_its_name(http: httpx.Client) -> None:
    text = "This page was written for a test of names that lie, and says so in one line of text."
    document = _became(http, _upload(http, "picture.png", _pdf(text)))
    assert document["state"] == "indexed"
    page = http.get(f"/documents/{document['id']}/pages/1").json()
    assert "names that lie" in page["text"].replace("\n", " ")
    http.delete(f"/documents/{document['id']}").raise_for_status()


def test_a_picture_is_one_whatever_its_name(http: httpx.Client) -> None:
    with io.BytesIO() as file:
        Image.new("RGB", (40, 30), "teal").save(file, "PNG")
        document = _became(http, _upload(http, "scan.pdf", file.getvalue()))
    assert document["state"] == "indexed", document
    image = http.get(f"/documents/{document['id']}/pages/1/image")
    assert image.headers["Content-Type"] == "image/jpeg"
    http.delete(f"/documents/{document['id']}").raise_for_status()


def _docx(more: dict[str, bytes]) -> bytes:
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            kinds = (
                b'<?xml version="1.0"?><Types xmlns='
                b'"http://schemas.openxmlformats.org/package/2006/content-types">'
                b'<Default Extension="xml" ContentType="application/xml"/></Types>'
            )
            for name, content in ({"[Content_Types].xml": kinds} | more).items():
                archive.writestr(name, content)
        return file.getvalue()


def test_an_office_file_that_unpacks_to_very_much_is_refused(http: httpx.Client) -> None:
    bomb = _docx({"word/document.xml": b" " * (600 << 20)})
    assert len(bomb) < 1 << 20
    nested = _docx({"word/document.xml": b"<w/>", "word/embeddings/x.docx": bomb})
    for data in (bomb, nested):
        began = time.monotonic()
        document = _became(http, _upload(http, "bomb.docx", data))
        assert document["state"] == "failed"
        assert time.monotonic() - began < 30
        _leaks_nothing(document["reason"])
        http.delete(f"/documents/{document['id']}").raise_for_status()


def test_script_in_titles_and_names_comes_back_as_text_only(http: httpx.Client) -> None:
    text = f"{_SCRIPT} The harbour master keeps a red lantern in the window of the customs house."
    data = _pdf(text, title=_SCRIPT, author=_SCRIPT)
    document = _became(http, _upload(http, "lantern.pdf", data))
    id = document["id"]
    named = http.patch(f"/documents/{id}", json={"name": _SCRIPT, "tags": ["<b>bold"]})
    assert named.json()["name"] == _SCRIPT
    question = {"question": "What does the harbour master keep in the window?"}
    for response in (
        named,
        http.get("/documents"),
        http.get(f"/documents/{id}"),
        http.get(f"/documents/{id}/pages/1", params={"words": True}),
        http.get("/jobs"),
        http.post("/search", json=question),
        http.post("/ask", json=question),
    ):
        assert response.status_code == 200
        assert "script" in response.text
        assert response.headers["Content-Type"] == "application/json"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
    http.delete(f"/documents/{id}").raise_for_status()


def test_uploads_that_are_no_upload(http: httpx.Client) -> None:
    kind = "multipart/form-data; boundary=b"
    for body in (
        b"",
        b"--b\r\n",
        b"--b--\r\n",
        b"garbage",
        b"--b\r\n\r\n\r\n--b--",
        b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\ntext\r\n--b--\r\n',
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n\r\n--b--\r\n',
        b"--b\r\n" + b"A: b\r\n" * 1000 + b"\r\n\r\n--b--",
        b"--b\r\nA: " + b"b" * 100_000 + b"\r\n\r\n--b--",
    ):
        response = http.post("/documents", content=body, headers={"Content-Type": kind})
        _is_problem(response, 400, 422)
    for wrong in ("multipart/form-data", "application/json", "text/plain"):
        response = http.post("/documents", content=b"{}", headers={"Content-Type": wrong})
        _is_problem(response, 400, 415, 422)
    _is_problem(_upload(http, "large.pdf", bytes(2 << 20)), 413)
    _is_problem(
        http.post("/documents", files={"file": ("a.pdf", b"x")}, data={"collection": "../x"}), 422
    )
