"""Documents, their names, their pages and how far each page has come: one SQLite database.

The catalog is the truth about what is indexed. Points and images are written before the catalog
says so, and both are addressed by content, so that a process killed in between does the same
work again with the same result.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pageglass.errors import DocumentNotFound, PageNotFound, StoreError
from pageglass.types import Box, Document, NamedPages, Page, PageRef, Word, document_id

SCHEMA_VERSION = 1
_SCHEMA = """
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

StageState = Literal["done", "failed"]


@dataclass(frozen=True, slots=True)
class StageResult:
    """What became of one stage of one page."""

    page_index: int
    stage: str
    state: StageState
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Enqueued:
    """What ``enqueue`` made of a file: ``new`` is false where there is nothing left to do."""

    document: Document
    new: bool


class Catalog:
    """The database of a data folder. Thread-safe; one process at a time owns the folder."""

    def __init__(self, path: Path) -> None:
        """Open or create; StoreError where the file is no catalog or of a newer version."""
        self._lock = threading.RLock()
        try:
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA foreign_keys = ON")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.DatabaseError as error:
            raise StoreError(f"cannot open the catalog {path.name}: {error}") from None
        if version == 0:
            with self._transaction() as db:
                # One transaction, so that a creation cut short leaves an empty file.
                for statement in _SCHEMA.split(";\n"):
                    if statement.strip():
                        db.execute(statement)
                db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        elif version != SCHEMA_VERSION:
            raise StoreError(
                f"the data folder's catalog has version {version} and this Pageglass reads"
                f" {SCHEMA_VERSION}: update Pageglass or use another data folder"
            )

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._db.close()

    # Documents and where they come from

    def enqueue(self, *, collection: str, sha256: str, source: str, name: str) -> Enqueued:
        """Note that ``source`` holds these bytes, and queue them unless they are indexed.

        The same bytes from a second source add a name. A source whose content changed keeps its
        old document until the new one is indexed. A failed document is tried again.
        """
        wanted = document_id(collection, sha256)
        with self._transaction() as db:
            row = db.execute("SELECT state FROM documents WHERE id = ?", (wanted,)).fetchone()
            new = row is None or row["state"] != "indexed"
            if row is None:
                db.execute(
                    "INSERT INTO documents (id, collection, sha256, state)"
                    " VALUES (?, ?, ?, 'queued')",
                    (wanted, collection, sha256),
                )
            elif row["state"] == "removing":
                if db.execute("SELECT 1 FROM pages WHERE document = ?", (wanted,)).fetchone():
                    raise StoreError("a document is still being removed: try again")
                # What stages it has left are true of the same bytes.
                db.execute(
                    "UPDATE documents SET state = 'queued', reason = NULL, attempts = 0,"
                    " added_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now') WHERE id = ?",
                    (wanted,),
                )
            elif row["state"] == "failed":
                db.execute(
                    "UPDATE documents SET state = 'queued', reason = NULL, attempts = 0"
                    " WHERE id = ?",
                    (wanted,),
                )
                db.execute("DELETE FROM stages WHERE document = ? AND state = 'failed'", (wanted,))
            key = (collection, source)
            held = db.execute(
                "SELECT s.document, d.state FROM sources s JOIN documents d ON d.id = s.document"
                " WHERE s.collection = ? AND s.source = ?",
                key,
            ).fetchone()
            if held is None:
                db.execute(
                    "INSERT INTO sources (collection, source, name, document) VALUES (?, ?, ?, ?)",
                    (*key, name, wanted),
                )
            elif held["document"] == wanted:
                db.execute(
                    "UPDATE sources SET next_document = NULL WHERE collection = ? AND source = ?",
                    key,
                )
            elif held["state"] == "indexed" and new:
                db.execute(
                    "UPDATE sources SET next_document = ? WHERE collection = ? AND source = ?",
                    (wanted, *key),
                )
            else:
                db.execute(
                    "UPDATE sources SET document = ?, next_document = NULL"
                    " WHERE collection = ? AND source = ?",
                    (wanted, *key),
                )
            self._orphan(db)
        return Enqueued(self.document(wanted), new)

    def claim(self) -> Document | None:
        """Take the oldest queued document into work, or None."""
        with self._transaction() as db:
            row = db.execute(
                "SELECT id FROM documents WHERE state = 'queued' ORDER BY attempts, rowid LIMIT 1"
            ).fetchone()
            if row is None:
                return None
            db.execute(
                "UPDATE documents SET state = 'indexing', attempts = attempts + 1 WHERE id = ?",
                (row["id"],),
            )
        return self.document(row["id"])

    def attempts(self, id: str) -> int:
        """How often work on the document was begun since it last gained a page."""
        return self._one("SELECT attempts FROM documents WHERE id = ?", id)["attempts"]

    def settle(self, id: str, state: Literal["indexed", "failed"], reason: str | None) -> None:
        """End the work on a document; where it replaces another, take that one's names over."""
        with self._transaction() as db:
            db.execute(
                "UPDATE documents SET state = ?, reason = ? WHERE id = ? AND state = 'indexing'",
                (state, reason, id),
            )
            if state == "indexed":
                db.execute(
                    "UPDATE sources SET document = next_document, next_document = NULL"
                    " WHERE next_document = ?",
                    (id,),
                )
                self._orphan(db)

    def requeue(self, id: str | None = None) -> None:
        """Put a document (or every one a dead process left in work) back into the queue."""
        with self._transaction() as db:
            db.execute(
                "UPDATE documents SET state = 'queued'"
                " WHERE state = 'indexing' AND (? IS NULL OR id = ?)",
                (id, id),
            )

    def requeue_without(self, stages: Sequence[str]) -> int:
        """Queue indexed documents with a page that lacks one of ``stages``; how many there were.

        So it is when a profile or a model was changed: what is indexed goes on being found by the
        stages it has. Those that were queued for others' sake, and lack none, are indexed again.
        """
        lacking = (
            "EXISTS (SELECT 1 FROM pages p, json_each(?) wanted"
            " WHERE p.document = documents.id AND NOT EXISTS"
            " (SELECT 1 FROM stages s WHERE s.document = p.document"
            "  AND s.page_index = p.page_index AND s.stage = wanted.value))"
        )
        wanted = (json.dumps(list(stages)),)
        with self._transaction() as db:
            db.execute(
                "UPDATE documents SET state = 'indexed'"  # noqa: S608 - put together of constants
                " WHERE state = 'queued' AND attempts = 0"
                " AND pages > 0 AND pages = (SELECT COUNT(*) FROM stages s"
                "  WHERE s.document = documents.id AND s.stage = 'read')"
                " AND NOT EXISTS (SELECT 1 FROM sources s WHERE s.next_document = documents.id)"
                f" AND NOT {lacking}",
                wanted,
            )
            return db.execute(
                "UPDATE documents SET state = 'queued', attempts = 0"  # noqa: S608
                f" WHERE state = 'indexed' AND {lacking}",
                wanted,
            ).rowcount

    def waiting(self) -> int:
        """Documents that are queued or in work."""
        with self._lock:
            return self._db.execute(
                "SELECT COUNT(*) FROM documents WHERE state IN ('queued', 'indexing')"
            ).fetchone()[0]

    def forget_source(self, collection: str, source: str) -> None:
        """The source is gone: its document goes too unless it has another name."""
        with self._transaction() as db:
            db.execute(
                "DELETE FROM sources WHERE collection = ? AND source = ?", (collection, source)
            )
            self._orphan(db)

    def sources(self, collection: str) -> dict[str, str]:
        """SHA-256 by source, the newest content of each."""
        with self._lock:
            rows = self._db.execute(
                "SELECT s.source, d.sha256 FROM sources s"
                " JOIN documents d ON d.id = COALESCE(s.next_document, s.document)"
                " WHERE s.collection = ?",
                (collection,),
            ).fetchall()
        return {row["source"]: row["sha256"] for row in rows}

    def documents(self, *, collection: str | None = None) -> list[Document]:
        """Every document, oldest first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT * FROM documents WHERE state != 'removing'"
                " AND (? IS NULL OR collection = ?) ORDER BY rowid",
                (collection, collection),
            ).fetchall()
            return [self._document(row) for row in rows]

    def document(self, id: str) -> Document:
        """One document; DocumentNotFound where there is none."""
        with self._lock:
            return self._document(
                self._one("SELECT * FROM documents WHERE id = ? AND state != 'removing'", id)
            )

    def exists(self, id: str) -> bool:
        """Whether there is such a document, and it is not being removed."""
        try:
            self.document(id)
        except DocumentNotFound:
            return False
        return True

    def document_names(self, ids: Sequence[str]) -> dict[str, str]:
        """The display name of each document that exists among ``ids``."""
        return {id: names[-1] for id in ids if (names := self._names(id))}

    # Removal, in two steps so that it can be resumed

    def mark_removed(self, id: str) -> None:
        """Hide a document at once; the rest of its traces follow. DocumentNotFound."""
        with self._transaction() as db:
            self.document(id)
            db.execute("DELETE FROM sources WHERE document = ?", (id,))
            db.execute("UPDATE sources SET next_document = NULL WHERE next_document = ?", (id,))
            db.execute("UPDATE documents SET state = 'removing' WHERE id = ?", (id,))

    def removing(self, stages: Sequence[str] | None = None) -> list[tuple[str, str]]:
        """(id, sha256) of documents whose removal is under way; with ``stages``, only where one of
        these is to be undone, or none at all."""
        with self._lock:
            rows = self._db.execute(
                "SELECT id, sha256 FROM documents d WHERE state = 'removing' AND (?1 IS NULL"
                " OR EXISTS (SELECT 1 FROM stages s JOIN json_each(?1) o ON s.stage = o.value"
                "  WHERE s.document = d.id)"
                " OR NOT EXISTS (SELECT 1 FROM stages s WHERE s.document = d.id))",
                (None if stages is None else json.dumps(list(stages)),),
            ).fetchall()
        return [(row["id"], row["sha256"]) for row in rows]

    def unshared_images(self, id: str) -> list[str]:
        """Keys of page images that only this document uses."""
        with self._lock:
            rows = self._db.execute(
                "SELECT DISTINCT image FROM pages p WHERE document = ? AND NOT EXISTS"
                " (SELECT 1 FROM pages o WHERE o.image = p.image AND o.document != p.document)",
                (id,),
            ).fetchall()
        return [row["image"] for row in rows]

    def shares_file(self, id: str, sha256: str) -> bool:
        """Whether another document (in another collection) has the same bytes."""
        with self._lock:
            return (
                self._db.execute(
                    "SELECT 1 FROM documents WHERE sha256 = ? AND id != ? AND state != 'removing'",
                    (sha256, id),
                ).fetchone()
                is not None
            )

    def delete(self, id: str, stages: Sequence[str] | None = None) -> None:
        """Drop a document's rows, last of all its traces.

        With ``stages``, those of other stages stay until they are undone, too: its vectors in
        collections that are not in use now must not be forgotten there.
        """
        with self._transaction() as db:
            db.execute("DELETE FROM pages WHERE document = ?", (id,))
            db.execute(
                "DELETE FROM stages WHERE document = ?1 AND (?2 IS NULL"
                " OR stage IN (SELECT value FROM json_each(?2)))",
                (id, None if stages is None else json.dumps(list(stages))),
            )
            db.execute(
                "DELETE FROM documents WHERE id = ?1 AND state = 'removing'"
                " AND NOT EXISTS (SELECT 1 FROM stages s WHERE s.document = ?1)",
                (id,),
            )

    # Pages

    def begin(self, id: str, pages: int) -> None:
        """Note how many pages a document has."""
        with self._transaction() as db:
            db.execute("UPDATE documents SET pages = ? WHERE id = ?", (pages, id))

    def title(self, id: str) -> str | None:
        """The title encoders saw with the document's pages, if any page was encoded yet."""
        return self._one("SELECT title FROM documents WHERE id = ?", id)["title"]

    def set_title(self, id: str, title: str) -> None:
        """Keep the title, so that all pages of a document are encoded with the same."""
        with self._transaction() as db:
            db.execute("UPDATE documents SET title = ? WHERE id = ?", (title, id))

    def relabel(self, id: str, labels: Mapping[int, str]) -> None:
        """Change the printed labels of pages, by 0-based index."""
        with self._transaction() as db:
            db.executemany(
                "UPDATE pages SET label = ? WHERE document = ? AND page_index = ?",
                [(label, id, index) for index, label in labels.items()],
            )

    def iter_pages(self, id: str) -> Iterator[Page]:
        """A document's pages in order, one at a time."""
        with self._lock:
            rows = self._db.execute(
                "SELECT page_index FROM pages WHERE document = ? ORDER BY page_index", (id,)
            ).fetchall()
        for row in rows:
            yield from self.pages([PageRef(id, row["page_index"])]).values()

    def named_pages(
        self, named: NamedPages, *, collection: str | None, documents: Sequence[str]
    ) -> list[PageRef]:
        """The pages a question names, within a collection or some documents: those that carry the
        number in print first, then those at that position."""
        labels = [str(number) for number in named.numbers]
        forward = [n - 1 for n in (*named.numbers, *named.positions) if n > 0]
        backward = [n for n in named.positions if n < 0]
        scope = {"collection": collection, "documents": json.dumps(list(documents))}
        found: dict[PageRef, None] = {}
        for wanted, condition in (
            (labels, "p.label IN (SELECT value FROM json_each(:wanted))"),
            (forward, "p.page_index IN (SELECT value FROM json_each(:wanted))"),
            (backward, "p.page_index - d.pages IN (SELECT value FROM json_each(:wanted))"),
        ):
            if not wanted:
                continue
            with self._lock:
                rows = self._db.execute(
                    "SELECT p.document, p.page_index FROM pages p"  # noqa: S608  (constants)
                    f" JOIN documents d ON d.id = p.document WHERE {condition}"
                    " AND d.state != 'removing'"
                    " AND (:collection IS NULL OR d.collection = :collection)"
                    " AND (:documents = '[]'"
                    "  OR d.id IN (SELECT value FROM json_each(:documents)))",
                    {**scope, "wanted": json.dumps(wanted)},
                ).fetchall()
            found |= dict.fromkeys(PageRef(row["document"], row["page_index"]) for row in rows)
        return list(found)

    def record(self, id: str, pages: Iterable[Page], stages: Iterable[StageResult]) -> None:
        """Store pages and what became of their stages, in one transaction."""
        with self._transaction() as db:
            db.executemany(
                "INSERT OR REPLACE INTO pages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        id,
                        page.ref.index,
                        page.label,
                        page.width,
                        page.height,
                        _pack(page.words),
                        page.text_source,
                        page.image,
                        page.render_hash,
                        page.perceptual_hash,
                    )
                    for page in pages
                ],
            )
            db.executemany(
                "INSERT OR REPLACE INTO stages VALUES (?, ?, ?, ?, ?)",
                [(id, s.page_index, s.stage, s.state, s.reason) for s in stages],
            )
            # Attempts count those without progress, however often a long run is cut short.
            db.execute("UPDATE documents SET attempts = 1 WHERE id = ?", (id,))

    def stages(self, id: str) -> list[StageResult]:
        """Every stage of the document's pages that was done or failed."""
        with self._lock:
            rows = self._db.execute(
                "SELECT page_index, stage, state, reason FROM stages WHERE document = ?"
                " ORDER BY page_index",
                (id,),
            ).fetchall()
        return [StageResult(*row) for row in rows]

    def page(self, ref: PageRef) -> Page:
        """One page; DocumentNotFound, PageNotFound."""
        found = self.pages([ref])
        if ref not in found:
            document = self.document(ref.document_id)
            raise PageNotFound(
                f"{document.name} has no page {ref.number}: it has {document.pages} pages"
                if not 0 <= ref.index < document.pages
                else f"page {ref.number} of {document.name} could not be read or is not read yet"
            )
        return found[ref]

    def pages(self, refs: Sequence[PageRef]) -> dict[PageRef, Page]:
        """The pages that exist among ``refs``."""
        found: dict[PageRef, Page] = {}
        with self._lock:
            for ref in refs:
                row = self._db.execute(
                    "SELECT p.* FROM pages p JOIN documents d ON d.id = p.document"
                    " WHERE p.document = ? AND p.page_index = ? AND d.state != 'removing'",
                    (ref.document_id, ref.index),
                ).fetchone()
                if row is not None:
                    found[ref] = _page(row)
        return found

    # Inside

    @contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _one(self, sql: str, id: str) -> sqlite3.Row:
        with self._lock:
            row = self._db.execute(sql, (id,)).fetchone()
        if row is None:
            raise DocumentNotFound(f"no document {id[:64]!r}: `pageglass status` lists them")
        return row

    @staticmethod
    def _orphan(db: sqlite3.Connection) -> None:
        """Documents no source names any more are to be removed."""
        db.execute(
            "UPDATE documents SET state = 'removing' WHERE NOT EXISTS"
            " (SELECT 1 FROM sources s WHERE s.document = documents.id"
            "  OR s.next_document = documents.id)"
        )

    def _names(self, id: str) -> tuple[str, ...]:
        with self._lock:
            rows = self._db.execute(
                "SELECT name FROM sources WHERE document = ?1 OR next_document = ?1 ORDER BY rowid",
                (id,),
            ).fetchall()
        return tuple(dict.fromkeys(row["name"] for row in rows))

    def _document(self, row: sqlite3.Row) -> Document:
        names = self._names(row["id"])
        indexed = self._db.execute(
            "SELECT COUNT(*) FROM pages WHERE document = ?", (row["id"],)
        ).fetchone()[0]
        return Document(
            id=row["id"],
            collection=row["collection"],
            sha256=row["sha256"],
            name=names[-1] if names else row["id"],
            names=names,
            pages=row["pages"],
            pages_indexed=indexed,
            state=row["state"],
            reason=row["reason"],
            added_at=row["added_at"],
        )


def _pack(words: Sequence[Word]) -> bytes:
    rows = [[w.text, *(round(x, 5) for x in w.box), w.line] for w in words]
    return zlib.compress(json.dumps(rows, ensure_ascii=False, separators=(",", ":")).encode(), 1)


def _unpack(data: bytes) -> tuple[Word, ...]:
    rows: list[Any] = json.loads(zlib.decompress(data))
    return tuple(Word(row[0], _box(row), row[5]) for row in rows)


def _box(row: Sequence[Any]) -> Box:
    return (row[1], row[2], row[3], row[4])


def _page(row: sqlite3.Row) -> Page:
    return Page(
        ref=PageRef(row["document"], row["page_index"]),
        label=row["label"],
        width=row["width"],
        height=row["height"],
        words=_unpack(row["words"]),
        text_source=row["text_source"],
        image=row["image"],
        render_hash=row["render_hash"],
        perceptual_hash=row["perceptual_hash"],
    )
