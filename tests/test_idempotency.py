"""Idempotency-Key on writes: whoever asks again hears the same, and nothing is done twice."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.idempotency import Answers, FormDigest
from api.services import Services
from pageglass.errors import StoreError
from pageglass.settings import load_settings
from pageglass.types import Document
from tests.served import served
from tests.serving import serving
from tests.test_app import FERRY, TURBINE, assert_problem
from tests.tiny import pdf

UNKNOWN = "0" * 32


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("files")
    return {
        "ferry": pdf(folder / "ferry.pdf", FERRY).read_bytes(),
        "turbine": pdf(folder / "turbine.pdf", TURBINE).read_bytes(),
    }


class Broken(Services):
    """Services whose store is away as long as a test says so."""

    away = threading.Event()

    def change(self, document_id: str, **more: Any) -> Document:
        """As ever, unless the store is away."""
        if self.away.is_set():
            raise StoreError("the store is away: start it")
        return super().change(document_id, **more)


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Nothing is indexed here: what is uploaded waits."""
    data = tmp_path_factory.mktemp("idempotency") / "data"
    settings = load_settings({"data_dir": data, "server": {"keys": "on", "upload_mb": 2}})
    with Broken(settings, command="test") as services:
        yield services


@pytest.fixture(scope="module")
def address(services: Services) -> Iterator[str]:
    with serving(services) as address:
        yield address


Caller = Callable[..., httpx.Client]


@pytest.fixture
def caller(services: Services, address: str) -> Iterator[Caller]:
    """Makes clients, each with a key of its own."""
    with contextlib.ExitStack() as open_clients:

        def client(*scopes: str, collection: str = "default") -> httpx.Client:
            wanted = scopes or ("ask", "ingest")
            _, text = services.keys.add("test", wanted, collections=[collection])
            headers = {"Authorization": f"Bearer {text}"}
            made = httpx.Client(base_url=address, headers=headers, timeout=60, trust_env=False)
            return open_clients.enter_context(made)

        yield client


@pytest.fixture
def http(caller: Caller) -> httpx.Client:
    return caller()


def upload(http: httpx.Client, key: str, data: bytes, name: str = "x.pdf") -> httpx.Response:
    return http.post("/documents", files={"file": (name, data)}, headers={"Idempotency-Key": key})


def names(http: httpx.Client) -> list[str]:
    return [name for d in http.get("/documents").json()["documents"] for name in d["names"]]


def replayed(response: httpx.Response) -> bool:
    return response.headers.get("idempotency-replayed") == "true"


def said(response: httpx.Response) -> Mapping[str, Any]:
    """Everything but what belongs to one exchange."""
    own = {"x-request-id", "date", "idempotency-replayed"}
    return {
        "status": response.status_code,
        "body": response.content,
        "headers": {k: v for k, v in response.headers.items() if k not in own},
    }


# The same again


def test_an_upload_sent_again_is_answered_again_and_taken_once(
    http: httpx.Client, files: dict[str, bytes]
) -> None:
    first = upload(http, "once", files["ferry"], "once.pdf")
    assert first.status_code == 202
    assert not replayed(first)
    before = names(http)
    again = upload(http, "once", files["ferry"], "once.pdf")
    assert replayed(again)
    assert said(again) == said(first)
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert names(http) == before
    # A form's boundary is another every time; another file or name is another request.
    for other in (("ferry", "other.pdf"), ("turbine", "once.pdf")):
        reused = upload(http, "once", files[other[0]], other[1])
        assert (reused.status_code, reused.json()["code"]) == (422, "idempotency-key-reused")
    assert names(http) == before


