"""What the command line works with: a data folder of its own, or the server that owns it."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pageglass.settings import Settings
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
)

if TYPE_CHECKING:
    from api.looking import Status
    from api.remote import RemoteServices
    from api.services import FileReport, Progress
    from ingest.backup import BackupReport
    from ingest.check import Finding


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server answers, and the key that opens it."""

    address: str
    key: str | None = field(repr=False)
    machine: str = field(default_factory=lambda: f"{socket.gethostname()}:")
    """Said before the paths of this machine's files, so that those of another are not taken for
    them; empty for the owner of a data folder here."""

    def connect(self) -> RemoteServices:
        """The server's services."""
        from api.remote import RemoteServices

        return RemoteServices(self.address, self.key, machine=self.machine)


def server_of(data_dir: Path) -> Server | None:
    """The server that owns the data folder, if one does."""
    from api.owner import owner_of

    owner = owner_of(data_dir)
    if owner is None or owner.address is None:
        return None
    return Server(owner.address, owner.token or None, machine="")


class Backend(Protocol):
    """The part of Services that also works from afar: Services and RemoteServices are ones."""

    def __enter__(self) -> Backend: ...
    def __exit__(self, *_: object) -> None: ...

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
        ...

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
        ...

    def extract(
        self,
        schema: Mapping[str, Any],
        *,
        documents: Sequence[str] = (),
        pages: Sequence[PageRef] = (),
        instructions: str | None = None,
    ) -> Extraction:
        """Values in the shape of a JSON schema, read off documents and single pages."""
        ...

    def ingest(
        self,
        paths: Sequence[Path],
        *,
        collection: str = DEFAULT_COLLECTION,
        progress: Progress | None = None,
    ) -> Iterator[FileReport]:
        """Index files, and those in folders; one report a file as it ends."""
        ...

    def retry(self, document_id: str) -> Job:
        """Try again what failed, was cancelled or waits. JobNotFound, JobConflict."""
        ...

    def retry_dead(self) -> int:
        """Try every dead letter again; how many there were."""
        ...

    def cancel(self, document_id: str) -> Job:
        """Stop work on a document; its indexed pages stay. JobNotFound, JobConflict."""
        ...

    def settle_held(self, *, remove: bool, folder: str | None = None) -> int:
        """Remove the documents of files held as gone, or keep them; how many there were."""
        ...

    def check(self, *, repair: bool = False, deep: bool = False) -> list[Finding]:
        """Compare catalog, files and collections; with ``repair``, set right what can be."""
        ...

    def backup(self, target: Path) -> BackupReport:
        """Copy the data folder, as it is at one moment, into a new one."""
        ...

    def documents(self, *, collection: str | None = None) -> list[Document]:
        """Every document, oldest first."""
        ...

    def remove(self, document_id: str) -> None:
        """Remove every trace of a document; DocumentNotFound."""
        ...

    def page(self, document_id: str, number: int) -> Page:
        """A page by its 1-based number; DocumentNotFound, PageNotFound."""
        ...

    def page_image(self, page: Page) -> bytes:
        """The page's image (JPEG)."""
        ...

    def heat_map(self, document_id: str, number: int, question: str, *, word: str = "") -> bytes:
        """The page's image (PNG) with what answers the question glowing; NotInProfile."""
        ...

    def status(self) -> Status:
        """What the data folder holds."""
        ...


class Onlooker(Protocol):
    """The part that changes nothing and needs no models: Looking and RemoteServices are ones."""

    def __enter__(self) -> Onlooker: ...
    def __exit__(self, *_: object) -> None: ...

    def status(self) -> Status:
        """What the data folder holds."""
        ...

    def documents(self, *, collection: str | None = None) -> list[Document]:
        """Every document, oldest first."""
        ...

    def job_list(self, states: Sequence[JobState] = (), *, limit: int = 1000) -> list[Job]:
        """Jobs in these states (none: all): running, queued, then the ended, newest first."""
        ...

    def job_counts(self) -> dict[str, int]:
        """Jobs by state."""
        ...

    def seconds_left(self) -> float | None:
        """Until all is indexed, at the present pace; None where nothing can be said."""
        ...

    def held(self) -> list[HeldFile]:
        """Files that are gone, whose documents wait for a person's word."""
        ...


def look(settings: Settings, server: Server | None = None) -> Onlooker:
    """The server, else the one that owns the data folder, else its catalog, read-only."""
    from api.looking import Looking

    server = server or server_of(settings.data_dir)
    return Looking(settings) if server is None else server.connect()


def open_backend(
    settings: Settings, *, command: str, server: Server | None = None, makes: bool = False
) -> Backend:
    """The server, else the one that owns the data folder, else the folder itself.

    Raises FolderInUse where a process that is no server owns it, NoDataFolder where there is none,
    unless the command ``makes`` one.
    """
    server = server or server_of(settings.data_dir)
    if server is not None:
        return server.connect()
    if not makes:
        from api.owner import require_data_folder

        require_data_folder(settings.data_dir)

    # Imported late: this brings the models' and the index's libraries with it.
    from api.services import Services

    return Services(settings, command=command)
