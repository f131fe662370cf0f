"""One tenant and another on a server with keys: every operation there is, tried by the wrong one.

The requests are made from the server's own description; an operation that is not in ``OPERATIONS``
fails a test. What a key may not see is tried in three ways: aimed at another tenant's things it
must be answered as if these were not there; none of the other's words may be in any answer; and a
server that has only the one tenant must answer all the same.
"""

from __future__ import annotations

import base64
import io
import json
import re
import statistics
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.access import PUBLIC
from api.services import Services
from ingest.thresholds import FittedThreshold
from pageglass.settings import load_settings
from tests.openai_server import openai_server
from tests.serving import serving
from tests.test_app import assert_problem
from tests.tiny import pdf

OURS, THEIRS, NOBODYS = "alpha-library", "bravo-hospital", "nobody-at-home"
UNKNOWN = "0123456789abcdef" * 2
QUESTION = "When does the ferry leave the northern pier?"
NOT_IN_ANY = "What does the quokka of Zanthoria say about borealis finances?"

FERRY = "The ferry leaves the northern pier at six, unless fog closes the harbour first."
TICKETS = "Tickets for the ferry cost twelve euros for adults and seven euros for children."
QUOKKA = (
    "The Quokka of Zanthoria leaves the northern pier by ferry and counts kumquats there.",
    "Vermilion ledgers of Zanthoria: the ferry made nine million guilders of kumquats.",
)
"""What the other tenant has; some words are ours, too."""

STRICT = 0.9871236
"""The threshold fitted to what the other tenant has."""

Params = dict[str, Any]
Requests = Callable[[str, str], list[Params]]


@dataclass(frozen=True)
class Operation:
    """How an operation is used. ``requests`` makes its requests (arguments of httpx) for a
    document and a collection; ``aimed``: these are named in it."""

    needs: tuple[str, ...]
    requests: Requests = field(default=lambda document, collection: [{}])
    aimed: bool = False
    reads: bool = True
    concerns_all: bool = False


def _asked(document: str, collection: str) -> list[Params]:
    return [
        {"json": {"question": QUESTION, "documents": [document]}},
        {"json": {"question": QUESTION, "collection": collection}},
        {"json": {"question": QUESTION, "collection": collection, "documents": [document]}},
        {"json": {"question": QUESTION, "documents": [document], "tags": ["borealis"]}},
    ]


def _asked_streaming(document: str, collection: str) -> list[Params]:
    asked = _asked(document, collection)
    return asked + [{**one, "headers": {"Accept": "text/event-stream"}} for one in asked]


def _chat(document: str, collection: str) -> list[Params]:
    del document
    message = {"role": "user", "content": QUESTION}
    chat = {"model": f"pageglass/{collection}", "messages": [message]}
    return [{"json": chat}, {"json": chat | {"stream": True}}]


def _extract(document: str, collection: str) -> list[Params]:
    del collection
    wanted = {"schema": {"type": "object", "properties": {"total": {"type": "number"}}}}
    return [
        {"json": {**wanted, "documents": [document]}},
        {"json": {**wanted, "pages": [{"document_id": document, "page": 1}]}},
    ]


def _image(document: str, collection: str) -> list[Params]:
    del document, collection
    return [
        {},
        {"headers": {"If-None-Match": "*"}},
        {"headers": {"Accept": "image/webp"}, "params": {"width": 64}},
        {"params": {"heatmap": QUESTION}},
        {"params": {"highlight": "0-0-100-100"}},
    ]


def _upload(document: str, collection: str) -> list[Params]:
    del document
    file = {"file": ("new.pdf", b"%PDF-1.7 not really")}
    return [
        {"files": file, "data": {"collection": collection}},
        {"files": file, "data": {"collection": collection, "source": "/bravo/quokka.pdf"}},
    ]


def _change(document: str, collection: str) -> list[Params]:
    del document, collection
    return [{"json": {"name": "mine now"}}, {"json": {"tags": []}}, {"json": {}}]


def _source(document: str, collection: str) -> list[Params]:
    del document
    state = {"size": 1, "mtime_ns": 1, "inode": 1, "device": 1}
    form = {
        "collection": collection,
        "path": "/x/a.pdf",
        "folder": "/x",
        "state": json.dumps(state),
    }
    return [{"files": {"file": ("a.pdf", b"%PDF-1.7")}, "data": form}]


def _sources(document: str, collection: str) -> list[Params]:
    del document, collection
    return [{"json": {"sources": []}}]


def _renamed(document: str, collection: str) -> list[Params]:
    del document
    state = {"size": 1, "mtime_ns": 1, "inode": 1, "device": 1}
    source = {"collection": collection, "path": "/x/a", "sha256": "0" * 64, "state": state}
    return [{"json": {"source": source, "path": "/x/b", "state": state}}]


