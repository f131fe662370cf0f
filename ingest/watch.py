"""Folders kept indexed: files that appear, change, move or go are noticed and queued."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from watchfiles import watch

from ingest.catalog import Catalog
from ingest.pipeline import Pipeline
from pageglass.errors import PageglassError
from pageglass.settings import WatchSettings

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A file's size and time at our last look, and since when they stood still."""

    size: int
    mtime_ns: int
    since: float


class Watcher:
    """Compares folders with the catalog and queues the difference.

    Events only say when to look; what to do follows from a scan, so that a lost event costs
    nothing but time. A file is taken once its size and time stood still and is read as it then
    is. Files that vanish are left indexed: deciding that needs more care than a look.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        *,
        catalog: Catalog,
        pipeline: Pipeline,
        collection: str,
        settings: WatchSettings,
        wake: Callable[[], None],
    ) -> None:
        """``wake`` is called once something was queued."""
        self._folders = [folder.resolve() for folder in folders]
        self._catalog = catalog
        self._pipeline = pipeline
        self._collection = collection
        self._settings = settings
        self._wake = wake
        self._stopping = threading.Event()
        self._seen: dict[Path, _Seen] = {}
        self._taken: dict[Path, tuple[int, int]] = {}

    def stop(self) -> None:
        """End ``forever``."""
        self._stopping.set()

    def forever(self) -> None:
        """Scan at once, after every change, and every ``rescan_seconds``, until ``stop``."""
        for folder in self._folders:
            folder.mkdir(parents=True, exist_ok=True)
        step_ms = 200
        next_rescan = time.monotonic()
        unsettled = True
        for changes in watch(
            *self._folders,
            stop_event=self._stopping,
            rust_timeout=step_ms,
            yield_on_timeout=True,
            raise_interrupt=False,
        ):
            if changes or unsettled or time.monotonic() >= next_rescan:
                next_rescan = time.monotonic() + self._settings.rescan_seconds
                try:
                    unsettled = self.scan()
                except Exception:
                    _log.exception("the watcher goes on after an error")

    def scan(self) -> bool:
        """Queue what is new and has settled; true while some file has not settled yet."""
        unsettled = False
        present: set[Path] = set()
        for path in files_in(self._folders):
            try:
                stat = path.stat()
            except OSError:
                continue
            present.add(path)
            state = (stat.st_size, stat.st_mtime_ns)
            if self._taken.get(path) == state:
                continue
            seen = self._seen.get(path)
            if seen is None or (seen.size, seen.mtime_ns) != state:
                seen = self._seen[path] = _Seen(*state, time.monotonic())
            if time.monotonic() - seen.since < self._settings.settle_seconds:
                unsettled = True
                continue
            self._take(path)
            self._taken[path] = state
            del self._seen[path]
        for gone in (self._taken.keys() | self._seen.keys()) - present:
            self._taken.pop(gone, None)
            self._seen.pop(gone, None)
        return unsettled

    def _take(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                enqueued = self._pipeline.enqueue(
                    file, collection=self._collection, source=str(path), name=path.name
                )
        except (PageglassError, OSError) as error:
            _log.warning("%s is left out: %s", path, error)
            return
        if enqueued.new:
            self._wake()


def files_in(paths: Sequence[Path]) -> Iterator[Path]:
    """Files as given, and the PDF files in folders in order of their names.

    Hidden files, and links that lead out of the folder, are passed over.
    """
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        root = path.resolve()
        for file in sorted(root.rglob("*")):
            inside = file.relative_to(root).parts
            if (
                file.suffix.lower() == ".pdf"
                and file.is_file()
                and not any(part.startswith((".", "~$")) for part in inside)
                and file.resolve().is_relative_to(root)
            ):
                yield file