def test_every_write_is_answered_again(http: httpx.Client, files: dict[str, bytes]) -> None:
    id = upload(http, "a", files["turbine"]).json()["documents"][0]["id"]
    for method, path, body in (
        ("PATCH", f"/documents/{id}", {"name": "Turbine", "tags": ["wind"]}),
        ("POST", f"/jobs/{id}/cancel", None),
        ("POST", f"/jobs/{id}/retry", None),
        ("POST", "/jobs/retry", None),
        ("DELETE", f"/documents/{id}", None),
        ("DELETE", f"/documents/{UNKNOWN}", None),
        ("PATCH", f"/documents/{id}", {"name": ""}),
    ):
        headers = {"Idempotency-Key": f"{method} {path} {body}".replace(" ", "_")}
        first = http.request(method, path, json=body, headers=headers)
        again = http.request(method, path, json=body, headers=headers)
        assert (replayed(first), replayed(again)) == (False, True), (method, path)
        assert said(again) == said(first)
        assert first.status_code < 300 or path.endswith(UNKNOWN) or body == {"name": ""}


def test_another_request_needs_another_key(http: httpx.Client, files: dict[str, bytes]) -> None:
    id = upload(http, "b", files["ferry"]).json()["documents"][0]["id"]
    headers = {"Idempotency-Key": "one"}
    url = f"/documents/{id}"
    assert http.patch(url, json={"name": "Ferry"}, headers=headers).status_code == 200
    for other in (
        http.patch(url, json={"name": "Fähre"}, headers=headers),
        http.patch(f"/documents/{UNKNOWN}", json={"name": "Ferry"}, headers=headers),
        http.patch(f"{url}?x=1", json={"name": "Ferry"}, headers=headers),
        http.delete(url, headers=headers),
        upload(http, "one", files["ferry"]),
    ):
        assert_problem(other, 422, "idempotency-key-reused")
        assert not replayed(other)
    assert http.get(url).json()["name"] == "Ferry"


def test_tenants_keys_do_not_meet(caller: Caller, files: dict[str, bytes]) -> None:
    one, other = caller(collection="here"), caller(collection="there")
    first = upload(one, "same", files["ferry"])
    second = upload(other, "same", files["ferry"])
    assert (replayed(first), replayed(second)) == (False, False)
    assert first.json()["documents"][0]["collection"] == "here"
    assert second.json()["documents"][0]["collection"] == "there"
    # Nor can one tell whether the other used a key: not even for another request.
    url = first.headers["location"]
    assert_problem(
        other.post(f"{url}/cancel", headers={"Idempotency-Key": "mine"}), 404, "job-not-found"
    )
    assert one.post(f"{url}/cancel", headers={"Idempotency-Key": "mine"}).status_code == 200


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "schlüssel", "tab\there"])
def test_what_is_no_key_is_refused(http: httpx.Client, key: str, files: dict[str, bytes]) -> None:
    before = names(http)
    response = http.post(
        "/documents",
        files={"file": ("y.pdf", files["ferry"])},
        headers={"Idempotency-Key": key.encode("latin-1")},  # pyright: ignore[reportArgumentType]
    )
    assert_problem(response, 422, "idempotency-key-invalid")
    assert names(http) == before


# Not the same again


def test_what_may_go_better_is_tried_again(
    services: Broken, caller: Caller, files: dict[str, bytes]
) -> None:
    http = caller()
    id = upload(http, "c", files["ferry"]).json()["documents"][0]["id"]
    url, headers = f"/documents/{id}", {"Idempotency-Key": "patient"}
    services.away.set()
    try:
        failed = http.patch(url, json={"name": "New"}, headers=headers)
    finally:
        services.away.clear()
    assert_problem(failed, 503, "store-unusable")
    worked = http.patch(url, json={"name": "New"}, headers=headers)
    assert (worked.status_code, replayed(worked)) == (200, False)
    assert replayed(http.patch(url, json={"name": "New"}, headers=headers))

    http.post(f"/jobs/{id}/cancel")
    headers = {"Idempotency-Key": "conflict"}
    assert_problem(http.post(f"/jobs/{id}/cancel", headers=headers), 409, "job-conflict")
    http.post(f"/jobs/{id}/retry")
    assert http.post(f"/jobs/{id}/cancel", headers=headers).status_code == 200


def test_what_was_forbidden_is_not_kept(caller: Caller) -> None:
    searching = caller("search")
    for _ in range(2):
        refused = searching.delete(f"/documents/{UNKNOWN}", headers={"Idempotency-Key": "k"})
        assert_problem(refused, 403, "key-forbidden")
        assert not replayed(refused)


