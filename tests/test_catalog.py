from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ingest.catalog import Catalog, StageResult
from ingest.database import Database
from ingest.failures import Failure
from ingest.jobs import FOLDER, Jobs
from ingest.sources import FileState
from pageglass.errors import DocumentNotFound, JobConflict, PageNotFound
from pageglass.settings import IngestSettings
from pageglass.types import PageRef, document_id
from tests.tiny import page


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    database = Database(tmp_path / "catalog.sqlite")
    yield Catalog(database)
    database.close()


def put(catalog: Catalog, sha: str, source: str, collection: str = "c") -> str:
    enqueued = catalog.enqueue(
        collection=collection, sha256=sha, source=source, name=Path(source).name
    )
    return enqueued.document.id


def index_all(catalog: Catalog) -> None:
    for document in catalog.documents():
        if document.state == "queued":
            catalog.settle(document.id, "indexed", None)


def test_the_same_bytes_under_a_second_name_add_a_name(catalog: Catalog) -> None:
    id = put(catalog, "s1", "/a/one.pdf")
    index_all(catalog)
    again = catalog.enqueue(collection="c", sha256="s1", source="/b/two.pdf", name="two.pdf")
    assert not again.new
    assert again.document.id == id
    assert again.document.names == ("one.pdf", "two.pdf")


def test_the_same_bytes_in_two_collections_are_two_documents(catalog: Catalog) -> None:
    assert put(catalog, "s1", "/a", "c") != put(catalog, "s1", "/a", "other")


def test_a_changed_file_replaces_its_old_pages_only_once_the_new_are_in(catalog: Catalog) -> None:
    old = put(catalog, "s1", "/a/report.pdf")
    index_all(catalog)
    new = put(catalog, "s2", "/a/report.pdf")
    assert catalog.document(old).state == "indexed"
    assert catalog.removing() == []
    index_all(catalog)
    assert catalog.removing() == [(old, "s1")]
    assert catalog.document(new).names == ("report.pdf",)
    with pytest.raises(DocumentNotFound):
        catalog.document(old)


def test_a_replacement_that_fails_leaves_the_old_pages(catalog: Catalog) -> None:
    old = put(catalog, "s1", "/a/report.pdf")
    index_all(catalog)
    new = put(catalog, "s2", "/a/report.pdf")
    catalog.settle(new, "failed", "damaged")
    assert catalog.document(old).state == "indexed"
    assert catalog.document(new).reason == "damaged"


def test_a_document_keeps_living_under_its_other_name(catalog: Catalog) -> None:
    id = put(catalog, "s1", "/a/one.pdf")
    put(catalog, "s1", "/a/two.pdf")
    catalog.forget_sources([("c", "/a/one.pdf")])
    assert catalog.document(id).names == ("two.pdf",)
    catalog.forget_sources([("c", "/a/two.pdf")])
    assert [removing for removing, _ in catalog.removing()] == [id]


def test_a_failed_document_is_tried_again_when_it_comes_again(catalog: Catalog) -> None:
    id = put(catalog, "s1", "/a")
    catalog.record(id, [], [StageResult(0, "read", "failed", "no")])
    catalog.settle(id, "failed", "no")
    again = catalog.enqueue(collection="c", sha256="s1", source="/a", name="a")
    assert again.new
    assert again.document.state == "queued"
    assert catalog.stages(id) == []


def test_a_renamed_source_keeps_its_document(catalog: Catalog) -> None:
    state, later = FileState(1, 2, 3, 4), FileState(1, 2, 3, 4)
    for sha, name in (("s1", "one.pdf"), ("s2", "two.pdf")):
        catalog.enqueue(
            collection="c", sha256=sha, source=f"/f/{name}", name=name, folder="/f", state=state
        )
    index_all(catalog)
    source = catalog.watched("/f")[0]
    catalog.rename_source(source, "/f/two.pdf", "two.pdf", later)
    (left,) = catalog.watched()
    assert (left.path, left.sha256) == ("/f/two.pdf", "s1")
    # What was there under that name went with it.
    assert [sha for _, sha in catalog.removing()] == ["s2"]


def test_what_is_unwatched_stays_and_is_no_longer_asked_about(catalog: Catalog) -> None:
    catalog.enqueue(
        collection="c",
        sha256="s1",
        source="/f/one.pdf",
        name="one.pdf",
        folder="/f",
        state=FileState(1, 2, 2**63 + 1, 4),
    )
    (source,) = catalog.watched()
    assert source.state.inode == 2**63 + 1
    catalog.miss_sources([source], 5.0)
    catalog.hold_sources([source])
    (held,) = catalog.watched()
    assert (held.deletion, held.missing_since) == ("held", 5.0)
    catalog.unwatch(catalog.watched())
    assert catalog.watched() == []
    assert len(catalog.documents()) == 1


def test_an_image_that_never_got_its_page_is_stray(catalog: Catalog) -> None:
    id = put(catalog, "s1", "/a")
    arrived, lost = page("arrived", document=id), page("lost", document=id, index=1)
    catalog.expect_images([arrived.image, lost.image])
    catalog.record(id, [arrived], [])
    assert catalog.stray_images() == [lost.image]
    catalog.forget_images([lost.image])
    assert catalog.stray_images() == []


