"""The only writer of a data folder: catalog, originals, page images and indexes.

Files are accepted and removed here, and what workers make of them is stored. Every step may be cut
short by the process being killed: points and images are written before the catalog says so, under
names that follow from their content, so that doing it again gives the same.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from ingest.catalog import Catalog, Enqueued, StageResult
from ingest.database import Database
from ingest.failures import Failure
from ingest.formats import sniff
from ingest.jobs import FOLDER, PERSON, Jobs
from ingest.labels import margin_numbers, printed_numbers
from ingest.pipeline import OCR_STAGE, READ_STAGE, Encoded, Order
from ingest.sources import FileState, Source, as_text
from ingest.worker import Begun, Verdict
from pageglass.durable import make_folder, sync_folder
from pageglass.errors import (
    DiskFull,
    DocumentError,
    DocumentNotFound,
    FileChanged,
    LimitExceeded,
    NotADocument,
    StoreError,
)
from pageglass.images import ImageStore
from pageglass.settings import IngestSettings
from pageglass.tracing import span
from pageglass.types import Document, Page, PageRef
from retrieval.headings import document_title
from retrieval.index import Index, PagePoint

_log = logging.getLogger(__name__)
_CHUNK = 1 << 20
_COPIED_AT_ONCE = 64
_TURN_BATCHES = 2
"""A long document makes way after so many batches of pages: opening it again costs about as much as
two pages of text."""


class Writer:
    """One open data folder's writing side: a SourceRegistry for watchers, a Desk for workers.

    Thread-safe.
    """

    def __init__(
        self,
        *,
        database: Database,
        catalog: Catalog,
        jobs: Jobs,
        folder: Path,
        images: ImageStore,
        indexes: Mapping[str, Index],
        settings: IngestSettings,
        copy_twins: bool = True,
    ) -> None:
        """``folder`` is the data folder; ``indexes`` are by the name of their collection. What a
        killed process left half done is tidied up. ``copy_twins``: what another collection has
        encoded already is copied."""
        self._copies_twins = copy_twins
        self._database = database
        self._catalog = catalog
        self._jobs = jobs
        self._folder = folder
        self._originals = folder / "originals"
        self._converted = folder / "converted"
        self._images = images
        self._indexes = indexes
        self._settings = settings
        self.progress: Callable[[Document], None] | None = None
        """Called, from any thread, whenever a document moved on."""
        self.queued: Callable[[], None] | None = None
        """Called whenever there may be new work."""
        self.workers = 1
        """How many workers there are: a batch is filled up only when all have work."""
        self.outage: str | None = None
        """Why nothing can be stored at the moment."""
        self.pages_stored = 0
        """Pages that workers handed over since this began, each as often as it was."""
        # Held for every write that must not cross a removal, or a backup.
        self.writing = threading.RLock()
        make_folder(self._originals)
        for left in (*self._originals.glob(".*"), *images.unfinished()):
            left.unlink()
        for left in self._converted.glob(".*"):
            shutil.rmtree(left, ignore_errors=True)
        self._tidy_images()
        jobs.recover()
        self.finish_removals()
        # There may be a profile or model that is new here.
        jobs.add_lacking(self.stages)

    @property
    def stages(self) -> tuple[str, ...]:
        """What every page goes through here."""
        return (READ_STAGE, OCR_STAGE, *self._indexes)

    # Accepting

    def enqueue(
        self,
        data: BinaryIO,
        *,
        collection: str,
        source: str,
        name: str,
        priority: int = PERSON,
        uploader: str | None = None,
    ) -> Enqueued:
        """Keep a copy of the bytes and queue them; once this returns they cannot be lost.

        ``uploader`` is the id of the key that brings them, for its turns.

        NotADocument where there are no bytes, LimitExceeded where there are too many, DiskFull.
        """
        return self._accept(
            data,
            collection,
            as_text(source),
            as_text(name),
            priority,
            None,
            None,
            lambda: True,
            uploader,
        )

    def _accept(
        self,
        data: BinaryIO,
        collection: str,
        source: str,
        name: str,
        priority: int,
        folder: str | None,
        state: FileState | None,
        unchanged: Callable[[], bool],
        uploader: str | None = None,
    ) -> Enqueued:
        limit = self._settings.limits.file_mb
        self._check_room()
        digest, size = hashlib.sha256(), 0
        with tempfile.NamedTemporaryFile(dir=self._originals, prefix=".", delete=False) as copy:
            kept = Path(copy.name)
            try:
                while chunk := data.read(_CHUNK):
                    size += len(chunk)
                    if size > limit << 20:
                        raise LimitExceeded(
                            f"larger than {limit} MB (setting ingest.limits.file_mb)"
                        )
                    digest.update(chunk)
                    copy.write(chunk)
                if not size:
                    raise NotADocument("the file is empty")
                copy.flush()
                os.fsync(copy.fileno())
                if not unchanged():
                    raise FileChanged("changed while it was read: it is taken once it stands still")
                with kept.open("rb") as written:
                    suffix = sniff(written, name).suffix
            except BaseException:
                kept.unlink(missing_ok=True)
                raise
        sha256 = digest.hexdigest()
        original = self._originals / f"{sha256}{suffix}"
        with self.writing:
            try:
                self._resume_removals()
                kept.replace(original)
                sync_folder(self._originals)
                with self._database.transaction():
                    enqueued = self._catalog.enqueue(
                        collection=collection,
                        sha256=sha256,
                        source=source,
                        name=name,
                        suffix=suffix,
                        folder=folder,
                        state=state,
                    )
                    if enqueued.new:
                        self._jobs.add(enqueued.document.id, priority, uploader)
            except BaseException:
                kept.unlink(missing_ok=True)
                if suffix not in self._catalog.suffixes(sha256):
                    original.unlink(missing_ok=True)
                raise
            self._resume_removals()
        if enqueued.new and self.queued is not None:
            self.queued()
        return enqueued

    # Watched folders

    def sources(self, folder: str) -> list[Source]:
        """The sources that a watcher of ``folder`` took."""
        return self._catalog.watched(folder)

    def take(
        self,
        file: BinaryIO,
        *,
        collection: str,
        path: str,
        folder: str,
        state: FileState,
        unchanged: Callable[[], bool],
    ) -> bool:
        """Keep a copy of the file's bytes and queue them; whether there is anything new to do.

        FileChanged, DocumentError, StoreError: see SourceRegistry.
        """
        name = Path(path).name
        return self._accept(file, collection, path, name, FOLDER, folder, state, unchanged).new

    def renamed(self, source: Source, *, path: str, state: FileState) -> None:
        """The same bytes are now at ``path``; nothing is read or encoded."""
        with self.writing:
            self._catalog.rename_source(source, path, Path(path).name, state)
            self._resume_removals()

    def missing(self, sources: Sequence[Source], since: float | None) -> None:
        """Note since when files are missing; None: they are there again."""
        self._catalog.miss_sources(sources, since)

    def hold(self, sources: Sequence[Source]) -> None:
        """Their removal waits for a person's word."""
        self._catalog.hold_sources(sources)

    def forget(self, sources: Sequence[Source]) -> None:
        """The files are gone for good: their documents go, too, unless they have other names."""
        with self.writing:
            self._catalog.forget_sources((s.collection, s.path) for s in sources)
            self._resume_removals()

    # Removing

    def remove(self, document_id: str) -> None:
        """Remove every trace of a document; DocumentNotFound."""
        with self.writing:
            self._catalog.mark_removed(document_id)
            self.finish_removals()

    def finish_removals(self) -> None:
        """Carry out every removal that was decided, also those a dead process left, and those that
        wait for a collection which was not in use when they were decided."""
        stages = self.stages
        with self.writing:
            for id, sha256 in self._catalog.removing(stages):
                for index in self._indexes.values():
                    index.delete_document(id)
                for key in self._catalog.unshared_images(id):
                    self._images.delete(key)
                if not self._catalog.shares_file(id, sha256):
                    self.original_of(id, sha256).unlink(missing_ok=True)
                self.converted_of(id).unlink(missing_ok=True)
                # Gone for good before the catalog forgets that it must go.
                for index in self._indexes.values():
                    index.flush()
                sync_folder(self._originals)
                self._catalog.delete(id, stages)
                self._tidy_images()

    def _resume_removals(self) -> None:
        """As finish_removals; a store that is away leaves them to the next time, and holds nothing
        else up."""
        try:
            self.finish_removals()
        except StoreError as error:
            _log.warning("removed documents leave the store later: %s", error)

    def _tidy_images(self) -> None:
        strays = self._catalog.stray_images()
        for key in strays:
            self._images.delete(key)
        self._catalog.forget_images(strays)

    def original_of(self, document_id: str, sha256: str) -> Path:
        """Where a document's accepted file is kept."""
        return self._originals / f"{sha256}{self._catalog.suffix(document_id)}"

    def converted_of(self, document_id: str) -> Path:
        """Where the PDF made of an office file is kept: one a document, since one that is there
        already would tell that another tenant has the file."""
        return self._converted / f"{document_id}.pdf"

    # For workers

    def claim(self, worker: str, beside: bool = False) -> Order | None:
        """The next job that is due; ``beside`` as in Desk."""
        # In one transaction, so that a removal comes before or after.
        with self._database.transaction(redone=True):
            id = self._jobs.claim(worker, leave=self.workers if beside else 0)
            if id is None:
                return None
            document, job = self._catalog.document(id), self._jobs.get(id)
            order = Order(
                worker=worker,
                document_id=id,
                name=document.names[0],
                original=self.original_of(id, document.sha256),
                converted=self.converted_of(id),
                priority=job.priority,
                careful=job.attempts > 1,
            )
        self._tell(id)
        return order

    def begin(self, order: Order, pages: int) -> Begun | None:
        """The document has so many pages; None where the order is lost."""
        with self.writing:
            if not self._jobs.keep(order.document_id, order.worker):
                # An office file may have been turned into a PDF after its removal.
                if not self._catalog.exists(order.document_id):
                    order.converted.unlink(missing_ok=True)
                return None
            self._catalog.begin(order.document_id, pages)
            if self._copies_twins and not self._catalog.stages(order.document_id):
                self._copy_twin(order, pages)
            left = self._left(order.document_id, pages)
            return Begun(left, self._catalog.title(order.document_id))

    def known(self, order: Order, indices: Sequence[int]) -> dict[int, Page]:
        """Pages as an earlier attempt read them, by index."""
        found = self._catalog.pages([PageRef(order.document_id, index) for index in indices])
        return {ref.index: page for ref, page in found.items()}

    def alive(self, order: Order) -> Verdict:
        """Renew the lease."""
        if not self._jobs.keep(order.document_id, order.worker):
            return "lost"
        over = self._jobs.priority_waiting(order.priority) or self._jobs.turn_is_over(
            order.document_id, _TURN_BATCHES * self._settings.batch_pages
        )
        return "yield" if over else "go on"

    def store(self, order: Order, encoded: Encoded) -> Verdict:
        """Keep what came of some pages: images, points, then the catalog's word for them."""
        id = order.document_id
        with self.writing:
            verdict = self.alive(order)
            if verdict == "lost":
                return verdict
            self._check_room()
            collection = self._catalog.document(id).collection
            self._catalog.expect_images(encoded.images)
            for image in encoded.images.values():
                self._images.put(image, ".jpg")
            for name, pages in encoded.vectors.items():
                self._indexes[name].upsert(
                    [PagePoint(ref, collection, vectors) for ref, vectors in pages]
                )
            with self._database.transaction(redone=True):
                if encoded.title is not None and self._catalog.title(id) is None:
                    self._catalog.set_title(id, encoded.title)
                self._catalog.record(id, encoded.pages, encoded.stages)
                if any(result.state == "done" for result in encoded.stages):
                    self._jobs.progressed(id, len({one.page_index for one in encoded.stages}))
            self.outage = None
            self.pages_stored += len(encoded.pages)
        self._tell(id)
        return verdict

    def settle(self, order: Order, failure: Failure | None) -> None:
        """End an attempt: indexed, to be tried again, or given up with the reason."""
        id = order.document_id
        with self.writing:
            # In one transaction, so that a cancellation comes before or after.
            with self._database.transaction():
                if not self._jobs.keep(id, order.worker):
                    return
                job = self._jobs.get(id)
                if failure is None:
                    try:
                        failure = self._finish(id)
                    except DocumentError as error:
                        failure = Failure("permanent", str(error))
                if failure is not None and failure.kind == "outage":
                    self.outage = failure.reason
                if failure is not None:
                    self._give_back(id, failure)
            self._resume_removals()
        attributes = {
            "pageglass.document_id": id,
            "pageglass.pages": job.pages,
            "pageglass.attempt": job.attempts,
        }
        with span("ingest document", attributes, began=job.started_at) as ingesting:
            if failure is not None:
                ingesting.set("error.type", failure.kind)
        self._tell(id)

    def leave(self, order: Order) -> None:
        """The attempt ended early, and does not count."""
        with self._database.transaction():
            if self._jobs.keep(order.document_id, order.worker):
                self._jobs.put_back(order.document_id, None)

    def release(self, worker: str, failure: Failure | None) -> None:
        """Whatever the worker has in work ends like this: it is gone."""
        with self.writing, self._database.transaction():
            for id in self._jobs.held_by(worker):
                if failure is None:
                    self._jobs.put_back(id, None)
                else:
                    self._give_back(id, failure)

    def _give_back(self, id: str, failure: Failure) -> None:
        """Another attempt later, or a dead letter."""
        if failure.kind != "permanent" and self._jobs.put_back(id, failure):
            return
        reason = failure.reason
        if failure.kind == "transient":
            reason = (
                f"{reason} (given up after {self._jobs.attempts(id)} attempts; a retry tries again)"
            )
        with self._database.transaction():
            indexed = self._catalog.document(id).state == "indexed"
            self._catalog.settle(id, "indexed" if indexed else "failed", reason)
            self._jobs.bury(id, reason)

    def _finish(self, id: str) -> Failure | None:
        """All pages were gone through; a failure where some stage is worth another try."""
        document = self._catalog.document(id)
        failed = [result for result in self._catalog.stages(id) if result.state == "failed"]
        unread = {result.page_index for result in failed if result.stage == READ_STAGE}
        if document.pages and len(unread) == document.pages:
            raise DocumentError(
                f"no page could be read; page {failed[0].page_index + 1}: {failed[0].reason}"
            )
        remark = _remark(failed, document.pages)
        again = any(result.transient for result in failed)
        with self._database.transaction():
            self._label(id)
            if self._searchable(id):
                self._catalog.settle(id, "indexed", remark)
            if not again:
                self._jobs.finish(id)
        return Failure("transient", remark or "") if again else None

    def _searchable(self, id: str) -> bool:
        return any(
            result.state == "done" and result.stage in self._indexes
            for result in self._catalog.stages(id)
        )

    def _left(self, id: str, pages: int) -> dict[int, frozenset[str]]:
        """The stages that are neither done nor failed for good, by the index of each page that has
        some."""
        wanted = frozenset(self.stages)
        reached: dict[int, set[str]] = {}
        for result in self._catalog.stages(id):
            if result.transient:
                continue
            reached.setdefault(result.page_index, set()).add(result.stage)
            if result.stage == READ_STAGE and result.state == "failed":
                reached[result.page_index] |= wanted
        left = {index: wanted - reached.get(index, set()) for index in range(pages)}
        # Words that are read anew make new vectors.
        return {
            index: wanted if OCR_STAGE in stages else frozenset(stages)
            for index, stages in left.items()
            if stages
        }

    def _label(self, id: str) -> None:
        """Where the PDF does not name its pages, take the numbers printed on them."""
        margins: dict[int, dict[int, int]] = {}
        for page in self._catalog.iter_pages(id):
            if page.label != str(page.ref.number):
                return
            margins[page.ref.index] = margin_numbers(page.words)
        printed = printed_numbers(margins)
        self._catalog.relabel(id, {index: str(number) for index, number in printed.items()})

    def _copy_twin(self, order: Order, pages: int) -> None:
        """Where another collection has the same bytes, and they were encoded with the title they
        would get here, take its pages and vectors over instead of encoding them again."""
        twin = self._catalog.twin(order.document_id)
        if twin is None or self._left(twin, pages):
            return
        first = self._catalog.pages([PageRef(twin, 0)]).get(PageRef(twin, 0))
        title = self._catalog.title(twin)
        if title is None or title != document_title(order.name, first):
            return
        collection = self._catalog.document(order.document_id).collection
        stages = [stage for stage in self._catalog.stages(twin) if stage.stage in self.stages]
        self._catalog.set_title(order.document_id, title)
        every = self._catalog.iter_pages(twin)
        while some := list(islice(every, _COPIED_AT_ONCE)):
            indices = {page.ref.index for page in some}
            for name, index in self._indexes.items():
                # A page without words has a point, too, if one without vectors.
                done = {s.page_index for s in stages if s.stage == name and s.state == "done"}
                index.upsert(
                    [
                        PagePoint(
                            PageRef(order.document_id, page.ref.index),
                            collection,
                            index.vectors(page.ref),
                        )
                        for page in some
                        if page.ref.index in done
                    ]
                )
            self._catalog.record(
                order.document_id,
                [_moved(page, order.document_id) for page in some],
                [stage for stage in stages if stage.page_index in indices],
            )
        unread = [s for s in stages if s.stage == READ_STAGE and s.state == "failed"]
        self._catalog.record(order.document_id, [], unread)

    def _check_room(self) -> None:
        reserve = self._settings.reserve_mb
        if shutil.disk_usage(self._folder).free < reserve << 20:
            raise DiskFull(
                f"less than {reserve} MB are left on the data folder's disk (setting"
                " ingest.reserve_mb): free some space, it goes on by itself"
            )

    def _tell(self, id: str) -> None:
        if self.progress is None:
            return
        try:
            document = self._catalog.document(id)
        except DocumentNotFound:
            return  # Removed meanwhile: there is nothing to tell.
        self.progress(document)


def _remark(failed: Sequence[StageResult], pages: int) -> str | None:
    if not failed:
        return None
    count = len({result.page_index for result in failed})
    example = f"page {failed[0].page_index + 1}: {failed[0].reason}"
    return f"{count} of {pages} pages could not be read in full; {example}"


def _moved(page: Page, document_id: str) -> Page:
    return replace(page, ref=PageRef(document_id, page.ref.index))
