"""A server used from afar says what the data folder itself would say."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.remote import RemoteServices
from api.services import Services
from pageglass.errors import (
    CollectionNameError,
    CollectionNotFound,
    DocumentNotFound,
    PageNotFound,
    QuestionError,
    ServerError,
)
from pageglass.settings import load_settings
from pageglass.types import Document, PageRef
from tests.serving import serving
from tests.test_app import FERRY, TURBINE, encrypted_pdf
from tests.tiny import pdf


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    data_dir = tmp_path_factory.mktemp("remote") / "data"
    settings = load_settings({"data_dir": data_dir, "server": {"upload_mb": 1}})
    with Services(settings, command="test") as services:
        services.start_worker()
        yield services


@pytest.fixture(scope="module")
def remote(local: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteServices]:
    docs = tmp_path_factory.mktemp("docs")
    pdf(docs / "ferry.pdf", FERRY, labels="r")
    pdf(docs / "turbine.pdf", TURBINE)
    with serving(local) as address, RemoteServices(address) as remote:
        assert {report.outcome for report in remote.ingest([docs])} == {"indexed"}
        yield remote


def test_what_is_found_is_the_same_from_afar(local: Services, remote: RemoteServices) -> None:
    question = "When does the ferry leave the pier?"
    assert remote.search(question).hits == local.search(question).hits
    here, there = local.ask(question, top_k=2), remote.ask(question, top_k=2)
    assert here.status == "answered"
    assert (there.text, there.status, there.citations, there.hits) == (
        here.text,
        here.status,
        here.citations,
        here.hits,
    )
    assert (there.model, there.extractive) == (here.model, here.extractive)
    assert there.timings_ms.keys() == here.timings_ms.keys()


def test_documents_pages_and_status_are_the_same(local: Services, remote: RemoteServices) -> None:
    documents = remote.documents()
    assert documents == local.documents()
    assert remote.documents(collection="default") == documents
    page = remote.page(documents[0].id, 2)
    assert page == local.page(documents[0].id, 2)
    assert page.label == "ii"
    assert remote.page_image(page) == local.page_image(page)
    here, there = local.status(), remote.status()
    assert (there.documents, there.pages, there.collections) == (
        here.documents,
        here.pages,
        here.collections,
    )


def test_errors_come_back_as_what_they_were(local: Services, remote: RemoteServices) -> None:
    for backend in (local, remote):
        with pytest.raises(QuestionError, match="empty"):
            backend.search(" ")
        with pytest.raises(QuestionError, match="100,000"):
            backend.ask("x" * 100_000)
        with pytest.raises(CollectionNameError, match="a/b"):
            backend.documents(collection="a/b")
        with pytest.raises(CollectionNameError, match="a/b"):
            next(iter(backend.ingest([], collection="a/b")))
        with pytest.raises(CollectionNotFound, match="no collection 'nope': there is default"):
            backend.documents(collection="nope")
        with pytest.raises(CollectionNotFound, match="there is default"):
            backend.ask("hi", collection="nope")
        with pytest.raises(DocumentNotFound):
            backend.search("hi", documents=["nope"])
        with pytest.raises(DocumentNotFound):
            backend.remove("0" * 32)
        with pytest.raises(DocumentNotFound):
            backend.page("../livez", 1)
        with pytest.raises(PageNotFound, match="ferry"):
            backend.page(backend.documents()[0].id, 3)


def test_ingest_reports_every_file(remote: RemoteServices, tmp_path: Path) -> None:
    good = pdf(
        tmp_path / "crane.pdf",
        ["Migrating cranes rest on the flooded meadows until the frost."] * 3,
    )
    (tmp_path / "broken.pdf").write_bytes(b"this is no PDF")
    (tmp_path / "empty.pdf").write_bytes(b"")
    (tmp_path / "big.pdf").write_bytes(b"x" * 2_000_000)
    locked = encrypted_pdf(tmp_path)
    names = [good, *(tmp_path / f"{name}.pdf" for name in ("broken", "empty", "big", "missing"))]
    moved: list[Document] = []
    reports = {
        Path(report.path).name: report
        for report in remote.ingest([*names, locked], collection="mixed", progress=moved.append)
    }
    assert {name: report.outcome for name, report in reports.items()} == {
        "crane.pdf": "indexed",
        "broken.pdf": "failed",
        "empty.pdf": "failed",
        "big.pdf": "failed",
        "missing.pdf": "failed",
        "locked.pdf": "failed",
    }
    assert all(r.reason for r in reports.values() if r.outcome == "failed")
    assert "larger than 1 MB" in (reports["big.pdf"].reason or "")
    assert "no such file" in (reports["missing.pdf"].reason or "")
    document = reports["crane.pdf"].document
    assert document is not None
    assert (document.pages, document.state) == (3, "indexed")
    assert any(m.id == document.id for m in moved)
    assert [r.outcome for r in remote.ingest([good], collection="mixed")] == ["unchanged"]

    changed = pdf(
        tmp_path / "crane.pdf", ["Migrating cranes left the meadows well before the first frost."]
    )
    assert [r.outcome for r in remote.ingest([changed], collection="mixed")] == ["indexed"]
    names_now = [d.name for d in remote.documents(collection="mixed") if d.state == "indexed"]
    assert names_now == ["crane.pdf"]
    for one in remote.documents(collection="mixed"):
        remote.remove(one.id)
    assert "mixed" not in {one.collection for one in remote.documents()}


def test_a_server_that_is_gone_or_no_pageglass_is_said_plainly() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with (
        RemoteServices(f"http://127.0.0.1:{port}") as gone,
        pytest.raises(ServerError, match="does not answer"),
    ):
        gone.status()

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_once() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")

        threading.Thread(target=answer_once, daemon=True).start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with RemoteServices(address) as other, pytest.raises(ServerError, match="unknown way"):
            other.page(PageRef("a", 0).document_id, 1)
