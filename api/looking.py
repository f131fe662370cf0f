"""Looking at a data folder without owning it: its catalog, read-only, and no models."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from api.owner import require_data_folder
from api.time_left import busy_seconds
from ingest.catalog import Catalog
from ingest.database import Database
from ingest.degraded import noted
from ingest.jobs import Jobs
from ingest.sources import Source
from ingest.thresholds import FittedThreshold, Thresholds
from pageglass.profiles import PROFILES, QUOTING
from pageglass.settings import Settings
from pageglass.types import Document, HeldFile, Job, JobState, Scope, check_collection_name
from retrieval.checkpoints import ModelName

_LATELY_SECONDS = 600.0
_LATELY_JOBS = 100


@dataclass(frozen=True, slots=True)
class Status:
    """What a data folder holds."""

    data_dir: str
    profile: str
    documents: dict[str, int]
    """Documents by state."""
    jobs: dict[str, int]
    """Jobs by state."""
    held: int
    """Removals that wait for a person's word (`pageglass deletions`)."""
    outage: str | None
    """Why nothing can be stored at the moment, as far as this process knows."""
    degraded: str | None
    """What is lost of what the catalog counts on, and what mends it."""
    pages: int
    collections: dict[str, int]
    """Indexed pages by collection."""
    disk_bytes: int
    answering_model: str | None
    """What answers say answered; None where a model's server decides."""
    thresholds: tuple[FittedThreshold, ...]
    """What was fitted to collections (`pageglass eval calibrate`), for whatever model."""


def read_status(
    settings: Settings,
    catalog: Catalog,
    jobs: Jobs,
    thresholds: Thresholds,
    *,
    degraded: str | None,
    outage: str | None = None,
) -> Status:
    """What the catalog and the disk say of a data folder."""
    states, pages = catalog.counts()
    return Status(
        data_dir=str(settings.data_dir),
        profile=settings.profile,
        documents=states,
        jobs=jobs.counts(),
        held=len(held_files(catalog)),
        outage=outage,
        degraded=degraded,
        pages=sum(pages.values()),
        collections=pages,
        disk_bytes=_size(settings.data_dir),
        answering_model=answering_model(settings),
        thresholds=tuple(thresholds.list()),
    )


def answering_model(settings: Settings) -> str | None:
    """What answers will say answered; None where a model's server decides. Loads nothing."""
    own = PROFILES[settings.profile].models
    name, url = settings.models.answer or own.answer, settings.answer.url or own.answer_url
    if name is None:
        return None if url else QUOTING
    plain = ModelName.parse(name).name
    return name if url and not Path(plain).expanduser().is_dir() else plain


def held_files(catalog: Catalog) -> list[HeldFile]:
    """Removals that are held back."""
    return [
        HeldFile(source.collection, source.path, source.missing_since)
        for source in catalog.watched(held=True)
    ]


def seconds_left(jobs: Jobs, collections: Sequence[str] | None = None) -> float | None:
    """Until all that is queued is indexed, at the pace of what is in work and of what ended lately:
    one document alone, just begun or full of scans, says little of the others. None where nothing
    can be said. Only what concerns ``collections`` counts, if any are given."""
    running = jobs.list(("running",), collections=collections)
    if not running:
        return None
    now = jobs.now()
    pages, spans = 0.0, list[tuple[float, float]]()
    for job in running:
        if job.started_at is not None:
            pages += (job.pages_per_second or 0) * (now - job.started_at)
            spans.append((job.started_at, now))
    for job in jobs.list(("done",), limit=_LATELY_JOBS, collections=collections):
        if job.started_at is not None and (job.ended_at or 0) > now - _LATELY_SECONDS:
            pages += job.pages
            spans.append((job.started_at, job.ended_at or now))
    return jobs.pages_left(collections) * busy_seconds(spans) / pages if pages else None


class Looking:
    """A data folder to look at, whoever owns it. Use it as a context manager."""

    def __init__(self, settings: Settings, *, may_be_new: bool = False) -> None:
        """StoreError where the catalog cannot be read; NoDataFolder, unless it ``may_be_new``."""
        if not may_be_new:
            require_data_folder(settings.data_dir)
        self._settings = settings
        path = settings.data_dir / "catalog.sqlite"
        there = path.exists()
        self._database = Database(path if there else Path(":memory:"), read_only=there)
        self._catalog = Catalog(self._database)
        self._jobs = Jobs(self._database, settings.ingest)
        self._thresholds = Thresholds(self._database)

    def __enter__(self) -> Looking:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def status(self) -> Status:
        """What the data folder holds."""
        embedded = self._settings.index.url is None
        return read_status(
            self._settings,
            self._catalog,
            self._jobs,
            self._thresholds,
            degraded=noted(self._settings.data_dir, self._catalog, embedded=embedded),
        )

    def documents(self, *, collection: str | None = None) -> list[Document]:
        """Every document, oldest first."""
        if collection is not None:
            self._catalog.require_collection(check_collection_name(collection))
        return self._catalog.documents(scope=Scope((collection,) if collection else None))

    def collections(self) -> list[str]:
        """The names of the collections that hold a document."""
        return [holding.name for holding in self._catalog.collections()]

    def job_list(self, states: Sequence[JobState] = (), *, limit: int = 1000) -> list[Job]:
        """Jobs in these states (none: all): running, queued, then the ended, newest first."""
        return self._jobs.list(states, limit=limit)

    def job_counts(self) -> dict[str, int]:
        """Jobs by state."""
        return self._jobs.counts()

    def seconds_left(self) -> float | None:
        """Until all is indexed, at the present pace; None where nothing can be said."""
        return seconds_left(self._jobs)

    def held(self) -> list[HeldFile]:
        """Files that are gone, whose documents wait for a person's word."""
        return held_files(self._catalog)

    # What a dry run asks: nothing else of a SourceRegistry is used

    def sources(self, folder: str) -> list[Source]:
        """The sources that a watcher of ``folder`` took."""
        return self._catalog.watched(folder)


def _size(folder: Path) -> int:
    """Bytes on disk; files that vanish meanwhile do not count."""
    total = 0
    for below, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(f"{below}/{name}").st_blocks * 512
            except FileNotFoundError:
                continue
    return total
