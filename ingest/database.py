"""The SQLite database of a data folder: opening it, its schema and how that came about.

One connection a process, shared by its threads; other processes may read while one writes (WAL).
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from ingest.known_backups import newest_backup
from pageglass.errors import DiskFull, StoreDamaged, StoreError

_V1 = """
CREATE TABLE documents (
    id TEXT PRIMARY KEY,
    collection TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    title TEXT,
    pages INTEGER NOT NULL DEFAULT 0,
    state TEXT NOT NULL CHECK (state IN ('queued', 'indexing', 'indexed', 'failed', 'removing')),
    reason TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    added_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    UNIQUE (collection, sha256)
);
-- Where a document came from. One place names one document; when its content changes,
-- next_document waits until it is indexed and then takes document's place.
CREATE TABLE sources (
    collection TEXT NOT NULL,
    source TEXT NOT NULL,
    name TEXT NOT NULL,
    document TEXT NOT NULL REFERENCES documents (id),
    next_document TEXT REFERENCES documents (id),
    PRIMARY KEY (collection, source)
);
CREATE INDEX sources_document ON sources (document);
CREATE INDEX sources_next ON sources (next_document);
CREATE TABLE pages (
    document TEXT NOT NULL REFERENCES documents (id),
    page_index INTEGER NOT NULL,
    label TEXT NOT NULL,
    width REAL NOT NULL,
    height REAL NOT NULL,
    words BLOB NOT NULL,
    text_source TEXT NOT NULL,
    image TEXT NOT NULL,
    render_hash TEXT NOT NULL,
    perceptual_hash TEXT NOT NULL,
    PRIMARY KEY (document, page_index)
) WITHOUT ROWID;
CREATE INDEX pages_image ON pages (image);
CREATE INDEX pages_label ON pages (label);
CREATE INDEX pages_index ON pages (page_index);
-- How far each page has come: 'read' (image and words), 'ocr', and one stage a collection of
-- vectors. A stage without a row is still to be done.
CREATE TABLE stages (
    document TEXT NOT NULL REFERENCES documents (id),
    page_index INTEGER NOT NULL,
    stage TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('done', 'failed')),
    reason TEXT,
    PRIMARY KEY (document, page_index, stage)
) WITHOUT ROWID;
"""

_V2 = """
-- The work on a document: one row each, so that there is never more than one live job for it.
-- Times are Unix seconds.
CREATE TABLE jobs (
    document TEXT PRIMARY KEY REFERENCES documents (id) ON DELETE CASCADE,
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'done', 'dead', 'cancelled')),
    priority INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    run_after REAL NOT NULL DEFAULT 0,
    worker TEXT,
    lease_until REAL,
    reason TEXT,
    queued_at REAL NOT NULL,
    started_at REAL,
    ended_at REAL,
    pages_at_start INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX jobs_queue ON jobs (priority DESC, queued_at) WHERE state = 'queued';
CREATE INDEX jobs_state ON jobs (state);
CREATE INDEX jobs_ended ON jobs (ended_at);
INSERT INTO jobs (document, state, priority, reason, queued_at)
    SELECT id,
        CASE state WHEN 'indexed' THEN 'done' WHEN 'failed' THEN 'dead' ELSE 'queued' END,
        0, reason, CAST(strftime('%s', added_at) AS REAL)
    FROM documents WHERE state != 'removing' ORDER BY rowid;
