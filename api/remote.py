"""A running server, used through the same methods as an open data folder."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from api.services import FileReport, Progress, Status
from ingest.backup import BackupReport
from ingest.check import Finding
from ingest.thresholds import FittedThreshold
from ingest.watch import files_in
from pageglass import wire
from pageglass.calls import Call, utf8
from pageglass.client import Client
from pageglass.errors import (
    CollectionNotFound,
    DocumentError,
    DocumentNotFound,
    StoreError,
    UsageError,
)
from pageglass.types import (
    DEFAULT_COLLECTION,
    Answer,
    Document,
    Extraction,
    HeldFile,
    Job,
    JobState,
    Page,
    PageRef,
    SearchResult,
    check_collection_name,
)

_POLL_SECONDS = 0.2
_UNDER_WAY = ("queued", "indexing")
_IN_FLIGHT = 8
"""Uploads that may wait to be indexed before the next file is sent."""


class RemoteServices:
    """The services of a Pageglass server at ``address`` (http://host:port).

    Problems the server answers with are raised as the errors they were there. ServerError says
    that it did not answer, or not as a Pageglass server does.
    """

    def __init__(self, address: str, key: str | None = None, *, machine: str = "") -> None:
        """``machine`` is said before the paths of this machine's files, where the server is
        another's; one without it is the owner of a data folder here, so that no proxy belongs in
        between."""
        self.address = address
        self._machine = machine
        transport = None if machine else httpx.HTTPTransport()
        self.client = Client(address, key=key, transport=transport)

    def close(self) -> None:
        """Let go of the connections."""
        self.client.close()

    def __enter__(self) -> RemoteServices:
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
    ) -> SearchResult:
        """Ranked pages. No collection means all; unknown document ids raise DocumentNotFound."""
        return self.client.search(
            question,
            image=image,
            collection=collection,
            documents=documents,
            tags=tags,
            top_k=top_k,
        ).plain()

    def ask(
        self,
        question: str,
        *,
        image: bytes | None = None,
        collection: str | None = None,
        documents: Sequence[str] = (),
        tags: Sequence[str] = (),
        top_k: int | None = None,
    ) -> Answer:
        """Answer from the indexed pages, citing them, or decline and show the nearest."""
        return self.client.ask(
            question,
            image=image,
            collection=collection,
            documents=documents,
            tags=tags,
            top_k=top_k,
        ).plain()

    def extract(
        self,
        schema: Mapping[str, Any],
        *,
        documents: Sequence[str] = (),
        pages: Sequence[PageRef] = (),
        instructions: str | None = None,
    ) -> Extraction:
        """Values in the shape of a JSON schema, read off documents and single pages."""
        return self.client.extract(
            schema,
            documents=documents,
            pages=[(ref.document_id, ref.number) for ref in pages],
            instructions=instructions,
        ).plain()

    # Taking in

    def ingest(
        self,
        paths: Sequence[Path],
        *,
        collection: str = DEFAULT_COLLECTION,
        progress: Progress | None = None,
    ) -> Iterator[FileReport]:
        """Upload files and wait until the server has indexed them; one report a file as it ends.

        What is uploaded is safe: the server goes on with it should this be interrupted.
        """
        check_collection_name(collection)
        waiting: dict[str, list[str]] = {}
        if not paths:
            # The server goes on with these by itself; wait for them.
            waiting = {d.id: [d.name] for d in self.documents() if d.state in _UNDER_WAY}
        for path in files_in(paths):
            try:
                document = self._upload(path, collection)
            except DocumentError as error:
                yield FileReport(str(path), "failed", None, str(error))
            except OSError as error:
                yield FileReport(str(path), "failed", None, f"{error.strerror}".lower())
            else:
                if document.state == "indexed":
                    yield FileReport(str(path), "unchanged", document, None)
                else:
                    waiting.setdefault(document.id, []).append(str(path))
            while len(waiting) >= _IN_FLIGHT:
                yield from self._settled(waiting, progress)
        while waiting:
            yield from self._settled(waiting, progress)

    def _upload(self, path: Path, collection: str) -> Document:
        source = utf8(f"{self._machine}{path.resolve()}")
        uploaded = self.client.add_documents(
            [path], collection=collection, source=source, idempotency_key=uuid4().hex
        )
        return uploaded.documents[0].plain()

    def _settled(
        self, waiting: dict[str, list[str]], progress: Progress | None
    ) -> Iterator[FileReport]:
        """Ask once after each of ``waiting``, report and drop those that have ended."""
        time.sleep(_POLL_SECONDS)
        for id, paths in list(waiting.items()):
            try:
                document = self.document(id)
            except DocumentNotFound:
                del waiting[id]
                for path in paths:
                    yield FileReport(path, "failed", None, "was removed before it was indexed")
                continue
            if progress is not None:
                progress(document)
            if document.state in ("indexed", "failed"):
                del waiting[id]
                outcome = "indexed" if document.state == "indexed" else "failed"
                for path in paths:
                    yield FileReport(path, outcome, document, document.reason)

    # Looking up and removing

    def documents(self, *, collection: str | None = None) -> list[Document]:
        """Every document, oldest first; CollectionNotFound."""
        found = [document.plain() for document in self.client.documents(collection=collection)]
        if not found and collection not in (None, DEFAULT_COLLECTION):
            known = [holding.name for holding in self.client.collections()]
            if collection not in known:
                raise CollectionNotFound.of(collection, known)
        return found

    def document(self, document_id: str) -> Document:
        """One document; DocumentNotFound where there is none."""
        return self.client.document(document_id).plain()

    def remove(self, document_id: str) -> None:
        """Remove every trace of a document; DocumentNotFound."""
        self.client.remove_document(document_id)

    def page(self, document_id: str, number: int) -> Page:
        """A page by its 1-based number; DocumentNotFound, PageNotFound."""
        return self.client.page(document_id, number, words=True).plain()

    def page_image(self, page: Page) -> bytes:
        """The page's image (JPEG)."""
        return self.client.page_image(page.ref.document_id, page.ref.number)

    def heat_map(self, document_id: str, number: int, question: str, *, word: str = "") -> bytes:
        """The page's image (PNG) with what answers the question glowing; NotInProfile."""
        return self.client.page_image(
            document_id, number, heatmap=question, word=word, format="png"
        )

    def status(self) -> Status:
        """What the data folder holds."""
        call = Call("GET", "/status", wire.StatusModel.model_validate_json)
        told = self.client.send(call)
        fitted = tuple(FittedThreshold(**one.model_dump()) for one in told.thresholds)
        return replace(Status(**told.model_dump()), thresholds=fitted)

    # Jobs

    def job_list(self, states: Sequence[JobState] = (), *, limit: int = 1000) -> list[Job]:
        """Jobs in these states (none: all): running, queued, then the ended, newest first."""
        limit = min(limit, 100_000)
        return [job.plain() for job in self.client.jobs(states, limit=limit).jobs]

    def job_counts(self) -> dict[str, int]:
        """Jobs by state."""
        return self.client.jobs(limit=1).counts

    def seconds_left(self) -> float | None:
        """Until all is indexed, at the present pace; None where nothing can be said."""
        return self.client.jobs(limit=1).seconds_left

    def retry(self, document_id: str) -> Job:
        """Try again what failed, was cancelled or waits. JobNotFound, JobConflict."""
        return self.client.retry(document_id).plain()

    def retry_dead(self) -> int:
        """Try every dead letter again; how many there were."""
        call = Call("POST", "/jobs/retry", wire.Retried.model_validate_json)
        return self.client.send(call).retried

    def cancel(self, document_id: str) -> Job:
        """Stop work on a document; its indexed pages stay. JobNotFound, JobConflict."""
        return self.client.cancel(document_id).plain()

    # Keeping in order

    def held(self) -> list[HeldFile]:
        """Files that are gone, whose documents wait for a person's word."""
        call = Call("GET", "/deletions", wire.DeletionList.model_validate_json)
        return [one.plain() for one in self.client.send(call).deletions]

    def settle_held(self, *, remove: bool, folder: str | None = None) -> int:
        """Remove the documents of ``held`` files, or keep them for good; how many there were."""
        verdict = {"remove": remove, "folder": folder}
        call = Call("POST", "/deletions", wire.Settled.model_validate_json, json=verdict)
        return self.client.send(call).settled

    def check(self, *, repair: bool = False, deep: bool = False) -> list[Finding]:
        """Compare catalog, files and collections; with ``repair``, set right what can be."""
        wanted = {"repair": repair, "deep": deep}
        call = Call("POST", "/check", wire.CheckResponse.model_validate_json, json=wanted)
        return [Finding(**finding.model_dump()) for finding in self.client.send(call).findings]

    def backup(self, target: Path) -> BackupReport:
        """Have the server copy its data folder, and move the copy to ``target`` on this machine.

        UsageError where there is something already, StoreError where it cannot be moved.
        """
        target = target.absolute()
        if os.path.lexists(target):
            raise UsageError(
                f"there is something at {target} already: name a folder that is not there"
            )
        call = Call("POST", "/backups", wire.BackupResponse.model_validate_json)
        made = self.client.send(call)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(made.folder, target)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise StoreError(
                f"the backup is in {made.folder}; it cannot be moved: {reason}"
            ) from None
        return replace(BackupReport(**made.model_dump()), folder=str(target))
