"""Files in watched folders, as the data folder knows them.

A *source* is a place a document came from: an absolute path. ``SourceRegistry`` is what a watcher
asks of the data folder, be it open in this process (ingest.writer) or behind a server (api.remote).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Literal, Protocol, Self


@dataclass(frozen=True, slots=True)
class FileState:
    """What a look at a file tells without reading it: the same state means the same bytes.

    Size in bytes, modification time in nanoseconds, and the device and inode that a rename within
    a file system keeps.
    """

    size: int
    mtime_ns: int
    inode: int
    device: int

    @classmethod
    def of(cls, stat: os.stat_result) -> Self:
        """The state in a stat result."""
        return cls(stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_dev)


Deletion = Literal["held"]
"""A vanished file whose document waits for a person's word."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file of a watched folder, by the newest content taken from it.

    ``path`` is absolute, as text (``as_text``). ``state`` is the file's when it was read.
    ``missing_since`` (Unix seconds) is when it was first not found there, None while it is there.
    """

    collection: str
    path: str
    sha256: str
    state: FileState
    missing_since: float | None = None
    deletion: Deletion | None = None


class SourceRegistry(Protocol):
    """What a watcher needs to know and to have done. Each call is atomic and may be repeated."""

    def sources(self, folder: str) -> list[Source]:
        """The sources that a watcher of ``folder`` took (as text)."""
        ...

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

        ``unchanged`` is asked once the bytes are read and before anything else happens: where it
        says no, FileChanged is raised and nothing was taken. DocumentError where the file is
        refused for good, such as an empty one; StoreError and OSError where it may go better later.
        """
        ...

    def renamed(self, source: Source, *, path: str, state: FileState) -> None:
        """The same bytes are now at ``path``: the source and its display name change, and nothing
        is read or encoded. Within one collection only."""
        ...

    def missing(self, sources: Sequence[Source], since: float | None) -> None:
        """Note since when files are missing; None: they are there again."""
        ...

    def hold(self, sources: Sequence[Source]) -> None:
        """Their removal waits for a person's word."""
        ...

    def forget(self, sources: Sequence[Source]) -> None:
        """The files are gone for good: their documents go, too, unless they have other names."""
        ...


def as_text(path: str | os.PathLike[str]) -> str:
    """A path as text: bytes of it that are no UTF-8 become escapes."""
    return os.fspath(path).encode("utf-8", "backslashreplace").decode()
