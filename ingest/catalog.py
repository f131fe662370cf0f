"""Documents, their names, their pages and how far each page has come, in SQLite.

The catalog is the truth about what is indexed. Points and images are written before the catalog
says so, and both are addressed by content, so that a process killed in between does the same
work again with the same result.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Literal

from ingest.database import Database
from ingest.sources import FileState, Source
from pageglass.errors import (
    CollectionNotFound,
    DocumentNotFound,
    DocumentRemoved,
    PageNotFound,
    StoreError,
)
from pageglass.types import (
    DEFAULT_COLLECTION,
    Box,
    Document,
    DocumentState,
    NamedPages,
    Page,
    PageRef,
    Scope,
    Word,
    document_id,
)

_UNNAMED = (
    "SELECT id FROM documents d WHERE state != 'removing'"
    " AND NOT EXISTS (SELECT 1 FROM sources WHERE document = d.id)"
    " AND NOT EXISTS (SELECT 1 FROM sources WHERE next_document = d.id)"
)
_UNWORKED = (
    "SELECT id FROM documents d WHERE state IN ('queued', 'indexing') AND NOT EXISTS"
    " (SELECT 1 FROM jobs WHERE document = d.id AND state IN ('queued', 'running'))"
)
_UNREADABLE = (
    "SELECT DISTINCT s.document AS id FROM stages s JOIN documents d ON d.id = s.document"
    " WHERE d.state != 'removing' AND s.stage = 'read' AND s.state = 'done' AND NOT EXISTS"
    " (SELECT 1 FROM pages p WHERE p.document = s.document AND p.page_index = s.page_index)"
)

StageState = Literal["done", "failed"]


@dataclass(frozen=True, slots=True)
class StageResult:
    """What became of one stage of one page; a ``transient`` failure is worth another try."""

    page_index: int
    stage: str
    state: StageState
    reason: str | None = None
    transient: bool = False


@dataclass(frozen=True, slots=True)
class Enqueued:
    """What ``enqueue`` made of a file: ``new`` is false where there is nothing left to do."""

    document: Document
    new: bool


@dataclass(frozen=True, slots=True)
class Holding:
    """A collection by what it holds; ``pages`` are the indexed ones."""

    name: str
    documents: int
    pages: int


class Catalog:
    """What is known of a data folder's documents. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = database.lock
        self._db = database.connection
        self._transaction = database.transaction

    # Documents and where they come from

    def enqueue(
        self,
        *,
        collection: str,
        sha256: str,
        source: str,
        name: str,
        suffix: str = ".pdf",
        folder: str | None = None,
        state: FileState | None = None,
    ) -> Enqueued:
        """Note that ``source`` holds these bytes; ``new`` says that they are to be indexed.

        The same bytes from a second source add a name. A source whose content changed keeps its
        old document until the new one is indexed. A failed document is tried again. ``folder`` and
        ``state`` are those of a watched file: DocumentRemoved where a person removed what it holds.
        Any other way to add it makes that void.
        """
        wanted = document_id(collection, sha256)
        with self._transaction() as db:
            if folder is None:
                db.execute(
                    "DELETE FROM removed WHERE collection = ? AND sha256 = ?", (collection, sha256)
                )
            elif db.execute(
                "SELECT 1 FROM removed WHERE collection = ? AND sha256 = ?", (collection, sha256)
            ).fetchone():
                raise DocumentRemoved(
                    "it was removed by hand, and stays out until its content changes or somebody"
                    " adds it (`pageglass ingest FILE`)"
                )
            row = db.execute("SELECT state FROM documents WHERE id = ?", (wanted,)).fetchone()
            new = row is None or row["state"] != "indexed"
            if row is None:
                db.execute(
                    "INSERT INTO documents (id, collection, sha256, suffix, state)"
                    " VALUES (?, ?, ?, ?, 'queued')",
                    (wanted, collection, sha256, suffix),
                )
            elif row["state"] == "removing":
                if db.execute("SELECT 1 FROM pages WHERE document = ?", (wanted,)).fetchone():
                    raise StoreError("a document is still being removed: try again")
                # What stages it has left are true of the same bytes; what people said of it went
                # with it.
                db.execute(
                    "UPDATE documents SET state = 'queued', reason = NULL, suffix = ?, name = NULL,"
                    " added_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now') WHERE id = ?",
                    (suffix, wanted),
                )
                db.execute("DELETE FROM tags WHERE document = ?", (wanted,))
            elif row["state"] == "failed":
                db.execute(
                    "UPDATE documents SET state = 'queued', reason = NULL WHERE id = ?", (wanted,)
                )
                db.execute("DELETE FROM stages WHERE document = ? AND state = 'failed'", (wanted,))
            key = (collection, source)
            before = self._named_at(db, *key)
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
                self._inherit(db, held["document"], wanted)
                db.execute(
                    "UPDATE sources SET document = ?, next_document = NULL"
                    " WHERE collection = ? AND source = ?",
                    (wanted, *key),
                )
            db.execute(
                "UPDATE sources SET name = ?, missing_since = NULL, deletion = NULL,"
                " folder = COALESCE(?, folder), file = COALESCE(?, file)"
                " WHERE collection = ? AND source = ?",
                (name, folder, _pack_state(state), *key),
            )
            self._orphan(db, before)
        return Enqueued(self.document(wanted), new)

    def settle(self, id: str, state: Literal["indexed", "failed"], reason: str | None) -> None:
        """End the work on a document; where it replaces another, take that one's names over."""
        with self._transaction() as db:
            db.execute(
                "UPDATE documents SET state = ?, reason = ? WHERE id = ? AND state != 'removing'",
                (state, reason, id),
            )
            if state == "indexed":
                replaced = db.execute(
                    "SELECT document FROM sources WHERE next_document = ?", (id,)
                ).fetchall()
                for row in replaced:
                    self._inherit(db, row["document"], id)
                db.execute(
                    "UPDATE sources SET document = next_document, next_document = NULL"
                    " WHERE next_document = ?",
                    (id,),
                )
                self._orphan(db, [row["document"] for row in replaced])

    def twin(self, id: str) -> str | None:
        """An indexed document of another collection with the same bytes, or None."""
        with self._lock:
            row = self._db.execute(
                "SELECT o.id FROM documents d JOIN documents o ON o.sha256 = d.sha256"
                " AND o.id != d.id AND o.state = 'indexed' AND o.suffix = d.suffix"
                " WHERE d.id = ? LIMIT 1",
                (id,),
            ).fetchone()
        return row["id"] if row else None

    def suffix(self, id: str) -> str:
        """How the document's file is named after its SHA-256."""
        return self._one("SELECT suffix FROM documents WHERE id = ?", id)["suffix"]

    def suffixes(self, sha256: str) -> set[str]:
        """The suffixes of the documents with these bytes."""
        with self._lock:
            rows = self._db.execute(
                "SELECT suffix FROM documents WHERE sha256 = ? AND state != 'removing'", (sha256,)
            ).fetchall()
        return {row["suffix"] for row in rows}

    # Files of watched folders

    def watched(self, folder: str | None = None, *, held: bool = False) -> list[Source]:
        """The sources of a watched folder, or of all; only those whose removal is ``held``."""
        with self._lock:
            rows = self._db.execute(
                "SELECT s.*, d.sha256 FROM sources s"
                " JOIN documents d ON d.id = COALESCE(s.next_document, s.document)"
                " WHERE s.folder IS NOT NULL AND s.file IS NOT NULL"
                " AND (?1 IS NULL OR s.folder = ?1) AND (NOT ?2 OR s.deletion = 'held')"
                " ORDER BY s.source",
                (folder, held),
            ).fetchall()
        return [
            Source(
                row["collection"],
                row["source"],
                row["sha256"],
                FileState(*json.loads(row["file"])),
                row["missing_since"],
                row["deletion"],
            )
            for row in rows
        ]

    def rename_source(self, source: Source, path: str, name: str, state: FileState) -> None:
        """The same bytes are at another place now; what was there is forgotten.

        Nothing happens where the source is not as given any more: somebody else was faster.
        """
        with self._transaction() as db:
            same = db.execute(
                "SELECT 1 FROM sources WHERE collection = ? AND source = ? AND file = ?",
                (source.collection, source.path, _pack_state(source.state)),
            ).fetchone()
            if same is None:
                return
            replaced: list[str | None] = []
            if path != source.path:
                replaced = self._named_at(db, source.collection, path)
                db.execute(
                    "DELETE FROM sources WHERE collection = ? AND source = ?",
                    (source.collection, path),
                )
            db.execute(
                "UPDATE sources SET source = ?, name = ?, file = ?, missing_since = NULL,"
                " deletion = NULL WHERE collection = ? AND source = ?",
                (path, name, _pack_state(state), source.collection, source.path),
            )
            self._orphan(db, replaced)

    def miss_sources(self, sources: Iterable[Source], since: float | None) -> None:
        """Note since when files are gone; None: they are there."""
        with self._transaction() as db:
            db.executemany(
                "UPDATE sources SET missing_since = ?, deletion = NULL"
                " WHERE collection = ? AND source = ?",
                [(since, s.collection, s.path) for s in sources],
            )

    def hold_sources(self, sources: Iterable[Source]) -> None:
        """Files that are gone wait for a person's word."""
        with self._transaction() as db:
            db.executemany(
                "UPDATE sources SET deletion = 'held' WHERE collection = ? AND source = ?",
                [(s.collection, s.path) for s in sources],
            )

    def unwatch(self, sources: Iterable[Source]) -> None:
        """Keep these documents though their files are gone: no watcher looks after them now."""
        with self._transaction() as db:
            db.executemany(
                "UPDATE sources SET folder = NULL, missing_since = NULL, deletion = NULL"
                " WHERE collection = ? AND source = ?",
                [(s.collection, s.path) for s in sources],
            )

    def forget_sources(self, sources: Iterable[tuple[str, str]]) -> None:
        """Places, as (collection, source), are gone: their documents go unless they have others."""
        with self._transaction() as db:
            for collection, source in sources:
                named = self._named_at(db, collection, source)
                db.execute(
                    "DELETE FROM sources WHERE collection = ? AND source = ?", (collection, source)
                )
                self._orphan(db, named)

    def documents(
        self,
        *,
        scope: Scope | None = None,
        tags: Sequence[str] = (),
        state: DocumentState | None = None,
        after: tuple[str, str] | None = None,
        limit: int = -1,
    ) -> list[Document]:
        """Documents that have every one of ``tags``, oldest first.

        ``after`` are ``added_at`` and ``id`` of the last one that is known already.
        """
        scope = scope or Scope()
        with self._lock:
            rows = self._db.execute(
                "SELECT * FROM documents d WHERE state != 'removing'"
                " AND (:collections IS NULL"
                "  OR collection IN (SELECT value FROM json_each(:collections)))"
                " AND (:documents IS NULL OR id IN (SELECT value FROM json_each(:documents)))"
                " AND (:state IS NULL OR state = :state)"
                " AND NOT EXISTS (SELECT 1 FROM json_each(:tags) wanted WHERE NOT EXISTS"
                "  (SELECT 1 FROM tags t WHERE t.document = d.id AND t.tag = wanted.value))"
                " AND (:added IS NULL OR (added_at, id) > (:added, :id))"
                " ORDER BY added_at, id LIMIT :limit",
                {
                    "collections": _json(scope.collections),
                    "documents": _json(scope.documents),
                    "state": state,
                    "tags": json.dumps(list(tags)),
                    "added": after[0] if after else None,
                    "id": after[1] if after else None,
                    "limit": limit,
                },
            ).fetchall()
            return [self._document(row) for row in rows]

    def change(self, id: str, *, name: str | None, tags: Sequence[str] | None) -> None:
        """Call a document something else, give it other tags; None leaves these as they are."""
        with self._transaction() as db:
            self.document(id)
            if name is not None:
                db.execute("UPDATE documents SET name = ? WHERE id = ?", (name, id))
            if tags is not None:
                db.execute("DELETE FROM tags WHERE document = ?", (id,))
                db.executemany(
                    "INSERT OR IGNORE INTO tags VALUES (?, ?)", [(id, tag) for tag in tags]
                )

    def counts(self) -> tuple[dict[str, int], dict[str, int]]:
        """Documents by state, and pages by collection."""
        with self._lock:
            states = self._db.execute(
                "SELECT state, COUNT(*) FROM documents WHERE state != 'removing' GROUP BY state"
            ).fetchall()
        return dict(map(tuple, states)), {c.name: c.pages for c in self.collections()}

    def collections(self, only: Sequence[str] | None = None) -> list[Holding]:
        """Every collection that holds a document, by name; of those in ``only``."""
        with self._lock:
            rows = self._db.execute(
                "SELECT d.collection, COUNT(DISTINCT d.id), COUNT(p.page_index) FROM documents d"
                " LEFT JOIN pages p ON p.document = d.id"
                " WHERE d.state != 'removing'"
                " AND (?1 IS NULL OR d.collection IN (SELECT value FROM json_each(?1)))"
                " GROUP BY d.collection ORDER BY d.collection",
                (_json(only),),
            ).fetchall()
        return [Holding(*row) for row in rows]

    def sources_named(self, collection: str, name: str) -> dict[str, list[str]]:
        """The documents of a collection that have this name: what names each of them so."""
        with self._lock:
            rows = self._db.execute(
                "SELECT COALESCE(next_document, document), source FROM sources"
                " WHERE collection = ? AND name = ? ORDER BY rowid",
                (collection, name),
            ).fetchall()
        found: dict[str, list[str]] = {}
        for document, source in rows:
            found.setdefault(document, []).append(source)
        return found

    def require_collection(self, name: str) -> None:
        """Raise CollectionNotFound, which lists the known ones, unless ``name`` holds a document
        or is the default collection."""
        if name != DEFAULT_COLLECTION and not self.documents(scope=Scope((name,)), limit=1):
            raise CollectionNotFound.of(name, [holding.name for holding in self.collections()])

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
        return {d.id: d.name for d in self.documents(scope=Scope(documents=tuple(ids)))}

    # Removal, in two steps so that it can be resumed

    def mark_removed(self, id: str) -> None:
        """Hide a document at once; the rest of its traces follow. Files of watched folders that
        hold it are not taken again. DocumentNotFound."""
        with self._transaction() as db:
            self.document(id)
            db.execute(
                "INSERT OR REPLACE INTO removed (collection, sha256, path)"
                " SELECT s.collection, d.sha256, MIN(s.source) FROM sources s"
                " JOIN documents d ON d.id = ?1 WHERE s.folder IS NOT NULL"
                " AND (s.next_document = ?1 OR s.document = ?1 AND s.next_document IS NULL)"
                " GROUP BY s.collection",
                (id,),
            )
            db.execute("DELETE FROM sources WHERE document = ?", (id,))
            db.execute("UPDATE sources SET next_document = NULL WHERE next_document = ?", (id,))
            db.execute("UPDATE documents SET state = 'removing' WHERE id = ?", (id,))
            db.execute("DELETE FROM jobs WHERE document = ?", (id,))

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
        with self._transaction(redone=True) as db:
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
        with self._transaction(redone=True) as db:
            db.execute("UPDATE documents SET pages = ? WHERE id = ?", (pages, id))

    def title(self, id: str) -> str | None:
        """The title encoders saw with the document's pages, if any page was encoded yet."""
        return self._one("SELECT title FROM documents WHERE id = ?", id)["title"]

    def set_title(self, id: str, title: str) -> None:
        """Keep the title, so that all pages of a document are encoded with the same."""
        with self._transaction(redone=True) as db:
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

    def text_sources(self, id: str) -> dict[str, int]:
        """How many of a document's pages have their text from where (``TextSource``)."""
        with self._lock:
            rows = self._db.execute(
                "SELECT text_source, count(*) AS pages FROM pages WHERE document = ? GROUP BY 1",
                (id,),
            ).fetchall()
        return {row["text_source"]: row["pages"] for row in rows}

    def images(self, id: str) -> list[tuple[int, str]]:
        """The image keys of a document's pages, by 0-based index."""
        with self._lock:
            rows = self._db.execute(
                "SELECT page_index, image FROM pages WHERE document = ? ORDER BY page_index", (id,)
            ).fetchall()
        return [(row["page_index"], row["image"]) for row in rows]

    def named_pages(self, named: NamedPages, scope: Scope) -> list[PageRef]:
        """The pages a question names, within ``scope``: those that carry the
        number in print first, then those at that position."""
        labels = [str(number) for number in named.numbers]
        forward = [n - 1 for n in (*named.numbers, *named.positions) if n > 0]
        backward = [n for n in named.positions if n < 0]
        within = {"collections": _json(scope.collections), "documents": _json(scope.documents)}
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
                    " AND (:collections IS NULL"
                    "  OR d.collection IN (SELECT value FROM json_each(:collections)))"
                    " AND (:documents IS NULL"
                    "  OR d.id IN (SELECT value FROM json_each(:documents)))",
                    {**within, "wanted": json.dumps(wanted)},
                ).fetchall()
            found |= dict.fromkeys(PageRef(row["document"], row["page_index"]) for row in rows)
        return list(found)

    def record(self, id: str, pages: Iterable[Page], stages: Iterable[StageResult]) -> None:
        """Store pages and what became of their stages, in one transaction."""
        with self._transaction(redone=True) as db:
            rows = [
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
            ]
            db.executemany(
                "INSERT OR REPLACE INTO pages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows
            )
            db.executemany("DELETE FROM incoming_images WHERE image = ?", [(r[7],) for r in rows])
            db.executemany(
                "INSERT OR REPLACE INTO stages (document, page_index, stage, state, reason,"
                " transient) VALUES (?, ?, ?, ?, ?, ?)",
                [(id, s.page_index, s.stage, s.state, s.reason, s.transient) for s in stages],
            )

    def expect_images(self, keys: Iterable[str]) -> None:
        """Page images are about to be written; ``record`` with their pages ends the wait."""
        with self._transaction(redone=True) as db:
            db.executemany(
                "INSERT OR IGNORE INTO incoming_images VALUES (?)", [(key,) for key in keys]
            )

    def stray_images(self) -> list[str]:
        """Images that were written, or about to be, for pages that were never recorded."""
        with self._transaction() as db:
            db.execute(
                "DELETE FROM incoming_images WHERE EXISTS"
                " (SELECT 1 FROM pages p WHERE p.image = incoming_images.image)"
            )
            return [row["image"] for row in db.execute("SELECT image FROM incoming_images")]

    def forget_images(self, keys: Iterable[str]) -> None:
        """Stray images are gone."""
        with self._transaction(redone=True) as db:
            db.executemany("DELETE FROM incoming_images WHERE image = ?", [(k,) for k in keys])

    def encoded(self, stages: Iterable[str]) -> dict[str, int]:
        """Pages that are done, by stage; those of documents that are on their way out aside."""
        wanted = list(stages)
        with self._lock:
            rows = self._db.execute(
                "SELECT s.stage, COUNT(*) FROM stages s JOIN documents d ON d.id = s.document"
                " WHERE s.state = 'done' AND d.state != 'removing'"
                " AND s.stage IN (SELECT value FROM json_each(?)) GROUP BY s.stage",
                (json.dumps(wanted),),
            ).fetchall()
        return dict.fromkeys(wanted, 0) | dict(map(tuple, rows))

    def stage_names(self) -> list[str]:
        """The stages that some page has gone through."""
        with self._lock:
            rows = self._db.execute("SELECT DISTINCT stage FROM stages").fetchall()
        return [row["stage"] for row in rows]

    def knows_nothing(self) -> bool:
        """Whether there is no document, nor one on its way out."""
        with self._lock:
            return self._db.execute("SELECT 1 FROM documents LIMIT 1").fetchone() is None

    def undo_stages(self, id: str, stages: Mapping[int, Iterable[str]]) -> None:
        """Forget what became of stages, by page index, and queue the document to go through them
        again."""
        with self._transaction() as db:
            db.executemany(
                "DELETE FROM stages WHERE document = ? AND page_index = ? AND stage = ?",
                [(id, index, stage) for index, those in stages.items() for stage in those],
            )
            self._requeue(db, id)

    def stages(self, id: str) -> list[StageResult]:
        """Every stage of the document's pages that was done or failed."""
        with self._lock:
            rows = self._db.execute(
                "SELECT page_index, stage, state, reason, transient FROM stages"
                " WHERE document = ? ORDER BY page_index",
                (id,),
            ).fetchall()
        return [
            StageResult(
                row["page_index"], row["stage"], row["state"], row["reason"], bool(row["transient"])
            )
            for row in rows
        ]

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

    # What must hold

    def integrity(self) -> list[str]:
        """What does not hold in here, in plain words; nothing is the rule."""
        found = self._database.integrity()
        for sql, what in (
            (_UNNAMED, "document {} has no name"),
            (_UNWORKED, "document {} is to be indexed and is in no queue"),
            (_UNREADABLE, "document {} lacks a page that counts as read"),
        ):
            with self._lock:
                found += [what.format(row["id"]) for row in self._db.execute(sql)]
        return found

    def repair_jobs(self) -> int:
        """Queue what is to be indexed and in no queue, and what lacks a page; how many."""
        with self._transaction() as db:
            rows = db.execute(f"{_UNWORKED} UNION {_UNREADABLE}").fetchall()
            for row in rows:
                db.execute(
                    "DELETE FROM stages WHERE document = ?1 AND page_index NOT IN"
                    " (SELECT page_index FROM pages WHERE document = ?1) AND page_index NOT IN"
                    " (SELECT page_index FROM stages WHERE document = ?1 AND stage = 'read'"
                    "  AND state = 'failed')",
                    (row["id"],),
                )
                self._requeue(db, row["id"])
            unnamed = [row["id"] for row in db.execute(_UNNAMED)]
            self._orphan(db, unnamed)
        return len(rows) + len(unnamed)

    # Inside

    @staticmethod
    def _requeue(db: sqlite3.Connection, id: str) -> None:
        db.execute(
            "INSERT INTO jobs (document, collection, state, priority, queued_at)"
            " SELECT id, collection, 'queued', 10, CAST(strftime('%s', 'now') AS REAL)"
            " FROM documents WHERE id = ?"
            # An attempt that is under way does not know of it, and loses the document.
            " ON CONFLICT (document) DO UPDATE SET state = 'queued', priority = 10, attempts = 0,"
            " run_after = 0, reason = NULL, ended_at = NULL, worker = NULL, lease_until = NULL"
            " WHERE state != 'queued'",
            (id,),
        )

    def _one(self, sql: str, id: str) -> sqlite3.Row:
        with self._lock:
            row = self._db.execute(sql, (id,)).fetchone()
        if row is None:
            raise DocumentNotFound.of(id)
        return row

    @staticmethod
    def _orphan(db: sqlite3.Connection, ids: Iterable[str | None]) -> None:
        """Those of these documents that no source names any more are to be removed."""
        for id in {id for id in ids if id is not None}:
            removed = db.execute(
                "UPDATE documents SET state = 'removing' WHERE id = ?1 AND NOT EXISTS"
                " (SELECT 1 FROM sources WHERE document = ?1)"
                " AND NOT EXISTS (SELECT 1 FROM sources WHERE next_document = ?1)",
                (id,),
            ).rowcount
            if removed:
                db.execute("DELETE FROM jobs WHERE document = ?", (id,))

    @staticmethod
    def _named_at(db: sqlite3.Connection, collection: str, source: str) -> list[str | None]:
        """The documents that a place names."""
        row = db.execute(
            "SELECT document, next_document FROM sources WHERE collection = ? AND source = ?",
            (collection, source),
        ).fetchone()
        return list(row) if row else []

    @staticmethod
    def _inherit(db: sqlite3.Connection, old: str, new: str) -> None:
        """What people said of a document holds for the one that takes its place."""
        db.execute(
            "INSERT OR IGNORE INTO tags SELECT ?, tag FROM tags WHERE document = ?", (new, old)
        )
        db.execute(
            "UPDATE documents SET name = COALESCE(name, (SELECT name FROM documents WHERE id = ?))"
            " WHERE id = ?",
            (old, new),
        )

    def _files(self, id: str) -> list[tuple[str, str]]:
        """Name and source of each of a document's files, the first one first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT name, source FROM sources WHERE document = ?1 OR next_document = ?1"
                " ORDER BY rowid",
                (id,),
            ).fetchall()
        return [(row["name"], row["source"]) for row in rows]

    def _told_apart(self, row: sqlite3.Row, first: str, path: str) -> str:
        """The first name of a document's files, with as many folders as no other has."""
        others = self._db.execute(
            "SELECT source FROM sources WHERE collection = ?1 AND name = ?2 AND source != ?3"
            " AND document != ?4 AND COALESCE(next_document, '') != ?4 LIMIT 100",
            (row["collection"], first, path, row["id"]),
        ).fetchall()
        parts = _folders(path, first)
        taken = [_folders(other["source"], first) for other in others]
        for depth in range(1, len(parts) + 1):
            if not any(other[-depth:] == parts[-depth:] for other in taken):
                return "/".join(parts[-depth:])
        return first

    def _document(self, row: sqlite3.Row) -> Document:
        files = self._files(row["id"])
        indexed = self._db.execute(
            "SELECT COUNT(*) FROM pages WHERE document = ?", (row["id"],)
        ).fetchone()[0]
        tags = self._db.execute(
            "SELECT tag FROM tags WHERE document = ? ORDER BY tag", (row["id"],)
        ).fetchall()
        return Document(
            id=row["id"],
            collection=row["collection"],
            sha256=row["sha256"],
            name=row["name"] or (self._told_apart(row, *files[0]) if files else row["id"]),
            names=tuple(dict.fromkeys(name for name, _ in files)),
            pages=row["pages"],
            pages_indexed=indexed,
            state=row["state"],
            reason=row["reason"],
            added_at=row["added_at"],
            tags=tuple(tag["tag"] for tag in tags),
        )


def _folders(source: str, name: str) -> list[str]:
    """The parts of a file's path below the root, its name last; the name of what has no path."""
    # A file of another machine has its name before the path (api.remote).
    return source.split("/")[1:] if source.endswith(f"/{name}") else [name]


def _json(values: Sequence[str] | None) -> str | None:
    return None if values is None else json.dumps(list(values))


def _pack_state(state: FileState | None) -> str | None:
    return json.dumps(astuple(state)) if state else None


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
