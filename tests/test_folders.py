"""A real folder, watched by a real data folder: from files to answers, and back to nothing."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pymupdf
import pytest
from PIL import Image

from api.services import Services
from pageglass.errors import FolderInUse, SettingsError
from pageglass.settings import load_settings
from tests.tiny import pdf

Watched = tuple[Path, Services]


@contextmanager
def watching(tmp_path: Path, **watch: Any) -> Generator[Watched]:
    inbox = tmp_path / "inbox"
    inbox.mkdir(exist_ok=True)
    flags = {
        "data_dir": tmp_path / "data",
        "watch": {"settle_seconds": 0.1, "grace_seconds": 0.3, "poll_seconds": 0.2} | watch,
        # Pages of a few words are not looked at again by OCR; those without any are.
        "ingest": {"workers": 0, "ocr_below_characters": 1},
    }
    with Services(load_settings(flags), command="test") as services:
        services.start_worker()
        services.watch([inbox])
        yield inbox, services


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with watching(tmp_path) as watched:
        yield watched


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def indexed(services: Services) -> set[str]:
    return {d.name for d in services.documents() if d.state == "indexed"}


def test_files_come_change_move_and_go_and_the_index_follows(watched: Watched) -> None:
    inbox, services = watched
    pdf(inbox / "a.pdf", ["The heron waits."])
    pdf(inbox / "b.pdf", ["The crane dances."])
    until(lambda: indexed(services) == {"a.pdf", "b.pdf"})
    jobs = {job.document_id: job.started_at for job in services.job_list()}
    (inbox / "birds").mkdir()
    (inbox / "a.pdf").rename(inbox / "birds" / "heron.pdf")
    until(lambda: indexed(services) == {"heron.pdf", "b.pdf"})
    assert {job.document_id: job.started_at for job in services.job_list()} == jobs
    pdf(inbox / "b.pdf", ["The stork claps its bill."])
    until(lambda: "stork" in services.page(services.search("bill").hits[0].ref.document_id, 1).text)
    until(lambda: len(services.documents()) == 2)
    (inbox / "b.pdf").unlink()
    until(lambda: indexed(services) == {"heron.pdf"})
    assert services.search("heron").hits[0].document_name == "heron.pdf"
    assert services.check(deep=True) == []


def test_a_mass_deletion_is_held_until_somebody_decides(watched: Watched) -> None:
    inbox, services = watched
    for number in range(24):
        pdf(inbox / f"{number}.pdf", [f"note {number}"])
    until(lambda: len(indexed(services)) == 24)
    for number in range(12):
        (inbox / f"{number}.pdf").unlink()
    until(lambda: len(services.held()) == 12)
    assert services.status().held == 12
    assert services.settle_held(remove=False, folder=str(inbox / "elsewhere")) == 0
    gone = services.held()[0].path
    assert services.settle_held(remove=True) == 12
    assert len(services.documents()) == 12
    assert Path(gone).name not in indexed(services)
    for number in range(12, 24):
        (inbox / f"{number}.pdf").unlink()
    until(lambda: len(services.held()) == 12)
    assert services.settle_held(remove=False) == 12
    time.sleep(1)
    assert len(services.documents()) == 12
    assert services.held() == []


def test_what_a_person_removes_stays_out_until_it_changes_or_is_added(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def remove(services: Services, name: str) -> None:
        services.remove(next(d.id for d in services.documents() if d.name == name))

    with watching(tmp_path, rescan_seconds=1) as (inbox, services):
        path = pdf(inbox / "a.pdf", ["The heron waits."])
        pdf(inbox / "b.pdf", ["The crane dances."])
        until(lambda: indexed(services) == {"a.pdf", "b.pdf"})
        remove(services, "a.pdf")
        until(lambda: "a.pdf is left out: it was removed by hand" in caplog.text)
        # Elsewhere in the folder, too.
        path = path.rename(inbox / "moved.pdf")
        until(lambda: "moved.pdf is left out: it was removed by hand" in caplog.text)
        assert indexed(services) == {"b.pdf"}
    with watching(tmp_path, rescan_seconds=1) as (inbox, services):  # and after a restart
        pdf(inbox / "c.pdf", ["The stork claps."])
        until(lambda: "c.pdf" in indexed(services))
        assert indexed(services) == {"b.pdf", "c.pdf"}
        remove(services, "c.pdf")
        pdf(inbox / "c.pdf", ["The stork flies."])
        until(lambda: indexed(services) == {"b.pdf", "c.pdf"})
        assert services.search("stork").hits
    with watching(tmp_path) as (inbox, services):
        services.add(io.BytesIO(path.read_bytes()), name="by hand.pdf")
        until(lambda: len(indexed(services)) == 3)


def test_pictures_become_pages(watched: Watched) -> None:
    inbox, services = watched
    sheet = pymupdf.open()
    sheet.new_page().insert_textbox(
        pymupdf.Rect(72, 72, 523, 770), "The feed pump ran dry on 4 March.", fontsize=20
    )
    pixels = sheet[0].get_pixmap(dpi=120)
    scan = Image.frombytes("RGB", (pixels.width, pixels.height), pixels.samples)
    scan.save(inbox / "photo.png", dpi=(120, 120))
    scan.save(inbox / "fax.tiff", save_all=True, append_images=[scan.rotate(180)], dpi=(120, 120))
    (inbox / "notes.txt").write_text("not a page")
    until(lambda: indexed(services) == {"photo.png", "fax.tiff"})
    assert {d.name: d.pages for d in services.documents()} == {"photo.png": 1, "fax.tiff": 2}
    answer = services.ask("When did the feed pump run dry?")
    assert "4 March" in answer.text
    assert {citation.document_name for citation in answer.citations} <= {"photo.png", "fax.tiff"}


def test_one_document_that_cannot_be_read_harms_no_other(watched: Watched) -> None:
    inbox, services = watched
    (inbox / "broken.pdf").write_bytes(b"%PDF-1.7 oh no")
    (inbox / "empty.pdf").write_bytes(b"")
    (inbox / "text in disguise.pdf").write_text("hello")
    pdf(inbox / "good.pdf", ["The heron waits."])
    until(lambda: services.job_counts() == {"done": 1, "dead": 2})
    reasons = {d.name: d.reason for d in services.documents() if d.state == "failed"}
    assert reasons.keys() == {"broken.pdf", "text in disguise.pdf"}
    assert all(reasons.values())


def test_a_folder_has_one_owner_and_folders_do_not_overlap(watched: Watched) -> None:
    inbox, services = watched
    with pytest.raises(FolderInUse, match="pageglass test"):
        Services(services.settings, command="serve")
    with pytest.raises(SettingsError, match="overlap"):
        services.watch([inbox, inbox / "below"])
    # A second watcher on the same folder changes nothing.
    services.watch([inbox])
    pdf(inbox / "a.pdf", ["The heron waits."])
    until(lambda: indexed(services) == {"a.pdf"})
    (inbox / "a.pdf").rename(inbox / "b.pdf")
    until(lambda: indexed(services) == {"b.pdf"})
    assert len(services.catalog.watched()) == 1


def test_names_of_every_kind_are_indexed_renamed_and_removed(watched: Watched) -> None:
    inbox, services = watched
    shown = {
        "two\nlines.pdf": "two\nlines.pdf",
        'it\'s "quoted".pdf': 'it\'s "quoted".pdf',
        "ü" * 125 + "x.pdf": "ü" * 125 + "x.pdf",  # 255 bytes
        os.fsdecode(b"latin-\xe9.pdf"): "latin-\\udce9.pdf",
        "-rf %s{}.pdf": "-rf %s{}.pdf",
    }
    # Libraries need not like such names: the file comes from elsewhere, as by a download.
    plain = inbox.parent / "plain.pdf"
    for number, name in enumerate(shown):
        pdf(plain, [f"Letter {number} speaks of herons."]).rename(inbox / name)
    until(lambda: indexed(services) == set(shown.values()))
    hits = services.search("herons", top_k=9).hits
    assert {hit.document_name for hit in hits} == set(shown.values())
    began = {job.document_id: job.started_at for job in services.job_list()}
    for number, name in enumerate(shown):
        (inbox / name).rename(inbox / f"{number}.pdf")
    until(lambda: indexed(services) == {f"{number}.pdf" for number in range(5)})
    assert {job.document_id: job.started_at for job in services.job_list()} == began
    for number in range(5):
        (inbox / f"{number}.pdf").unlink()
    until(lambda: services.documents() == [])
    assert services.check(deep=True) == []


def test_a_file_that_comes_slowly_ends_up_whole(watched: Watched) -> None:
    inbox, services = watched
    whole = pdf(inbox.parent / "whole.pdf", [f"Page {n} of the log." for n in range(20)])
    data = whole.read_bytes()
    with (inbox / "log.pdf").open("wb", buffering=0) as file:
        for at in range(0, len(data), 1 + len(data) // 20):
            file.write(data[at : at + 1 + len(data) // 20])
            time.sleep(0.02)
    # Had it been slower than the watcher waits, its half would have come, and gone with the rest.
    until(lambda: indexed(services) == {"log.pdf"})
    until(lambda: len(services.documents()) == 1)
    assert services.documents()[0].pages_indexed == 20
    assert services.check(deep=True) == []


def test_a_file_that_is_gone_before_it_is_read_is_nothing(watched: Watched) -> None:
    inbox, services = watched
    for number in range(20):
        path = pdf(inbox / f"{number}.pdf", ["Not for long."])
        path.unlink()
    pdf(inbox / "stays.pdf", ["The heron waits."])
    until(lambda: indexed(services) == {"stays.pdf"})
    until(lambda: len(services.documents()) == 1)
    assert services.check(deep=True) == []


def test_a_file_replaced_by_a_folder_goes_and_what_is_inside_comes(watched: Watched) -> None:
    inbox, services = watched
    pdf(inbox / "a.pdf", ["The heron waits."])
    until(lambda: indexed(services) == {"a.pdf"})
    (inbox / "a.pdf").unlink()
    (inbox / "a.pdf").mkdir()
    pdf(inbox / "a.pdf" / "inner.pdf", ["The crane dances."])
    until(lambda: indexed(services) == {"inner.pdf"})
    assert services.check(deep=True) == []


def test_a_folder_that_goes_and_comes_back_costs_nothing(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    inbox, services = watched
    pdf(inbox / "a.pdf", ["The heron waits."])
    until(lambda: indexed(services) == {"a.pdf"})
    began = services.job_list()[0].started_at
    inbox.rename(inbox.parent / "away")
    until(lambda: "its documents stay until it is back" in caplog.text)
    (inbox.parent / "away").rename(inbox)
    pdf(inbox / "b.pdf", ["The crane dances."])
    until(lambda: indexed(services) == {"a.pdf", "b.pdf"})
    assert [job.started_at for job in services.job_list() if job.name == "a.pdf"] == [began]


def test_what_changed_while_nobody_watched_is_caught_up_with(tmp_path: Path) -> None:
    with watching(tmp_path) as (inbox, services):
        for name in ("stays", "goes", "moves", "changes"):
            pdf(inbox / f"{name}.pdf", [f"What {name} here."])
        until(lambda: len(indexed(services)) == 4)
        began = {job.name: job.started_at for job in services.job_list()}
    (inbox / "goes.pdf").unlink()
    (inbox / "moves.pdf").rename(inbox / "moved.pdf")
    pdf(inbox / "changes.pdf", ["The stork claps its bill."])
    pdf(inbox / "new.pdf", ["The crane dances."])
    with watching(tmp_path) as (inbox, services):
        until(lambda: indexed(services) == {"stays.pdf", "moved.pdf", "changes.pdf", "new.pdf"})
        until(lambda: len(services.documents()) == 4)
        now = {job.name: job.started_at for job in services.job_list()}
        assert now["stays.pdf"] == began["stays.pdf"]
        assert now["moved.pdf"] == began["moves.pdf"]
        assert services.search("stork").hits[0].document_name == "changes.pdf"
        assert services.check(deep=True) == []


def test_each_sub_folder_is_a_collection_if_asked(tmp_path: Path) -> None:
    with watching(tmp_path, by_folder=True) as (inbox, services):
        for name in ("birds", "boats"):
            (inbox / name).mkdir()
            # The same bytes: each collection has a document of its own.
            pdf(inbox / "part.pdf", ["The heron waits."]).rename(inbox / name / "a.pdf")
        until(lambda: len(indexed(services)) == 1 and len(services.documents()) == 2)
        assert {d.collection for d in services.documents()} == {"birds", "boats"}
        (inbox / "boats" / "a.pdf").rename(inbox / "birds" / "b.pdf")
        until(lambda: indexed(services) == {"a.pdf", "b.pdf"})
        until(lambda: {d.collection for d in services.documents()} == {"birds"})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_taken_once_it_may(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    inbox, services = watched
    path = pdf(inbox.parent / "a.pdf", ["The heron waits."])
    path.chmod(0)
    path.rename(inbox / "a.pdf")
    until(lambda: "a.pdf cannot be taken yet: permission denied" in caplog.text)
    (inbox / "a.pdf").chmod(0o600)
    until(lambda: indexed(services) == {"a.pdf"})
