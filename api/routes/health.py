"""Whether the server answers, and what it holds."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter
from fastapi.responses import RedirectResponse

from api.routes import OpenServices
from pageglass import __version__
from pageglass.wire import Health, StatusModel

router = APIRouter(tags=["health"])


@router.get("/healthz")
def healthz(services: OpenServices) -> Health:
    """Say that the server answers, with its version, profile and number of documents."""
    return Health(
        ok=True,
        version=__version__,
        profile=services.settings.profile,
        documents=sum(services.catalog.counts()[0].values()),
    )


@router.get("/status")
def status(services: OpenServices) -> StatusModel:
    """Count what the data folder holds."""
    return StatusModel(**asdict(services.status()))


@router.get("/", include_in_schema=False)
def root() -> RedirectResponse:
    """Lead to the documentation of this API."""
    return RedirectResponse("/docs", status_code=307)
