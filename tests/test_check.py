"""What does not match is found, set right, and the pages that were lost come back."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from qdrant_client import QdrantClient, models

from api.services import Services
from pageglass.settings import IndexSettings
from pageglass.types import PageRef
from retrieval.index import CollectionSpec, PagePoint
from retrieval.index.edge import EdgeIndex
from retrieval.index.server import ServerIndex
from tests.folder import SPEC, DataFolder
from tests.tiny import pdf

# Long enough not to go to OCR.
TEXT = "The feed pump of line two failed since its bearing ran dry in March."


@pytest.fixture
def filled(services: Services, tmp_path: Path) -> Services:
    paths = [
        pdf(tmp_path / f"{n}.pdf", [f"page {p} of {n}: {TEXT}" for p in range(3)]) for n in range(2)
    ]
    list(services.ingest(paths))
    assert services.check(deep=True) == []
    return services


def first_page(services: Services) -> PageRef:
    return PageRef(services.documents()[0].id, 0)


def image_of_first_page(services: Services) -> Path:
    return services._images.path(services.catalog.page(first_page(services)).image)


def lose_an_image(services: Services) -> None:
    image_of_first_page(services).unlink()


def damage_an_image(services: Services) -> None:
    image_of_first_page(services).write_bytes(b"\xff\xd8 no picture")


def lose_points(services: Services) -> None:
    (index,) = services.searcher.indexes.values()
    index.delete([first_page(services), PageRef(services.documents()[1].id, 2)])


def leave_points(services: Services) -> None:
    (index,) = services.searcher.indexes.values()
    vectors = index.vectors(first_page(services))
    index.upsert([PagePoint(PageRef("0" * 32, 0), "default", vectors)])
    index.upsert([PagePoint(PageRef(first_page(services).document_id, 7), "default", vectors)])


def leave_files(services: Services) -> None:
    folder = services.settings.data_dir
    services._images.put(b"nobody's", ".jpg")
    (folder / "images" / ".incoming" / "half").write_bytes(b"x")
    (folder / "originals" / f"{'0' * 64}.pdf").write_bytes(b"x")
    (folder / "converted").mkdir()
    (folder / "converted" / f"{'0' * 64}.pdf").write_bytes(b"x")


def lose_jobs(services: Services) -> None:
    with services.database.transaction() as db:
        db.execute("UPDATE documents SET state = 'queued'")
        db.execute("DELETE FROM jobs")


@pytest.mark.parametrize(
    ("harm", "found"),
    [
        (lose_an_image, 1),
        (damage_an_image, 1),
        (lose_points, 2),
        (leave_points, 1),
        (leave_files, 4),
        (lose_jobs, 2),
    ],
)
def test_harm_is_found_repaired_and_made_up_for(
    filled: Services, harm: Callable[[Services], None], found: int
) -> None:
    harm(filled)
    findings = filled.check(deep=True)
    assert len(findings) == found
    assert not any(finding.repaired for finding in findings)
    assert len(filled.check(repair=True, deep=True)) == found
    assert all(report.outcome == "indexed" for report in filled.ingest([]))
    assert filled.check(deep=True) == []
    assert filled.status().pages == 6
    assert sum(index.count() for index in filled.searcher.indexes.values()) == 6
    assert image_of_first_page(filled).is_file()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[DataFolder]:
    """Two documents of two pages each; the first is a.pdf."""
    folder = DataFolder(tmp_path / "data")
    for name in "ab":
        folder.add(f"{name}.pdf", [f"{name} one", f"{name} two"])
    yield folder
    folder.close()


def first(folder: DataFolder) -> PageRef:
    return PageRef(folder.catalog.documents()[0].id, 0)


def image(folder: DataFolder) -> Path:
    return folder.images.path(folder.catalog.page(first(folder)).image)


def original(folder: DataFolder) -> Path:
    return folder.originals / f"{folder.catalog.documents()[0].sha256}.pdf"


def undone(folder: DataFolder) -> dict[int, set[str]]:
    """Stages of a.pdf that are to be done again, by page."""
    stages = {"read", "ocr", SPEC.name}
    reached: dict[int, set[str]] = {0: set(), 1: set()}
    for stage in folder.catalog.stages(first(folder).document_id):
        reached[stage.page_index].add(stage.stage)
    return {index: stages - done for index, done in reached.items() if stages - done}


def test_nothing_is_found_where_all_matches(folder: DataFolder) -> None:
    assert folder.check() == folder.check(deep=True) == folder.check(repair=True) == []
    assert folder.jobs.live() == 0


def test_an_image_that_a_power_loss_emptied_is_found_at_a_glance(folder: DataFolder) -> None:
    image(folder).write_bytes(b"")
    (finding,) = folder.check()
    assert finding.what == "the image of page 1 of a.pdf is missing or damaged"
    assert (finding.repaired, finding.advice) == (False, "")
    assert image(folder).exists(), "looking changes nothing"
    (finding,) = folder.check(repair=True)
    assert finding.repaired
    assert "queued" in finding.advice
    assert undone(folder) == {0: {"read", "ocr"}}
    assert folder.jobs.get(first(folder).document_id).state == "queued"


def test_damage_within_a_file_is_found_by_reading_it(folder: DataFolder) -> None:
    image(folder).write_bytes(b"another picture")
    original(folder).write_bytes(b"another file")
    assert folder.check() == []
    assert {finding.what for finding in folder.check(deep=True)} == {
        "the file of a.pdf is missing or damaged",
        "the image of page 1 of a.pdf is missing or damaged",
    }


def test_an_image_that_two_documents_share_is_missing_from_both(folder: DataFolder) -> None:
    folder.add("c.pdf", ["a one"])
    image(folder).write_bytes(b"another picture")
    found = [finding.what for finding in folder.check(repair=True, deep=True)]
    assert found == [
        f"the image of page 1 of {name} is missing or damaged" for name in ("a.pdf", "c.pdf")
    ]
    assert not image(folder).exists(), "it would be taken for the right one"


def test_pages_that_cannot_be_done_again_are_left_as_they_are(folder: DataFolder) -> None:
    original(folder).unlink()
    image(folder).unlink()
    folder.index.delete([PageRef(first(folder).document_id, 1)])
    findings = folder.check(repair=True)
    assert [finding.repaired for finding in findings] == [False] * 3
    assert all("ingest the file again" in finding.advice for finding in findings)
    assert undone(folder) == {}
    assert folder.jobs.live() == 0
    # With the file they can be.
    original(folder).write_bytes(b"the file, ingested again")
    assert all(finding.repaired for finding in folder.check(repair=True))
    assert undone(folder) == {0: {"read", "ocr"}, 1: {SPEC.name}}


def test_a_point_of_another_tenant_is_none_of_the_page_s(folder: DataFolder) -> None:
    vectors = folder.index.vectors(first(folder))
    folder.index.upsert([PagePoint(first(folder), "elsewhere", vectors)])
    assert [finding.what for finding in folder.check(repair=True)] == [
        f"1 of 2 pages of a.pdf are missing from {SPEC.name}",
        f"points of {SPEC.name} that belong to no page: 1",
    ]
    assert folder.index.count() == 3
    assert undone(folder) == {0: {SPEC.name}}


def test_a_point_whose_stage_is_not_done_is_an_orphan(folder: DataFolder) -> None:
    folder.index.upsert([PagePoint(PageRef(first(folder).document_id, 7), "default", {})])
    (finding,) = folder.check(repair=True)
    assert finding.what == f"points of {SPEC.name} that belong to no page: 1"
    assert folder.index.count() == 4
    assert folder.check() == []


def test_points_of_a_document_that_is_being_removed_are_orphans(folder: DataFolder) -> None:
    folder.catalog.mark_removed(first(folder).document_id)
    assert all(finding.repaired for finding in folder.check(repair=True))
    assert {ref.document_id for _, ref in folder.index.refs()} == {folder.catalog.documents()[0].id}
    assert len(list(folder.images.keys())) == len(list(folder.originals.iterdir())) * 2 == 2
    assert folder.check() == []


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect")
def test_two_points_of_one_page_are_found_and_made_one(tmp_path: Path) -> None:
    client = QdrantClient(":memory:")
    folder = DataFolder(tmp_path / "data", ServerIndex(client, SPEC, IndexSettings()))
    document = folder.add("a.pdf", ["a one", "a two"])
    payload = {"collection": "default", "document_id": document.id, "page_index": 0}
    double = models.PointStruct(id=str(uuid.uuid4()), vector={}, payload=payload)
    client.upsert(IndexSettings().prefix + SPEC.name, [double])
    assert [finding.what for finding in folder.check()] == [f"a.pdf has pages twice in {SPEC.name}"]
    assert folder.index.count() == 3
    folder.check(repair=True)
    assert folder.index.count() == 0
    assert undone(folder) == {0: {SPEC.name}, 1: {SPEC.name}}
    folder.close()


def test_collections_that_are_not_in_use_are_left_alone(folder: DataFolder) -> None:
    other = EdgeIndex(folder.path / "index", CollectionSpec("old--model", SPEC.vectors, {}))
    other.upsert(
        [PagePoint(PageRef("nobody's", 0), "default", folder.index.vectors(first(folder)))]
    )
    other.close()
    assert folder.check(repair=True, deep=True) == []
    other = EdgeIndex(folder.path / "index", CollectionSpec("old--model", SPEC.vectors, {}))
    assert other.count() == 1
    other.close()


def test_files_on_their_way_are_left_alone(folder: DataFolder) -> None:
    (folder.originals / ".upload").write_bytes(b"half")
    (folder.converted / ".conversion").mkdir()
    assert folder.check(repair=True) == []
    assert (folder.originals / ".upload").exists()


def test_a_catalog_that_knows_nothing_takes_nothing_with_it(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    folder.add("a.pdf", ["one", "two"])
    folder.close()
    (tmp_path / "catalog.sqlite").rename(tmp_path / "lost")
    empty = DataFolder(tmp_path)
    findings = empty.check(repair=True)
    # A file, two images, and one line for the two points.
    assert len(findings) == 4
    assert not any(finding.repaired for finding in findings)
    assert all("the catalog knows no document" in finding.advice for finding in findings)
    assert empty.index.count() == 2
    empty.close()
    # With the catalog it had, all is well.
    (tmp_path / "lost").rename(tmp_path / "catalog.sqlite")
    back = DataFolder(tmp_path)
    assert back.check(deep=True) == []
    back.close()


def test_damage_to_the_catalog_itself_does_not_count_as_repaired(folder: DataFolder) -> None:
    with folder.database.lock:
        folder.database.connection.execute("PRAGMA foreign_keys = OFF")
        folder.database.connection.execute(
            "INSERT INTO stages (document, page_index, stage, state) VALUES ('no', 0, 'x', 'done')"
        )
    (finding,) = folder.check(repair=True)
    assert not finding.repaired
    assert "backup" in finding.advice
