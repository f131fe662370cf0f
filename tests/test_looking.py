"""Looking at a data folder that others own: true, quick, and without a trace."""

from __future__ import annotations

import io
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from api.backend import look, open_backend
from api.looking import Looking, answering_model, seconds_left
from api.owner import Owner, OwnerLock
from api.remote import RemoteServices
from api.services import Services
from ingest.catalog import Catalog
from ingest.database import Database
from ingest.jobs import FOLDER, Jobs
from ingest.sources import FileState
from ingest.thresholds import FittedThreshold
from pageglass.errors import (
    CollectionNameError,
    CollectionNotFound,
    FolderInUse,
    NoDataFolder,
    StoreError,
)
from pageglass.settings import IngestSettings, Settings, load_settings
from tests.serving import serving
from tests.test_app import FERRY, TURBINE
from tests.tiny import page, pdf


def test_a_folder_that_is_none_is_said_to_be_none_and_nothing_is_made(settings: Settings) -> None:
    with pytest.raises(NoDataFolder, match="pageglass ingest PATH"):
        look(settings)
    with pytest.raises(NoDataFolder, match="pageglass ingest PATH"):
        open_backend(settings, command="search")
    settings.data_dir.mkdir()
    (settings.data_dir / "notes.txt").write_text("mine")
    with pytest.raises(NoDataFolder):
        look(settings)
    assert [path.name for path in settings.data_dir.iterdir()] == ["notes.txt"]


def test_a_new_folder_holds_nothing_and_stays_as_it_is(settings: Settings) -> None:
    with Looking(settings, may_be_new=True) as looking:
        status = looking.status()
        assert (status.documents, status.jobs, status.pages, status.disk_bytes) == ({}, {}, 0, 0)
        assert looking.documents() == []
        assert looking.job_list() == []
        assert looking.held() == []
        assert looking.seconds_left() is None
    assert not settings.data_dir.exists()


def test_it_sees_what_the_owner_sees_and_what_becomes_of_it(
    settings: Settings, services: Services, tmp_path: Path
) -> None:
    docs = [pdf(tmp_path / "ferry.pdf", FERRY), tmp_path / "broken.pdf"]
    docs[1].write_bytes(b"this is no PDF")
    assert {report.outcome for report in services.ingest(docs)} == {"indexed", "failed"}
    with Looking(settings) as looking:
        assert looking.documents() == services.documents()
        with pytest.raises(CollectionNotFound):
            looking.documents(collection="empty")
        assert looking.job_list() == services.job_list()
        assert looking.job_counts() == {"done": 1, "dead": 1}
        assert looking.status() == services.status()
        with pytest.raises(CollectionNameError):
            looking.documents(collection="a/b")

        turbine = pdf(tmp_path / "turbine.pdf", TURBINE).read_bytes()
        queued = services.add(io.BytesIO(turbine), name="turbine.pdf")
        [job] = looking.job_list(("queued",))
        assert (job.document_id, job.name) == (queued.id, "turbine.pdf")
        services.cancel(queued.id)
        assert looking.job_counts() == {"done": 1, "dead": 1, "cancelled": 1}


def test_it_lists_the_removals_that_are_held_back(settings: Settings, services: Services) -> None:
    for name in ("a", "b"):
        services.writer.take(
            io.BytesIO(name.encode()),
            collection="birds",
            path=f"/inbox/{name}.pdf",
            folder="/inbox",
            state=FileState(1, 0, ord(name), 0),
            unchanged=lambda: True,
        )
    services.writer.missing(services.writer.sources("/inbox")[:1], 1e9)
    services.writer.hold(services.writer.sources("/inbox")[:1])
    with Looking(settings) as looking:
        [held] = looking.held()
        assert (held.collection, held.path, held.missing_since) == ("birds", "/inbox/a.pdf", 1e9)
        assert looking.held() == services.held()
        assert looking.status().held == 1
        assert [source.path for source in looking.sources("/inbox")] == [
            "/inbox/a.pdf",
            "/inbox/b.pdf",
        ]


@pytest.mark.parametrize(
    ("version", "advice"), [(1, "`pageglass ingest`"), (99, "update Pageglass")]
)
def test_a_catalog_of_another_version_names_the_way_out(
    settings: Settings, version: int, advice: str
) -> None:
    settings.data_dir.mkdir()
    with sqlite3.connect(settings.data_dir / "catalog.sqlite") as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    with pytest.raises(StoreError, match=advice):
        Looking(settings)


