"""Watched files of a data folder that a server owns: the registry of ingest.watch, over HTTP."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from api.owner import owner_of
from api.remote import RemoteServices
from api.routes.sources import FileStateModel, SourceList, SourceModel, Taken
from ingest.sources import FileState, Source
from pageglass.errors import FileChanged, ServerError

_IN_MEMORY = 8 << 20
_AT_ONCE = 30
"""Sources in one request: their paths fit its body, even if every byte of them is an escape."""

T = TypeVar("T")


class RemoteRegistry:
    """A SourceRegistry. ServerError where no server owns the folder now; one that comes back, be
    it at another address, is found again."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._server: RemoteServices | None = None

    def sources(self, folder: str) -> list[Source]:
        """The sources that a watcher of ``folder`` took."""
        listed = self._ask(
            lambda server: server.fetch(SourceList, "GET", "/sources", params={"folder": folder})
        )
        return [source.plain() for source in listed.sources]

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
        """Upload the file, once it is read and still the same. Errors as SourceRegistry's."""
        form = {
            "collection": collection,
            "path": path,
            "folder": folder,
            "state": FileStateModel(**asdict(state)).model_dump_json(),
        }
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as copy:
            shutil.copyfileobj(file, copy, 1 << 20)
            if not unchanged():
                raise FileChanged("changed while it was read: it is taken once it stands still")
            copy.seek(0)
            # Its name is in the path: a part's own must be short.
            part = ("file", copy, "application/octet-stream")
            taken = self._ask(
                lambda server: server.fetch(
                    Taken, "POST", "/sources", files={"file": part}, data=form
                )
            )
        return taken.new

    def renamed(self, source: Source, *, path: str, state: FileState) -> None:
        """The same bytes are now at ``path``."""
        self._post("renamed", source=_json(source), path=path, state=asdict(state))

    def missing(self, sources: Sequence[Source], since: float | None) -> None:
        """Note since when files are missing; None: they are there again."""
        for some in _some(sources):
            self._post("missing", sources=some, since=since)

    def hold(self, sources: Sequence[Source]) -> None:
        """Their removal waits for a person's word."""
        for some in _some(sources):
            self._post("hold", sources=some)

    def forget(self, sources: Sequence[Source]) -> None:
        """The files are gone for good."""
        for some in _some(sources):
            self._post("forget", sources=some)

    def _post(self, verb: str, **body: Any) -> None:
        self._ask(lambda server: server.request("POST", f"/sources/{verb}", json=body))

    def _ask(self, question: Callable[[RemoteServices], T]) -> T:
        if self._server is None:
            owner = owner_of(self._data_dir)
            if owner is None or owner.address is None:
                raise ServerError(f"no server owns {self._data_dir} at the moment: waiting for one")
            self._server = RemoteServices(owner.address)
        try:
            return question(self._server)
        except ServerError:
            self._server.close()
            self._server = None
            raise


def _json(source: Source) -> dict[str, Any]:
    return SourceModel.of(source).model_dump(mode="json")


def _some(sources: Sequence[Source]) -> Iterator[list[dict[str, Any]]]:
    rest = iter(sources)
    while some := list(islice(rest, _AT_ONCE)):
        yield [_json(source) for source in some]
