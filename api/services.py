"""Builds everything from settings, once, and offers what the ways in (HTTP, command line) need."""

from __future__ import annotations

import logging
import os
import queue
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from api import facts
from api.heat_map import draw_heat_map
from api.keys import open_keys
from api.looking import Status, held_files, read_status, seconds_left
from api.owner import Owner, OwnerLock
from api.vision import Picture, PictureReader, load_vision_models
from generate.answer import Answerer
from generate.extract import Extractor
from generate.models import Asked, OnText
from generate.models.extractive import ExtractiveModel
from generate.models.vlm import VlmAnsweringModel
from generate.schemas import read_schema
from ingest.backup import BackupReport, backup
from ingest.catalog import Catalog, Holding, StageResult
from ingest.check import Finding, check
from ingest.database import Database
from ingest.degraded import describe, lacking, note
from ingest.failures import classify
from ingest.jobs import Jobs
from ingest.known_backups import newest_backup
from ingest.ocr import Ocr
from ingest.pipeline import Pipeline
from ingest.thresholds import Thresholds
from ingest.watch import PlannedAction, Watcher, files_in
from ingest.workers import WorkerPool, worker_processes
from ingest.writer import Writer
from pageglass.errors import (
    DiskFull,
    DocumentExists,
    DocumentNotFound,
    JobNotFound,
    LimitExceeded,
    ModelError,
    NotInProfile,
    PageglassError,
    QuestionError,
    StoreDamaged,
    StoreError,
)
from pageglass.images import ImageStore
from pageglass.settings import IndexSettings, Settings
from pageglass.tracing import span
from pageglass.types import (
    DEFAULT_COLLECTION,
    Answer,
    Document,
    DocumentState,
    Extraction,
    HeldFile,
    Hit,
    IfExists,
    Job,
    JobState,
    Page,
    PageRef,
    SearchResult,
    Why,
    check_collection_name,
)
from pageglass.wire import Readiness, ReadyCheck
from retrieval.encoders import ImageEncoder, PatchEncoder
from retrieval.encoders.minilm import MiniLM
from retrieval.index import CollectionSpec, Index, Scope, open_index
from retrieval.profiles import Checkpoints, chosen_models, load_profile
from retrieval.rerank import Reranker
from retrieval.search import Searcher
from retrieval.vlms import Vlm
from retrieval.vlms.images import PromptImages

_log = logging.getLogger(__name__)

_COUNTED_SECONDS = 60.0
_READY_SECONDS = 2.0
"""How long a model's server may take to say that it is there."""

OpenIndex = Callable[[IndexSettings, Path, CollectionSpec], Index]

Within = Sequence[str] | None
"""The collections a caller may see; None: all."""

Progress = Callable[[Document], None]
"""Called whenever a document moved on: look at ``state``, ``pages_indexed`` and ``pages``."""


@dataclass(frozen=True, slots=True)
class FileReport:
    """What became of one file given to ``ingest``."""

    path: str
    outcome: Literal["indexed", "unchanged", "failed"]
    document: Document | None
    reason: str | None


class Replaced(NamedTuple):
    """A document that an upload takes the place of, and the ``source`` of it that does so."""

    document_id: str
    source: str


_UPLOAD = "upload:"
"""What the places of uploads without one begin with."""


