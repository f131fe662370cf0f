"""The HTTP application over one set of open services."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from anyio import to_thread
from fastapi import FastAPI

from api import facts, problems
from api.facts import Facts
from api.middleware import BodyLimits, LocalOnly, RequestIds
from api.routes import ask, documents, health, jobs, metrics, search, sources
from api.services import Services
from pageglass import __version__
from pageglass.wire import Problem

if TYPE_CHECKING:
    from api.metrics import Metrics

WORKER_THREADS = 16
"""Requests worked on at a time; more wait. Searching is bounded by the cores, not by this."""

_ANY_PROBLEM = {
    "description": "A problem document (RFC 9457).",
    "content": {"application/problem+json": {"schema": Problem.model_json_schema()}},
}


def create_app(services: Services) -> FastAPI:
    """The application; whoever opened ``services`` closes them after it has stopped."""
    app = FastAPI(
        title="Pageglass",
        summary="Ask a question, get an answer in which every claim points at a page you can see.",
        version=__version__,
        redoc_url=None,
        lifespan=_lifespan,
        responses={"default": _ANY_PROBLEM},
        # Its own would tell whoever listens in this process what exceptions say, and every span
        # twice: api.traces and api.metrics see to both.
        telemetry={
            "tracing": False,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
        },
    )
    app.state.services = services
    # Set when the server begins to stop, so that streams end by themselves.
    app.state.stopping = threading.Event()
    problems.install(app)
    server = services.settings.server
    # The last one added is the first one met.
    app.add_middleware(
        BodyLimits,
        upload_bytes=server.upload_mb << 20,
        picture_bytes=services.settings.search.picture_mb << 20,
    )
    app.add_middleware(LocalOnly, host=server.host)
    app.state.metrics = counted = _metrics(services)

    def ended(known: Facts) -> None:
        facts.log(known, texts=server.log_text)
        if counted is not None:
            counted.count(known)

    app.add_middleware(RequestIds, ended=ended)
    for noun in (ask, search, documents, jobs, sources, health, metrics):
        app.include_router(noun.router)
    return app


def _metrics(services: Services) -> Metrics | None:
    """None where the extra is not installed: GET /metrics says so."""
    try:
        from api.metrics import Metrics
    except ModuleNotFoundError:
        return None
    return Metrics(services, lambda: (0, 0))


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncGenerator[None]:
    to_thread.current_default_thread_limiter().total_tokens = WORKER_THREADS
    yield
