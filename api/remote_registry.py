"""Watched files of a data folder that a server owns: the registry of ingest.watch, over HTTP."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from api.backend import Server, server_of
from api.remote import RemoteServices
from api.routes.sources import FileStateModel, SourceList, SourceModel, Taken
from ingest.sources import FileState, Source
from pageglass.calls import Call, nothing
from pageglass.errors import FileChanged, ServerError

_IN_MEMORY = 8 << 20
_AT_ONCE = 30
"""Sources in one request: their paths fit its body, even if every byte of them is an escape."""

T = TypeVar("T")


class RemoteRegistry:
    """A SourceRegistry at a server somewhere, or at that which owns a data folder here.

    ServerError where no server owns the folder now; one that comes back, be it at another address,
    is found again. A server somewhere is told paths with this machine's name before them.
    """

    def __init__(self, at: Path | Server) -> None:
        self._at = at
        self._machine = at.machine if isinstance(at, Server) else ""
        self._server: RemoteServices | None = None

    def sources(self, folder: str) -> list[Source]:
        """The sources that a watcher of ``folder`` took."""
        params = {"folder": self._machine + folder}
        listed = self._ask(Call("GET", "/sources", SourceList.model_validate_json, params))
        return [
            replace(source.plain(), path=source.path.removeprefix(self._machine))
            for source in listed.sources
        ]

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
            "path": self._machine + path,
            "folder": self._machine + folder,
            "state": FileStateModel(**asdict(state)).model_dump_json(),
        }
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as copy:
            shutil.copyfileobj(file, copy, 1 << 20)
            if not unchanged():
                raise FileChanged("changed while it was read: it is taken once it stands still")
            copy.seek(0)
            # Its name is in the path: a part's own must be short.
            part = ("file", cast(BinaryIO, copy), "application/octet-stream")
            read = Taken.model_validate_json
            call = Call("POST", "/sources", read, form=form, files=[("file", part)])
            return self._ask(call).new

    def renamed(self, source: Source, *, path: str, state: FileState) -> None:
        """The same bytes are now at ``path``."""
        source_json = self._json(source)
        path = self._machine + path
        self._post("renamed", source=source_json, path=path, state=asdict(state))

    def missing(self, sources: Sequence[Source], since: float | None) -> None:
        """Note since when files are missing; None: they are there again."""
        for some in self._some(sources):
            self._post("missing", sources=some, since=since)

    def hold(self, sources: Sequence[Source]) -> None:
        """Their removal waits for a person's word."""
        for some in self._some(sources):
            self._post("hold", sources=some)

    def forget(self, sources: Sequence[Source]) -> None:
        """The files are gone for good."""
        for some in self._some(sources):
            self._post("forget", sources=some)

    def _post(self, verb: str, **body: Any) -> None:
        self._ask(Call("POST", f"/sources/{verb}", nothing, json=body))

    def _ask(self, call: Call[T]) -> T:
        if self._server is None:
            server = self._at if isinstance(self._at, Server) else server_of(self._at)
            if server is None:
                raise ServerError(f"no server owns {self._at} at the moment: waiting for one")
            self._server = server.connect()
        try:
            return self._server.client.send(call)
        except ServerError:
            self._server.close()
            self._server = None
            raise

    def _some(self, sources: Sequence[Source]) -> Iterator[list[dict[str, Any]]]:
        rest = iter(sources)
        while some := list(islice(rest, _AT_ONCE)):
            yield [self._json(source) for source in some]

    def _json(self, source: Source) -> dict[str, Any]:
        there = replace(source, path=self._machine + source.path)
        return SourceModel.of(there).model_dump(mode="json")