class Services:
    """One open data folder: its catalog, indexes, models and worker.

    Thread-safe. Close it (or use it as a context manager): that stops the worker between two
    batches of pages and frees the folder for the next owner.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        command: str,
        address: str | None = None,
        open_index: OpenIndex = open_index,
    ) -> None:
        """Own ``settings.data_dir``; FolderInUse names the owner where there is one.

        ``open_index`` opens the store of vectors.
        """
        self.settings = settings
        folder = settings.data_dir
        self._threads: list[threading.Thread] = []
        self._progress: Progress | None = None
        with ExitStack() as stack:
            self.token = secrets.token_urlsafe(32)
            """What whoever can read the data folder shows to its server."""
            lock = OwnerLock(folder, Owner(os.getpid(), command, address, self.token))
            stack.callback(lock.release)
            database = Database(folder / "catalog.sqlite")
            stack.callback(database.close)
            self.database = database
            self.catalog = Catalog(database)
            self.jobs = Jobs(database, settings.ingest)
            self.thresholds = Thresholds(database)
            minilm = MiniLM(threads=settings.threads)
            models = chosen_models(settings)
            checkpoints = Checkpoints.of(settings)
            profile = load_profile(settings, minilm, checkpoints)
            self._profile = profile
            indexes: dict[str, Index] = {}
            for space in profile.spaces:
                try:
                    index = open_index(settings.index, folder / "index", space.spec)
                except StoreDamaged as error:
                    raise StoreDamaged(f"{error}; {newest_backup(folder)}") from error
                indexes[space.spec.name] = index
                stack.callback(index.close)
            self._images = ImageStore(folder / "images")
            ocr = Ocr(threads=settings.threads)
            vision = load_vision_models(settings, models, checkpoints)
            stack.callback(vision.close)
            self._vision = vision
            try:
                self.writer = Writer(
                    database=database,
                    catalog=self.catalog,
                    jobs=self.jobs,
                    folder=folder,
                    images=self._images,
                    indexes=indexes,
                    settings=settings.ingest,
                    # Somebody who knows a file could else tell from the time it takes whether
                    # another tenant has it.
                    copy_twins=not settings.server.keys_needed,
                )
            except (sqlite3.DatabaseError, OSError) as error:
                raise StoreError(
                    f"cannot open the data folder: {classify(error).reason}"
                ) from error
            self.writer.progress = self._report
            self._local = lambda: Pipeline(profile, ocr, settings.ingest)
            seeing = {v.image_pixels for v in (vision.answer, vision.rerank) if v is not None}
            shown = {side: PromptImages(self._images, side) for side in seeing}
            self.searcher = Searcher(
                profile,
                indexes,
                self.catalog,
                settings.search,
                Reranker(vision.rerank, shown[vision.rerank.image_pixels], settings.rerank)
                if vision.rerank
                else None,
            )
            quoting = ExtractiveModel(minilm)
            self._answerer = Answerer(
                VlmAnsweringModel(vision.answer, shown[vision.answer.image_pixels], settings.answer)
                if vision.answer
                else quoting,
                self.catalog,
                settings.answer,
                fallback=quoting if vision.answer else None,
                fitted=self.thresholds.of_document,
            )
            self._extractor = (
                Extractor(
                    vision.answer,
                    shown[vision.answer.image_pixels],
                    self.catalog,
                    settings.extract,
                )
                if vision.answer
                else None
            )
            self._pictures = PictureReader(vision.answer, ocr, settings)
            self._workers: WorkerPool | None = None
            self._watchers: list[Watcher] = []
            self.keys = open_keys(folder)
            stack.callback(self.keys.close)
            self._counted_at = float("-inf")
            self._degraded: str | None = None
            if (lost := self.degraded) is not None:
                _log.error("%s", lost)
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Stop between two batches, flush, and free the folder."""
        for watcher in self._watchers:
            watcher.stop()
        self._stop_workers()
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
        image: bytes | None = None,
        collection: str | None = None,
        documents: Sequence[str] = (),
        tags: Sequence[str] = (),
        top_k: int | None = None,
        within: Within = None,
    ) -> SearchResult:
        """Ranked pages for a question, a picture (PNG, JPEG, WebP ...), or both.

        No collection means all that are ``within`` the caller's reach; an unknown one raises
        CollectionNotFound, unknown document ids DocumentNotFound, a picture that is none
        ImageError. What the picture's text says counts as part of the question.
        """
        facts.asked(question, (collection,) if collection else ())
        scope = self._scope(collection, documents, tags, within)
        picture = self._picture(question, image)
        return self._search(question, picture, scope, top_k)

    def ask(
        self,
        question: str,
        *,
        image: bytes | None = None,
        collection: str | None = None,
        documents: Sequence[str] = (),
        tags: Sequence[str] = (),
        top_k: int | None = None,
        within: Within = None,
        on_found: Callable[[SearchResult], None] | None = None,
        on_text: OnText | None = None,
    ) -> Answer:
        """Answer from the indexed pages, citing them, or decline and show the nearest.

        Asked is as in ``search``; ``on_found`` gets the pages before they are read, ``on_text`` the
        answer's text while it is written.
        """
        facts.asked(question, (collection,) if collection else ())
        scope = self._scope(collection, documents, tags, within)
        picture = self._picture(question, image)
        found = self._search(question, picture, scope, top_k)
        if on_found is not None:
            on_found(found)
        asked = Asked(self._question(question, picture), picture.shown if picture else None)
        answer = self._answerer.answer(asked, found.hits, on_text=on_text)
        facts.used(answer.usage)
        facts.answered(answer)
        return replace(
            answer,
            timings_ms=found.timings_ms | answer.timings_ms,
            usage=found.usage + answer.usage,
            notes=found.notes + answer.notes,
            transcription=found.transcription,
        )

    def answer_from(self, question: str, pages: Sequence[PageRef]) -> Answer:
        """Answer from these pages, best first, whatever a search would find; else as ``ask``.

        For evaluation: what is said where the right pages are not shown? QuestionError,
        DocumentNotFound, PageNotFound.
        """
        self.searcher.check_question(question)
        names = self.catalog.document_names([ref.document_id for ref in pages])
        hits: list[Hit] = []
        for rank, ref in enumerate(dict.fromkeys(pages), start=1):
            page = self.catalog.page(ref)
            name = names[ref.document_id]
            hits.append(Hit(ref, name, page.label, 1 / rank, Why((), rank)))
        return self._answerer.answer(question, hits)

    @property
    def vlm(self) -> Vlm | None:
        """The vision-language model that answers; None where the profile only quotes."""
        return self._vision.answer

    def extract(
        self,
        schema: Mapping[str, Any],
        *,
        documents: Sequence[str] = (),
        pages: Sequence[PageRef] = (),
        instructions: str | None = None,
        within: Within = None,
    ) -> Extraction:
        """Values in the shape of a JSON schema, read off documents and single pages.

        NotInProfile where no answering model is in use; SchemaError, DocumentNotFound,
        PageNotFound, LimitExceeded.
        """
        if self._extractor is None:
            raise NotInProfile(
                f"the profile {self._profile.name} has no model that reads values off pages",
                hint="use the profile cpu or gpu, or set answer.url to a model's server",
            )
        fields = read_schema(schema)
        wanted = self._wanted(documents, pages, within)
        found = self._extractor.extract(fields, wanted, instructions=instructions or "")
        facts.used(found.usage)
        return found

    def _wanted(
        self, documents: Sequence[str], pages: Sequence[PageRef], within: Within
    ) -> dict[str, list[PageRef]]:
        """The pages to extract from, each once and in order, by document."""
        whole = set(documents)
        ids = dict.fromkeys([*documents, *(ref.document_id for ref in pages)])
        lengths = {id: self.document(id, within).pages for id in ids}
        single = {
            ref
            for ref in pages
            if ref.document_id not in whole or ref.index >= lengths[ref.document_id]
        }
        count, most = sum(lengths[id] for id in whole) + len(single), self.settings.extract.pages
        if count > most:
            raise LimitExceeded(
                f"these are {count:,} pages, and one request may be about {most:,} (setting"
                " extract.pages): name fewer documents, or single pages"
            )
        wanted = {
            id: [PageRef(id, i) for i in range(length)] if id in whole else []
            for id, length in lengths.items()
        }
        for ref in sorted(single):
            wanted[ref.document_id].append(self.catalog.page(ref).ref)
        return wanted

    def _scope(
        self,
        collection: str | None,
        documents: Sequence[str],
        tags: Sequence[str],
        within: Within,
        *,
        may_be_empty: bool = False,
    ) -> Scope:
        """What to search; CollectionNotFound where nothing is in ``collection``, unless it
        ``may_be_empty``."""
        collections = within
        if collection is not None:
            collections = [check_collection_name(collection)]
            # The collections that a key is for are known to whoever has it, empty or not; others
            # were refused before.
            if within is None and not may_be_empty:
                self.catalog.require_collection(collection)
        for id in documents:
            self.document(id, within)
        scope = Scope(None if collections is None else tuple(collections), tuple(documents) or None)
        if tags:
            tagged = self.catalog.documents(scope=scope, tags=tags)
            scope = replace(scope, documents=tuple(document.id for document in tagged))
        return scope

    def _picture(self, question: str, image: bytes | None) -> Picture | None:
        """The question's picture, read; the question is checked first, since reading costs."""
        self.searcher.check_question(question, optional=image is not None)
        if image is None:
            return None
        with span("search.picture"):
            picture = self._pictures.read(image)
        # What was paid is known whatever comes of the rest; so with the other steps.
        facts.used(picture.usage)
        return picture

    def _search(
        self, question: str, picture: Picture | None, scope: Scope, top_k: int | None
    ) -> SearchResult:
        image = picture.image if picture else None
        asked = self._question(question, picture)
        by_picture = [
            e for s in self._profile.spaces for e in s.encoders if isinstance(e, ImageEncoder)
        ]
        if not asked and not by_picture:
            raise QuestionError(
                f"the picture holds no text, and the profile {self._profile.name} cannot search by"
                " pictures: add a question",
                hint="or use the profile cpu or gpu",
            )
        found = self.searcher.search(asked, picture=image, scope=scope, top_k=top_k)
        facts.used(found.usage)
        notes = found.notes
        if waiting := self.jobs.live(scope.collections):
            are = "document is" if waiting == 1 else "documents are"
            notes = (*notes, f"{waiting} {are} not indexed in full yet")
        if self._degraded is not None:
            notes = (*notes, "some pages cannot be found, since the index lacks them")
        elif not found.hits and not self.catalog.documents(scope=Scope(scope.collections), limit=1):
            where = f" in {', '.join(scope.collections)}" if scope.collections else ""
            notes = (*notes, f"nothing is indexed{where} yet: add documents")
        if picture is not None:
            timings = {"picture": picture.milliseconds} | found.timings_ms
            found = replace(found, timings_ms=timings)
        facts.found(found)
        if picture is None:
            return replace(found, notes=notes)
        if len(asked) < len(self._whole_question(question, picture)):
            longest = self.settings.search.question_characters
            notes = (
                *notes,
                f"the picture's text was cut: with the question it may have {longest:,} characters"
                " (setting search.question_characters)",
            )
        return replace(
            found,
            usage=picture.usage + found.usage,
            notes=picture.notes + notes,
            transcription=picture.text,
        )

    def _question(self, question: str, picture: Picture | None) -> str:
        """The question with what its picture says, as far as a question may go."""
        return self._whole_question(question, picture)[: self.settings.search.question_characters]

    @staticmethod
    def _whole_question(question: str, picture: Picture | None) -> str:
        return f"{question.strip()}\n{picture.text if picture else ''}".strip()

    # Taking in

    def ingest(
        self,
        paths: Sequence[Path],
        *,
        collection: str = DEFAULT_COLLECTION,
        progress: Progress | None = None,
    ) -> Iterator[FileReport]:
        """Index files, and those in folders, here and now; one report a file.

        Without paths, whatever is queued already.
        """
        check_collection_name(collection)
        # What moves on a worker's thread is told on the caller's.
        moved: queue.SimpleQueue[Document] = queue.SimpleQueue()
        self._progress = moved.put
        waiting: dict[str, list[str]] = {}
        if not paths:
            # Nothing new: what a change of models, or an earlier stop, left to be done.
            live = self.jobs.list(("queued", "running"), limit=1_000_000)
            waiting = {job.document_id: [job.name] for job in live}
        for path in files_in(paths):
            try:
                with path.open("rb") as file:
                    enqueued = self.writer.enqueue(
                        file,
                        collection=collection,
                        source=str(path.resolve()),
                        name=path.name,
                    )
            except DiskFull:
                raise
            except PageglassError as error:
                yield FileReport(str(path), "failed", None, str(error))
            except OSError as error:
                yield FileReport(str(path), "failed", None, f"{error.strerror}".lower())
            else:
                # What is there already may lack the vectors of a model that was changed.
                live = self.jobs.get(enqueued.document.id).state in ("queued", "running")
                if enqueued.new or live:
                    waiting.setdefault(enqueued.document.id, []).append(str(path))
                else:
                    yield FileReport(str(path), "unchanged", enqueued.document, None)
        if not waiting:
            return
        # One document is one worker's work, and this process can do that as well as another.
        several = len(waiting) > 1
        self._start_workers(worker_processes(self.settings) if several else 0)
        try:
            while waiting:
                try:
                    document = moved.get(timeout=1.0)
                except queue.Empty:
                    yield from self._ended(waiting, list(waiting))
                    continue
                if progress is not None:
                    progress(document)
                yield from self._ended(waiting, [document.id])
        finally:
            self._stop_workers()

    def _ended(self, waiting: dict[str, list[str]], ids: Sequence[str]) -> Iterator[FileReport]:
        """Report and drop those of ``waiting`` that have ended; ``ids`` may have. StoreError where
        nothing can be stored now: what is queued stays so."""
        if self.writer.outage is not None:
            raise StoreError(self.writer.outage)
        for id in ids:
            if id not in waiting:
                continue
            if not self.catalog.exists(id):
                for path in waiting.pop(id):
                    yield FileReport(path, "failed", None, "removed while it was being indexed")
                continue
            if self.jobs.get(id).state in ("queued", "running"):
                continue
            document = self.catalog.document(id)
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
        uploader: str | None = None,
    ) -> Document:
        """Accept an upload: stored and queued when this returns, indexed by the worker.

        ``uploader`` is the id of the key that brings it, for its turns in the queue.

        ``source`` says where the file comes from: a second upload from the same place replaces
        the first. Without one, uploads of different bytes are different documents (``replaced``).
        """
        check_collection_name(collection)
        return self.writer.enqueue(
            data,
            collection=collection,
            source=source or f"{_UPLOAD}{name}:{time.time_ns()}",
            name=name,
            uploader=uploader,
        ).document

    def replaced(self, name: str, collection: str, if_exists: IfExists) -> Replaced | None:
        """The document that an upload of this name replaces, if any, and the ``source`` by which it
        does. DocumentExists where there is one that is not to be replaced, or cannot be."""
        named = self.catalog.sources_named(collection, name) if if_exists != "keep" else {}
        if not named:
            return None
        if if_exists == "error":
            raise DocumentExists(
                f"there is a document {name!r} in {collection} already: keep both, replace it, or"
                " take another name (if_exists)"
            )
        if len(named) > 1:
            raise DocumentExists(
                f"{len(named)} documents of {collection} are called {name!r}: remove those that are"
                " to be replaced"
            )
        ((document, sources),) = named.items()
        if not all(source.startswith(_UPLOAD) for source in sources):
            raise DocumentExists(
                f"{name!r} comes from a folder or a program: replace it there, or keep both"
            )
        return Replaced(document, sources[0])

    def start_worker(self, *, progress: Progress | None = None) -> None:
        """Index queued documents in the background (`serve`, `watch`)."""
        self._progress = progress
        self._start_workers(worker_processes(self.settings))

    def watch(
        self,
        folders: Sequence[Path],
        *,
        collection: str = DEFAULT_COLLECTION,
        told: Callable[[PlannedAction], None] = lambda action: None,
    ) -> None:
        """Keep folders indexed, on a background thread; ``told`` is called with what the watcher
        did. SettingsError where folders overlap."""
        check_collection_name(collection)
        watcher = Watcher(
            folders,
            registry=self.writer,
            collection=collection,
            settings=self.settings.watch,
            told=told,
        )
        self._watchers.append(watcher)
        self._start("watcher", watcher.forever)

    def held(self) -> list[HeldFile]:
        """Files of watched folders that are gone, whose documents wait for a person's word."""
        return held_files(self.catalog)

    def settle_held(self, *, remove: bool, folder: str | None = None) -> int:
        """Remove the documents of ``held`` files, or keep them for good; how many there were."""
        held = [
            source
            for source in self.catalog.watched(held=True)
            if folder is None or source.path.startswith(f"{folder.rstrip('/')}/")
        ]
        if remove:
            self.writer.forget(held)
        else:
            self.catalog.unwatch(held)
        return len(held)

    # Jobs

    def job_list(
        self, states: Sequence[JobState] = (), *, limit: int = 1000, within: Within = None
    ) -> list[Job]:
        """Jobs in these states (none: all): running, queued, then the ended, newest first."""
        return self.jobs.list(states, limit=limit, collections=within)

    def seconds_left(self, within: Within = None) -> float | None:
        """Until all that is queued is indexed, at the pace of what is in work; None where nothing
        can be said."""
        return seconds_left(self.jobs, within)

    def job_counts(self, within: Within = None) -> dict[str, int]:
        """Jobs by state."""
        return self.jobs.counts(within)

    def job(self, document_id: str, within: Within = None) -> Job:
        """The work on a document; JobNotFound."""
        job = self.jobs.get(document_id)
        if within is not None and job.collection not in within:
            raise JobNotFound.of(document_id)
        return job

    def retry(self, document_id: str) -> Job:
        """Try again, at once, what failed, was cancelled or waits. JobNotFound, JobConflict."""
        self.jobs.retry(document_id)
        self._wake()
        return self.jobs.get(document_id)

    def retry_dead(self, within: Within = None) -> int:
        """Try every dead letter again; how many there were."""
        dead = self.jobs.list(("dead",), limit=1_000_000, collections=within)
        for job in dead:
            self.jobs.retry(job.document_id)
        self._wake()
        return len(dead)

    def cancel(self, document_id: str) -> Job:
        """Stop work on a document; its indexed pages stay. JobNotFound, JobConflict."""
        self.jobs.cancel(document_id)
        return self.jobs.get(document_id)

    def _wake(self) -> None:
        if self._workers is not None:
            self._workers.wake()

    # Keeping in order

    def check(self, *, repair: bool = False, deep: bool = False) -> list[Finding]:
        """Compare catalog, originals, images and collections; with ``repair``, set right what can
        be. ``deep`` reads every file. Nothing is written meanwhile."""
        folder = self.settings.data_dir
        with self.writer.writing:
            found = list(
                check(
                    self.catalog,
                    originals=folder / "originals",
                    images=self._images,
                    indexes=self.searcher.indexes,
                    converted=folder / "converted",
                    repair=repair,
                    deep=deep,
                )
            )
        self._counted_at = float("-inf")
        self._wake()
        return found

    @property
    def degraded(self) -> str | None:
        """What is lost of what the catalog counts on, and what mends it. Counted at most once in
        _COUNTED_SECONDS; where the store does not answer, as it was."""
        if time.monotonic() < self._counted_at + _COUNTED_SECONDS:
            return self._degraded
        folder = self.settings.data_dir
        with suppress(StoreError):
            self._degraded = describe(
                folder, self.catalog, lacking(self.catalog, self.searcher.indexes)
            )
            with suppress(OSError):  # A full disk: whoever only looks is told less.
                note(folder, self._degraded)
        self._counted_at = time.monotonic()
        return self._degraded

    def backup(self, target: Path) -> BackupReport:
        """Copy the data folder, as it is at one moment, into a new one. UsageError, StoreError."""
        return backup(
            self.database,
            self.settings.data_dir,
            target,
            indexes=self.searcher.indexes,
            writing=self.writer.writing,
        )

    # Looking up and removing

    def documents(self, *, collection: str | None = None) -> list[Document]:
        """Every document, oldest first; CollectionNotFound."""
        return self.catalog.documents(scope=self._scope(collection, (), (), None))

    def document_list(
        self,
        *,
        collection: str | None = None,
        tags: Sequence[str] = (),
        state: DocumentState | None = None,
        after: tuple[str, str] | None = None,
        limit: int,
        within: Within = None,
    ) -> list[Document]:
        """Documents that have every one of ``tags``, oldest first; see Catalog.documents."""
        scope = self._scope(collection, (), (), within, may_be_empty=True)
        return self.catalog.documents(scope=scope, tags=tags, state=state, after=after, limit=limit)

    def document(self, document_id: str, within: Within = None) -> Document:
        """One document; DocumentNotFound where there is none."""
        document = self.catalog.document(document_id)
        if within is not None and document.collection not in within:
            raise DocumentNotFound.of(document_id)
        return document

    def change(
        self, document_id: str, *, name: str | None = None, tags: Sequence[str] | None = None
    ) -> Document:
        """Call a document something else, give it other tags; None leaves these as they are."""
        self.catalog.change(document_id, name=name, tags=tags)
        return self.catalog.document(document_id)

    def collections(self, within: Within = None) -> list[Holding]:
        """The collections there are, by name."""
        return self.catalog.collections(within)

    def remove(self, document_id: str) -> None:
        """Remove every trace of a document: points, page images, original, catalog rows."""
        self.writer.remove(document_id)

    def page(self, document_id: str, number: int) -> Page:
        """A page by its 1-based number; DocumentNotFound, PageNotFound."""
        return self.catalog.page(PageRef(document_id, number - 1))

    def page_stages(self, document_id: str, number: int) -> list[StageResult]:
        """What was done with a page, and what failed."""
        return [s for s in self.catalog.stages(document_id) if s.page_index == number - 1]

    def page_image(self, page: Page) -> bytes:
        """The page's image (JPEG)."""
        try:
            return self._images.get(page.image)
        except KeyError:
            self.catalog.page(page.ref)  # Most likely it was removed meanwhile.
            raise StoreError(
                f"the image of page {page.ref.number} of document {page.ref.document_id} is"
                " missing: remove the document and ingest it again"
            ) from None

    def heat_map(self, document_id: str, number: int, question: str, *, word: str = "") -> bytes:
        """The page's image (PNG) with what answers the question glowing; of one word, if given.

        NotInProfile where no page-image model is in use; DocumentNotFound, PageNotFound,
        QuestionError.
        """
        question = self.searcher.check_question(question)
        page = self.page(document_id, number)
        for space in self._profile.spaces:
            for encoder in space.encoders:
                if "patches" in space.spec.vectors and isinstance(encoder, PatchEncoder):
                    index = self.searcher.indexes[space.spec.name]
                    return draw_heat_map(
                        self.page_image(page), index.vectors(page.ref), encoder, question, word=word
                    )
        raise NotInProfile(
            f"the profile {self._profile.name} has no page-image model, which a heat-map needs: use"
            " the profile cpu or gpu"
        )

    def can(self) -> list[str]:
        """What this profile can do beside searching and answering."""
        patches = any(
            "patches" in space.spec.vectors and isinstance(encoder, PatchEncoder)
            for space in self._profile.spaces
            for encoder in space.encoders
        )
        return ["heatmap"] * patches + ["extract"] * (self._vision.answer is not None)

    def readiness(self) -> Readiness:
        """Whether questions can be answered and files taken in now. Asks the store, and the
        server of the answering model where there is one."""
        return Readiness.of(
            models=self._models_ready(),
            store=self._store_ready(),
            queue=self._queue_ready(),
            degraded=self._degraded is not None,
        )

    def _models_ready(self) -> ReadyCheck:
        vlm = self._vision.answer
        try:
            if vlm is not None:
                vlm.check(seconds=_READY_SECONDS)
        except ModelError:
            # Questions are answered all the same, so this takes no server out of service.
            return ReadyCheck(
                ready=True, detail="the answering model is away: pages are quoted instead"
            )
        return ReadyCheck(ready=True, detail=f"the profile {self._profile.name} answers")

    def _store_ready(self) -> ReadyCheck:
        try:
            for index in self.searcher.indexes.values():
                index.count(Scope(documents=("",)))
        except StoreError:
            return ReadyCheck(ready=False, detail="the store of vectors does not answer")
        if self.degraded is not None:
            # What is left answers all the same.
            detail = "the vectors of pages are lost: `pageglass check --repair` has them made again"
            return ReadyCheck(ready=True, detail=detail)
        return ReadyCheck(ready=True, detail="the store of vectors answers")

    def _queue_ready(self) -> ReadyCheck:
        if self.writer.outage is not None:
            return ReadyCheck(ready=False, detail="nothing can be stored at the moment")
        if self._workers is None:
            return ReadyCheck(ready=False, detail="no worker takes files in")
        return ReadyCheck(ready=True, detail="files are taken in")

    def status(self) -> Status:
        """What the data folder holds."""
        return read_status(
            self.settings,
            self.catalog,
            self.jobs,
            self.thresholds,
            degraded=self.degraded,
            outage=self.writer.outage,
        )

    @property
    def answering_model(self) -> str:
        """The name of the model that answers, where it can be reached."""
        return self._answerer.model

    def _start_workers(self, processes: int) -> None:
        self._workers = WorkerPool(
            self.writer, self.jobs, self.settings, processes=processes, local=self._local
        )
        self._workers.start()

    def _stop_workers(self) -> None:
        if self._workers is not None:
            self._workers.stop()
            self._workers = None

    def _report(self, document: Document) -> None:
        if self._progress is not None:
            self._progress(document)

    def _start(self, name: str, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)
