"""A copy of a data folder, as it is at one moment, made while it is in use."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from ingest.database import Database
from pageglass.errors import StoreError, UsageError
from retrieval.index import Index

_NEVER_CHANGED = ("originals", "converted", "images")


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What a backup holds. ``vectors`` are in the copy, or stay on the Qdrant server."""

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
    target = target.absolute()
    if os.path.lexists(target):
        raise UsageError(f"there is something at {target} already: name a folder that is not there")
    inside = target.is_relative_to(data_dir.resolve())
    if inside and not target.is_relative_to(data_dir.resolve() / "backups"):
        raise UsageError("a backup does not belong into the folder it is of")
    part = target.with_name(f".{target.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        copy = _Copy()
        for name in _NEVER_CHANGED:
            copy.tree(data_dir / name, part / name)
        with writing:
            for name in _NEVER_CHANGED:
                copy.tree(data_dir / name, part / name)
                _drop_surplus(data_dir / name, part / name)
            for index in indexes.values():
                index.flush()
            database.backup(part / "catalog.sqlite")
            vectors = (data_dir / "index").is_dir()
            if vectors:
                shutil.copytree(data_dir / "index", part / "index")
            if (data_dir / "models.json").exists():
                shutil.copy2(data_dir / "models.json", part / "models.json")
        os.sync()
        part.rename(target)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        reason = (error.strerror or str(error)).lower()
        raise StoreError(f"cannot write the backup {target}: {reason}") from None
    return BackupReport(str(target), copy.files, copy.linked, vectors)


class _Copy:
    """Copies trees of files that never change, by link where it can."""

    def __init__(self) -> None:
        self.files = 0
        self.linked = True

    def tree(self, source: Path, target: Path) -> None:
        """Bring over what ``target`` does not have yet; what goes meanwhile is passed over."""
        for folder, _, names in os.walk(source):
            below = target / Path(folder).relative_to(source)
            below.mkdir(parents=True, exist_ok=True)
            for name in names:
                if name.startswith(".") or (below / name).exists():
                    continue
                try:
                    self._file(Path(folder) / name, below / name)
                except FileNotFoundError:
                    continue
                self.files += 1

    def _file(self, source: Path, target: Path) -> None:
        if self.linked:
            try:
                os.link(source, target)
                return
            except FileNotFoundError:
                raise
            except OSError:  # another disk, or one that knows no links
                self.linked = False
        shutil.copy2(source, target)


def _drop_surplus(source: Path, target: Path) -> None:
    """Files that were removed since they were brought over."""
    for folder, _, names in os.walk(target):
        for name in names:
            path = Path(folder) / name
            if not (source / path.relative_to(target)).exists():
                path.unlink()