def _json(**body: Any) -> Requests:
    return lambda document, collection: [{"json": body}]


_LOOK = ("search", "ask", "ingest", "admin")
_SEARCH, _ASK, _INGEST = ("search", "ask", "admin"), ("ask", "admin"), ("ingest", "admin")


def _admin(requests: Requests = lambda document, collection: [{}]) -> Operation:
    return Operation(("admin",), requests, reads=False, concerns_all=True)


OPERATIONS = {
    "ask": Operation(_ASK, _asked_streaming, aimed=True),
    "search": Operation(_SEARCH, _asked, aimed=True),
    "extract": Operation(_ASK, _extract, aimed=True),
    "list_models": Operation(_SEARCH),
    "get_model": Operation(_SEARCH, aimed=True),
    "chat_completions": Operation(_ASK, _chat, aimed=True),
    "add_documents": Operation(_INGEST, _upload, aimed=True, reads=False),
    "list_documents": Operation(
        _LOOK,
        lambda document, collection: [
            {"params": {"collection": collection}},
            {"params": {"collection": collection, "tag": "borealis", "state": "failed"}},
        ],
        aimed=True,
    ),
    "get_document": Operation(_LOOK, aimed=True),
    "change_document": Operation(_INGEST, _change, aimed=True, reads=False),
    "remove_document": Operation(_INGEST, aimed=True, reads=False),
    "list_collections": Operation(_LOOK),
    "get_page": Operation(
        _SEARCH,
        lambda document, collection: [{}, {"params": {"words": "true"}}],
        aimed=True,
    ),
    "get_page_image": Operation(_SEARCH, _image, aimed=True),
    "list_jobs": Operation(
        _INGEST,
        lambda document, collection: [{}, {"params": {"state": ["dead", "queued"], "limit": 1}}],
    ),
    "follow_jobs": Operation(_INGEST),
    "retry_dead_jobs": Operation(_INGEST, reads=False),
    "get_job": Operation(_INGEST, aimed=True),
    "retry_job": Operation(_INGEST, aimed=True, reads=False),
    "cancel_job": Operation(_INGEST, aimed=True, reads=False),
    "list_deletions": _admin(),
    "settle_deletions": _admin(_json(remove=False)),
    "check_folder": _admin(_json()),
    "make_backup": _admin(),
    "list_sources": _admin(lambda document, collection: [{"params": {"folder": "/bravo"}}]),
    "take_source": _admin(_source),
    "rename_source": _admin(_renamed),
    "miss_sources": _admin(_sources),
    "hold_sources": _admin(_sources),
    "forget_sources": _admin(_sources),
    "access": Operation(_LOOK),
    "status": _admin(),
    "metrics": _admin(),
}
PUBLIC_OPERATIONS = {"livez", "readyz", "version"}


@dataclass(frozen=True)
class Tenant:
    """A collection with something of everything in it, and keys by what they may do."""

    collection: str
    documents: dict[str, str]
    """Document ids by what became of the document."""
    keys: dict[str, str]


@dataclass(frozen=True, eq=False)
class World:
    """A running server."""

    services: Services
    address: str
    ours: Tenant
    theirs: Tenant | None

    @contextmanager
    def client(self, key: str | None) -> Generator[httpx.Client]:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        with httpx.Client(
            base_url=self.address, headers=headers, timeout=60, trust_env=False
        ) as client:
            yield client


def tenant_of(services: Services, collection: str, prefix: str) -> Tenant:
    """One that has no document yet."""
    limited = [collection]
    keys = {
        scope: services.keys.add(f"{prefix}-{scope}", [scope], collections=limited)[1]
        for scope in ("search", "ask", "ingest", "admin")
    }
    keys["member"] = services.keys.add(f"{prefix}-m", ["ask", "ingest"], collections=limited)[1]
    return Tenant(collection, {}, keys)


