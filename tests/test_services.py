"""The whole way: files in, pages indexed, searched, removed; interrupted and gone on with."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from api.services import Services
from pageglass.errors import (
    CollectionNameError,
    CollectionNotFound,
    DocumentNotFound,
    FolderInUse,
    LimitExceeded,
    NotADocument,
    QuestionError,
    StoreError,
)
from pageglass.settings import Settings, load_settings
from pageglass.types import Document
from tests.tiny import pdf, scanned_pdf

PUMP = "The feed pump of line two failed on 4 March because its bearing ran dry."
TREE = "The city planted 312 lime trees along the canal in the autumn of 2022."
BREAD = "Rye bread needs a sour dough that has rested for sixteen hours."


def ingest(services: Services, *paths: Path, collection: str = "default") -> list[str]:
    return [
        f"{report.outcome} {Path(report.path).name}"
        for report in services.ingest(paths, collection=collection)
    ]


def traces(services: Services) -> tuple[int, int, int, int]:
    """Documents, points, page images and originals there are."""
    folder = services.settings.data_dir
    return (
        len(services.documents()),
        sum(index.count() for index in services.searcher.indexes.values()),
        sum(1 for path in (folder / "images").rglob("*") if path.is_file()),
        len(list((folder / "originals").iterdir())),
    )


def test_a_question_finds_its_page_and_says_why(services: Services, tmp_path: Path) -> None:
    ingest(services, pdf(tmp_path / "log.pdf", [BREAD, PUMP, TREE], labels="r"))
    hits = services.search("Why did the pump break down?").hits
    assert hits[0].ref.number == 2
    assert hits[0].page_label == "ii"
    assert hits[0].document_name == "log.pdf"
    assert {rank.retriever for rank in hits[0].why.retrievers} == {"sparse", "dense", "tokens"}
    assert hits[0].why.fused_rank == 1


@pytest.mark.parametrize("fusion", ["rrf", "minmax", "dbsf"])
def test_a_page_that_is_named_counts_however_lists_are_fused(tmp_path: Path, fusion: str) -> None:
    settings = load_settings({"data_dir": tmp_path / "data", "search": {"fusion": fusion}})
    with Services(settings, command="test") as services:
        for name in ("one", "two"):
            pages = [f"{PUMP} {name} {n}" for n in range(2)] + [f"Blank but for {name}."]
            ingest(services, pdf(tmp_path / f"{name}.pdf", pages))
        hits = services.search("What does page 3 say of the feed pump?").hits
    assert [hit.ref.number for hit in hits[:2]] == [3, 3]


def test_the_image_of_a_page_that_is_gone_is_one_clear_line(
    services: Services, tmp_path: Path
) -> None:
    ingest(services, pdf(tmp_path / "log.pdf", [PUMP]))
    (document,) = services.documents()
    page = services.page(document.id, 1)
    (tmp_path / "data" / "images" / page.image[:2] / page.image).unlink()
    with pytest.raises(StoreError, match="ingest it again"):
        services.page_image(page)
    services.remove(document.id)
    with pytest.raises(DocumentNotFound):
        services.page_image(page)


def test_where_nothing_is_indexed_the_answer_says_so(services: Services) -> None:
    answer = services.ask("Why did the pump break down?")
    assert answer.status == "not_found"
    assert answer.notes == ("nothing is indexed yet: add documents",)


def test_an_unknown_collection_is_an_error_that_lists_the_known_ones(
    services: Services, tmp_path: Path
) -> None:
    with pytest.raises(CollectionNotFound, match="no collection 'nope': nothing is indexed yet"):
        services.search("Why?", collection="nope")
    for name in ("work", "home"):
        ingest(services, pdf(tmp_path / f"{name}.pdf", [PUMP]), collection=name)
    for ask in (services.search, services.ask):
        with pytest.raises(
            CollectionNotFound, match=r"no collection 'nope': there are home, work$"
        ):
            ask("Why did the pump break down?", collection="nope")
    # There as long as a document is, and the default one always.
    (document,) = services.documents(collection="work")
    services.remove(document.id)
    with pytest.raises(CollectionNotFound, match=r"there is home$"):
        services.documents(collection="work")
    assert services.ask("Why?", collection="default").notes == (
        "nothing is indexed in default yet: add documents",
    )


def test_the_same_bytes_under_another_name_do_not_rename_a_document(
    services: Services, tmp_path: Path
) -> None:
    path = pdf(tmp_path / "contract.pdf", [PUMP])
    for name in ("contract.pdf", "mine.pdf"):
        services.add(io.BytesIO(path.read_bytes()), name=name)
    (document,) = services.documents()
    assert (document.name, document.names) == ("contract.pdf", ("contract.pdf", "mine.pdf"))


def test_files_of_one_name_are_told_apart_by_their_folders(
    services: Services, tmp_path: Path
) -> None:
    for folder, text in (("2023/north", TREE), ("2024/north", PUMP), ("2024/south", BREAD)):
        (tmp_path / folder).mkdir(parents=True)
        ingest(services, pdf(tmp_path / folder / "report.pdf", [text]))
    names = {document.name for document in services.documents()}
    assert names == {"2023/north/report.pdf", "2024/north/report.pdf", "south/report.pdf"}
    answer = services.ask("Why did the feed pump of line two fail?")
    assert answer.citations[0].document_name == "2024/north/report.pdf"
    # One that is alone needs no folder.
    for document in services.documents():
        if "2024" not in document.name:
            services.remove(document.id)
    (left,) = services.documents()
    assert left.name == "report.pdf"


def test_a_long_list_of_collections_is_cut() -> None:
    names = [f"c{number}" for number in range(30)]
    assert str(CollectionNotFound.of("x", names)).endswith("c19 and 10 more")


def test_an_answer_quotes_its_page_word_for_word(services: Services, tmp_path: Path) -> None:
    ingest(services, pdf(tmp_path / "log.pdf", [BREAD, PUMP, TREE]))
    answer = services.ask("How many lime trees did the city plant along the canal?")
    assert answer.status == "answered"
    assert answer.extractive
    assert "312 lime trees" in answer.text
    assert [citation.ref.number for citation in answer.citations] == [3]
    assert all(citation.verified and citation.boxes for citation in answer.citations)
    assert {"encode", "retrieve", "fuse", "generate"} <= answer.timings_ms.keys()


def test_a_question_nothing_answers_is_declined_with_the_nearest_pages(
    services: Services, tmp_path: Path
) -> None:
    ingest(services, pdf(tmp_path / "log.pdf", [BREAD, PUMP, TREE]))
    answer = services.ask("What is the boiling point of tungsten hexafluoride?")
    assert answer.status == "not_found"
    assert answer.citations == ()
    assert answer.hits


def test_a_scanned_page_is_read_by_ocr(services: Services, tmp_path: Path) -> None:
    ingest(services, scanned_pdf(tmp_path / "scan.pdf", [PUMP]))
    (document,) = services.documents()
    page = services.page(document.id, 1)
    assert page.text_source == "ocr"
    assert "bearing" in page.text
    assert services.page_image(page)[:2] == b"\xff\xd8"


def test_ingesting_twice_changes_nothing(services: Services, tmp_path: Path) -> None:
    path = pdf(tmp_path / "log.pdf", [PUMP, TREE])
    assert ingest(services, path) == ["indexed log.pdf"]
    before = traces(services)
    assert ingest(services, path) == ["unchanged log.pdf"]
    assert traces(services) == before == (1, 2, 2, 1)


def test_a_second_name_is_only_a_name(services: Services, tmp_path: Path) -> None:
    path = pdf(tmp_path / "log.pdf", [PUMP])
    other = tmp_path / "copy.pdf"
    other.write_bytes(path.read_bytes())
    ingest(services, path, other)
    (document,) = services.documents()
    assert set(document.names) == {"log.pdf", "copy.pdf"}
    assert traces(services)[1] == 1


def test_a_changed_file_replaces_its_pages(services: Services, tmp_path: Path) -> None:
    path = pdf(tmp_path / "log.pdf", [PUMP, BREAD])
    ingest(services, path)
    pdf(path, [TREE])
    ingest(services, path)
    assert traces(services) == (1, 1, 1, 1)
    assert services.search("pump bearing").hits[0].ref.number == 1


def test_a_changed_file_that_is_damaged_leaves_the_old_pages(
    services: Services, tmp_path: Path
) -> None:
    path = pdf(tmp_path / "log.pdf", [PUMP])
    ingest(services, path)
    path.write_bytes(b"%PDF-1.7 oh no")
    assert ingest(services, path) == ["failed log.pdf"]
    assert services.search("pump bearing").hits


def test_removing_leaves_no_trace(services: Services, tmp_path: Path) -> None:
    ingest(services, pdf(tmp_path / "a.pdf", [PUMP, TREE]), pdf(tmp_path / "b.pdf", [TREE, BREAD]))
    first, second = services.documents()
    services.remove(first.id)
    assert traces(services)[:2] == (1, 2)
    assert services.page_image(services.page(second.id, 1))
    services.remove(second.id)
    assert traces(services) == (0, 0, 0, 0)
    with pytest.raises(DocumentNotFound):
        services.remove(second.id)


def test_search_keeps_to_the_collection_and_the_documents(
    services: Services, tmp_path: Path
) -> None:
    ingest(services, pdf(tmp_path / "a.pdf", [PUMP]), collection="works")
    ingest(services, pdf(tmp_path / "b.pdf", [PUMP, TREE]), collection="city")
    (works,), (city,) = (services.documents(collection=name) for name in ("works", "city"))
    for scope, expected in (
        ({"collection": "works"}, {works.id}),
        ({"collection": "city"}, {city.id}),
        ({"documents": [city.id]}, {city.id}),
        ({}, {works.id, city.id}),
    ):
        found = services.search("pump bearing", **scope, top_k=9).hits  # pyright: ignore[reportArgumentType]
        # The same page stands in both: one hit stands for its duplicate.
        seen = {ref.document_id for hit in found for ref in (hit.ref, *hit.why.duplicates)}
        assert seen == expected


def test_bad_files_are_reported_and_the_others_go_on(services: Services, tmp_path: Path) -> None:
    good = pdf(tmp_path / "good.pdf", [PUMP])
    (tmp_path / "empty.pdf").touch()
    (tmp_path / "text.pdf").write_text("just text")
    reports = {
        Path(report.path).name: report
        for report in services.ingest(
            [
                tmp_path / "empty.pdf",
                tmp_path / "missing.pdf",
                tmp_path / "text.pdf",
                good,
            ]
        )
    }
    assert {name: report.outcome for name, report in reports.items()} == {
        "empty.pdf": "failed",
        "missing.pdf": "failed",
        "text.pdf": "failed",
        "good.pdf": "indexed",
    }
    assert reports["empty.pdf"].reason == "the file is empty"
    assert reports["missing.pdf"].reason == "no such file or directory"
    assert "PDF" in (reports["text.pdf"].reason or "")
    assert services.search("pump").hits


@pytest.mark.parametrize("question", ["", "  \n", "x" * 100_000])
def test_questions_that_are_none(services: Services, question: str) -> None:
    with pytest.raises(QuestionError) as caught:
        services.ask(question)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("name", ["a/b", "", "..", "a b", "x" * 65, "-x"])
def test_collection_names_that_are_none(services: Services, name: str, tmp_path: Path) -> None:
    with pytest.raises(CollectionNameError):
        services.search("pump", collection=name)
    with pytest.raises(CollectionNameError):
        list(services.ingest([pdf(tmp_path / "a.pdf", [PUMP])], collection=name))
    with pytest.raises(CollectionNameError):
        services.add(io.BytesIO(b"x"), name="a.pdf", collection=name)


def test_a_question_to_an_empty_folder_is_declined(services: Services) -> None:
    answer = services.ask("Why did the pump fail?")
    assert answer.status == "not_found"
    assert answer.hits == ()


def test_an_upload_too_large_or_empty_leaves_nothing_behind(tmp_path: Path) -> None:
    settings = load_settings({"data_dir": tmp_path / "data", "ingest": {"limits": {"file_mb": 1}}})
    with Services(settings, command="test") as services:
        with pytest.raises(LimitExceeded, match=r"ingest\.limits\.file_mb"):
            services.add(io.BytesIO(b"x" * (2 << 20)), name="big.pdf")
        with pytest.raises(NotADocument):
            services.add(io.BytesIO(b""), name="none.pdf")
        assert traces(services) == (0, 0, 0, 0)


def test_an_upload_is_indexed_by_the_worker(services: Services, tmp_path: Path) -> None:
    services.start_worker()
    path = pdf(tmp_path / "up.pdf", [PUMP])
    with path.open("rb") as data:
        accepted = services.add(data, name="up.pdf")
    assert accepted.state in ("queued", "indexing")
    wait_until(lambda: services.document(accepted.id).state == "indexed")
    assert services.search("pump").hits


def test_two_uploads_of_one_name_are_two_documents(services: Services, tmp_path: Path) -> None:
    for text in (PUMP, TREE):
        with pdf(tmp_path / "up.pdf", [text]).open("rb") as data:
            services.add(data, name="up.pdf")
    assert len(services.documents()) == 2


def test_a_second_owner_is_refused_by_name(services: Services) -> None:
    with pytest.raises(FolderInUse, match=r"`pageglass test` \(process \d+\)"):
        Services(services.settings, command="other")


def test_an_interrupted_run_goes_on_where_it_stopped(settings: Settings, tmp_path: Path) -> None:
    path = pdf(tmp_path / "long.pdf", [f"{PUMP} Page {i}." for i in range(40)])

    def interrupt(document: Document) -> None:
        if document.pages_indexed >= 16:
            raise KeyboardInterrupt

    with Services(settings, command="test") as services, pytest.raises(KeyboardInterrupt):
        list(services.ingest([path], progress=interrupt))
    with Services(settings, command="test") as services:
        (document,) = services.documents()
        assert document.state == "queued"
        assert 0 < document.pages_indexed < 40
        assert ingest(services, path) == ["indexed long.pdf"]
        assert traces(services)[:2] == (1, 40)


def test_a_document_removed_while_it_is_indexed_stays_removed(
    services: Services, tmp_path: Path
) -> None:
    path = pdf(tmp_path / "long.pdf", [f"{PUMP} Page {i}." for i in range(40)])

    def remove(document: Document) -> None:
        if document.pages_indexed >= 16:
            services.remove(document.id)

    list(services.ingest([path], progress=remove))
    assert traces(services) == (0, 0, 0, 0)


def test_closing_stops_between_two_batches_and_loses_nothing(
    settings: Settings, tmp_path: Path
) -> None:
    path = pdf(tmp_path / "long.pdf", [f"{PUMP} Page {i}." for i in range(200)])
    started = threading.Event()
    with Services(settings, command="test") as services:
        services.start_worker(
            progress=lambda document: started.set() if document.pages_indexed else None
        )
        with path.open("rb") as data:
            services.add(data, name="long.pdf")
        assert started.wait(60)
    with Services(settings, command="test") as services:
        (document,) = services.documents()
        assert document.state in ("queued", "indexed")
        services.start_worker()
        wait_until(lambda: services.document(document.id).state == "indexed")
        assert traces(services)[1] == 200


def test_a_watched_folder_is_kept_indexed(tmp_path: Path) -> None:
    settings = load_settings({"data_dir": tmp_path / "data", "watch": {"settle_seconds": 0.2}})
    folder = tmp_path / "inbox"
    folder.mkdir()
    pdf(folder / "there before.pdf", [PUMP])
    (folder / ".hidden.pdf").write_text("x")
    (folder / "notes.txt").write_text("x")
    with Services(settings, command="test") as services:
        services.start_worker()
        services.watch([folder])

        def indexed() -> set[str]:
            return {d.name for d in services.documents() if d.state == "indexed"}

        wait_until(lambda: indexed() == {"there before.pdf"})
        pdf(folder / "dropped.pdf", [TREE])
        wait_until(lambda: indexed() == {"there before.pdf", "dropped.pdf"})
        pdf(folder / "dropped.pdf", [BREAD])
        wait_until(lambda: bool(services.search("rye bread sour dough").hits))
        wait_until(lambda: traces(services)[:2] == (2, 2))


def test_a_file_still_being_written_is_left_alone(tmp_path: Path) -> None:
    settings = load_settings({"data_dir": tmp_path / "data", "watch": {"settle_seconds": 1.0}})
    whole = pdf(tmp_path / "whole.pdf", [PUMP] * 3).read_bytes()
    folder = tmp_path / "inbox"
    folder.mkdir()
    with Services(settings, command="test") as services:
        services.start_worker()
        services.watch([folder])
        with (folder / "slow.pdf").open("wb") as file:
            step = len(whole) // 6 + 1
            for at in range(0, len(whole), step):
                file.write(whole[at : at + step])
                file.flush()
                time.sleep(0.3)
                assert services.documents() == []
        wait_until(lambda: [d.state for d in services.documents()] == ["indexed"])


def test_removals_a_dead_process_left_are_finished(settings: Settings, tmp_path: Path) -> None:
    with Services(settings, command="test") as services:
        ingest(services, pdf(tmp_path / "a.pdf", [PUMP]))
        # As far as a process gets that dies right after deciding.
        services.catalog.mark_removed(services.documents()[0].id)
    with Services(settings, command="test") as services:
        assert traces(services) == (0, 0, 0, 0)


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
