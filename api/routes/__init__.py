"""HTTP routes, one file a noun. Plain ``def``: their work blocks, so it runs on worker threads.

A route gets at documents through a ``View`` alone, which knows what its caller may see; only what
concerns the whole data folder, for callers who may see all of it, gets the services themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Depends, Path, Request
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from api.access import Access, access_of
from api.keys import KeyScope
from api.problems import pageglass_problem, request_id_of
from api.services import Services
from api.streaming import Questions
from api.view import View
from pageglass.errors import PageglassError


class Needs:
    """A dependency: the caller's view, for callers with one of some scopes."""

    def __init__(self, *scopes: KeyScope) -> None:
        self.scopes = scopes

    async def __call__(self, request: Request) -> View:
        """The view; KeyForbidden."""
        access = access_of(request.scope)
        self.check(access)
        return View(request.app.state.services, access)

    def check(self, access: Access) -> None:
        """KeyForbidden where the caller has none of the scopes."""
        access.require(*self.scopes)


class NeedsAll(Needs):
    """A dependency: the services, for callers with a scope who see every collection."""

    async def __call__(self, request: Request) -> Any:
        """The services; KeyForbidden."""
        self.check(access_of(request.scope))
        return request.app.state.services

    def check(self, access: Access) -> None:
        """KeyForbidden where the caller has none of the scopes, or does not see everything."""
        super().check(access)
        access.require_all()


class Authorize:
    """Refuses what the caller's scope does not reach before a byte of the body is read.

    Routes say what they need by a ``Needs``, which checks again when it gives out the view.
    """

    def __init__(self, app: ASGIApp, *, routes: Sequence[APIRoute]) -> None:
        self._app = app
        self._needs = [
            (route, dependency.call)
            for route in routes
            for dependency in route.dependant.dependencies
            if isinstance(dependency.call, Needs)
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "http":
            try:
                for route, needs in self._needs:
                    if route.matches(scope)[0] is Match.FULL:
                        needs.check(access_of(scope))
            except PageglassError as error:
                await pageglass_problem(request_id_of(scope), error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


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
AnyView = Annotated[View, Depends(Needs("search", "ask", "ingest", "admin"))]
"""For what every key may see."""
Administered = Annotated[Services, Depends(NeedsAll("admin"))]

AskedQuestions = Annotated[Questions, Depends(_questions)]
RequestId = Annotated[str, Depends(_request_id)]
DocumentId = Annotated[str, Path(max_length=64)]
PageNumber = Annotated[
    # Bounded for the database's sake; whether there is such a page is the catalog's to say.
    int,
    Path(ge=-(2**31), lt=2**31, description="1-based position in the PDF."),
]
