"""What does not match is found, set right, and the pages that were lost come back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from api.services import Services
from pageglass.errors import StoreError, UsageError
from pageglass.settings import Settings, load_settings
from pageglass.types import PageRef
from retrieval.index import PagePoint
from tests.tiny import pdf

# Long enough not to go to OCR.
TEXT = "The feed pump of line two failed since its bearing ran dry in March."


@pytest.fixture
def filled(services: Services, tmp_path: Path) -> Services:
    paths = [pdf(tmp_path / f"{n}.pdf", [f"page {p} of {n}: {TEXT}" for p in range(3)]) for n in range(2)]
    list(services.ingest(paths))
    assert services.check(deep=True) == []
    return services


def first_page(services: Services) -> PageRef:
    return PageRef(services.documents()[0].id, 0)


def image_of_first_page(services: Services) -> Path:
    return services._images.path(services.catalog.page(first_page(services)).image)


def index_of(services: Services) -> object:
    (index,) = services.searcher.indexes.values()
    return index


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
    with services._database.transaction() as db:
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
    assert list(filled.ingest([])) is not None
    assert filled.check(deep=True) == []
    assert filled.status().pages == 6
    assert sum(index.count() for index in filled.searcher.indexes.values()) == 6
    assert image_of_first_page(filled).is_file()


def test_a_lost_original_is_told_and_cannot_be_repaired(filled: Services) -> None:
    document = filled.documents()[0]
    (filled.settings.data_dir / "originals" / f"{document.sha256}.pdf").unlink()
    (finding,) = filled.check(repair=True)
    assert not finding.repaired
    assert "ingest the file again" in finding.advice


def test_a_copy_made_while_documents_come_and_go_is_a_sound_folder(
    settings: Settings, tmp_path: Path
) -> None:
    with Services(settings, command="test") as services:
        services.start_worker()
        stop = threading.Event()

        def work() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                path = pdf(tmp_path / "new.pdf", [f"{number} {p} {TEXT}" for p in range(4)])
                with path.open("rb") as file:
                    services.add(file, name=path.name)
                if number % 3 == 0:
                    services.remove(services.documents()[0].id)
                stop.wait(0.05)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            deadline = time.monotonic() + 60
            while services.status().pages < 8:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            reports = [services.backup(tmp_path / f"copy{n}") for n in range(2)]
        finally:
            stop.set()
            thread.join()
    assert all(report.vectors and report.linked and report.files for report in reports)
    for number in range(2):
        with Services(
            load_settings({"data_dir": tmp_path / f"copy{number}"}), command="test"
        ) as copy:
            assert copy.status().pages >= 8
            assert copy.check(deep=True) == []
            list(copy.ingest([]))
            assert copy.job_counts().keys() == {"done"}
            assert copy.check(deep=True) == []


def test_a_backup_takes_nobody_s_place(filled: Services, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    with pytest.raises(UsageError, match="already"):
        filled.backup(taken)
    with pytest.raises(UsageError, match="does not belong"):
        filled.backup(filled.settings.data_dir / "inside")
    inside = filled.settings.data_dir / "backups" / "monday"
    assert filled.backup(inside).folder == str(inside)
    with pytest.raises(StoreError, match="cannot write the backup"):
        filled.backup(Path("/proc/nowhere"))
