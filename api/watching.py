"""Watching a folder for a server that is already running: look, and upload what has changed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ingest.watch import files_in

if TYPE_CHECKING:
    from api.backend import Backend
    from api.services import FileReport

_Look = dict[Path, tuple[int, int]]


def upload_changes(
    backend: Backend, folders: Sequence[Path], *, collection: str, settle_seconds: float
) -> Iterator[FileReport]:
    """Ingest every file in ``folders`` once it stood still between two looks; never ends.

    ServerError where the server is gone.
    """
    before: _Look = {}
    taken: _Look = {}
    while True:
        now = _look(folders)
        ready = [
            path
            for path, state in now.items()
            if before.get(path) == state and taken.get(path) != state
        ]
        if ready:
            yield from backend.ingest(ready, collection=collection)
        taken |= {path: now[path] for path in ready}
        before = now
        time.sleep(max(0.2, settle_seconds))


def _look(folders: Sequence[Path]) -> _Look:
    seen: _Look = {}
    for path in files_in(folders):
        try:
            stat = path.stat()
        except OSError:
            continue
        seen[path] = (stat.st_size, stat.st_mtime_ns)
    return seen