def test_what_does_not_hold_is_found_and_repaired(catalog: Catalog) -> None:
    id = put(catalog, "s1", "/a")
    assert catalog.integrity() == [f"document {id} is to be indexed and is in no queue"]
    assert catalog.repair_jobs() == 1
    assert catalog.integrity() == []
    catalog.settle(id, "indexed", None)
    catalog.record(id, [], [StageResult(3, "read", "done"), StageResult(3, "text", "done")])
    assert catalog.integrity() == [f"document {id} lacks a page that counts as read"]
    catalog.repair_jobs()
    assert catalog.stages(id) == []
    assert catalog.integrity() == []


def test_pages_come_back_as_they_were_stored(catalog: Catalog) -> None:
    id = put(catalog, "s1", "/a.pdf")
    catalog.begin(id, 3)
    stored = page("Größe — 12 €\nzweite Zeile", document=id, index=1, label="iv")
    catalog.record(id, [stored], [StageResult(1, "read", "done")])
    found = catalog.page(stored.ref)
    assert found.text == stored.text
    assert found.label == "iv"
    for there, here in zip(found.words, stored.words, strict=True):
        assert there.box == pytest.approx(here.box, abs=1e-5)
    with pytest.raises(PageNotFound, match="has no page 4: it has 3 pages"):
        catalog.page(PageRef(id, 3))
    with pytest.raises(PageNotFound, match="not read yet"):
        catalog.page(PageRef(id, 0))
    with pytest.raises(DocumentNotFound):
        catalog.page(PageRef("nobody", 0))


def test_images_that_another_document_shows_are_not_to_be_deleted(catalog: Catalog) -> None:
    a, b = put(catalog, "s1", "/a"), put(catalog, "s2", "/b")
    shared, own = page("shared"), page("own")
    for id, pages in ((a, (shared, own)), (b, (shared,))):
        catalog.record(
            id,
            [page(p.text, document=id, index=i) for i, p in enumerate(pages)],
            [],
        )
    assert catalog.unshared_images(a) == [own.image]
    assert catalog.unshared_images(b) == []


class CatalogMachine(RuleBasedStateMachine):
    """However files come, change, fail and go: every source's newest bytes are kept, and whatever
    no source names goes."""

    def __init__(self) -> None:
        super().__init__()
        database = Database(Path(":memory:"))
        self.catalog = Catalog(database)
        self.jobs = Jobs(database, IngestSettings(backoff_seconds=0.001), clock=lambda: self.now)
        self.now = 1e9
        self.contents: dict[str, str] = {}

    @rule(source=st.sampled_from("abc"), sha=st.sampled_from(["s1", "s2", "s3"]))
    def put(self, source: str, sha: str) -> None:
        for id, _ in self.catalog.removing():
            self.catalog.delete(id)
        enqueued = self.catalog.enqueue(
            collection="c",
            sha256=sha,
            source=source,
            name=source,
            folder="f",
            state=FileState(1, 2, 3, 4),
        )
        if enqueued.new:
            self.jobs.add(enqueued.document.id, FOLDER)
        self.contents[source] = sha

    @rule(source=st.sampled_from("abc"))
    def forget(self, source: str) -> None:
        self.catalog.forget_sources([("c", source)])
        self.contents.pop(source, None)

    @rule(how=st.sampled_from(["indexed", "dead", "later", "outage", "left", "lost"]))
    def work(self, how: str) -> None:
        self.now += 1
        id = self.jobs.claim("w")
        if id is None:
            return
        if how == "indexed":
            self.catalog.settle(id, "indexed", None)
            self.jobs.finish(id)
        elif how == "dead":
            self.catalog.settle(id, "failed", "no")
            self.jobs.bury(id, "no")
        elif how in ("later", "outage"):
            kind = "transient" if how == "later" else "outage"
            if not self.jobs.put_back(id, Failure(kind, "no")):
                self.catalog.settle(id, "failed", "no")
                self.jobs.bury(id, "no")
        elif how == "left":
            self.jobs.put_back(id, None)

    @rule(number=st.integers(0, 2), cancel=st.booleans())
    def person(self, number: int, cancel: bool) -> None:
        jobs = self.jobs.list()
        if number < len(jobs):
            with suppress(JobConflict):
                (self.jobs.cancel if cancel else self.jobs.retry)(jobs[number].document_id)

    @rule(days=st.sampled_from([-1, 1]))
    def clock_jumps(self, days: int) -> None:
        self.now += days * 86_400

    @rule()
    def crash(self) -> None:
        self.jobs.claim("w")
        self.jobs.recover()

    @invariant()
    def no_job_is_lost(self) -> None:
        assert {s.path: s.sha256 for s in self.catalog.watched("f")} == self.contents
        kept = {document.id for document in self.catalog.documents()}
        assert {document_id("c", sha) for sha in self.contents.values()} <= kept
        for document in self.catalog.documents():
            assert document.names, "a document nobody names"
        assert self.catalog.integrity() == []


TestCatalogMachine = CatalogMachine.TestCase
TestCatalogMachine.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
