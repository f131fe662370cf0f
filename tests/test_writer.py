"""The only writer: what it accepts, where files are, and what is left when it is cut short."""

from __future__ import annotations

import hashlib
import io
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from ingest.catalog import Catalog, StageResult
from ingest.check import check
from ingest.database import Database
from ingest.failures import Failure
from ingest.jobs import FOLDER, Jobs
from ingest.pipeline import OCR_STAGE, READ_STAGE, Encoded, Order
from ingest.sources import FileState, Source
from ingest.writer import Writer
from pageglass.errors import FileChanged, LimitExceeded, NotADocument, StoreUnreachable
from pageglass.images import ImageStore
from pageglass.settings import IndexSettings, IngestSettings, LimitSettings
from pageglass.types import Page, PageRef
from retrieval.headings import document_title
from retrieval.index import CollectionSpec, Index, PagePoint, VectorSpec, open_index
from tests.tiny import page

SPACES = ("text--first", "text--second")
STATE = FileState(size=1, mtime_ns=2, inode=3, device=4)
PDF = b"%PDF-1.7 a"


class Faulty:
    """An index that can be away."""

    def __init__(self, index: Index) -> None:
        self.index, self.away = index, False

    def upsert(self, points: Sequence[PagePoint]) -> None:
        self._reach()
        self.index.upsert(points)

    def delete_document(self, document_id: str) -> None:
        self._reach()
        self.index.delete_document(document_id)

    def _reach(self) -> None:
        if self.away:
            raise StoreUnreachable("the store is away")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.index, name)


