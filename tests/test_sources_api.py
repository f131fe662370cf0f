"""The registry of watched files, in this process and from another: they behave alike."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from api.app import create_app
from api.remote_registry import RemoteRegistry
from api.services import Services
from ingest.jobs import FOLDER
from ingest.sources import FileState, Source, SourceRegistry, as_text
from ingest.watch import Watcher
from pageglass.errors import FileChanged, LimitExceeded, NotADocument, ServerError
from pageglass.settings import Settings, WatchSettings, load_settings
from tests.test_app import assert_problem

STATE = FileState(size=3, mtime_ns=1_700_000_000_123_456_789, inode=2**63 + 1, device=4)
LATER = FileState(size=4, mtime_ns=1_800_000_000_123_456_789, inode=6, device=4)
PDF = b"%PDF-1.7 not read here"


@contextmanager
def owned(settings: Settings) -> Generator[Services]:
    """A data folder owned by a server that answers at the address its owner file gives."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with Services(settings, command="serve", address=address) as services:
            config = uvicorn.Config(create_app(services), log_config=None)
            server = uvicorn.Server(config)
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            try:
                yield services
            finally:
                server.should_exit = True
                thread.join()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    limits = {"ingest": {"limits": {"file_mb": 1}}, "server": {"upload_mb": 2}}
    return load_settings({"data_dir": tmp_path / "data", **limits})


@pytest.fixture
def serving(settings: Settings) -> Iterator[Services]:
    with owned(settings) as services:
        yield services


@pytest.fixture(params=["here", "from afar"])
def registry(serving: Services, settings: Settings, request: pytest.FixtureRequest) -> Any:
    return serving.writer if request.param == "here" else RemoteRegistry(settings.data_dir)


def take(registry: SourceRegistry, path: str, data: bytes = PDF, **changed: Any) -> bool:
    how: dict[str, Any] = {
        "collection": "c",
        "path": path,
        "folder": "/f",
        "state": STATE,
        "unchanged": lambda: True,
    }
    return registry.take(io.BytesIO(data), **how | changed)


def names(services: Services) -> set[str]:
    return {document.name for document in services.documents()}


def test_what_is_taken_is_known_as_it_was(registry: SourceRegistry, serving: Services) -> None:
    assert take(registry, "/f/a.pdf")
    (source,) = registry.sources("/f")
    assert (source.collection, source.path, source.state) == ("c", "/f/a.pdf", STATE)
    assert registry.sources("/elsewhere") == []
    (job,) = serving.job_list()
    assert (job.name, job.priority) == ("a.pdf", FOLDER)
    assert take(registry, "/f/a.pdf", b"%PDF-1.7 other", state=LATER)
    assert [source.state for source in registry.sources("/f")] == [LATER]
    assert names(serving) == {"a.pdf"}


def test_what_changed_while_it_was_read_is_not_taken(
    registry: SourceRegistry, serving: Services, settings: Settings
) -> None:
    with pytest.raises(FileChanged):
        take(registry, "/f/a.pdf", unchanged=lambda: False)
    assert registry.sources("/f") == []
    assert names(serving) == set()
    assert list((settings.data_dir / "originals").iterdir()) == []


def test_what_can_be_no_document_is_refused_for_good(
    registry: SourceRegistry, settings: Settings
) -> None:
    with pytest.raises(NotADocument, match="empty"):
        take(registry, "/f/empty.pdf", b"")
    with pytest.raises(LimitExceeded, match=r"ingest\.limits\.file_mb"):
        take(registry, "/f/large.pdf", b"x" * ((1 << 20) + 1))
    assert list((settings.data_dir / "originals").iterdir()) == []


def test_a_file_above_the_upload_limit_is_refused_for_good_from_afar(
    serving: Services, settings: Settings
) -> None:
    with pytest.raises(LimitExceeded, match="larger than 2 MB"):
        take(RemoteRegistry(settings.data_dir), "/f/large.pdf", b"x" * (5 << 20))
    assert names(serving) == set()


def test_a_rename_changes_the_name_and_nothing_else(
    registry: SourceRegistry, serving: Services
) -> None:
    take(registry, "/f/a.pdf")
    jobs = serving.job_list()
    (source,) = registry.sources("/f")
    for _ in range(2):
        registry.renamed(source, path="/f/below/b.pdf", state=LATER)
        (moved,) = registry.sources("/f")
        assert (moved.path, moved.state) == ("/f/below/b.pdf", LATER)
    assert [job.document_id for job in serving.job_list()] == [job.document_id for job in jobs]
    assert names(serving) == {"b.pdf"}


def test_what_is_gone_is_noted_held_and_forgotten(
    registry: SourceRegistry, serving: Services
) -> None:
    take(registry, "/f/a.pdf")
    take(registry, "/f/b.pdf", b"%PDF-1.7 b")

    def known() -> dict[str, tuple[float | None, str | None]]:
        return {s.path: (s.missing_since, s.deletion) for s in registry.sources("/f")}

    gone = registry.sources("/f")[0]
    registry.missing([gone], 1_700_000_000.25)
    assert known() == {"/f/a.pdf": (1_700_000_000.25, None), "/f/b.pdf": (None, None)}
    registry.hold([gone])
    assert known()["/f/a.pdf"] == (1_700_000_000.25, "held")
    registry.missing(registry.sources("/f"), None)
    assert known() == {"/f/a.pdf": (None, None), "/f/b.pdf": (None, None)}
    for _ in range(2):
        registry.forget([gone])
        assert names(serving) == {"b.pdf"}


