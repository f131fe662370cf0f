"""How far indexing has come: a bar on a terminal, now and then a line elsewhere.

Everything here goes to standard error; standard output belongs to the results.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

import typer

from api.printing import duration, job_line
from api.time_left import TimeLeft
from pageglass.text import one_line
from pageglass.types import Document, Job

if TYPE_CHECKING:
    from rich.progress import Progress

    from api.backend import Onlooker

_LINE_SECONDS = 5.0
_NAME_WIDTH = 32
_LOOK_SECONDS = 1.0
_FOLLOWED = 20
_ENDED_AT_ONCE = 200


class IngestProgress(Protocol):
    """Follows documents as they move on. Use as a context manager."""

    def __enter__(self) -> IngestProgress: ...
    def __exit__(self, *_: object) -> None: ...

    def moved(self, document: Document) -> None:
        """Note how far a document has come; may be called from any thread."""
        ...

    def ended(self, line: str) -> None:
        """One more file has ended; ``line`` says how, on standard output unless it is empty."""
        ...


def ingest_progress(files: int) -> IngestProgress:
    """A bar where standard error is a terminal, else lines. ``files``: how many there will be."""
    return _Bar(files) if sys.stderr.isatty() else _Lines(files)


class _Pages:
    """Pages done and to do, over documents of which not all are known yet."""

    def __init__(self, files: int) -> None:
        self._files = files
        self._ended = 0
        self._known: dict[str, tuple[int, int]] = {}

    def note(self, document: Document) -> None:
        done = document.pages if document.state == "failed" else document.pages_indexed
        self._known[document.id] = (done, document.pages)

    def file_ended(self) -> None:
        self._ended += 1

    @property
    def files(self) -> str:
        return f"{self._ended}/{self._files} files"

    def count(self) -> tuple[int, int]:
        """Pages done, and all pages, files not yet opened guessed to be as long as the others."""
        done = sum(done for done, _ in self._known.values())
        seen = [pages for _, pages in self._known.values() if pages]
        unseen = max(0, self._files - max(len(seen), self._ended))
        mean = sum(seen) / len(seen) if seen else 0
        return done, round(sum(seen) + mean * unseen)


class _Bar:
    """A progress bar by pages, with the time left."""

    def __init__(self, files: int) -> None:
        # Imported late: most commands show no bar.
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )

        self._pages = _Pages(files)
        self._bar: Progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} pages", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            console=Console(stderr=True, highlight=False),
            # Results go to standard output, which may be a pipe: leave it alone.
            redirect_stdout=False,
            transient=True,
        )
        self._task = self._bar.add_task("reading", total=0, left="")
        self._left = TimeLeft()
        self._stack = ExitStack()

    def __enter__(self) -> _Bar:
        self._stack.enter_context(self._bar)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def moved(self, document: Document) -> None:
        self._pages.note(document)
        self._show(document.name)

    def ended(self, line: str) -> None:
        self._pages.file_ended()
        if line and sys.stdout.isatty():
            # Above the bar; both streams are the same terminal.
            self._bar.console.print(line, markup=False, soft_wrap=True)
        elif line:
            typer.echo(line)
        self._show(None)

    def _show(self, name: str | None) -> None:
        done, total = self._pages.count()
        left = self._left.update(time.monotonic(), done, max(0, total - done))
        shown = "time left unknown" if left is None else f"about {duration(left)} left"
        self._bar.update(self._task, completed=done, total=total, left=shown)
        if name is not None:
            shown = one_line(name)
            if len(shown) > _NAME_WIDTH:
                shown = shown[: _NAME_WIDTH - 1] + "…"
            self._bar.update(self._task, description=f"{self._pages.files}  {shown}")


class _Lines:
    """A line every few seconds, for logs."""

    def __init__(self, files: int) -> None:
        self._pages = _Pages(files)
        self._next = time.monotonic() + _LINE_SECONDS

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def moved(self, document: Document) -> None:
        self._pages.note(document)
        if time.monotonic() < self._next or document.state != "indexing":
            return
        self._next = time.monotonic() + _LINE_SECONDS
        typer.echo(
            f"indexing {one_line(document.name)}: page {document.pages_indexed} of"
            f" {document.pages}; {self._pages.files} done",
            err=True,
        )

    def ended(self, line: str) -> None:
        self._pages.file_ended()
        if line:
            typer.echo(line)


class JobMoves:
    """Tells which jobs moved between one look and the next."""

    def __init__(self, *, since: float) -> None:
        """Jobs that ended before ``since`` (Unix seconds) are history."""
        self._since = since
        self._seen: dict[str, tuple[str, int, float]] = {}

    def among(self, ended: Sequence[Job], live: Sequence[Job]) -> list[Job]:
        """Those that ended since the last look, oldest first, be it that nobody saw them run; then
        the live ones that are new, or got further."""
        fresh = [job for job in ended if (job.ended_at or 0) > self._since]
        self._since = max([self._since, *(job.ended_at or 0 for job in fresh)])
        seen = {job.document_id: (job.state, job.pages_done, job.run_after) for job in live}
        moved = [job for job in live if self._seen.get(job.document_id) != seen[job.document_id]]
        self._seen = seen
        return [*reversed(fresh), *moved]


def follow_jobs(onlooker: Onlooker) -> None:
    """Show what is in work, again and again, until interrupted: in place on a terminal, else a
    line for each job that moved."""
    if not sys.stdout.isatty():
        moved = JobMoves(since=time.time())
        while True:
            ended = onlooker.job_list(("done", "dead", "cancelled"), limit=_ENDED_AT_ONCE)
            live = onlooker.job_list(("running", "queued"), limit=_FOLLOWED)
            for job in moved.among(ended, live):
                typer.echo(job_line(job))
            sys.stdout.flush()
            time.sleep(_LOOK_SECONDS)
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    with Live(console=Console(highlight=False), auto_refresh=False) as live:
        while True:
            jobs = onlooker.job_list(("running", "queued"), limit=_FOLLOWED)
            counts, left = onlooker.job_counts(), onlooker.seconds_left()
            states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
            total = f"{states or 'no jobs'}{f'; about {duration(left)} left' if left else ''}"
            lines = [Text(job_line(job), no_wrap=True, overflow="ellipsis") for job in jobs]
            live.update(Group(*lines, Text(total)), refresh=True)
            time.sleep(_LOOK_SECONDS)