class Folder:
    """An open data folder with two collections of vectors, and its writer; no models."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self.open()

    def open(self) -> None:
        path = self.path
        self.database = Database(path / "catalog.sqlite")
        settings = IngestSettings(
            reserve_mb=0, backoff_seconds=0.001, limits=LimitSettings(file_mb=1)
        )
        self.catalog, self.jobs = Catalog(self.database), Jobs(self.database, settings)
        self.images = ImageStore(path / "images")
        self.indexes = {name: Faulty(self._open(name)) for name in SPACES}
        self.writer = Writer(
            database=self.database,
            catalog=self.catalog,
            jobs=self.jobs,
            folder=path,
            images=self.images,
            indexes=cast("dict[str, Index]", self.indexes),
            settings=settings,
        )

    def _open(self, name: str) -> Index:
        spec = CollectionSpec(name, {"one": VectorSpec("dense", 2)}, {"name": name})
        return open_index(IndexSettings(), self.path / "index", spec)

    def close(self) -> None:
        for index in self.indexes.values():
            index.close()
        self.database.close()

    def reopen(self) -> None:
        """As the next process does."""
        self.close()
        self.open()

    def take(self, path: str, data: bytes = PDF, collection: str = "c") -> bool:
        return self.writer.take(
            io.BytesIO(data),
            collection=collection,
            path=path,
            folder="/f",
            state=STATE,
            unchanged=lambda: True,
        )

    def source(self, path: str) -> Source:
        return next(s for s in self.writer.sources("/f") if s.path == path)

    def names(self) -> set[str]:
        return {document.name for document in self.catalog.documents()}

    def files(self, below: str) -> set[str]:
        return {path.name for path in (self.path / below).rglob("*") if path.is_file()}

    def claim(self) -> Order:
        order = self.writer.claim("w")
        assert order is not None
        assert self.writer.begin(order, 2) is not None
        return order

    def index_all(self) -> None:
        while (order := self.writer.claim("w")) is not None:
            begun = self.writer.begin(order, 2)
            assert begun is not None
            if begun.stages:
                self.writer.store(order, encoded(order.document_id))
            self.writer.settle(order, None)

    def findings(self) -> list[str]:
        found = check(
            self.catalog,
            originals=self.path / "originals",
            converted=self.path / "converted",
            images=self.images,
            indexes=cast("dict[str, Index]", self.indexes),
            deep=True,
        )
        return [finding.what for finding in found]

    def points(self) -> dict[str, list[float]]:
        """Every vector, by where it is."""
        return {
            f"{name} {tenant} {ref.document_id} {ref.index}": index.vectors(ref)["one"].tolist()
            for name, index in self.indexes.items()
            for tenant, ref in index.refs()
        }


def encoded(id: str) -> Encoded:
    """What a worker makes of two pages."""
    pages: list[Page] = []
    images: dict[str, bytes] = {}
    for index in range(2):
        picture = f"picture {index} of {id}".encode()
        key = ImageStore.key(picture, ".jpg")
        images[key] = picture
        pages.append(replace(page(f"text {index}", document=id, index=index), image=key))
    stages = [
        StageResult(index, stage, "done")
        for index in range(2)
        for stage in (READ_STAGE, OCR_STAGE, *SPACES)
    ]
    vectors: Any = {
        name: [(PageRef(id, i), {"one": np.array([i + 1.0, n], np.float32)}) for i in range(2)]
        for n, name in enumerate(SPACES)
    }
    return Encoded("a title", pages, images, stages, vectors)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    folder = Folder(tmp_path / "data")
    yield folder
    folder.close()


# Watched files


def test_a_watched_file_waits_behind_what_a_person_adds(folder: Folder) -> None:
    assert folder.take("/f/a.pdf")
    added = folder.writer.enqueue(io.BytesIO(b"%PDF b"), collection="c", source="/b", name="b.pdf")
    assert folder.jobs.list()[0].document_id == added.document.id
    assert {job.name: job.priority for job in folder.jobs.list()}["a.pdf"] == FOLDER
    source = folder.source("/f/a.pdf")
    assert (source.sha256, source.state) == (hashlib.sha256(PDF).hexdigest(), STATE)
    folder.index_all()
    assert not folder.take("/f/a.pdf"), "the same bytes again are nothing to do"
    assert folder.writer.sources("/elsewhere") == []


def test_what_is_not_taken_leaves_nothing_behind(folder: Folder) -> None:
    for data, unchanged, error in (
        (PDF, False, FileChanged),
        (b"", True, NotADocument),
        (b"x" * ((1 << 20) + 1), True, LimitExceeded),
    ):
        with pytest.raises(error):
            folder.writer.take(
                io.BytesIO(data),
                collection="c",
                path="/f/a.pdf",
                folder="/f",
                state=STATE,
                unchanged=lambda unchanged=unchanged: unchanged,
            )
    assert folder.files("originals") == set()
    assert folder.writer.sources("/f") == []


def test_what_the_catalog_cannot_note_is_not_kept(folder: Folder) -> None:
    folder.database.connection.execute(
        "CREATE TRIGGER full BEFORE INSERT ON jobs WHEN NEW.priority = 0"
        " BEGIN SELECT RAISE(ABORT, 'no room'); END"
    )
    with pytest.raises(sqlite3.IntegrityError, match="no room"):
        folder.take("/f/a.pdf")
    assert folder.catalog.documents() == []
    assert folder.files("originals") == set()
    # Another document's file is not the failed one's to take away.
    folder.writer.enqueue(io.BytesIO(PDF), collection="mine", source="/a", name="a.pdf")
    with pytest.raises(sqlite3.IntegrityError, match="no room"):
        folder.take("/f/a.pdf")
    assert folder.findings() == []


def test_a_rename_is_done_once_however_often_it_is_asked_for(folder: Folder) -> None:
    folder.take("/f/a.pdf")
    folder.index_all()
    source, jobs = folder.source("/f/a.pdf"), folder.jobs.list()
    for _ in range(2):
        folder.writer.renamed(source, path="/f/b.pdf", state=STATE)
        assert folder.names() == {"b.pdf"}
    assert [job.started_at for job in folder.jobs.list()] == [job.started_at for job in jobs]
    assert folder.writer.sources("/elsewhere") == []


def test_a_rename_that_comes_too_late_touches_nothing_else(folder: Folder) -> None:
    folder.take("/f/a.pdf")
    stale = folder.source("/f/a.pdf")
    folder.writer.renamed(stale, path="/f/b.pdf", state=STATE)
    new = FileState(size=9, mtime_ns=9, inode=9, device=9)
    folder.writer.take(
        io.BytesIO(b"%PDF other"),
        collection="c",
        path="/f/a.pdf",
        folder="/f",
        state=new,
        unchanged=lambda: True,
    )
    folder.writer.renamed(stale, path="/f/b.pdf", state=STATE)
    assert {source.path for source in folder.writer.sources("/f")} == {"/f/a.pdf", "/f/b.pdf"}
    assert folder.source("/f/a.pdf").state == new


def test_what_is_gone_is_noted_held_back_and_forgotten(folder: Folder) -> None:
    folder.take("/f/a.pdf")
    folder.take("/f/other name.pdf")
    folder.index_all()
    gone = folder.source("/f/a.pdf")
    folder.writer.missing([gone], 5.0)
    folder.writer.hold([gone])
    held = folder.source("/f/a.pdf")
    assert (held.missing_since, held.deletion) == (5.0, "held")
    folder.writer.missing([held], None)
    back = folder.source("/f/a.pdf")
    assert (back.missing_since, back.deletion) == (None, None)
    for _ in range(2):
        folder.writer.forget([back])
    assert folder.names() == {"other name.pdf"}, "another name keeps the document"
    folder.writer.forget([folder.source("/f/other name.pdf")])
    assert folder.names() == set()
    assert folder.points() == {}
    assert folder.files("originals") | folder.files("images") == set()


def test_a_store_that_is_away_holds_up_removals_and_nothing_else(folder: Folder) -> None:
    folder.take("/f/gone.pdf")
    folder.index_all()
    folder.indexes[SPACES[0]].away = True
    folder.writer.forget([folder.source("/f/gone.pdf")])
    assert folder.take("/f/new.pdf", b"%PDF new")
    assert folder.take("/f/old.pdf", b"%PDF old")
    folder.writer.renamed(folder.source("/f/old.pdf"), path="/f/moved.pdf", state=STATE)
    order = folder.claim()
    with pytest.raises(StoreUnreachable):
        folder.writer.store(order, encoded(order.document_id))
    folder.writer.settle(order, Failure("outage", "the store is away"))
    assert folder.jobs.attempts(order.document_id) == 0
    assert folder.names() == {"new.pdf", "moved.pdf"}
    folder.indexes[SPACES[0]].away = False
    folder.jobs.retry(order.document_id)
    folder.index_all()
    assert folder.findings() == []
    assert {document.state for document in folder.catalog.documents()} == {"indexed"}


def test_bytes_that_come_back_before_they_are_gone_wait_for_that(folder: Folder) -> None:
    folder.take("/f/a.pdf")
    folder.index_all()
    folder.indexes[SPACES[0]].away = True
    folder.writer.forget([folder.source("/f/a.pdf")])
    with pytest.raises(Exception, match="still being removed"):
        folder.take("/f/a.pdf")
    folder.indexes[SPACES[0]].away = False
    assert folder.take("/f/a.pdf")
    folder.index_all()
    assert folder.findings() == []


# Cut short


def undisturbed(path: Path) -> tuple[dict[str, list[float]], set[str]]:
    folder = Folder(path)
    folder.take("/f/a.pdf")
    folder.index_all()
    made = folder.points(), folder.files("images")
    folder.close()
    return made


def cut_short(folder: Folder, step: str) -> str:
    """Store two pages and fail before ``step``; gives the document."""
    folder.take("/f/a.pdf")
    order = folder.claim()
    if step == "pages":
        folder.database.connection.execute(
            "CREATE TRIGGER full BEFORE INSERT ON pages BEGIN SELECT RAISE(ABORT, 'no room'); END"
        )
    else:
        folder.indexes[step].away = True
    with pytest.raises((StoreUnreachable, sqlite3.IntegrityError)):
        folder.writer.store(order, encoded(order.document_id))
    assert len(folder.files("images")) == 2
    folder.database.connection.execute("DROP TRIGGER IF EXISTS full")
    return order.document_id


@pytest.mark.parametrize("step", [*SPACES, "pages"])
def test_a_store_cut_short_ends_as_if_it_had_not_been(
    folder: Folder, tmp_path: Path, step: str
) -> None:
    cut_short(folder, step)
    folder.reopen()
    assert folder.files("images") == set(), "images of no page"
    folder.index_all()
    assert (folder.points(), folder.files("images")) == undisturbed(tmp_path / "other")
    assert folder.findings() == []


@pytest.mark.parametrize("step", [*SPACES, "pages"])
def test_a_document_removed_after_that_leaves_no_trace(folder: Folder, step: str) -> None:
    id = cut_short(folder, step)
    for index in folder.indexes.values():
        index.away = False
    folder.writer.remove(id)
    assert folder.points() == {}
    assert folder.files("images") | folder.files("originals") == set()


def test_a_removal_cut_short_is_finished_by_the_next_process(folder: Folder) -> None:
    folder.take("/f/a.pdf")
    folder.index_all()
    folder.indexes[SPACES[1]].away = True
    with pytest.raises(StoreUnreachable):
        folder.writer.remove(folder.catalog.documents()[0].id)
    assert folder.names() == set(), "nobody sees it any more"
    folder.reopen()
    assert folder.points() == {}
    assert folder.files("images") | folder.files("originals") == set()


def test_files_half_written_by_a_dead_process_are_swept(folder: Folder) -> None:
    (folder.path / "originals" / ".tmp12345").write_bytes(b"half")
    folder.reopen()
    assert folder.files("originals") == set()


# Orders


def test_a_lost_order_changes_nothing(folder: Folder) -> None:
    folder.take("/f/a.pdf")
    order = folder.claim()
    folder.jobs.cancel(order.document_id)
    assert folder.writer.store(order, encoded(order.document_id)) == "lost"
    folder.writer.settle(order, None)
    folder.writer.settle(order, Failure("transient", "never mind"))
    folder.writer.leave(order)
    folder.writer.release("w", Failure("transient", "never mind"))
    assert folder.writer.begin(order, 2) is None
    assert folder.jobs.get(order.document_id).state == "cancelled"
    assert folder.points() == {}
    folder.writer.remove(order.document_id)
    folder.writer.settle(order, None)
    folder.writer.leave(order)
    assert folder.writer.alive(order) == "lost"
    assert folder.findings() == []


def test_a_twin_is_copied_only_where_it_would_be_encoded_alike(folder: Folder) -> None:
    folder.take("/f/a.pdf")
    order = folder.claim()
    made = encoded(order.document_id)
    made.title = document_title("a.pdf", made.pages[0])
    folder.writer.store(order, made)
    folder.writer.settle(order, None)
    folder.take("/f/a.pdf", collection="same")
    folder.take("/f/something else.pdf", collection="named otherwise")
    left: dict[str, int] = {}
    while (order := folder.writer.claim("w")) is not None:
        begun = folder.writer.begin(order, 2)
        assert begun is not None
        left[order.name] = len(begun.stages)
        if begun.stages:
            folder.writer.store(order, encoded(order.document_id))
        folder.writer.settle(order, None)
    assert left == {"a.pdf": 0, "something else.pdf": 2}
    assert folder.findings() == []
