"""A real folder, watched by a real data folder: from files to answers, and back to nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pymupdf
import pytest
from PIL import Image

from api.services import Services
from pageglass.errors import FolderInUse, SettingsError
from pageglass.settings import load_settings
from tests.tiny import pdf

Watched = tuple[Path, Services]


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    flags = {
        "data_dir": tmp_path / "data",
        "watch": {"settle_seconds": 0.1, "grace_seconds": 0.3},
        "ingest": {"workers": 0},
    }
    with Services(load_settings(flags), command="test") as services:
        services.start_worker()
        services.watch([inbox])
        yield inbox, services


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
    kept = services.held()[0].path
    # One is kept by hand of a finer filter: none of the others.
    assert services.settle_held(remove=True) == 12
    assert len(services.documents()) == 12
    assert Path(kept).name not in indexed(services)
    for number in range(12, 24):
        (inbox / f"{number}.pdf").unlink()
    until(lambda: len(services.held()) == 12)
    assert services.settle_held(remove=False) == 12
    time.sleep(1)
    assert len(services.documents()) == 12
    assert services.held() == []


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