UPDATE documents SET state = 'queued' WHERE state = 'indexing';
ALTER TABLE documents DROP COLUMN attempts;
-- How the accepted file is named after its SHA-256: what its content says it is.
ALTER TABLE documents ADD COLUMN suffix TEXT NOT NULL DEFAULT '.pdf';
-- Files of watched folders: the root that was watched, the file as it was when it was read
-- (ingest.sources.FileState), and what is known of one that is gone.
ALTER TABLE sources ADD COLUMN folder TEXT;
ALTER TABLE sources ADD COLUMN file TEXT;
ALTER TABLE sources ADD COLUMN missing_since REAL;
ALTER TABLE sources ADD COLUMN deletion TEXT;
CREATE INDEX sources_folder ON sources (folder) WHERE folder IS NOT NULL;
-- Whether a failed stage may go better another time.
ALTER TABLE stages ADD COLUMN transient INTEGER NOT NULL DEFAULT 0;
CREATE INDEX stages_failed ON stages (document) WHERE state = 'failed';
-- Page images on their way: written before the page is, and forgotten with the same transaction
-- that writes the page. One that is left over belongs to no page.
CREATE TABLE incoming_images (image TEXT PRIMARY KEY) WITHOUT ROWID;
-- Counting a document's pages must not read their words.
CREATE INDEX pages_document ON pages (document);
CREATE INDEX documents_sha256 ON documents (sha256);
CREATE INDEX documents_removing ON documents (state) WHERE state = 'removing';
"""

_V3 = """
-- What a person calls a document, whatever its files are called.
ALTER TABLE documents ADD COLUMN name TEXT;
CREATE INDEX documents_added ON documents (added_at, id);
CREATE TABLE tags (
    document TEXT NOT NULL REFERENCES documents (id) ON DELETE CASCADE,
    tag TEXT NOT NULL,
    PRIMARY KEY (document, tag)
) WITHOUT ROWID;
CREATE INDEX tags_tag ON tags (tag);
"""

_V4 = """
-- Below which support an answering model's answers in a collection are declined, and on how many
-- cases that rests.
CREATE TABLE thresholds (
    collection TEXT NOT NULL,
    model TEXT NOT NULL,
    threshold REAL NOT NULL CHECK (threshold BETWEEN 0 AND 1),
    answerable INTEGER NOT NULL,
    unanswerable INTEGER NOT NULL,
    false_declines INTEGER NOT NULL,
    declined INTEGER NOT NULL,
    cases_sha256 TEXT NOT NULL,
    fitted_at TEXT NOT NULL,
    PRIMARY KEY (collection, model)
) WITHOUT ROWID;
"""

_V5 = """
-- Whose a job is: its document's collection, and the key that added it ('' for this machine's own).
ALTER TABLE jobs ADD COLUMN collection TEXT NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN uploader TEXT NOT NULL DEFAULT '';
UPDATE jobs SET collection = (SELECT collection FROM documents WHERE id = jobs.document);
DROP INDEX jobs_queue;
CREATE INDEX jobs_queue ON jobs (priority DESC, collection, uploader, queued_at)
    WHERE state = 'queued';
-- Fair turns (ingest.jobs), in weighted pages. A flow is a collection (within is '') or an uploader
-- within a collection; one without a row starts at the clock.
CREATE TABLE turns (
    within TEXT NOT NULL,
    flow TEXT NOT NULL,
    start REAL NOT NULL,
    PRIMARY KEY (within, flow)
) WITHOUT ROWID;
CREATE TABLE turn_clocks (within TEXT PRIMARY KEY, clock REAL NOT NULL) WITHOUT ROWID;
"""

_V6 = """
-- Whether another document of the collection has the same name.
CREATE INDEX sources_name ON sources (collection, name);
"""

_V7 = """
-- Content of watched folders that a person removed: it stays out, wherever it lies there, until
-- somebody adds it by hand.
CREATE TABLE removed (
    collection TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    path TEXT NOT NULL,
    removed_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    PRIMARY KEY (collection, sha256)
) WITHOUT ROWID;
"""

_MIGRATIONS = (_V1, _V2, _V3, _V4, _V5, _V6, _V7)
"""What makes version n of version n - 1. Never change one that was released: add another."""

SCHEMA_VERSION = len(_MIGRATIONS)


_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class _Connection(sqlite3.Connection):
    """One whose errors say what to do, whatever was asked when damage or a full disk showed."""

    path = Path()

    def cursor(self, factory: Any = None) -> Any:
        return super().cursor(factory or _Cursor)

    # SQLite's own shortcuts pass by what a cursor of ours does.
    def execute(self, *arguments: Any) -> Any:
        return self.cursor().execute(*arguments)

    def executemany(self, *arguments: Any) -> Any:
        return self.cursor().executemany(*arguments)

    def backup(self, *arguments: Any, **named: Any) -> None:
        with _explained(self.path):
            super().backup(*arguments, **named)


class _Cursor(sqlite3.Cursor):
    def execute(self, *arguments: Any) -> Any:
        with _explained(cast(_Connection, self.connection).path):
            return super().execute(*arguments)

    def executemany(self, *arguments: Any) -> Any:
        with _explained(cast(_Connection, self.connection).path):
            return super().executemany(*arguments)

    def fetchone(self) -> Any:
        with _explained(cast(_Connection, self.connection).path):
            return super().fetchone()

    def fetchall(self) -> list[Any]:
        with _explained(cast(_Connection, self.connection).path):
            return super().fetchall()

    def __next__(self) -> Any:
        try:
            return super().__next__()
        except sqlite3.DatabaseError as error:
            raise _explain(error, cast(_Connection, self.connection).path) from error


@contextmanager
def _explained(path: Path) -> Generator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise _explain(error, path) from error


def _explain(error: sqlite3.DatabaseError, path: Path) -> Exception:
    """The error in our words where they help: StoreDamaged, DiskFull; else itself."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # The rest is detail.
    if code in _DAMAGED:
        return damaged(path, str(error))
    if code == sqlite3.SQLITE_FULL:
        return DiskFull("no space is left on the data folder's disk: free some")
    return error


