"""A copy of a data folder in use is one itself, whole, or is not there at all."""

from __future__ import annotations

import os
import resource
import tempfile
import threading
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
from qdrant_client import QdrantClient

from api.services import Services
from ingest.backup import BackupReport, backup
from pageglass.errors import StoreError, UsageError
from pageglass.settings import IndexSettings, Settings, load_settings
from pageglass.types import PageRef
from retrieval.index.server import ServerIndex
from tests.folder import SPEC, DataFolder
from tests.tiny import pdf

# Long enough not to go to OCR.
TEXT = "The feed pump of line two failed since its bearing ran dry in March."


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[DataFolder]:
    folder = DataFolder(tmp_path / "data")
    yield folder
    folder.close()


def copy(
    folder: DataFolder, target: Path, writing: AbstractContextManager[object] | None = None
) -> BackupReport:
    return backup(
        folder.database,
        folder.path,
        target,
        indexes={SPEC.name: folder.index},
        writing=writing or folder.writing,
    )


@contextmanager
def opened(path: Path) -> Generator[DataFolder]:
    folder = DataFolder(path)
    try:
        yield folder
    finally:
        folder.close()


@contextmanager
def no_file_larger_than(size: int) -> Generator[None]:
    """Writing more fails as it does on a full disk, but with another number."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_backup_is_a_data_folder_of_its_own(folder: DataFolder, tmp_path: Path) -> None:
    document = folder.add("one.pdf", ["aab", "bcd"])
    (folder.path / "models.json").write_text("{}")
    (folder.path / "owner.json").write_text("{}")
    (folder.originals / ".upload").write_bytes(b"half")
    folder.path.chmod(0o700)
    report = copy(folder, tmp_path / "copies" / "monday")
    assert report == BackupReport(str(tmp_path / "copies" / "monday"), 3, True, True)
    # The one goes on without touching the other.
    folder.remove(document)
    with opened(tmp_path / "copies" / "monday") as restored:
        assert restored.check(deep=True) == []
        (found,) = restored.catalog.documents()
        assert (found.name, found.pages_indexed) == ("one.pdf", 2)
        letters = restored.index.vectors(PageRef(document.id, 0))["letters"]
        assert np.array_equal(letters, [2, 1, 0, 0])  # pyright: ignore[reportArgumentType]
    assert (tmp_path / "copies" / "monday").stat().st_mode & 0o777 == 0o700
    there = {path.name for path in (tmp_path / "copies" / "monday").iterdir()}
    assert there == {"catalog.sqlite", "converted", "images", "index", "models.json", "originals"}
    assert not any((tmp_path / "copies" / "monday" / "originals").glob(".*"))
    assert [path.name for path in (tmp_path / "copies").iterdir()] == ["monday"]


def test_copies_made_while_documents_come_and_go_are_sound(
    folder: DataFolder, tmp_path: Path
) -> None:
    stop, busy = threading.Event(), threading.Event()

    def work() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            folder.add(f"{number}.pdf", [f"{'abcd'[number % 4]} {number} {p}" for p in range(5)])
            if number > 3:
                folder.remove(folder.catalog.documents()[0])
                busy.set()

    thread = threading.Thread(target=work)
    thread.start()
    targets = [tmp_path / f"copy {number}" for number in range(4)]
    try:
        assert busy.wait(30)
        for target in targets:
            copy(folder, target)
    finally:
        stop.set()
        thread.join()
    for target in targets:
        with opened(target) as restored:
            # A document that was just being indexed has fewer pages, not others.
            assert restored.check(deep=True) == []
            pages = sum(of.pages_indexed for of in restored.catalog.documents())
            assert restored.index.count() == pages >= 10


def test_only_what_is_new_is_left_to_do_under_the_lock(folder: DataFolder, tmp_path: Path) -> None:
    old = folder.add("old.pdf", ["a"])
    part = tmp_path / ".copy.part"

    @contextmanager
    def writing() -> Generator[None]:
        assert len(list(part.glob("images/??/*"))) == 1
        assert len(list(part.glob("originals/*"))) == 1
        assert not (part / "catalog.sqlite").exists()
        folder.remove(old)
        folder.add("new.pdf", ["b", "c"])
        with folder.writing:
            yield

    report = copy(folder, tmp_path / "copy", writing())
    assert report.files == 3
    with opened(tmp_path / "copy") as restored:
        assert [of.name for of in restored.catalog.documents()] == ["new.pdf"]
        assert restored.check(deep=True) == []


def test_on_the_same_disk_files_are_links(folder: DataFolder, tmp_path: Path) -> None:
    folder.add("one.pdf", ["a"])
    assert copy(folder, tmp_path / "copy").linked
    (original,) = (tmp_path / "copy" / "originals").iterdir()
    assert original.samefile(folder.originals / original.name)
    assert not (tmp_path / "copy" / "catalog.sqlite").samefile(folder.path / "catalog.sqlite")


def test_on_another_disk_files_are_copied(folder: DataFolder, tmp_path: Path) -> None:
    shared_memory = Path("/dev/shm")
    if not shared_memory.is_dir() or shared_memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    folder.add("one.pdf", ["a", "b"])
    with tempfile.TemporaryDirectory(dir=shared_memory) as disk:
        report = copy(folder, Path(disk) / "copy")
        assert (report.files, report.linked) == (3, False)
        with opened(Path(disk) / "copy") as restored:
            assert restored.check(deep=True) == []


def test_collections_that_are_not_in_use_come_along_and_holes_stay_holes(
    folder: DataFolder, tmp_path: Path
) -> None:
    parts = [os.urandom(3_000_001), bytes(5_000_000), b"x", bytes(9_000_000)]
    (folder.path / "index" / "old--model").mkdir()
    with (folder.path / "index" / "old--model" / "shard").open("wb") as file:
        for part in parts:
            if any(part):
                file.write(part)
            else:
                file.truncate(file.tell() + len(part))
                file.seek(0, os.SEEK_END)
    copy(folder, tmp_path / "copy")
    shard = tmp_path / "copy" / "index" / "old--model" / "shard"
    assert shard.read_bytes() == b"".join(parts)
    # What the embedded engine sets aside is a hundred times what it fills.
    files = [path.stat() for path in (tmp_path / "copy" / "index").rglob("*") if path.is_file()]
    assert sum(of.st_size for of in files) > 100_000_000
    assert sum(of.st_blocks * 512 for of in files) < 10_000_000


@pytest.mark.parametrize("share", [0.5, 2])
def test_where_there_is_no_room_nothing_stays(
    folder: DataFolder, tmp_path: Path, share: float
) -> None:
    """The catalog does not fit, or it does and the vectors do not."""
    folder.add("one.pdf", ["a"])
    with folder.database.lock:
        folder.database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    room = int((folder.path / "catalog.sqlite").stat().st_size * share)
    with no_file_larger_than(room), pytest.raises(StoreError, match="cannot write the backup"):
        copy(folder, tmp_path / "copies" / "monday")
    assert not any((tmp_path / "copies").iterdir())
    copy(folder, tmp_path / "copies" / "monday")


def test_what_a_killed_backup_left_is_not_taken_over(folder: DataFolder, tmp_path: Path) -> None:
    folder.add("one.pdf", ["a"])
    left = tmp_path / ".copy.part" / "originals"
    left.mkdir(parents=True)
    (left / f"{'0' * 64}.pdf").write_bytes(b"half")
    assert copy(folder, tmp_path / "copy").files == 2
    with opened(tmp_path / "copy") as restored:
        assert restored.check(deep=True) == []


def test_a_backup_takes_nothing_s_place(folder: DataFolder, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "way in").symlink_to(folder.path)
    for taken in ("taken", "dangling"):
        with pytest.raises(UsageError, match="already"):
            copy(folder, tmp_path / taken)
    for inside in (folder.path / "copy", folder.path / "backups", tmp_path / "way in" / "copy"):
        with pytest.raises(UsageError, match="does not belong"):
            copy(folder, inside)
    with pytest.raises(StoreError, match="cannot write the backup"):
        copy(folder, Path("/proc/nowhere"))
    copy(folder, folder.path / "backups" / "monday")
    # The second does not hold the first.
    copy(folder, folder.path / "backups" / "tuesday")
    assert not (folder.path / "backups" / "tuesday" / "backups").exists()


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect")
def test_vectors_on_a_server_stay_there(tmp_path: Path) -> None:
    index = ServerIndex(QdrantClient(":memory:"), SPEC, IndexSettings())
    folder = DataFolder(tmp_path / "data", index)
    folder.add("one.pdf", ["a"])
    # Left from the time before they were moved there.
    (folder.path / "index" / SPEC.name).mkdir(parents=True)
    assert not copy(folder, tmp_path / "copy").vectors
    folder.close()


def test_a_copy_made_while_real_documents_are_read_and_encoded_goes_on_by_itself(
    settings: Settings, tmp_path: Path
) -> None:
    with Services(settings, command="test") as services:
        services.start_worker()
        stop, busy = threading.Event(), threading.Event()

        def work() -> None:
            number = 0
            while not stop.wait(0.02):
                if services.jobs.live() > 2:
                    continue
                number += 1
                path = pdf(tmp_path / "new.pdf", [f"{number} {p} {TEXT}" for p in range(4)])
                with path.open("rb") as file:
                    services.add(file, name=path.name)
                if number > 5:
                    services.remove(services.documents()[0].id)
                    busy.set()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            assert busy.wait(60)
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