def test_a_catalog_that_is_none_is_said_to_be_none(settings: Settings) -> None:
    settings.data_dir.mkdir()
    (settings.data_dir / "catalog.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match=r"catalog\.sqlite"):
        Looking(settings)


def test_looking_loads_neither_models_nor_indexes() -> None:
    code = """
import sys
import api.backend
from api.looking import Looking
from pageglass.settings import load_settings
with Looking(load_settings({"data_dir": sys.argv[1]}), may_be_new=True) as onlooker:
    onlooker.status()
heavy = {"fastapi", "httpx", "numpy", "onnxruntime", "qdrant_edge", "PIL", "pymupdf", "rich"}
print("heavy:", *sorted(heavy & sys.modules.keys()))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "none"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["heavy:"]


def test_who_owns_the_folder_decides_how_it_is_looked_at_and_used(settings: Settings) -> None:
    lock = OwnerLock(settings.data_dir, Owner(1, "ingest", None))
    try:
        with look(settings) as onlooker:
            assert isinstance(onlooker, Looking)
        with pytest.raises(FolderInUse, match="`pageglass ingest`"):
            open_backend(settings, command="search")
    finally:
        lock.release()
    with Services(settings, command="serve", address="http://127.0.0.1:9"):
        for opened in (look(settings), open_backend(settings, command="search")):
            with opened:
                assert isinstance(opened, RemoteServices)
                assert opened.address == "http://127.0.0.1:9"


def test_the_server_s_word_is_the_catalog_s(
    settings: Settings, services: Services, tmp_path: Path
) -> None:
    docs = [pdf(tmp_path / "ferry.pdf", FERRY), pdf(tmp_path / "turbine.pdf", TURBINE)]
    assert [report.outcome for report in services.ingest(docs)] == ["indexed", "indexed"]
    with (
        serving(services) as address,
        RemoteServices(address) as remote,
        Looking(settings) as looking,
    ):
        assert remote.documents() == looking.documents()
        assert remote.job_counts() == looking.job_counts() == {"done": 2}
        assert remote.status() == looking.status()
        assert remote.held() == looking.held() == []
        kept = FittedThreshold(
            "default", "m", 0.25, 40, 10, 1, 6, "0" * 64, "2026-01-01T00:00:00+00:00"
        )
        services.thresholds.put(kept)
        assert remote.status() == looking.status() == services.status()
        assert remote.status().thresholds == (kept,)


@pytest.mark.parametrize(
    ("section", "name"),
    [
        ({}, "extractive-minilm"),
        ({"profile": "cpu"}, "HuggingFaceTB/SmolVLM-500M-Instruct"),
        ({"models": {"answer": "org/reader@main"}}, "org/reader"),
        ({"models": {"answer": "org/reader"}, "answer": {"url": "http://h/v1"}}, "org/reader"),
        ({"answer": {"url": "http://h/v1"}}, None),
    ],
)
def test_who_answers_is_known_without_asking(
    tmp_path: Path, section: dict[str, Any], name: str | None
) -> None:
    assert answering_model(load_settings({"data_dir": tmp_path, **section})) == name


class Pace:
    """Jobs over an empty catalog, and a clock to set."""

    def __init__(self) -> None:
        self.now = 1e9
        database = Database(Path(":memory:"))
        self.catalog = Catalog(database)
        self.jobs = Jobs(database, IngestSettings(), clock=lambda: self.now)

    def queue(self, name: str, pages: int = 0) -> str:
        id = self.catalog.enqueue(collection="c", sha256=name, source=name, name=name).document.id
        self.jobs.add(id, FOLDER)
        if pages:
            self.catalog.begin(id, pages)
        self.now += 1
        return id

    def index(self, id: str, *numbers: int) -> None:
        self.catalog.record(id, [page("a", document=id, index=n) for n in numbers], [])


def test_the_time_left_follows_from_pages_to_do_and_the_present_pace() -> None:
    pace = Pace()
    first = pace.queue("first", pages=10)
    pace.queue("second", pages=30)
    assert seconds_left(pace.jobs) is None
    assert pace.jobs.claim("w") == first
    assert seconds_left(pace.jobs) is None
    pace.index(first, 0, 1, 2, 3)
    pace.now += 2
    assert seconds_left(pace.jobs) == pytest.approx((6 + 30) / 2)
    # One that nobody has opened yet is guessed to be as long as the others.
    pace.queue("third")
    pace.now -= 1
    assert seconds_left(pace.jobs) == pytest.approx((6 + 30 + 20) / 2)


def test_one_page_documents_show_their_pace_by_those_that_ended_lately() -> None:
    pace = Pace()
    ids = [pace.queue(str(number), pages=1) for number in range(12)]
    for id in ids[:4]:
        assert pace.jobs.claim("w") == id
        pace.index(id, 0)
        pace.now += 2
        pace.jobs.finish(id)
    pace.jobs.claim("w")
    assert seconds_left(pace.jobs) == pytest.approx(8 / (4 / 8))
    # What ended long ago says nothing of the present.
    pace.now += 1200
    assert seconds_left(pace.jobs) is None


def test_a_document_of_slow_scans_does_not_make_the_time_left_jump() -> None:
    pace = Pace()
    ids = [pace.queue(str(number), pages=4) for number in range(60)]
    for id in ids[:20]:
        pace.jobs.claim("w")
        pace.index(id, 0, 1, 2, 3)
        pace.now += 1
        pace.jobs.finish(id)
    assert pace.jobs.claim("w") == ids[20]
    before = seconds_left(pace.jobs)
    assert before == pytest.approx(40)
    assert before is not None
    # Its first page is read by OCR and takes twenty times as long.
    pace.now += 5
    pace.index(ids[20], 0)
    after = seconds_left(pace.jobs)
    assert after is not None
    assert before / 2 < after < 2 * before
