"""Builds everything from settings, once, and offers what the ways in (HTTP, command line) need."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal

from api.owner import Owner, OwnerLock
from generate.answer import Answerer
from generate.models.extractive import ExtractiveModel
from ingest.catalog import Catalog
from ingest.pipeline import Pipeline
from ingest.watch import Watcher, files_in
from ingest.worker import Worker
from pageglass.errors import PageglassError
from pageglass.images import ImageStore
from pageglass.settings import Settings
from pageglass.types import (
    DEFAULT_COLLECTION,
    Answer,
    Document,
    Page,
    PageRef,
    check_collection_name,
)
from retrieval.encoders.minilm import MiniLM
from retrieval.index import Scope
from retrieval.index.edge import EdgeIndex
from retrieval.profiles import lite
from retrieval.search import Searcher, SearchResult

Progress = Callable[[Document], None]
"""Called whenever a document moved on: look at ``state``, ``pages_indexed`` and ``pages``."""


@dataclass(frozen=True, slots=True)
class FileReport:
    """What became of one file given to ``ingest``."""

    path: str
    outcome: Literal["indexed", "unchanged", "failed"]
    document: Document | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Status:
    """What a data folder holds."""

    data_dir: str
    profile: str
    documents: dict[str, int]
    """Documents by state."""
    pages: int
    collections: dict[str, int]
    """Indexed pages by collection."""
    disk_bytes: int


class Services:
    """One open data folder: its catalog, indexes, models and worker.

    Thread-safe. Close it (or use it as a context manager): that stops the worker between two
    batches of pages and frees the folder for the next owner.
    """

    def __init__(self, settings: Settings, *, command: str, address: str | None = None) -> None:
        """Own ``settings.data_dir``; FolderInUse names the owner where there is one."""
        self.settings = settings
        folder = settings.data_dir
        self._threads: list[threading.Thread] = []
        self._progress: Progress | None = None
        with ExitStack() as stack:
            lock = OwnerLock(folder, Owner(os.getpid(), command, address))
            stack.callback(lock.release)
            self.catalog = Catalog(folder / "catalog.sqlite")
            stack.callback(self.catalog.close)
            # Whoever was indexing owned the folder, and no longer does.
            self.catalog.requeue()
            minilm = MiniLM(threads=settings.threads)
            profile = lite(minilm)
            indexes: dict[str, EdgeIndex] = {}
            for space in profile.spaces:
                index = EdgeIndex(folder / "index", space.spec)
                indexes[space.spec.name] = index
                stack.callback(index.close)
            self._images = ImageStore(folder / "images")
            self._pipeline = Pipeline(
                catalog=self.catalog,
                originals=folder / "originals",
                images=self._images,
                profile=profile,
                indexes=indexes,
                settings=settings.ingest,
                threads=settings.threads,
            )
            stack.callback(self._pipeline.close)
            self._pipeline.finish_removals()
            self.searcher = Searcher(profile, indexes, self.catalog, settings.search)
            self._answerer = Answerer(ExtractiveModel(minilm), self.catalog, settings.answer)
            self._worker = Worker(self.catalog, self._pipeline, progress=self._report)
            self._watchers: list[Watcher] = []
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Stop between two batches, flush, and free the folder."""
        for watcher in self._watchers:
            watcher.stop()
        self._worker.stop()
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._stack.close()

    def __enter__(self) -> Services:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Asking

    def search(
        self,
        question: str,
        *,
        collection: str | None = None,
        documents: Sequence[str] = (),
        top_k: int | None = None,
    ) -> SearchResult:
        """Ranked pages. No collection means all; unknown document ids raise DocumentNotFound."""
        self.searcher.check_question(question)
        if collection is not None:
            check_collection_name(collection)
        for id in documents:
            self.catalog.document(id)
        return self.searcher.search(
            question, scope=Scope(collection, tuple(documents)), top_k=top_k
        )

    def ask(
        self,
        question: str,
        *,
        collection: str | None = None,
        documents: Sequence[str] = (),
        top_k: int | None = None,
    ) -> Answer:
        """Answer from the indexed pages, citing them, or decline and show the nearest."""
        found = self.search(question, collection=collection, documents=documents, top_k=top_k)
        answer = self._answerer.answer(question.strip(), found.hits)
        return replace(answer, timings_ms=found.timings_ms | answer.timings_ms)

    # Taking in

    def ingest(
        self,
        paths: Sequence[Path],
        *,
        collection: str = DEFAULT_COLLECTION,
        progress: Progress | None = None,
    ) -> Iterator[FileReport]:
        """Index files, and the PDF files in folders, here and now; one report a file."""
        check_collection_name(collection)
        self._progress = progress
        waiting: dict[str, list[str]] = {}
        for path in files_in(paths):
            try:
                with path.open("rb") as file:
                    enqueued = self._pipeline.enqueue(
                        file,
                        collection=collection,
                        source=str(path.resolve()),
                        name=path.name,
                    )
            except PageglassError as error:
                yield FileReport(str(path), "failed", None, str(error))
            except OSError as error:
                yield FileReport(str(path), "failed", None, f"{error.strerror}".lower())
            else:
                if enqueued.new:
                    waiting.setdefault(enqueued.document.id, []).append(str(path))
                else:
                    yield FileReport(str(path), "unchanged", enqueued.document, None)
        while waiting and self._worker.step():
            for id in list(waiting):
                if not self.catalog.exists(id):
                    for path in waiting.pop(id):
                        reason = "removed while it was being indexed"
                        yield FileReport(path, "failed", None, reason)
                    continue
                document = self.catalog.document(id)
                if document.state in ("indexed", "failed"):
                    outcome = "indexed" if document.state == "indexed" else "failed"
                    for path in waiting.pop(id):
                        yield FileReport(path, outcome, document, document.reason)

    def add(
        self,
        data: BinaryIO,
        *,
        name: str,
        collection: str = DEFAULT_COLLECTION,
        source: str | None = None,
    ) -> Document:
        """Accept an upload: stored and queued when this returns, indexed by the worker.

        ``source`` says where the file comes from: a second upload from the same place replaces
        the first. Without one, uploads of different bytes are different documents.
        """
        check_collection_name(collection)
        enqueued = self._pipeline.enqueue(
            data,
            collection=collection,
            source=source or f"upload:{name}:{time.time_ns()}",
            name=name,
        )
        self._worker.wake()
        return enqueued.document

    def start_worker(self, *, progress: Progress | None = None) -> None:
        """Index queued documents on a background thread (`serve`, `watch`)."""
        self._progress = progress
        self._start("worker", self._worker.forever)

    def watch(self, folders: Sequence[Path], *, collection: str = DEFAULT_COLLECTION) -> None:
        """Keep folders indexed, on a background thread."""
        check_collection_name(collection)
        watcher = Watcher(
            folders,
            catalog=self.catalog,
            pipeline=self._pipeline,
            collection=collection,
            settings=self.settings.watch,
            wake=self._worker.wake,
        )
        self._watchers.append(watcher)
        self._start("watcher", watcher.forever)

    # Looking up and removing

    def documents(self, *, collection: str | None = None) -> list[Document]:
        """Every document, oldest first."""
        if collection is not None:
            check_collection_name(collection)
        return self.catalog.documents(collection=collection)

    def document(self, document_id: str) -> Document:
        """One document; DocumentNotFound where there is none."""
        return self.catalog.document(document_id)

    def remove(self, document_id: str) -> None:
        """Remove every trace of a document: points, page images, original, catalog rows."""
        self._pipeline.remove(document_id)

    def page(self, document_id: str, number: int) -> Page:
        """A page by its 1-based number; DocumentNotFound, PageNotFound."""
        return self.catalog.page(PageRef(document_id, number - 1))

    def page_image(self, page: Page) -> bytes:
        """The page's image (JPEG)."""
        return self._images.get(page.image)

    def status(self) -> Status:
        """What the data folder holds."""
        states: dict[str, int] = {}
        pages: dict[str, int] = {}
        for document in self.catalog.documents():
            states[document.state] = states.get(document.state, 0) + 1
            pages[document.collection] = pages.get(document.collection, 0) + document.pages_indexed
        return Status(
            data_dir=str(self.settings.data_dir),
            profile=self.settings.profile,
            documents=states,
            pages=sum(pages.values()),
            collections=pages,
            disk_bytes=_size(self.settings.data_dir),
        )

    def _report(self, document: Document) -> None:
        if self._progress is not None:
            self._progress(document)

    def _start(self, name: str, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)


def _size(folder: Path) -> int:
    """Bytes on disk; files that vanish meanwhile do not count."""
    total = 0
    for path in folder.rglob("*"):
        try:
            stat = path.lstat()
        except FileNotFoundError:
            continue
        total += stat.st_blocks * 512
    return total