def fill(services: Services, files: Mapping[str, bytes], tenants: Mapping[str, Tenant]) -> None:
    """Give the tenants, by what their files are called, documents in every state."""

    def add(prefix: str, what: str) -> str:
        name = f"{prefix}-{what}.pdf"
        document = services.writer.enqueue(
            io.BytesIO(files[f"{prefix} {what}"]),
            collection=tenants[prefix].collection,
            source=f"/{prefix}/{name}",
            name=name,
        ).document
        tenants[prefix].documents[what] = document.id
        # What is added within the same millisecond is listed by id, not in this order.
        time.sleep(0.002)
        return document.id

    for prefix in tenants:
        services.change(add(prefix, "done"), tags=["shared", f"{prefix}-tag"])
        add(prefix, "dead")
    outcomes = [report.outcome for report in services.ingest([])]
    assert sorted(outcomes) == ["failed"] * len(tenants) + ["indexed"] * len(tenants)
    for prefix in tenants:
        # The only one that is queued is the one that is claimed.
        running = add(prefix, "running")
        assert services.jobs.claim(f"worker-{prefix}") == running
        services.cancel(add(prefix, "cancelled"))
    for prefix in tenants:
        add(prefix, "queued")
    if "borealis" in tenants:
        model, at = services.answering_model, "2026-01-01T00:00:00+00:00"
        services.thresholds.put(
            FittedThreshold(THEIRS, model, STRICT, 87, 12, 3, 4, f"{STRICT}", at)
        )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of every file, the same for every server."""
    folder = tmp_path_factory.mktemp("files")
    made = {"ours done": pdf(folder / "a.pdf", [FERRY, TICKETS]).read_bytes()}
    made["borealis done"] = pdf(folder / "b.pdf", QUOKKA).read_bytes()
    for prefix, page in (("ours", FERRY), ("borealis", QUOKKA[0])):
        made[f"{prefix} dead"] = f"no PDF at all: {page}".encode()
        for what in ("running", "cancelled", "queued", "more"):
            text = f"{page} This is the {what} one, which nobody has read as yet."
            made[f"{prefix} {what}"] = pdf(folder / "x.pdf", [text]).read_bytes()
    return made


@contextmanager
def world_of(
    folder: Path, files: Mapping[str, bytes], *, alone: bool, **more: Any
) -> Generator[World]:
    server = {"keys": "on", "requests_per_minute": 1_000_000}
    settings = load_settings({"data_dir": folder, "server": server, **more})
    with Services(settings, command="test") as services:
        tenants = {} if alone else {"borealis": tenant_of(services, THEIRS, "borealis")}
        tenants["ours"] = tenant_of(services, OURS, "ours")
        fill(services, files, tenants)
        with serving(services) as address:
            yield World(services, address, tenants["ours"], tenants.get("borealis"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> Iterator[World]:
    """A server with both tenants."""
    with world_of(tmp_path_factory.mktemp("both") / "data", files, alone=False) as world:
        yield world


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> Iterator[World]:
    """A server on which there is nobody but us."""
    with world_of(tmp_path_factory.mktemp("one") / "data", files, alone=True) as world:
        yield world


@pytest.fixture(scope="module")
def theirs(world: World) -> Tenant:
    assert world.theirs is not None
    return world.theirs


@pytest.fixture(scope="module")
def described(world: World) -> dict[str, tuple[str, str]]:
    """Method and address of every operation, as the server describes them."""
    paths: dict[str, dict[str, Any]] = httpx.get(
        f"{world.address}/openapi.json", trust_env=False
    ).json()["paths"]
    return {
        operation["operationId"]: (method.upper(), path)
        for path, operations in paths.items()
        for method, operation in operations.items()
    }


def requests_of(
    described: Mapping[str, tuple[str, str]], id: str, document: str, collection: str
) -> Iterator[Params]:
    """An operation's requests, aimed at these."""
    method, path = described[id]
    url = path.format(document_id=document, number=1, model=f"pageglass/{collection}")
    for more in OPERATIONS[id].requests(document, collection):
        yield {"method": method, "url": url, **more}


def first_event(http: httpx.Client, request: Params) -> httpx.Response:
    """The answer, or as much of an endless stream as comes at once."""
    with http.stream(**request) as response:
        if response.status_code != 200:
            response.read()
            return response
        heard = ""
        for line in response.iter_lines():
            heard += f"{line}\n"
            if not line:
                break
    return httpx.Response(200, headers=response.headers, text=heard)


def send(http: httpx.Client, id: str, request: Params) -> httpx.Response:
    return first_event(http, request) if id == "follow_jobs" else http.request(**request)


# The table


def test_every_operation_is_in_the_table(described: dict[str, tuple[str, str]]) -> None:
    missing = described.keys() - OPERATIONS.keys() - PUBLIC_OPERATIONS
    assert not missing, f"say in OPERATIONS how these are used: {sorted(missing)}"
    # One that names a document or a collection in its address is aimed.
    for id, (_, path) in described.items():
        if "{" in path:
            assert OPERATIONS[id].aimed, id


def test_what_is_public_is_known(world: World) -> None:
    assert {
        *("/", "/docs", "/element.js", "/livez", "/openapi.json", "/page.css", "/page.js"),
        *("/docs.js", "/readyz", "/swagger-ui-bundle.js", "/swagger-ui.css", "/version"),
    } == PUBLIC
    with world.client(None) as nobody:
        for path in PUBLIC:
            response = nobody.get(path)
            assert response.status_code in (200, 404, 503), path
            assert_nothing_of_theirs(world, response)


