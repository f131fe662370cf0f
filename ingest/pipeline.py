"""One file -> indexed pages; idempotent, resumable, each stage recorded per page."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from ingest.catalog import Catalog, Enqueued, StageResult
from ingest.labels import margin_numbers, printed_numbers
from ingest.ocr import Ocr
from ingest.pdf import PageFailure, PdfReader, RawPage
from pageglass.errors import DocumentError, LimitExceeded, ModelError, NotADocument
from pageglass.images import ImageStore
from pageglass.settings import IngestSettings
from pageglass.types import Document, Page, PageRef
from retrieval.encoders import PageInput, Vectors
from retrieval.headings import document_title
from retrieval.index import Index, PagePoint
from retrieval.profiles import Profile, Space

_log = logging.getLogger(__name__)
_CHUNK = 1 << 20

OCR_STAGE = "ocr"
READ_STAGE = "read"


class Stopped(Exception):
    """The pipeline was asked to stop; the document's remaining pages wait for the next run."""


class Pipeline:
    """Files of one data folder: accepted, indexed, removed.

    The only writer of catalog, images, originals and indexes. One thread may ``run`` while others
    ``enqueue`` and ``remove``.
    """

    def __init__(
        self,
        *,
        catalog: Catalog,
        originals: Path,
        images: ImageStore,
        profile: Profile,
        indexes: Mapping[str, Index],
        settings: IngestSettings,
        ocr: Ocr,
    ) -> None:
        """``originals`` is the folder that keeps accepted files by SHA-256; ``indexes`` are by
        collection name; ``ocr`` reads pages without a text layer."""
        self._catalog = catalog
        self._originals = originals
        self._images = images
        self._profile = profile
        self._indexes = indexes
        self._settings = settings
        self._ocr = ocr
        self._reader: PdfReader | None = None
        # Held for every write that must not cross a removal of the same document.
        self._writing = threading.RLock()
        originals.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        """End the child process that opens PDFs."""
        if self._reader is not None:
            self._reader.close()

    # Accepting and removing

    def enqueue(self, data: BinaryIO, *, collection: str, source: str, name: str) -> Enqueued:
        """Keep a copy of the bytes and queue them; once this returns they cannot be lost.

        NotADocument where there are no bytes, LimitExceeded where there are too many.
        """
        limit = self._settings.limits.file_mb
        # File names are bytes to the system and may be no text at all; the catalog keeps text.
        source, name = (
            text.encode("utf-8", "backslashreplace").decode() for text in (source, name)
        )
        digest, size = hashlib.sha256(), 0
        with tempfile.NamedTemporaryFile(dir=self._originals, prefix=".", delete=False) as copy:
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
            except BaseException:
                Path(copy.name).unlink(missing_ok=True)
                raise
        sha256 = digest.hexdigest()
        with self._writing:
            self.finish_removals()
            Path(copy.name).replace(self.original(sha256))
            enqueued = self._catalog.enqueue(
                collection=collection, sha256=sha256, source=source, name=name
            )
            self.finish_removals()
        return enqueued

    def remove(self, document_id: str) -> None:
        """Remove every trace of a document; DocumentNotFound."""
        with self._writing:
            self._catalog.mark_removed(document_id)
            self.finish_removals()

    def finish_removals(self) -> None:
        """Carry out every removal that was decided, also those a dead process left, and those that
        wait for a collection which was not in use when they were decided."""
        stages = self.stages
        with self._writing:
            for id, sha256 in self._catalog.removing(stages):
                for index in self._indexes.values():
                    index.delete_document(id)
                for key in self._catalog.unshared_images(id):
                    self._images.delete(key)
                if not self._catalog.shares_file(id, sha256):
                    self.original(sha256).unlink(missing_ok=True)
                self._catalog.delete(id, stages)

    def original(self, sha256: str) -> Path:
        """Where the accepted file with these bytes is kept."""
        return self._originals / f"{sha256}.pdf"

    @property
    def stages(self) -> tuple[str, ...]:
        """What every page goes through here."""
        return (READ_STAGE, OCR_STAGE, *self._profile.collections)

    # Indexing

    def run(
        self,
        document: Document,
        *,
        stopping: Callable[[], bool] = lambda: False,
        progress: Callable[[Document], None] | None = None,
    ) -> str | None:
        """Index a document's pages that are not indexed yet.

        Returns a remark where some pages could not be read in full. DocumentError where none
        could; Stopped, between two batches, once ``stopping()`` is true.
        """
        if self._reader is None:
            self._reader = PdfReader(self._settings)
        path = self.original(document.sha256)
        info = self._reader.open(path)
        self._catalog.begin(document.id, info.pages)
        todo = self._todo(document.id, info.pages)
        raw_pages = self._reader.pages(path, list(todo))
        for batch in _batches(raw_pages, self._settings.batch_pages):
            if stopping():
                raise Stopped
            if not self._index(document, batch, todo):
                raise Stopped
            if progress is not None:
                progress(self._catalog.document(document.id))
        self._label(document.id)
        return self._remark(document.id, info.pages)

    def _todo(self, id: str, pages: int) -> dict[int, set[str]]:
        """The stages that are neither done nor failed, by the index of each page that has some."""
        wanted = set(self.stages)
        reached: dict[int, set[str]] = {}
        for result in self._catalog.stages(id):
            reached.setdefault(result.page_index, set()).add(result.stage)
            if result.stage == READ_STAGE and result.state == "failed":
                reached[result.page_index] |= wanted
        todo = {index: wanted - reached.get(index, set()) for index in range(pages)}
        return {index: stages for index, stages in todo.items() if stages}

    def _index(
        self,
        document: Document,
        batch: Sequence[RawPage | PageFailure],
        todo: Mapping[int, set[str]],
    ) -> bool:
        """Take one batch through the stages it lacks; false where the document was removed
        meanwhile."""
        stages = [
            StageResult(raw.index, READ_STAGE, "failed", raw.reason)
            for raw in batch
            if isinstance(raw, PageFailure)
        ]
        readable = [raw for raw in batch if isinstance(raw, RawPage)]
        read = self._catalog.pages([PageRef(document.id, raw.index) for raw in readable])
        pages: list[Page] = []
        for raw in readable:
            page = read.get(PageRef(document.id, raw.index))
            if page is None or todo[raw.index] & {READ_STAGE, OCR_STAGE}:
                page, ocr = self._read(document.id, raw)
                stages += [StageResult(raw.index, READ_STAGE, "done"), ocr]
            pages.append(page)
        title = self._title(document, pages)
        inputs = [
            PageInput(page, title, raw.image) for page, raw in zip(pages, readable, strict=True)
        ]
        encoded: list[tuple[str, list[PageInput], list[Vectors]]] = []
        for space in self._profile.spaces:
            # A page that other models know already is only shown to those that are new.
            lacking = [of for of in inputs if space.spec.name in todo[of.page.ref.index]]
            if lacking:
                encoded.append((space.spec.name, lacking, _encode(space, lacking)))
        with self._writing:
            if not self._catalog.exists(document.id):
                return False
            for page, raw in zip(pages, readable, strict=True):
                if page.image == self._images.key(raw.image, ".jpg"):
                    self._images.put(raw.image, ".jpg")
            for name, those, vectors in encoded:
                self._indexes[name].upsert(
                    [
                        PagePoint(of.page.ref, document.collection, of_page)
                        for of, of_page in zip(those, vectors, strict=True)
                    ]
                )
                stages += [StageResult(of.page.ref.index, name, "done") for of in those]
            self._catalog.record(document.id, pages, stages)
        return True

    def _read(self, id: str, raw: RawPage) -> tuple[Page, StageResult]:
        """The page with the words of its text layer or, where that is too short, of OCR."""
        words, source = raw.words, "layer" if raw.words else "none"
        result = StageResult(raw.index, OCR_STAGE, "done")
        characters = sum(len(word.text) for word in words)
        wanted = self._settings.ocr and not raw.blank
        if wanted and characters < self._settings.ocr_below_characters:
            try:
                seen = self._ocr.read(raw.image)
            except ModelError:
                raise
            except Exception as error:
                # Whatever an image does to the OCR engine, the page keeps its image and layer.
                _log.exception("OCR of page %d failed", raw.index + 1)
                reason = f"OCR failed: {str(error) or type(error).__name__}"
                result = StageResult(raw.index, OCR_STAGE, "failed", reason)
            else:
                if sum(len(word.text) for word in seen) > characters:
                    words, source = seen, "ocr"
        page = Page(
            ref=PageRef(id, raw.index),
            label=raw.label,
            width=raw.width,
            height=raw.height,
            words=words,
            text_source=source,
            image=self._images.key(raw.image, ".jpg"),
            render_hash=raw.render_hash,
            perceptual_hash=raw.perceptual_hash,
        )
        return page, result

    def _title(self, document: Document, pages: Sequence[Page]) -> str:
        """The title kept with the first pages that were encoded, whatever names come later."""
        title = self._catalog.title(document.id)
        if title is None:
            first = next((page for page in pages if page.ref.index == 0), None)
            title = document_title(document.names[0], first)
            self._catalog.set_title(document.id, title)
        return title

    def _label(self, id: str) -> None:
        """Where the PDF does not name its pages, take the numbers printed on them."""
        margins: dict[int, dict[int, int]] = {}
        for page in self._catalog.iter_pages(id):
            if page.label != str(page.ref.number):
                return
            margins[page.ref.index] = margin_numbers(page.words)
        printed = printed_numbers(margins)
        self._catalog.relabel(id, {index: str(number) for index, number in printed.items()})

    def _remark(self, id: str, pages: int) -> str | None:
        failed = [result for result in self._catalog.stages(id) if result.state == "failed"]
        unread = {result.page_index for result in failed if result.stage == READ_STAGE}
        if not failed:
            return None
        example = f"page {failed[0].page_index + 1}: {failed[0].reason}"
        if len(unread) == pages:
            raise DocumentError(f"no page could be read; {example}")
        count = len({result.page_index for result in failed})
        return f"{count} of {pages} pages could not be read in full; {example}"


def _encode(space: Space, pages: Sequence[PageInput]) -> list[Vectors]:
    """Every encoder's vectors of each page, together."""
    parts = [encoder.encode_pages(pages) for encoder in space.encoders]
    return [{k: v for part in parts for k, v in part[i].items()} for i in range(len(pages))]


def _batches(
    pages: Iterator[RawPage | PageFailure], size: int
) -> Iterator[list[RawPage | PageFailure]]:
    while batch := list(islice(pages, size)):
        yield batch
