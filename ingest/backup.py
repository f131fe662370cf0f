"""A copy of a data folder, as it is at one moment, made while it is in use."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path

from ingest.database import Database
from ingest.known_backups import note_backup
from pageglass.durable import sync_folder
from pageglass.errors import StoreError, UsageError
from pageglass.private import private_folder
from retrieval.index import Index

_CHUNK = 1 << 20
_NEVER_CHANGED = ("originals", "converted", "images")


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What a backup holds: ``files`` that never change, ``linked`` or copied, beside the catalog.

    ``vectors`` are in the copy, or else on the Qdrant server only. Links take no room of their
    own, and do not help where the disk loses what they stand for.
    """

    folder: str
    files: int
    linked: bool
    vectors: bool


def backup(
    database: Database,
    data_dir: Path,
    target: Path,
    *,
    indexes: Mapping[str, Index],
    writing: AbstractContextManager[object],
) -> BackupReport:
    """Copy ``data_dir`` to ``target``, which is then a data folder of its own.

    Files that never change are linked where the disk is the same, else copied, and most of that
    goes on while others write; under ``writing`` only what is new since then, the catalog and the
    vectors. UsageError where there is something at ``target`` already, StoreError where it cannot
    be written; then nothing of it stays.
    """
    data_dir = data_dir.resolve()
    target = target.parent.resolve() / target.name
    if os.path.lexists(target):
        raise UsageError(f"there is something at {target} already: name a folder that is not there")
    if data_dir in target.parents and data_dir / "backups" not in target.parents:
        raise UsageError("a backup does not belong into the folder it is of, but for its backups/")
    part = target.with_name(f".{target.name}.part")
    mirror = _Mirror()
    try:
        shutil.rmtree(part, ignore_errors=True)
        private_folder(part)
        for name in _NEVER_CHANGED:
            mirror.update(data_dir / name, part / name)
        with writing:
            for name in _NEVER_CHANGED:
                mirror.update(data_dir / name, part / name)
            database.backup(part / "catalog.sqlite")
            for index in indexes.values():
                index.flush()
            # Those of collections that are not in use now, too: the catalog counts on them.
            if (data_dir / "index").is_dir():
                shutil.copytree(data_dir / "index", part / "index", copy_function=_copy_sparse)
            if (data_dir / "keys.sqlite").exists():
                _copy_database(data_dir / "keys.sqlite", part / "keys.sqlite")
            if (data_dir / "models.json").exists():
                shutil.copy2(data_dir / "models.json", part / "models.json")
        os.sync()
        part.rename(target)
        sync_folder(target.parent)
        note_backup(data_dir, target)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        if isinstance(error, OSError | sqlite3.Error):
            reason = (getattr(error, "strerror", None) or str(error)).lower()
            raise StoreError(f"cannot write the backup {target}: {reason}") from None
        raise
    vectors = all(index.folder is not None for index in indexes.values())
    return BackupReport(str(target), mirror.files, mirror.linked, vectors)


class _Mirror:
    """Keeps copies of folders whose files come and go, but never change; by link where it can."""

    def __init__(self) -> None:
        self.files = 0
        self.linked = True

    def update(self, source: Path, target: Path) -> None:
        """Make ``target`` hold what ``source`` does; hidden files are someone's unfinished work."""
        if not source.is_dir():
            return
        target.mkdir(exist_ok=True)
        surplus = {path.name for path in target.iterdir()}
        for entry in os.scandir(source):
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                self.update(source / entry.name, target / entry.name)
            elif entry.name not in surplus:
                self._take(source / entry.name, target / entry.name)
            surplus.discard(entry.name)
        for name in surplus:
            (target / name).unlink()
            self.files -= 1

    def _take(self, source: Path, target: Path) -> None:
        try:
            if not (self.linked and self._link(source, target)):
                shutil.copy2(source, target)
        except FileNotFoundError:
            # Removed since it was listed; the next update sees what that was.
            return
        self.files += 1

    def _link(self, source: Path, target: Path) -> bool:
        try:
            os.link(source, target)
        except FileNotFoundError:
            raise
        except OSError:  # another disk, or one that knows no links
            self.linked = False
        return self.linked


def _copy_database(source: Path, target: Path) -> None:
    """Copy a database that others may be writing; only its owner may read the copy, too."""
    target.touch(mode=0o600)
    with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(target)) as other:
        one.backup(other)


def _copy_sparse(source: str, target: str) -> None:
    """Copy a file without its holes: a new shard is 145 MB of them."""
    with Path(source).open("rb", 0) as file, Path(target).open("xb", 0) as copy:
        size = os.fstat(file.fileno()).st_size
        copy.truncate(size)
        end = 0
        while end < size:
            try:
                start = file.seek(end, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole is left
                    break
                raise
            end = file.seek(start, os.SEEK_HOLE)
            file.seek(start)
            copy.seek(start)
            while chunk := file.read(min(_CHUNK, end - start)):
                start += copy.write(chunk)
    shutil.copystat(source, target)