# Who may


def test_without_a_good_key_nothing_is_answered(
    world: World, described: dict[str, tuple[str, str]]
) -> None:
    keys = world.services.keys
    expired = keys.add("old", ["admin"], seconds=-1)[1]
    revoked, text = keys.add("bad", ["admin"])
    keys.revoke(revoked.id)
    for key, code in (
        (None, "key-missing"),
        (expired, "key-invalid"),
        (text, "key-invalid"),
        (f"pgk_{'0' * 12}_{'A' * 43}", "key-invalid"),
        ("sk-something-else", "key-invalid"),
    ):
        with world.client(key) as http:
            for id in described.keys() - PUBLIC_OPERATIONS:
                for request in requests_of(described, id, world.ours.documents["done"], OURS):
                    response = http.request(**request)
                    assert response.status_code == 401, (id, key)
                    assert response.headers["www-authenticate"] == "Bearer"
                    assert code in response.text
                    assert_nothing_of_theirs(world, response)
            for elsewhere in ("/nowhere", "/docs/oauth2-redirect", "/livez/"):
                assert http.get(elsewhere).status_code == 401


@pytest.mark.parametrize("scope", ["search", "ask", "ingest"])
def test_a_key_does_what_its_scope_says_and_no_more(
    world: World, described: dict[str, tuple[str, str]], scope: str
) -> None:
    before = of_tenant(world, world.ours)
    for key in (world.ours.keys[scope], world.services.keys.add("all", [scope])[1]):
        with world.client(key) as http:
            for id in described.keys() - PUBLIC_OPERATIONS:
                operation = OPERATIONS[id]
                for request in requests_of(described, id, world.ours.documents["done"], OURS):
                    if scope not in operation.needs:
                        response = http.request(**request)
                        assert response.status_code == 403, id
                        assert "key-forbidden" in response.text
                    elif operation.reads:
                        response = send(http, id, request)
                        assert response.status_code in (200, 304, 501), (id, response.text)
    assert of_tenant(world, world.ours) == before


def test_a_limited_admin_does_not_reach_what_concerns_all(
    world: World, described: dict[str, tuple[str, str]]
) -> None:
    everybody = world.services.keys.add("root", ["admin"])[1]
    with world.client(world.ours.keys["admin"]) as limited, world.client(everybody) as unlimited:
        for id in described.keys() & {id for id, o in OPERATIONS.items() if o.concerns_all}:
            for request in requests_of(described, id, UNKNOWN, OURS):
                response = limited.request(**request)
                assert_problem(response, 403, "key-forbidden")
                assert_nothing_of_theirs(world, response)
        for id in ("status", "metrics", "list_deletions", "list_sources", "list_jobs"):
            for request in requests_of(described, id, UNKNOWN, OURS):
                assert unlimited.request(**request).status_code in (200, 501), id
        listed = unlimited.get("/documents").json()["documents"]
        assert {document["collection"] for document in listed} == {OURS, THEIRS}


def of_tenant(world: World, tenant: Tenant) -> Any:
    """All that a tenant's documents and jobs are."""
    with world.client(tenant.keys["member"]) as http:
        jobs = plain(http.get("/jobs").json())
        return http.get("/documents").json(), jobs, http.get("/collections").json()


# What is another's


@cache
def secrets(world: World) -> set[str]:
    """Whatever would tell of the other tenant."""
    assert world.theirs is not None
    told = {THEIRS, *("quokka", "zanthoria", "kumquat", "vermilion", "guilders")}
    for id in world.theirs.documents.values():
        document = world.services.document(id)
        told |= {id, document.sha256, *document.names, *document.tags} - {"shared"}
    for number in (1, 2):
        page = world.services.page(world.theirs.documents["done"], number)
        told |= {page.image.removesuffix(".jpg"), page.render_hash}
    told |= {key.id for key in world.services.keys.list() if key.name.startswith("borealis")}
    return told | {"worker-borealis", "/borealis/", f"{STRICT}"}


def assert_nothing_of_theirs(
    world: World, response: httpx.Response, asked: tuple[str, ...] = ()
) -> None:
    """Nothing in the answer, but what was ``asked`` in these very words."""
    everything = f"{response.headers.multi_items()} {response.content.decode('latin-1')}".lower()
    for echoed in asked:
        everything = everything.replace(echoed.lower(), "")
    found = [secret for secret in secrets(world) if secret.lower() in everything]
    assert not found, (found, response.request.url, response.text)


