"""Whether the server answers and can answer, and what it holds."""

from __future__ import annotations

from dataclasses import asdict

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Response

from api.routes import Administered, AnyView, OpenServices
from pageglass import __version__
from pageglass.wire import AccessModel, Alive, Readiness, StatusModel, Version

router = APIRouter(tags=["health"])


@router.get("/livez")
async def livez() -> Alive:
    """Say that the server answers: it takes no thread, so it does so however busy others are."""
    return Alive()


# Of its own, and one: however many ask, they take no thread from questions.
_READY = CapacityLimiter(1)


@router.get("/readyz", responses={503: {"model": Readiness, "description": "Not now."}})
async def readyz(services: OpenServices, response: Response) -> Readiness:
    """Say whether models, store and queue are there."""
    readiness = await to_thread.run_sync(services.readiness, limiter=_READY)
    if not readiness.ready:
        response.status_code = 503
    return readiness


@router.get("/version")
async def version(services: OpenServices) -> Version:
    """Say what the server is, and whether it wants a key."""
    return Version(
        version=__version__,
        profile=services.settings.profile,
        needs_key=services.settings.server.keys_needed,
        can=services.can(),
    )


@router.get("/access")
async def access(view: AnyView) -> AccessModel:
    """Say what the caller's key may do; a key that is none is refused."""
    found = view.access
    collections = None if found.collections is None else list(found.collections)
    return AccessModel(scopes=sorted(found.scopes), collections=collections)


@router.get("/status")
def status(services: Administered) -> StatusModel:
    """Count what the data folder holds."""
    return StatusModel(**asdict(services.status()))
