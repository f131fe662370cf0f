from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ingest.catalog import Catalog, StageResult
from pageglass.errors import DocumentNotFound, PageNotFound, StoreError
from pageglass.types import PageRef, document_id
from tests.tiny import page


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    catalog = Catalog(tmp_path / "catalog.sqlite")
    yield catalog
    catalog.close()


def put(catalog: Catalog, sha: str, source: str, collection: str = "c") -> str:
    enqueued = catalog.enqueue(
        collection=collection, sha256=sha, source=source, name=Path(source).name
    )
    return enqueued.document.id


def index_all(catalog: Catalog) -> None:
    while document := catalog.claim():
        catalog.settle(document.id, "indexed", None)


def test_the_same_bytes_under_a_second_name_add_a_name(catalog: Catalog) -> None:
    id = put(catalog, "s1", "/a/one.pdf")
    index_all(catalog)
    again = catalog.enqueue(collection="c", sha256="s1", source="/b/two.pdf", name="two.pdf")
    assert not again.new
    assert again.document.id == id
    assert again.document.names == ("one.pdf", "two.pdf")
    assert catalog.claim() is None


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
    assert catalog.claim() is not None
    catalog.settle(new, "failed", "damaged")
    assert catalog.document(old).state == "indexed"
    assert catalog.document(new).reason == "damaged"


def test_a_document_keeps_living_under_its_other_name(catalog: Catalog) -> None:
    id = put(catalog, "s1", "/a/one.pdf")
    put(catalog, "s1", "/a/two.pdf")
    catalog.forget_source("c", "/a/one.pdf")
    assert catalog.document(id).names == ("two.pdf",)
    catalog.forget_source("c", "/a/two.pdf")
    assert [removing for removing, _ in catalog.removing()] == [id]


def test_a_failed_document_is_tried_again_when_it_comes_again(catalog: Catalog) -> None:
    id = put(catalog, "s1", "/a")
    assert catalog.claim() is not None
    catalog.settle(id, "failed", "no")
    put(catalog, "s1", "/a")
    claimed = catalog.claim()
    assert claimed is not None
    assert claimed.id == id


def test_work_a_dead_process_left_is_queued_again(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "catalog.sqlite")
    id = put(catalog, "s1", "/a")
    assert catalog.claim() is not None
    catalog.close()
    catalog = Catalog(tmp_path / "catalog.sqlite")
    catalog.requeue()
    assert catalog.document(id).state == "queued"
    catalog.close()


def test_attempts_count_only_those_without_a_new_page(catalog: Catalog) -> None:
    id = put(catalog, "s1", "/a")
    for _ in range(4):
        assert catalog.claim() is not None
        catalog.record(id, [page("text", document=id)], [StageResult(0, "read", "done")])
        catalog.requeue(id)
    assert catalog.attempts(id) == 1


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


def test_a_catalog_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    Catalog(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="version 99"):
        Catalog(path)


def test_documents_with_a_page_that_lacks_a_stage_are_queued_again(catalog: Catalog) -> None:
    whole, partly, failed = (put(catalog, sha, sha) for sha in ("s1", "s2", "s3"))
    index_all(catalog)
    for id in (whole, partly):
        catalog.record(
            id,
            [page("one", document=id), page("two", document=id, index=1)],
            [StageResult(i, "text", "done") for i in range(2)],
        )
    catalog.record(whole, [], [StageResult(i, "visual", "done") for i in range(2)])
    catalog.record(partly, [], [StageResult(0, "visual", "done")])
    assert catalog.requeue_without(["text"]) == 0
    assert catalog.waiting() == 0
    assert catalog.requeue_without(["text", "visual"]) == 1
    assert catalog.waiting() == 1
    states = {document.id: document.state for document in catalog.documents()}
    assert states == {whole: "indexed", partly: "queued", failed: "indexed"}
    assert catalog.requeue_without(["text", "visual"]) == 0
    assert catalog.waiting() == 1
    # Back to the first profile: it lacks nothing there, once its pages are known to be read.
    catalog.begin(partly, 2)
    assert catalog.requeue_without(["text"]) == 0
    assert catalog.waiting() == 1
    catalog.record(partly, [], [StageResult(i, "read", "done") for i in range(2)])
    catalog.requeue_without(["text", "visual"])
    catalog.requeue()
    claimed = catalog.claim()
    assert claimed is not None
    assert claimed.id == partly


def test_a_file_that_is_no_catalog_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreError, match="cannot open the catalog"):
        Catalog(path)


class CatalogMachine(RuleBasedStateMachine):
    """However files come, change, fail and go: every source's newest bytes are kept, and whatever
    no source names goes."""

    def __init__(self) -> None:
        super().__init__()
        self.catalog = Catalog(Path(":memory:"))
        self.contents: dict[str, str] = {}

    @rule(source=st.sampled_from("abc"), sha=st.sampled_from(["s1", "s2", "s3"]))
    def put(self, source: str, sha: str) -> None:
        for id, _ in self.catalog.removing():
            self.catalog.delete(id)
        put(self.catalog, sha, source)
        self.contents[source] = sha

    @rule(source=st.sampled_from("abc"))
    def forget(self, source: str) -> None:
        self.catalog.forget_source("c", source)
        self.contents.pop(source, None)

    @rule(ok=st.booleans())
    def work(self, ok: bool) -> None:
        if document := self.catalog.claim():
            self.catalog.settle(document.id, "indexed" if ok else "failed", None)

    @rule()
    def crash(self) -> None:
        self.catalog.claim()
        self.catalog.requeue()

    @invariant()
    def no_job_is_lost(self) -> None:
        assert self.catalog.sources("c") == self.contents
        kept = {document.id for document in self.catalog.documents()}
        assert {document_id("c", sha) for sha in self.contents.values()} <= kept
        for document in self.catalog.documents():
            assert document.names, "a document nobody names"


TestCatalogMachine = CatalogMachine.TestCase
TestCatalogMachine.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