def without(response: httpx.Response, *named: str) -> tuple[int, list[tuple[str, str]], str]:
    """Everything of an answer but what differs from one exchange to the next, or was ``named``."""
    own = ("x-request-id", "date")
    headers = [(k, v) for k, v in response.headers.multi_items() if k not in own]
    body = response.text.replace(response.headers["x-request-id"], "ID")
    for name in named:
        body = body.replace(name, "NAMED")
    return response.status_code, headers, body


@pytest.mark.parametrize("key", ["member", "admin"])
def test_another_s_things_are_as_if_they_were_not_there(
    world: World, theirs: Tenant, described: dict[str, tuple[str, str]], key: str
) -> None:
    """Byte for byte, whatever state they are in."""
    before = of_tenant(world, theirs)
    assert len(THEIRS) == len(NOBODYS)
    tried = 0
    with world.client(world.ours.keys[key]) as http:
        for id in described.keys() & {id for id, o in OPERATIONS.items() if o.aimed}:
            unknown = [
                http.request(**request) for request in requests_of(described, id, UNKNOWN, NOBODYS)
            ]
            all_states = key == "member" and "{document_id}" in described[id][1]
            for document in [*theirs.documents.values()][: None if all_states else 1]:
                foreign = requests_of(described, id, document, THEIRS)
                for request, absent in zip(foreign, unknown, strict=True):
                    answer = http.request(**request)
                    # What reads values has no model here: see below.
                    refusals = (501,) if id == "extract" else (403, 404, 422)
                    assert answer.status_code in refusals, (id, request, answer.text)
                    assert without(answer, document, THEIRS) == without(absent, UNKNOWN, NOBODYS)
                    assert_nothing_of_theirs(world, answer, (document, THEIRS))
                    tried += 1
    assert tried > 30
    assert of_tenant(world, theirs) == before, "and they are still there"


_TIMES = re.compile(
    r".*_at|timings_ms|request_id|created|next_cursor|run_after|pages_per_second|seconds_left"
)


def plain(value: Any) -> Any:
    """JSON without what the clock says."""
    if isinstance(value, dict):
        kept: dict[str, Any] = {}
        for name, one in value.items():  # pyright: ignore[reportUnknownVariableType]
            passing = _TIMES.fullmatch(str(name)) or str(one).startswith("chatcmpl-")  # pyright: ignore[reportUnknownArgumentType]
            kept[str(name)] = None if passing else plain(one)  # pyright: ignore[reportUnknownArgumentType]
        return kept
    if isinstance(value, list):
        listed: list[Any] = [plain(one) for one in value]  # pyright: ignore[reportUnknownVariableType]
        jobs = all(isinstance(one, dict) and "next_attempt_at" in one for one in listed)
        # Which of two jobs ended first is the clock's to say, too.
        return sorted(listed, key=lambda job: job["document_id"]) if jobs else listed
    return value


def comparable(world: World, response: httpx.Response) -> Any:
    """An answer as it must be on a server without the other tenant."""
    text = response.text.replace(world.address, "http://here")
    passing = ("x-request-id", "date", "content-length")
    headers = {k: v for k, v in response.headers.items() if k not in passing}
    kind = response.headers.get("content-type", "")
    body: Any = response.content
    if "json" in kind:
        body = plain(json.loads(text))
    elif kind.startswith("text/event-stream"):
        lines = [line.partition("data: ") for line in text.splitlines()]
        body = [
            plain(json.loads(data)) if data.startswith("{") else f"{head}{data}"
            for head, _, data in lines
        ]
    return response.status_code, headers, body