def test_questions_pass_it_over(http: httpx.Client) -> None:
    headers = {"Idempotency-Key": "question"}
    chat = {"model": "pageglass", "messages": [{"role": "user", "content": "when?"}]}
    for path, body, accept in (
        ("/search", {"question": "when?"}, "*/*"),
        ("/ask", {"question": "when?"}, "*/*"),
        ("/ask", {"question": "when?"}, "text/event-stream"),
        ("/v1/chat/completions", chat, "*/*"),
        ("/v1/chat/completions", chat | {"stream": True}, "*/*"),
    ):
        for _ in range(2):
            response = http.post(path, json=body, headers={**headers, "Accept": accept})
            assert response.status_code == 200
            assert not replayed(response)
            streams = accept == "text/event-stream" or "stream" in body
            assert response.headers["content-type"].startswith("text/event-stream") == streams, path
    for _ in range(2):
        assert not replayed(http.get("/documents", headers=headers))


def test_public_addresses_pass_it_over(address: str) -> None:
    for path in ("/livez", "/version", "/openapi.json"):
        response = httpx.post(f"{address}{path}", headers={"Idempotency-Key": "k"}, trust_env=False)
        assert_problem(response, 405, "method-not-allowed")


def test_whom_nobody_knows_learns_nothing_of_keys(address: str, files: dict[str, bytes]) -> None:
    with httpx.Client(base_url=address, trust_env=False, timeout=60) as nobody:
        for key in ("once", "never", "a b"):
            assert_problem(upload(nobody, key, files["ferry"]), 401, "key-missing")


# At the same time


def half_an_upload(http: httpx.Client, key: str) -> socket.socket:
    """An upload whose end is still to come."""
    head = (
        f"POST /documents HTTP/1.1\r\nHost: {http.base_url.host}\r\n"
        f"Authorization: {http.headers.get('authorization', 'none')}\r\nIdempotency-Key: {key}\r\n"
        "Content-Type: multipart/form-data; boundary=B\r\nContent-Length: 5000\r\n\r\n"
        '--B\r\nContent-Disposition: form-data; name="file"; filename="half.pdf"\r\n\r\nhalf'
    )
    raw = socket.create_connection((http.base_url.host, http.base_url.port or 80), timeout=20)
    raw.sendall(head.encode())
    return raw


def until_noted(data: Path, key: str) -> None:
    """Wait until the server has begun to work on the request with the key."""
    with contextlib.closing(sqlite3.connect(data / "idempotency.sqlite")) as database:
        for _ in range(2000):
            if database.execute("SELECT 1 FROM answers WHERE key = ?", (key,)).fetchone():
                return
            time.sleep(0.005)
    raise AssertionError(f"{key} was not begun in ten seconds")


def test_while_the_first_is_worked_on_the_second_is_told_to_wait(
    services: Services, http: httpx.Client, files: dict[str, bytes]
) -> None:
    with half_an_upload(http, "slow"):
        until_noted(services.settings.data_dir, "slow")
        busy = upload(http, "slow", files["ferry"])
        assert_problem(busy, 409, "request-in-progress")
        assert busy.headers["retry-after"] == "1"
        assert upload(http, "other", files["ferry"]).status_code == 202
    # It hung up: there was no answer, so the next is the first again.
    until = time.monotonic() + 20
    while (response := upload(http, "slow", files["ferry"])).status_code == 409:
        assert time.monotonic() < until
    assert (response.status_code, replayed(response)) == (202, False)
    assert "half.pdf" not in names(http)


def test_of_many_at_a_time_one_is_done(http: httpx.Client, files: dict[str, bytes]) -> None:
    with ThreadPoolExecutor(8) as pool:
        rush = [pool.submit(upload, http, "rush", files["turbine"], "rush.pdf") for _ in range(24)]
    responses = [one.result() for one in rush]
    assert {response.status_code for response in responses} <= {202, 409}
    done = [response for response in responses if response.status_code == 202]
    assert sum(not replayed(response) for response in done) == 1
    assert len({response.content for response in done}) == 1
    assert names(http).count("rush.pdf") == 1


