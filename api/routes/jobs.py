"""The work under way: jobs, what is held back, and keeping the data folder in order."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import anyio
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from api import problems
from api.routes import Administered, DocumentId, IngestView
from api.view import View
from pageglass.types import JobState
from pageglass.wire import (
    BackupResponse,
    CheckRequest,
    CheckResponse,
    DeletionList,
    DeletionModel,
    DeletionVerdict,
    FindingModel,
    JobList,
    JobModel,
    Retried,
    Settled,
)

router = APIRouter(tags=["jobs"])

_LOOK_SECONDS = 0.5
_KEEP_ALIVE_SECONDS = 15.0
_SHOWN = 50

States = Annotated[list[JobState] | None, Query(alias="state", description="May be repeated.")]


@router.get("/jobs")
def list_jobs(
    view: IngestView,
    state: States = None,
    limit: Annotated[int, Query(ge=1, le=100_000)] = 1000,
) -> JobList:
    """List the work on documents: running, queued, then the ended, newest first."""
    return _jobs(view, tuple(state or ()), limit)


@router.get(
    "/jobs/events",
    response_class=StreamingResponse,
    responses={
        200: {
            "content": problems.contents("text/event-stream"),
            "description": "Events `jobs` (JobList), until one side closes.",
        }
    },
)
async def follow_jobs(view: IngestView, request: Request) -> StreamingResponse:
    """Follow the work as server-sent events: the jobs now, and again whenever something moved.

    Every event `jobs` is a whole list as of GET /jobs, of the first fifty.
    """
    stopping: threading.Event = request.app.state.stopping
    return StreamingResponse(
        _events(view, stopping),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _events(view: View, stopping: threading.Event) -> AsyncIterator[str]:
    # Of its own: those who only look must not use up the threads that answers need.
    limiter = CapacityLimiter(1)
    number, last, quiet = 0, "", 0.0
    while not stopping.is_set():
        seen = await to_thread.run_sync(
            lambda: _jobs(view, (), _SHOWN).model_dump_json() if view.holds() else None,
            limiter=limiter,
        )
        if seen is None:
            return
        if seen != last:
            last, quiet = seen, 0.0
            number += 1
            yield f"id: {number}\nevent: jobs\ndata: {seen}\n\n"
        elif quiet >= _KEEP_ALIVE_SECONDS:
            quiet = 0.0
            yield ": still here\n\n"
        await anyio.sleep(_LOOK_SECONDS)
        quiet += _LOOK_SECONDS


def _jobs(view: View, states: tuple[JobState, ...], limit: int) -> JobList:
    left = view.seconds_left()
    return JobList(
        jobs=[JobModel.of(job) for job in view.jobs(states, limit=limit)],
        counts=view.job_counts(),
        seconds_left=None if left is None else round(left),
    )


@router.post("/jobs/retry")
def retry_dead_jobs(view: IngestView) -> Retried:
    """Try everything again that was given up."""
    return Retried(retried=view.retry_dead())


@router.get("/jobs/{document_id}")
def get_job(document_id: DocumentId, view: IngestView) -> JobModel:
    """Show the work on a document."""
    return JobModel.of(view.job(document_id))


@router.post("/jobs/{document_id}/retry")
def retry_job(document_id: DocumentId, view: IngestView) -> JobModel:
    """Try again, at once, what failed, was cancelled or waits for its next attempt."""
    return JobModel.of(view.retry(document_id))


@router.post("/jobs/{document_id}/cancel")
def cancel_job(document_id: DocumentId, view: IngestView) -> JobModel:
    """Stop the work on a document; its indexed pages stay."""
    return JobModel.of(view.cancel(document_id))


@router.get("/deletions")
def list_deletions(services: Administered) -> DeletionList:
    """List removals that are held back since too many files were gone at once."""
    return DeletionList(deletions=[DeletionModel.of(source) for source in services.held()])


@router.post("/deletions")
def settle_deletions(verdict: DeletionVerdict, services: Administered) -> Settled:
    """Carry held removals out, or keep the documents for good."""
    return Settled(settled=services.settle_held(remove=verdict.remove, folder=verdict.folder))


@router.post("/check")
def check_folder(wanted: CheckRequest, services: Administered) -> CheckResponse:
    """Compare catalog, files and collections; nothing is written meanwhile."""
    findings = services.check(repair=wanted.repair, deep=wanted.deep)
    return CheckResponse(findings=[FindingModel(**asdict(finding)) for finding in findings])


@router.post("/backups", status_code=201)
def make_backup(services: Administered) -> BackupResponse:
    """Copy the data folder into its own folder `backups`, as it is now."""
    name = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    report = services.backup(services.settings.data_dir / "backups" / name)
    return BackupResponse(**asdict(report))