def everything(
    world: World,
    described: Mapping[str, tuple[str, str]],
    foreign: Tenant,
    files: Mapping[str, bytes],
    cursors: list[str],
    tags: list[str],
) -> Iterator[tuple[str, httpx.Response]]:
    """All that a tenant may try, in turn: about its own things and about the other's."""
    for key in ("member", "admin", "search", "ingest"):
        with world.client(world.ours.keys[key]) as http:

            def ask(what: str, **request: Any) -> tuple[str, httpx.Response]:
                return f"{key}: {what} {request}", http.request(**request)  # noqa: B023

            for id in sorted(described.keys() - PUBLIC_OPERATIONS):
                operation = OPERATIONS[id]
                # Only what asks for the document itself can differ by its state.
                some = None if key == "member" and "{document_id}" in described[id][1] else 1
                for document in [*foreign.documents.values()][:some]:
                    if operation.aimed or operation.concerns_all:
                        for request in requests_of(described, id, document, foreign.collection):
                            yield f"{key}: {id} {request}", http.request(**request)
                for document in [*world.ours.documents.values()][:some]:
                    if operation.reads:
                        for request in requests_of(described, id, document, OURS):
                            yield f"{key}: {id} {request}", send(http, id, request)
            for question in (
                QUESTION,
                NOT_IN_ANY,
                "quokka",
                "guilders",
                "page 2",
                "kumquats ferry",
            ):
                asked = {"question": question, "top_k": 20}
                yield ask("search", method="POST", url="/search", json=asked)
                tagged = {**asked, "tags": ["borealis-tag"]}
                yield ask("tagged", method="POST", url="/search", json=tagged)
                yield ask("ask", method="POST", url="/ask", json=asked)
                stream = {"Accept": "text/event-stream"}
                yield ask("stream", method="POST", url="/ask", json=asked, headers=stream)
                chat = {"model": "pageglass", "messages": [{"role": "user", "content": question}]}
                url = "/v1/chat/completions"
                yield ask("chat", method="POST", url=url, json=chat)
                yield ask("chat", method="POST", url=url, json={**chat, "stream": True})
            for cursor in cursors:
                yield ask("cursor", method="GET", url="/documents", params={"cursor": cursor})
            for params in ({}, {"tag": "borealis-tag"}, {"tag": "shared"}, {"state": "failed"}):
                yield ask("list", method="GET", url="/documents", params=params)
            for tag in tags:
                url = f"/documents/{world.ours.documents['done']}/pages/1/image"
                yield ask("tag", method="GET", url=url, headers={"If-None-Match": tag})
            for files_of in ("done", "dead", "queued"):
                # Byte for byte what the other has, under the name and the place it has there.
                name = f"borealis-{files_of}.pdf"
                file = {"file": (name, files[f"borealis {files_of}"])}
                source = {"source": f"/borealis/{name}", "collection": OURS}
                headers = {"Idempotency-Key": "theirs"}
                yield ask("add", method="POST", url="/documents", files=file, data=source)
                yield ask("add", method="POST", url="/documents", files=file, headers=headers)
            yield ask("jobs", method="GET", url="/jobs")
            yield ask("retry", method="POST", url="/jobs/retry")
            yield ask("jobs", method="GET", url="/jobs")


def test_a_tenant_cannot_tell_whether_there_is_another(
    world: World,
    alone: World,
    theirs: Tenant,
    described: dict[str, tuple[str, str]],
    files: dict[str, bytes],
) -> None:
    """All it may try is answered as on a server of its own: scores, counts, notes and all."""
    with world.client(theirs.keys["member"]) as http:
        # What only the other knows, and tells us.
        cursors = [http.get("/documents?limit=1").json()["next_cursor"]]
        image = http.get(f"/documents/{theirs.documents['done']}/pages/1/image")
        tags = [image.headers["etag"], image.headers["etag"].replace('"', "")]
        http.post("/jobs/retry", headers={"Idempotency-Key": "theirs"})
    before = of_tenant(world, theirs)
    tried = 0
    there = everything(world, described, theirs, files, cursors, tags)
    here = everything(alone, described, theirs, files, cursors, tags)
    for (what, together), (same, by_itself) in zip(there, here, strict=True):
        assert what == same
        assert comparable(world, together) == comparable(alone, by_itself), what
        tried += 1
    assert tried > 300
    assert of_tenant(world, theirs) == before


def test_another_s_pages_are_not_read_for_values(
    tmp_path: Path, files: dict[str, bytes], described: dict[str, tuple[str, str]]
) -> None:
    with (
        openai_server() as vlm,
        world_of(
            tmp_path / "data",
            files,
            alone=False,
            answer={"url": vlm.url},
            models={"answer": vlm.model},
        ) as world,
        world.client(world.ours.keys["member"]) as http,
    ):
        assert world.theirs is not None
        document = world.theirs.documents["done"]
        foreign = requests_of(described, "extract", document, THEIRS)
        unknown = requests_of(described, "extract", UNKNOWN, NOBODYS)
        before = len(vlm.requests)
        for request, absent in zip(foreign, unknown, strict=True):
            answer = http.request(**request)
            assert_problem(answer, 404, "document-not-found")
            assert without(answer, document) == without(http.request(**absent), UNKNOWN)
            assert_nothing_of_theirs(world, answer, (document,))
        assert len(vlm.requests) == before, "no model saw them"
        own = world.ours.documents["done"]
        request = next(requests_of(described, "extract", own, OURS))
        assert http.request(**request).status_code == 200


