"""Watched files of a data folder that a server owns: the registry of ingest.watch, over HTTP."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from api.owner import owner_of
from api.remote import RemoteServices
from api.routes.sources import FileStateModel, SourceList, SourceModel, Taken
from ingest.sources import FileState, Source
from pageglass.errors import FileChanged, ServerError

_IN_MEMORY = 8 << 20
_AT_ONCE = 500


class RemoteRegistry:
    """A SourceRegistry. ServerError where no server owns the folder now; one that comes back, be
    it at another address, is found again."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._server: RemoteServices | None = None

    def sources(self, folder: str) -> list[Source]:
        """The sources that a watcher of ``folder`` took."""
        response = self._ask("GET", "/sources", params={"folder": folder})
        return [source.plain() for source in SourceList.model_validate_json(response).sources]

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
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as copy:
            shutil.copyfileobj(file, copy, 1 << 20)
            if not unchanged():
                raise FileChanged("changed while it was read: it is taken once it stands still")
            copy.seek(0)
            response = self._ask(
                "POST",
                "/sources",
                files={"file": (PurePosixPath(path).name, copy, "application/octet-stream")},
                data={
                    "collection": collection,
                    "path": path,
                    "folder": folder,
                    "state": FileStateModel(**asdict(state)).model_dump_json(),
                },
            )
        return Taken.model_validate_json(response).new

    def renamed(self, source: Source, *, path: str, state: FileState) -> None:
        """The same bytes are now at ``path``."""
        body = {"source": _json(source), "path": path, "state": asdict(state)}
        self._ask("POST", "/sources/renamed", json=body)

    def missing(self, sources: Sequence[Source], since: float | None) -> None:
        """Note since when files are missing; None: they are there again."""
        for some in _some(sources):
            self._ask("POST", "/sources/missing", json={"sources": some, "since": since})

    def hold(self, sources: Sequence[Source]) -> None:
        """Their removal waits for a person's word."""
        for some in _some(sources):
            self._ask("POST", "/sources/hold", json={"sources": some})

    def forget(self, sources: Sequence[Source]) -> None:
        """The files are gone for good."""
        for some in _some(sources):
            self._ask("POST", "/sources/forget", json={"sources": some})

    def _ask(self, method: str, path: str, **parts: Any) -> bytes:
        if self._server is None:
            owner = owner_of(self._data_dir)
            if owner is None or owner.address is None:
                raise ServerError(f"no server owns {self._data_dir} at the moment: waiting for one")
            self._server = RemoteServices(owner.address)
        try:
            return self._server.request(method, path, **parts).content
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
