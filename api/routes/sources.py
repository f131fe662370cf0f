"""Files of watched folders, for a watcher in another process (api.remote_registry)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, File, Form, UploadFile
from pydantic import BaseModel, ConfigDict, Field, Json

from api.routes import Administered
from ingest.sources import Deletion, FileState, Source
from pageglass.types import check_collection_name

router = APIRouter(prefix="/sources", tags=["sources"])

_LONGEST_PATH = 6 * 4096
"""Characters: Linux allows 4,096 bytes, and one that is no UTF-8 becomes six (``as_text``)."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class FileStateModel(_Model):
    """What a look at a file tells without reading it."""

    size: int
    mtime_ns: int
    inode: int
    device: int

    def plain(self) -> FileState:
        """The state as the parts know it."""
        return FileState(self.size, self.mtime_ns, self.inode, self.device)


class SourceModel(_Model):
    """A file of a watched folder, by the newest content taken from it."""

    collection: str
    path: str
    sha256: str
    state: FileStateModel
    missing_since: float | None = Field(default=None, description="Unix seconds.")
    deletion: Deletion | None = None

    @classmethod
    def of(cls, source: Source) -> SourceModel:
        """The model of a source."""
        return cls(**asdict(source))

    def plain(self) -> Source:
        """The source as the parts know it."""
        return Source(
            self.collection,
            self.path,
            self.sha256,
            self.state.plain(),
            self.missing_since,
            self.deletion,
        )


class SourceList(_Model):
    """Files of a watched folder."""

    sources: list[SourceModel]


class Renamed(_Model):
    """The same bytes are at another place now."""

    source: SourceModel
    path: str
    state: FileStateModel


class Missing(_Model):
    """Files that are gone since then, or there again."""

    sources: list[SourceModel]
    since: float | None = None


class Taken(_Model):
    """Whether there is anything new to index."""

    new: bool


@router.get("")
def list_sources(folder: str, services: Administered) -> SourceList:
    """List what a watcher of the folder took."""
    found = services.writer.sources(folder)
    return SourceList(sources=[SourceModel.of(source) for source in found])


@router.post("")
def take_source(
    file: Annotated[UploadFile, File(description="The file as it is now.")],
    collection: Annotated[str, Form()],
    path: Annotated[str, Form(max_length=_LONGEST_PATH)],
    folder: Annotated[str, Form(max_length=_LONGEST_PATH)],
    state: Annotated[
        Json[FileStateModel], Form(description="Its size, time, inode and device, as JSON.")
    ],
    services: Administered,
) -> Taken:
    """Take a watched file in; behind what people add themselves."""
    new = services.writer.take(
        file.file,
        collection=check_collection_name(collection),
        path=path,
        folder=folder,
        state=state.plain(),
        unchanged=lambda: True,
    )
    return Taken(new=new)


@router.post("/renamed", status_code=204)
def rename_source(renamed: Renamed, services: Administered) -> None:
    """Give a source its new place; nothing is read or encoded."""
    source = renamed.source.plain()
    services.writer.renamed(source, path=renamed.path, state=renamed.state.plain())


@router.post("/missing", status_code=204)
def miss_sources(missing: Missing, services: Administered) -> None:
    """Note since when files are gone."""
    services.writer.missing([source.plain() for source in missing.sources], missing.since)


@router.post("/hold", status_code=204)
def hold_sources(held: SourceList, services: Administered) -> None:
    """Hold removals back until a person says so."""
    services.writer.hold([source.plain() for source in held.sources])


@router.post("/forget", status_code=204)
def forget_sources(gone: SourceList, services: Administered) -> None:
    """Let go of files that are gone, and of their documents unless they have other names."""
    services.writer.forget([source.plain() for source in gone.sources])