def test_who_has_nothing_yet_sees_an_empty_server(world: World) -> None:
    text = world.services.keys.add("new", ["ask", "ingest"], collections=[NOBODYS])[1]
    with world.client(text) as http:
        jobs = {"jobs": [], "counts": {}, "seconds_left": None}
        assert http.get("/jobs").json() == jobs
        assert http.get("/documents").json() == {"documents": [], "next_cursor": None}
        assert http.get("/collections").json() == {"collections": []}
        assert [model["id"] for model in http.get("/v1/models").json()["data"]] == ["pageglass"]
        asked = http.post("/ask", json={"question": QUESTION}).json()
        assert (asked["pages"], asked["citations"]) == ([], [])
        assert asked["notes"] == [f"nothing is indexed in {NOBODYS} yet: add documents"]


def test_the_same_bytes_are_read_and_encoded_again(tmp_path: Path, files: dict[str, bytes]) -> None:
    """Else the time it takes would tell that another has them."""
    settings = load_settings({"data_dir": tmp_path / "data", "server": {"keys": "on"}})
    with Services(settings, command="test") as services:
        for number, collection in enumerate((THEIRS, OURS), start=1):
            services.add(io.BytesIO(files["ours done"]), name="a.pdf", collection=collection)
            assert [report.outcome for report in services.ingest([])] == ["indexed"]
            assert services.writer.pages_stored == 2 * number


def test_another_s_document_takes_as_long_as_none(
    world: World, theirs: Tenant, record_property: Callable[[str, object], None]
) -> None:
    seconds: dict[str, list[float]] = {"foreign": [], "unknown": []}
    ids = {"foreign": theirs.documents["done"], "unknown": UNKNOWN}
    with world.client(world.ours.keys["member"]) as http:
        for _ in range(200):
            for kind, id in ids.items():
                began = time.perf_counter()
                assert http.get(f"/documents/{id}").status_code == 404
                seconds[kind].append(time.perf_counter() - began)
    ratio = statistics.median(seconds["foreign"]) / statistics.median(seconds["unknown"])
    record_property("foreign_to_unknown", round(ratio, 3))
    # Loose: reading a row takes microseconds, and other programs run meanwhile.
    assert 0.5 < ratio < 2


@pytest.mark.parametrize(
    "place",
    [b'["\\ud800", "x"]', b'["x", "\\udfff"]', b'["x"]', b"[1, 2]", b"{}", b"[" * 90, b"\xff"],
)
def test_a_cursor_nobody_gave_is_refused(world: World, place: bytes) -> None:
    with world.client(world.ours.keys["search"]) as http:
        cursor = base64.urlsafe_b64encode(place).decode().rstrip("=")
        response = http.get("/documents", params={"cursor": cursor})
        assert "next_cursor" in assert_problem(response, 422, "usage")["detail"]


# From where


def test_a_key_of_sites_is_good_on_their_pages_alone(world: World) -> None:
    site, other = "https://intranet.example", "https://evil.example"
    add = world.services.keys.add
    text = add("browser", ["search"], collections=[OURS], origins=[site])[1]
    with world.client(text) as http:
        for headers, status in (
            ({"Origin": site}, 200),
            ({}, 403),
            ({"Origin": other}, 403),
            ({"Origin": "null"}, 403),
            ({"Origin": f"{site}.evil.example"}, 403),
            ({"Origin": f"{site}:8443"}, 403),
            ({"Origin": "http://intranet.example"}, 403),
            ({"Origin": world.address}, 403),
            ({"Sec-Fetch-Site": "same-origin"}, 403),
            ({"Sec-Fetch-Site": "same-origin", "Origin": other}, 403),
            ({"Referer": f"{site}/page"}, 403),
        ):
            response = http.get("/documents", headers=headers)
            assert response.status_code == status, headers
            assert response.headers.get("access-control-allow-credentials") is None
            if "Origin" in headers:
                # Refusals, too, must be readable by the page that has to show them.
                assert response.headers["access-control-allow-origin"] == "*"
        found = http.post("/search", json={"question": QUESTION}, headers={"Origin": site})
        assert found.json()["pages"]
        refused = http.post("/ask", json={"question": QUESTION}, headers={"Origin": site})
        assert refused.status_code == 403


def test_a_key_without_sites_is_for_programs_and_our_own_page(world: World) -> None:
    with world.client(world.ours.keys["search"]) as http:
        for headers, status in (
            ({}, 200),
            ({"Origin": world.address}, 200),
            ({"Sec-Fetch-Site": "same-origin"}, 200),
            ({"Origin": "https://evil.example"}, 403),
            ({"Origin": "null"}, 403),
        ):
            assert http.get("/documents", headers=headers).status_code == status, headers


def test_browsers_may_ask_beforehand(world: World) -> None:
    with world.client(None) as nobody:
        asked = nobody.options(
            "/search",
            headers={
                "Origin": "https://anywhere.example",
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization, content-type",
            },
        )
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-origin"] == "*"
        assert "Authorization" in asked.headers["access-control-allow-headers"]
        assert "access-control-allow-credentials" not in asked.headers
        assert_nothing_of_theirs(world, asked)
        assert nobody.options("/search").status_code == 401


