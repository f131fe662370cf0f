"""A running server, used through the same methods as an open data folder."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from api.services import FileReport, Progress, Status
from ingest.backup import BackupReport
from ingest.check import Finding
from ingest.watch import files_in
from pageglass import wire
from pageglass.errors import (
    DocumentError,
    DocumentNotFound,
    PageglassError,
    ServerError,
    StoreError,
    UsageError,
)
from pageglass.types import (
    DEFAULT_COLLECTION,
    Answer,
    Document,
    HeldFile,
    Job,
    JobState,
    Page,
    SearchResult,
    check_collection_name,
)

# Answering may take minutes on a busy machine; connecting to it may not.
_TIMEOUT = httpx.Timeout(600.0, connect=10.0)
_POLL_SECONDS = 0.2
_UNDER_WAY = ("queued", "indexing")
_IN_FLIGHT = 8
"""Uploads that may wait to be indexed before the next file is sent."""

M = TypeVar("M", bound=BaseModel)


class RemoteServices:
    """The services of a Pageglass server at ``address`` (http://host:port).

    Problems the server answers with are raised as the errors they were there. ServerError says
    that it did not answer, or not as a Pageglass server does.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        # The server is named by the data folder's owner file, so no proxy belongs in between.
        self._http = httpx.Client(base_url=address, timeout=_TIMEOUT, trust_env=False)

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

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
        asked = wire.SearchRequest(
            question=question,
            image=image,
            collection=collection,
            documents=list(documents),
            tags=list(tags),
            top_k=top_k,
        )
        return self.fetch(wire.SearchResponse, "POST", "/search", json=asked.as_json()).plain()

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
        asked = wire.AskRequest(
            question=question,
            image=image,
            collection=collection,
            documents=list(documents),
            tags=list(tags),
            top_k=top_k,
        )
        return self.fetch(wire.AnswerModel, "POST", "/ask", json=asked.as_json()).plain()

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
        with path.open("rb") as file:
            uploaded = self.fetch(
                wire.UploadResponse,
                "POST",
                "/documents",
                files={"file": (_utf8(path.name), file, "application/octet-stream")},
                data={"collection": collection, "source": _utf8(str(path.resolve()))},
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
        """Every document, oldest first."""
        params = {} if collection is None else {"collection": collection}
        listed = self.fetch(wire.DocumentList, "GET", "/documents", params=params)
        return [document.plain() for document in listed.documents]

    def document(self, document_id: str) -> Document:
        """One document; DocumentNotFound where there is none."""
        return self.fetch(wire.DocumentModel, "GET", _path(document_id)).plain()

    def remove(self, document_id: str) -> None:
        """Remove every trace of a document; DocumentNotFound."""
        self.request("DELETE", _path(document_id))

    def page(self, document_id: str, number: int) -> Page:
        """A page by its 1-based number; DocumentNotFound, PageNotFound."""
        return self.fetch(
            wire.PageModel,
            "GET",
            f"{_path(document_id)}/pages/{number}",
            params={"words": "true"},
        ).plain()

    def page_image(self, page: Page) -> bytes:
        """The page's image (JPEG)."""
        ref = page.ref
        return self.request("GET", f"{_path(ref.document_id)}/pages/{ref.number}/image").content

    def heat_map(self, document_id: str, number: int, question: str, *, word: str = "") -> bytes:
        """The page's image (PNG) with what answers the question glowing; NotInProfile."""
        return self.request(
            "GET",
            f"{_path(document_id)}/pages/{number}/image",
            params={"heatmap": question, "word": word},
            headers={"Accept": "image/png"},
        ).content

    def status(self) -> Status:
        """What the data folder holds."""
        return Status(**self.fetch(wire.StatusModel, "GET", "/status").model_dump())

    # Jobs

    def job_list(self, states: Sequence[JobState] = (), *, limit: int = 1000) -> list[Job]:
        """Jobs in these states (none: all): running, queued, then the ended, newest first."""
        return [job.plain() for job in self._jobs(states, limit).jobs]

    def job_counts(self) -> dict[str, int]:
        """Jobs by state."""
        return self._jobs((), 1).counts

    def seconds_left(self) -> float | None:
        """Until all is indexed, at the present pace; None where nothing can be said."""
        return self._jobs((), 1).seconds_left

    def _jobs(self, states: Sequence[JobState], limit: int) -> wire.JobList:
        params = {"state": list(states), "limit": min(limit, 100_000)}
        return self.fetch(wire.JobList, "GET", "/jobs", params=params)

    def retry(self, document_id: str) -> Job:
        """Try again what failed, was cancelled or waits. JobNotFound, JobConflict."""
        path = _path(document_id, "/jobs")
        return self.fetch(wire.JobModel, "POST", f"{path}/retry").plain()

    def retry_dead(self) -> int:
        """Try every dead letter again; how many there were."""
        return self.fetch(wire.Retried, "POST", "/jobs/retry").retried

    def cancel(self, document_id: str) -> Job:
        """Stop work on a document; its indexed pages stay. JobNotFound, JobConflict."""
        path = _path(document_id, "/jobs")
        return self.fetch(wire.JobModel, "POST", f"{path}/cancel").plain()

    # Keeping in order

    def held(self) -> list[HeldFile]:
        """Files that are gone, whose documents wait for a person's word."""
        listed = self.fetch(wire.DeletionList, "GET", "/deletions")
        return [one.plain() for one in listed.deletions]

    def settle_held(self, *, remove: bool, folder: str | None = None) -> int:
        """Remove the documents of ``held`` files, or keep them for good; how many there were."""
        verdict = {"remove": remove, "folder": folder}
        return self.fetch(wire.Settled, "POST", "/deletions", json=verdict).settled

    def check(self, *, repair: bool = False, deep: bool = False) -> list[Finding]:
        """Compare catalog, files and collections; with ``repair``, set right what can be."""
        wanted = {"repair": repair, "deep": deep}
        found = self.fetch(wire.CheckResponse, "POST", "/check", json=wanted).findings
        return [Finding(**finding.model_dump()) for finding in found]

    def backup(self, target: Path) -> BackupReport:
        """Have the server copy its data folder, and move the copy to ``target`` on this machine.

        UsageError where there is something already, StoreError where it cannot be moved.
        """
        target = target.absolute()
        if os.path.lexists(target):
            raise UsageError(
                f"there is something at {target} already: name a folder that is not there"
            )
        made = self.fetch(wire.BackupResponse, "POST", "/backups")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(made.folder, target)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise StoreError(
                f"the backup is in {made.folder}; it cannot be moved: {reason}"
            ) from None
        return replace(BackupReport(**made.model_dump()), folder=str(target))

    # Inside

    def fetch(self, model: type[M], method: str, path: str, **parts: Any) -> M:
        """The answer as ``model``; ServerError where it is none."""
        response = self.request(method, path, **parts)
        try:
            return model.model_validate_json(response.content)
        except ValidationError:
            raise ServerError(
                f"the server at {self.address} answered {method} {path} in an unknown way:"
                " is it another version of Pageglass?"
            ) from None

    def request(self, method: str, path: str, **parts: Any) -> httpx.Response:
        """The answer; the error it stands for is raised."""
        try:
            response = self._http.request(method, path, **parts)
        except httpx.TimeoutException:
            raise ServerError(f"the server at {self.address} did not answer in time") from None
        except httpx.HTTPError as error:
            raise ServerError(
                f"the server at {self.address} does not answer ({error or type(error).__name__}):"
                " is it still running?"
            ) from None
        if response.is_error:
            raise _error(response, self.address)
        return response


def _utf8(name: str) -> str:
    """A file name as text: bytes of it that are no UTF-8 become escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


def _path(document_id: str, below: str = "/documents") -> str:
    # Ids are hex; anything else must not become another path on its way.
    if not document_id.isalnum():
        raise DocumentNotFound(f"no document {document_id[:64]!r}: `pageglass status` lists them")
    return f"{below}/{document_id}"


def _error(response: httpx.Response, address: str) -> PageglassError:
    """The error a problem document stands for; ServerError where it is not one of ours."""
    try:
        problem = wire.Problem.model_validate_json(response.content)
    except ValidationError:
        phrase = HTTPStatus(response.status_code).phrase
        return ServerError(f"the server at {address} answered {response.status_code} {phrase}")
    kind = _BY_CODE.get(problem.code)
    if kind is not None:
        return kind(problem.detail)
    if problem.code == "request-invalid":
        return UsageError(problem.detail)
    return ServerError(f"{problem.detail} (from the server at {address})")


def _by_code(kind: type[PageglassError]) -> Mapping[str, type[PageglassError]]:
    table = {kind.code: kind}
    for narrower in kind.__subclasses__():
        table |= _by_code(narrower)
    return table


_BY_CODE = {code: kind for code, kind in _by_code(PageglassError).items() if code != "internal"}