@pytest.mark.parametrize(
    "name",
    [
        "two\nlines.pdf",
        "carriage\r\nreturn.pdf",
        'it\'s "quoted"; filename=x.pdf',
        "ü" * 125 + "x.pdf",
        as_text(b"latin-\xe9.pdf".decode("utf-8", "surrogateescape")),
        "日本語 %41 \\ ..pdf",
    ],
)
def test_any_name_arrives_as_it_is(registry: SourceRegistry, serving: Services, name: str) -> None:
    folder = f"/f & {name}?#"
    take(registry, f"{folder}/{name}", folder=folder)
    (source,) = registry.sources(folder)
    assert source.path == f"{folder}/{name}"
    assert names(serving) == {name}
    registry.renamed(source, path=f"{folder}/x {name}", state=STATE)
    registry.forget(registry.sources(folder))
    assert names(serving) == set()


def test_very_many_and_very_long_paths_are_sent_in_parts(
    registry: SourceRegistry, serving: Services
) -> None:
    # As long as a path can be: six characters for each of its bytes, if none is UTF-8.
    long = "/f/" + "\\udcff" * 4000
    sources = [Source("c", f"{long}{number}", "0" * 64, STATE) for number in range(100)]
    take(registry, sources[-1].path)
    registry.missing(sources, 5.0)
    registry.hold(sources)
    assert [source.deletion for source in registry.sources("/f")] == ["held"]
    registry.forget(sources)
    assert names(serving) == set()


# Over HTTP only


def test_wrong_requests_are_problems(serving: Services, settings: Settings) -> None:
    owner = RemoteRegistry(settings.data_dir)
    owner.sources("/f")
    assert owner._server is not None
    with httpx.Client(base_url=owner._server.address, trust_env=False) as http:
        assert_problem(http.get("/sources"), 422, "request-invalid")
        unknown = {"sources": [], "since": None, "colour": "red"}
        assert_problem(http.post("/sources/missing", json=unknown), 422, "request-invalid")
        form = {"collection": "../up", "path": "/a", "folder": "/"}
        form["state"] = '{"size": 1, "mtime_ns": 1, "inode": 1, "device": 1}'
        file = {"file": ("a.pdf", PDF)}
        refused = http.post("/sources", data=form, files=file)
        assert_problem(refused, 422, "collection-name-invalid")
        form["state"] = "a state"
        assert_problem(http.post("/sources", data=form, files=file), 422, "request-invalid")
        foreign = http.post(
            "/sources/forget", json={"sources": []}, headers={"Origin": "http://elsewhere"}
        )
        assert_problem(foreign, 403, "origin-forbidden")
        body = b'{"sources": [' + b" " * (1 << 20) + b"]}"
        too_long = http.post("/sources/forget", content=body)
        assert_problem(too_long, 413, "limit-exceeded")
    assert names(serving) == set()


def test_a_server_that_is_away_is_an_error_to_wait_out(settings: Settings) -> None:
    registry = RemoteRegistry(settings.data_dir)
    with pytest.raises(ServerError, match="waiting for one"):
        registry.sources("/f")
    with owned(settings):
        assert take(registry, "/f/a.pdf")
    with pytest.raises(ServerError):
        registry.sources("/f")
    # It comes back elsewhere.
    with owned(settings):
        assert [source.path for source in registry.sources("/f")] == ["/f/a.pdf"]


def test_a_watcher_in_the_server_and_one_outside_agree(
    serving: Services, settings: Settings, tmp_path: Path
) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    now = 0.0
    inside, outside = (
        Watcher(
            [inbox],
            registry=registry,
            collection="c",
            settings=WatchSettings(settle_seconds=2, grace_seconds=5),
            clock=lambda: now,
        )
        for registry in (serving.writer, RemoteRegistry(settings.data_dir))
    )

    def look() -> None:
        nonlocal now
        for watcher in (inside, outside):
            watcher.scan()
        now += 3

    (inbox / "a.pdf").write_bytes(PDF)
    (inbox / "b.pdf").write_bytes(b"%PDF-1.7 b")
    look()
    look()
    assert names(serving) == {"a.pdf", "b.pdf"}
    assert len(serving.job_list()) == 2
    (inbox / "a.pdf").rename(inbox / "c.pdf")
    # Both have seen it before either acts.
    plans = [(watcher, watcher._plan(inbox)) for watcher in (inside, outside)]
    for watcher, plan in plans:
        assert plan is not None
        watcher._do(inbox, plan)
    assert names(serving) == {"b.pdf", "c.pdf"}
    assert len(serving.job_list()) == 2
    (inbox / "c.pdf").unlink()
    for _ in range(3):
        look()
    assert names(serving) == {"b.pdf"}
    assert [source.path for source in serving.catalog.watched()] == [str(inbox / "b.pdf")]