# What stands for a key


def test_the_owner_s_token_does_everything_and_only_that(world: World) -> None:
    token = world.services.token
    owner = json.loads((world.services.settings.data_dir / "owner.json").read_text())
    assert owner["token"] == token
    for text, status in (
        (token, 200),
        (token[:-1], 401),
        (f"{token}A", 401),
        (token.swapcase(), 401),
    ):
        with world.client(text) as http:
            assert http.get("/status").status_code == status


def test_odd_credentials_are_refused(world: World) -> None:
    key, token = world.ours.keys["search"], world.services.token
    for status, *given in (
        (401, f"Basic {key}"),
        (401, key),
        (401, f"Bearer{key}"),
        (401, "Bearer"),
        (401, f"Bearer {key} {key}"),
        (401, f"Bearer {key},"),
        (401, f"Bearer {key}", f"Bearer {key}"),
        (401, f"Bearer {token}", f"Bearer {key}"),
        (401, "Basic x", f"Bearer {key}"),
        (401, "Bearer " + "x" * 20_000),
        (401, "Bearer pgk_" + "x" * 20_000),
        (401, "Bearer schl\xfcssel"),
        (401, "Bearer pgk_\xff\xfe"),
        (401, "Bearer pgk_0123456789ab_" + "\xe9" * 43),
        # The scheme's case is nobody's business (RFC 9110, section 11.1).
        (200, f"bearer {key}"),
        (200, f"BEARER   {key}"),
    ):
        headers = [(b"Authorization", one.encode("latin-1")) for one in given]
        response = httpx.get(f"{world.address}/collections", headers=headers, trust_env=False)
        assert response.status_code == status, given
        assert key not in response.text
        assert token not in response.text


# How often


def test_each_key_has_its_own_rate(tmp_path: Path) -> None:
    settings = load_settings(
        {"data_dir": tmp_path / "data", "server": {"keys": "on", "requests_per_minute": 5}}
    )
    with Services(settings, command="test") as services, serving(services) as address:

        def statuses(credential: str | None, times: int) -> list[int]:
            headers = {} if credential is None else {"Authorization": f"Bearer {credential}"}
            with httpx.Client(base_url=address, headers=headers, trust_env=False) as http:
                responses = [http.get("/collections") for _ in range(times)]
            for response in responses:
                if response.status_code == 429:
                    assert_problem(response, 429, "too-many-requests")
                    assert 1 <= int(response.headers["retry-after"]) <= 60
            return [response.status_code for response in responses]

        usual, other = (services.keys.add(name, ["search"])[1] for name in ("a", "b"))
        slow = services.keys.add("slow", ["search"], requests_per_minute=2)[1]
        fast = services.keys.add("fast", ["search"], requests_per_minute=9)[1]
        assert statuses(usual, 7) == [200] * 5 + [429] * 2
        assert statuses(other, 6) == [200] * 5 + [429]
        assert statuses(slow, 3) == [200] * 2 + [429]
        assert statuses(fast, 10) == [200] * 9 + [429]
        # Whoever guesses is counted by his address, whatever he guesses.
        guesses = [f"pgk_{number:012x}_{'A' * 43}" for number in range(3)]
        guessed = [status for guess in guesses for status in statuses(guess, 1)]
        assert guessed + statuses(None, 1) + statuses("nonsense", 1) == [401] * 5
        assert statuses(guesses[0], 1) + statuses(None, 1) == [429] * 2
        # That is no matter to those who are known.
        new = services.keys.add("new", ["search"])[1]
        assert statuses(new, 1) == [200]
        assert statuses(services.token, 9) == [200] * 9


def test_a_stream_ends_with_its_key(world: World) -> None:
    key, text = world.services.keys.add("onlooker", ["ingest"], collections=[OURS])
    with world.client(text) as http, http.stream("GET", "/jobs/events") as response:
        assert response.status_code == 200
        heard = response.iter_lines()
        assert next(heard) == "id: 1"
        world.services.keys.revoke(key.id)
        # Else this would wait for ever: the stream has no end of its own.
        assert all("id: 2" not in line for line in heard)


def test_the_pdf_of_an_office_file_is_each_document_s_own(world: World, theirs: Tenant) -> None:
    ours, other = (tenant.documents["done"] for tenant in (world.ours, theirs))
    paths = {world.services.writer.converted_of(id).name for id in (ours, other)}
    assert paths == {f"{ours}.pdf", f"{other}.pdf"}
