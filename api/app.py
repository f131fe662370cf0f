"""The HTTP application over one set of open services."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from anyio import to_thread
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware

from api import facts, problems
from api.access import PUBLIC, Authenticate
from api.facts import Facts
from api.idempotency import NO_WRITES, Answers, Idempotency
from api.keys import check_origin
from api.middleware import BodyLimits, Heads, LocalOnly, RequestIds
from api.routes import (
    Authorize,
    Needs,
    ask,
    chat,
    documents,
    extract,
    health,
    jobs,
    metrics,
    search,
    sources,
    web,
)
from api.services import Services
from api.streaming import Questions
from pageglass import __version__
from pageglass.settings import Settings
from pageglass.wire import Problem
from retrieval.profiles import chosen_models

if TYPE_CHECKING:
    from api.metrics import Metrics

_NOUNS = (ask, search, extract, chat, documents, jobs, sources, health, metrics, web)

WORKER_THREADS = 16
"""Requests other than questions that are worked on at a time; more wait."""

_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key, within a day, gets the answer that it got before.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
}

_DESCRIPTION = """\
Errors are problem documents (RFC 9457) whose `code` is stable. Every response has an
`X-Request-Id`. Writes take an `Idempotency-Key`. Where the server needs API keys (`GET /version`
says so), they come as `Authorization: Bearer KEY`; what scope an operation needs stands with it.
"""


def create_app(services: Services) -> FastAPI:
    """The application; whoever opened ``services`` closes them after it has stopped."""
    app = FastAPI(
        title="Pageglass",
        summary="Ask a question, get an answer in which every claim points at a page you can see.",
        description=_DESCRIPTION,
        version=__version__,
        # api.routes.web has a page that needs no other host.
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
        responses=_problems(),
        generate_unique_id_function=lambda route: route.name,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
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
    server = services.settings.server
    app.state.services = services
    app.state.questions = Questions(
        at_once=_at_once(services.settings), waiting=server.waiting, weights=server.weights
    )
    # Set when the server begins to stop, so that streams end by themselves.
    app.state.stopping = threading.Event()
    app.state.answers = Answers(services.settings.data_dir / "idempotency.sqlite")
    problems.install(app)
    _add_middleware(app, services)
    for noun in _NOUNS:
        app.include_router(noun.router)
    _describe(app)
    return app


def _routes() -> list[APIRoute]:
    """Every operation of the API."""
    return [route for noun in _NOUNS for route in noun.router.routes if isinstance(route, APIRoute)]


def _at_once(settings: Settings) -> int:
    """Questions worked on at a time: many where they wait for a model, else what keeps the cores
    busy, since more would only keep each other (and /livez) waiting for Python's lock."""
    if settings.server.at_once is not None:
        return settings.server.at_once
    return 16 if chosen_models(settings).answer else 2 * settings.threads


def _add_middleware(app: FastAPI, services: Services) -> None:
    """What every request goes through. The last one added is the first one met."""
    server = services.settings.server
    origins = tuple(map(check_origin, server.origins))
    app.add_middleware(Idempotency, answers=app.state.answers)
    app.add_middleware(GZipMiddleware, compresslevel=5)
    app.add_middleware(Heads)
    app.add_middleware(
        BodyLimits,
        upload_bytes=server.upload_mb << 20,
        picture_bytes=services.settings.search.picture_mb << 20,
    )
    app.add_middleware(Authorize, routes=_routes())
    app.add_middleware(
        Authenticate,
        keys=services.keys,
        needed=server.keys_needed,
        token=services.token,
        origins=origins,
        requests_per_minute=server.requests_per_minute,
    )
    if not server.keys_needed:
        app.add_middleware(LocalOnly, host=server.host, origins=origins)
    app.add_middleware(
        CORSMiddleware,
        # A key is no cookie: a page that has none gets nothing. From where each may be used
        # Authenticate knows, which browsers do not tell of when they ask beforehand. Where no
        # key is needed, LocalOnly refuses pages of sites that are not named.
        allow_origins=["*"],
        allow_methods=["GET", "POST", "PATCH", "DELETE"],
        allow_headers=[
            "Accept",
            "Authorization",
            "Content-Type",
            "Idempotency-Key",
            "X-Request-Id",
        ],
        expose_headers=["ETag", "Location", "Retry-After", "X-Request-Id"],
    )
    app.state.metrics = counted = _metrics(services, app.state.questions)

    def ended(known: Facts) -> None:
        facts.log(known, texts=server.log_text)
        if counted is not None:
            counted.count(known)

    app.add_middleware(RequestIds, ended=ended)


