"""What Prometheus asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request, Response

from api import problems
from api.routes import Administered
from pageglass.errors import MissingExtra
from retrieval.torch_runtime import INSTALL

if TYPE_CHECKING:
    from api.metrics import Metrics

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {
            "content": problems.contents("text/plain"),
            "description": "Prometheus' text format.",
        },
        501: problems.described("The extra `observability` is not installed."),
    },
)
async def metrics(services: Administered, request: Request) -> Response:
    """Tell Prometheus how much was done, how long it took, and what there is."""
    del services  # Totals over everybody: for those who see everything.
    counted: Metrics | None = request.app.state.metrics
    if counted is None:
        raise MissingExtra(
            f"prometheus-client is not installed: run {INSTALL['observability']}"
            " in Pageglass's folder"
        )
    # Off the threads that answers need: a busy server is the one to be looked at.
    text = await to_thread.run_sync(counted.text, limiter=CapacityLimiter(1))
    return Response(text, media_type=counted.content_type)