# Limits


def test_the_limit_of_a_body_holds(http: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        yield from [b"x" * 65536] * 40

    url, headers = f"/documents/{UNKNOWN}", {"Idempotency-Key": "large"}
    for method, path, kind in (
        ("PATCH", url, "application/json"),
        ("POST", "/documents", "application/octet-stream"),
        ("POST", "/documents", "application/x-www-form-urlencoded"),
        ("POST", "/documents", "multipart/form-data; boundary=B"),
    ):
        typed = {**headers, "Content-Type": kind}
        announced = http.request(method, path, content=b"x" * 2_600_000, headers=typed)
        assert_problem(announced, 413, "limit-exceeded")
        counted = http.request(method, path, content=chunks(), headers=typed)
        assert counted.status_code == (400 if "multipart" in kind else 413), counted.text
        assert counted.headers["content-type"] == "application/problem+json"
        assert not replayed(counted)


# Restarts


def test_an_answer_outlives_the_server(tmp_path: Path, files: dict[str, bytes]) -> None:
    with served(tmp_path) as first:
        taken = upload(first.http, "lasting", files["ferry"])
        assert taken.status_code == 202
        half = half_an_upload(first.http, "cut")
        until_noted(tmp_path / "data", "cut")
        # As when the power goes.
        first.process.kill()
        first.process.wait()
        half.close()
    with served(tmp_path) as second:
        again = upload(second.http, "lasting", files["ferry"])
        assert replayed(again)
        assert said(again) == said(taken)
        resumed = upload(second.http, "cut", files["turbine"])
        assert (resumed.status_code, replayed(resumed)) == (202, False)
        second.stop()
    with served(tmp_path) as third:
        assert replayed(upload(third.http, "lasting", files["ferry"]))
        assert replayed(upload(third.http, "cut", files["turbine"]))


def test_answers_are_kept_a_day(tmp_path: Path) -> None:
    now = 1_700_000_000.0
    answers = Answers(tmp_path / "idempotency.sqlite", clock=lambda: now)
    assert answers.begin("me", "key", "request") is None
    answers.finish("me", "key", None, 200, "[]", b"body")
    now += 24 * 3600
    assert answers.begin("me", "key", "request") == ("request", 200, "[]", b"body")
    now += 1
    assert answers.begin("me", "key", "request") is None
    assert answers.begin("you", "key", "request") is None
    answers.close()


def test_a_file_that_is_none_says_so(tmp_path: Path) -> None:
    (tmp_path / "idempotency.sqlite").write_bytes(b"no database " * 100)
    with pytest.raises(StoreError, match=r"cannot open .*idempotency"):
        Answers(tmp_path / "idempotency.sqlite")


@given(st.binary(max_size=200), st.lists(st.integers(0, 30), max_size=20))
def test_a_form_s_digest_depends_on_neither_boundary_nor_pieces(
    content: bytes, sizes: list[int]
) -> None:
    def digest(boundary: bytes, sizes: list[int]) -> str:
        form = b"--%s\r\nname\r\n\r\n%s\r\n--%s--\r\n" % (boundary, content, boundary)
        found, at = FormDigest(boundary), 0
        for size in (*sizes, len(form)):
            found.update(form[at : at + size])
            at += size
        return found.hexdigest()

    one, other = b"0123456789abcdef", b"ffff-ffff"
    if one in content or other in content:
        return
    assert digest(one, sizes) == digest(other, [])


def test_another_content_is_another_digest() -> None:
    def digest(content: bytes) -> str:
        form = FormDigest(b"B")
        form.update(b"--B\r\n\r\n%s\r\n--B--" % content)
        return form.hexdigest()

    assert digest(b"one") != digest(b"two")


def test_a_form_without_a_boundary_is_refused_and_not_kept(http: httpx.Client) -> None:
    headers = {"Idempotency-Key": "boundless", "Content-Type": "multipart/form-data"}
    for _ in range(2):
        answer = http.post("/documents", content=b"x" * 3000, headers=headers)
        assert answer.status_code == 400
        assert not replayed(answer)