def _problems() -> dict[int | str, dict[str, Any]]:
    """What may go wrong anywhere, for the description of the API."""
    said: dict[int | str, str] = {
        401: "An API key is missing, unknown, expired or revoked.",
        403: "The API key does not reach so far, or the page of another site asks.",
        404: "There is no such thing, or not for this API key.",
        413: "The body, a file or a page is larger than a limit allows.",
        422: "The request is not as it must be.",
        429: "Too many requests a minute; see Retry-After.",
        503: "Not now: too many questions wait, or the store is away.",
        "default": "Any other problem.",
    }
    return {status: problems.described(text) for status, text in said.items()}


def _problems_of(path: str, operation: dict[str, Any], method: str) -> dict[str, dict[str, Any]]:
    """What may go wrong there besides."""
    said: dict[str, str] = {}
    if "requestBody" in operation:
        said["400"] = "The body cannot be read."
    if method != "get" and not path.startswith(NO_WRITES):
        said["409"] = (
            "Not in the state it is in, or the request with this Idempotency-Key is under way."
        )
        said["507"] = "The disk is full."
    return {status: problems.described(text) for status, text in said.items()}


def _describe(app: FastAPI) -> None:
    """Say in the description of the API what scopes each operation needs one of, and what may go
    wrong there."""
    bearer = HTTPBearer(scheme_name="key", description="An API key: `pageglass keys add`.")
    needs = {
        route.name: [
            scope
            for dependency in route.dependant.dependencies
            if isinstance(dependency.call, Needs)
            for scope in dependency.call.scopes
        ]
        for route in _routes()
    }
    described = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is not None:
            return app.openapi_schema
        schema = described()
        schemes = schema.setdefault("components", {}).setdefault("securitySchemes", {})
        schemes[bearer.scheme_name] = bearer.model.model_dump(
            mode="json", by_alias=True, exclude_none=True
        )
        problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schema["components"].setdefault("schemas", {}).update(problem.pop("$defs"), Problem=problem)
        for path, operations in schema["paths"].items():
            for method, operation in operations.items():
                operation["responses"] = (
                    _problems_of(path, operation, method) | operation["responses"]
                )
                if method != "get" and not path.startswith(NO_WRITES):
                    operation.setdefault("parameters", []).append(_IDEMPOTENCY_KEY)
                scopes = needs[operation["operationId"]]
                operation["x-pageglass-scopes"] = scopes
                if path not in PUBLIC:
                    operation["security"] = [{}, {bearer.scheme_name: []}]
                    needed = " or ".join(f"`{scope}`" for scope in scopes)
                    operation["description"] += f"\n\nNeeds the scope {needed}."
        return schema

    app.openapi = openapi


def _metrics(services: Services, questions: Questions) -> Metrics | None:
    """None where the extra is not installed: GET /metrics says so."""
    try:
        from api.metrics import Metrics
    except ModuleNotFoundError:
        return None
    return Metrics(
        services, lambda: (questions.in_work, questions.waiting, questions.callers_waiting)
    )


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncGenerator[None]:
    to_thread.current_default_thread_limiter().total_tokens = WORKER_THREADS
    yield
    app.state.answers.close()