def damaged(path: Path, what: str) -> StoreDamaged:
    """What to say of a catalog that is damaged."""
    return StoreDamaged(
        f"the catalog {path} is damaged ({what}): stop Pageglass, move it away and put it back from"
        f" a backup; {newest_backup(path.parent)}"
    )


class Database:
    """One open database. Thread-safe."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open, create, or bring to this version; a copy of an older one stays beside it.

        StoreError where the file is no catalog, of a newer version, or not to be written.
        """
        self.lock = threading.RLock()
        self._depth = 0
        self._synced = True
        try:
            where = f"{path.resolve().as_uri()}?mode=ro" if read_only else str(path)
            if path.exists() and not path.stat().st_size and any(path.parent.glob("originals/*")):
                # SQLite would take it for a new one, and everything else for nobody's.
                raise damaged(path, "it is empty")
            self.connection = sqlite3.connect(
                where,
                check_same_thread=False,
                isolation_level=None,
                uri=read_only,
                timeout=30,
                factory=_Connection,
            )
            self.connection.path = path
            self.connection.row_factory = sqlite3.Row
            if not read_only:
                self.connection.execute("PRAGMA journal_mode = WAL")
                self.connection.execute("PRAGMA synchronous = FULL")
            self.connection.execute("PRAGMA foreign_keys = ON")
            version: int = self.connection.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.DatabaseError as error:
            raise StoreError(f"cannot open the catalog {path.name}: {error}") from None
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"the data folder's catalog has version {version} and this Pageglass reads"
                f" {SCHEMA_VERSION}: update Pageglass or use another data folder"
            )
        if version < SCHEMA_VERSION:
            if read_only:
                raise StoreError(
                    f"the data folder's catalog has version {version}, {SCHEMA_VERSION} is current:"
                    " open it once with `pageglass ingest`"
                )
            try:
                self._migrate(path, version)
            except sqlite3.DatabaseError as error:
                raise StoreError(
                    f"cannot bring the catalog to version {SCHEMA_VERSION}: {error}; it is left as"
                    " it was"
                ) from None

    def _migrate(self, path: Path, version: int) -> None:
        if version:
            self.backup(path.with_suffix(f".v{version}{path.suffix}"))
        # All or nothing: one cut short leaves the version it began with.
        with self.transaction() as db:
            for script in _MIGRATIONS[version:]:
                for statement in script.split(";\n"):
                    if statement.strip():
                        db.execute(statement)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def close(self) -> None:
        """Release the file."""
        with self.lock:
            self.connection.close()

    @contextmanager
    def transaction(self, *, redone: bool = False) -> Generator[sqlite3.Connection]:
        """All of it or nothing. Within another one, part of that.

        Once it ends it is on disk, with all before it. One that is ``redone`` if it is lost, such
        as the progress of work that is still queued, need not be: a power loss may cost the last
        of those, never the order of them.
        """
        with self.lock:
            if self._depth:
                yield self.connection
                return
            if self._synced == redone:
                self._synced = not redone
                level = "FULL" if self._synced else "NORMAL"
                self.connection.execute(f"PRAGMA synchronous = {level}")
            self.connection.execute("BEGIN IMMEDIATE")
            self._depth = 1
            try:
                yield self.connection
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:  # A full disk has rolled it back already.
                    self.connection.execute("ROLLBACK")
                raise
            finally:
                self._depth = 0

    def backup(self, target: Path) -> None:
        """Write a consistent copy, also while others write; an older copy is replaced."""
        with sqlite3.connect(target) as copy:
            self.connection.backup(copy)
        copy.close()

    def integrity(self) -> list[str]:
        """What SQLite itself finds wrong, in its words; usually nothing."""
        with self.lock:
            found = [row[0] for row in self.connection.execute("PRAGMA integrity_check")]
            dangling = self.connection.execute("PRAGMA foreign_key_check").fetchall()
        return [line for line in found if line != "ok"] + [
            f"a row of {row[0]} refers to nothing in {row[2]}" for row in dangling
        ]
