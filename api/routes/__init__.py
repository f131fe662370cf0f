"""HTTP routes, one file a noun. Plain ``def``: their work blocks, so it runs on worker threads.

A route gets at documents through a ``View`` alone, which knows what its caller may see; only what
concerns the whole data folder, for callers who may see all of it, gets the services themselves.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Path, Request

from api.access import access_of
from api.keys import KeyScope
from api.problems import request_id_of
from api.services import Services
from api.streaming import Questions
from api.view import View


class Needs:
    """A dependency: the caller's view, for callers with one of some scopes."""

    def __init__(self, *scopes: KeyScope) -> None:
        self.scopes = scopes

    async def __call__(self, request: Request) -> View:
        """The view; KeyForbidden."""
        access = access_of(request.scope)
        access.require(*self.scopes)
        return View(request.app.state.services, access)


class NeedsAll(Needs):
    """A dependency: the services, for callers with a scope who see every collection."""

    async def __call__(self, request: Request) -> Any:
        """The services; KeyForbidden."""
        access = access_of(request.scope)
        access.require(*self.scopes)
        access.require_all()
        return request.app.state.services


async def _services(request: Request) -> Services:
    return request.app.state.services


async def _questions(request: Request) -> Questions:
    return request.app.state.questions


async def _request_id(request: Request) -> str:
    return request_id_of(request.scope)


OpenServices = Annotated[Services, Depends(_services)]
"""For routes that tell nothing about documents."""
SearchView = Annotated[View, Depends(Needs("search"))]
AskView = Annotated[View, Depends(Needs("ask"))]
IngestView = Annotated[View, Depends(Needs("ingest"))]
LookView = Annotated[View, Depends(Needs("search", "ingest"))]
"""For what both who asks and who adds documents must see."""
Administered = Annotated[Services, Depends(NeedsAll("admin"))]

AskedQuestions = Annotated[Questions, Depends(_questions)]
RequestId = Annotated[str, Depends(_request_id)]
DocumentId = Annotated[str, Path(max_length=64)]
PageNumber = Annotated[
    # Bounded for the database's sake; whether there is such a page is the catalog's to say.
    int,
    Path(ge=-(2**31), lt=2**31, description="1-based position in the PDF."),
]
