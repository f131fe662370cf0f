"""What the command line says: to people in words, to programs in JSON.

Names, quotes and reasons come from documents, so they are made harmless to a terminal first.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pageglass.text import one_line, printable

if TYPE_CHECKING:
    from api.keys import Key
    from api.looking import Status
    from api.services import FileReport
    from ingest.thresholds import FittedThreshold
    from pageglass.types import Answer, Document, ExtractedValue, Extraction, Hit, Job
    from retrieval.costs import Estimate

_MAX_QUOTE = 300
_DOUBT = "  [not found on the page: do not rely on it]"


def print_json(value: Any) -> None:
    """One JSON document on standard output, always UTF-8."""
    text = json.dumps(value, ensure_ascii=False, indent=2) + "\n"
    sys.stdout.flush()
    # File names that are no UTF-8 come as lone surrogates; escaped, they are valid JSON.
    sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace"))
    sys.stdout.buffer.flush()


def print_error(message: str) -> None:
    """One line on standard error, red on a terminal."""
    text = f"pageglass: {one_line(message)}"
    typer.echo(typer.style(text, fg="red") if sys.stderr.isatty() else text, err=True)


def _whole(line: str) -> str:
    """A line made harmless, its columns kept."""
    return printable(line.replace("\n", " "))


def report_line(report: FileReport) -> str:
    """What became of one file."""
    document = report.document
    count = _count(document.pages, "page") if document and report.outcome != "failed" else None
    return _outcome_line(report.outcome, report.path, count, report.reason)


def document_line(document: Document) -> str:
    """What became of one document: as ``report_line``, for a watched folder."""
    count = _count(document.pages, "page") if document.state == "indexed" else None
    return _outcome_line(document.state, document.name, count, document.reason)


def tally(reports: Sequence[FileReport]) -> str:
    """How many files ended how, such as ``3 indexed, 1 failed``."""
    outcomes = [report.outcome for report in reports]
    kinds = ("indexed", "unchanged", "failed")
    return ", ".join(f"{outcomes.count(kind)} {kind}" for kind in kinds if kind in outcomes)


def print_answer(answer: Answer) -> None:
    """The answer and every citation; where it was declined, the nearest pages."""
    print_transcription(answer.transcription)
    if answer.status == "not_found":
        typer.echo("The pages do not answer this.")
        if answer.hits:
            typer.echo("\nThe nearest pages:")
            print_hits(answer.hits)
        print_notes(answer.notes)
        return
    note = " (extractive: quoted from the pages)" if answer.extractive else ""
    if answer.status == "unverified":
        note = "\n(unverified: nothing it cites was found on the pages; do not rely on it)"
    typer.echo(f"{printable(answer.text).strip()}{note}")
    if answer.citations:
        typer.echo()
    for number, citation in enumerate(answer.citations, start=1):
        place = _place(citation.document_name, citation.ref.number, citation.page_label)
        doubt = "" if citation.verified else _DOUBT
        typer.echo(f'[{number}] {place}: "{_shortened(citation.quote)}"{doubt}')
    if not answer.extractive:
        typer.echo(f"\nWritten by {one_line(answer.model)}.")
    print_notes(answer.notes)


def print_extraction(found: Extraction) -> None:
    """Every value of every document, and where it stands; what went wrong on standard error."""
    for document in found.documents:
        typer.echo(f"{one_line(document.document_name)} ({document.document_id})")
        for value in document.values:
            typer.echo(_value_line(value))
            for other in value.alternatives:
                typer.echo(f"  or{_value_line(other)}")
        if not document.values:
            typer.echo("  nothing found")
        for problem in document.problems:
            typer.echo(f"page {problem.ref.number}: {one_line(problem.detail)}", err=True)
        print_notes(document.notes)
    typer.echo(f"\nRead by {one_line(found.model)}.")
    print_notes(found.notes)


def _value_line(value: ExtractedValue) -> str:
    label = f" (label {value.page_label})" if value.page_label != str(value.ref.number) else ""
    said = "" if value.quote is None else f': "{_shortened(value.quote)}"'
    doubt = "" if value.verified else _DOUBT
    stands = one_line(f"page {value.ref.number}{label}{said}")
    shown = one_line(json.dumps(value.value, ensure_ascii=False))
    return f"  {one_line(value.path)}  {shown}  {stands}{doubt}"


def _shortened(quote: str) -> str:
    quote = one_line(quote)
    return quote if len(quote) <= _MAX_QUOTE else quote[: _MAX_QUOTE - 1].rstrip() + "…"


def print_transcription(text: str | None) -> None:
    """What was read from the question's picture, on standard error."""
    if text is not None:
        typer.echo(f"read from the picture: {one_line(text) or '(no text)'}", err=True)


def print_notes(notes: Sequence[str]) -> None:
    """What did not go as asked, on standard error."""
    for note in notes:
        typer.echo(f"note: {one_line(note)}", err=True)


def print_hits(hits: Sequence[Hit]) -> None:
    """Pages, best first, each with the retrievers that found it and their ranks."""
    for number, hit in enumerate(hits, start=1):
        place = _place(hit.document_name, hit.ref.number, hit.page_label)
        why = ", ".join(f"{seen.retriever} #{seen.rank}" for seen in hit.why.retrievers)
        if hit.why.yes is not None:
            why += f", yes {hit.why.yes:.0%}"
        line = f"{number:>2}. {place}  ({why})"
        if hit.why.duplicates:
            line += f"  and {_count(len(hit.why.duplicates), 'page')} like it"
        typer.echo(line)


def print_cost(estimate: Estimate) -> None:
    """What pages cost a model, with the formula and where it is published."""
    page = estimate.page
    shown = f"{_count(estimate.pages, 'page')} of {page.width} x {page.height} pixels"
    typer.echo(
        f"{shown} for {one_line(estimate.model)}: {estimate.input_tokens:,} tokens in,"
        f" {page.image_tokens:,} a page's image"
    )
    if estimate.output_tokens:
        typer.echo(f"and {estimate.output_tokens:,} tokens out")
    if estimate.cost is not None:
        typer.echo(f"at the prices given: {estimate.cost:,.2f}")
    typer.echo(f"{page.formula}\n{page.source}")


def print_status(
    status: Status, documents: Sequence[Document], server: str | None, left: float | None
) -> None:
    """Totals, then every document with its id; ``left`` are the seconds until all is indexed."""
    states = ", ".join(f"{count} {state}" for state, count in sorted(status.documents.items()))
    where = f" (through the server at {server})" if server else ""
    typer.echo(f"data folder  {one_line(status.data_dir)}{where}")
    typer.echo(f"profile      {status.profile}")
    typer.echo(f"documents    {states or 'none: `pageglass ingest PATH` adds some'}")
    if live := status.jobs.get("queued", 0) + status.jobs.get("running", 0):
        pace = f", about {duration(left)} left" if left else ""
        typer.echo(f"in work      {live}{pace} (`pageglass jobs` shows them)")
    if dead := status.jobs.get("dead"):
        typer.echo(f"given up     {dead} (`pageglass jobs --state dead` says why)")
    if status.held:
        typer.echo(f"held         {status.held} removals (`pageglass deletions` settles them)")
    if status.outage:
        typer.echo(f"OUTAGE       {one_line(status.outage)}")
    if status.degraded:
        typer.echo(f"DEGRADED     {one_line(status.degraded)}")
    typer.echo(f"pages        {status.pages:,}")
    typer.echo(f"on disk      {megabytes(status.disk_bytes)}")
    for fitted in status.thresholds:
        typer.echo(f"calibrated   {one_line(calibration(fitted, status.answering_model))}")
    if documents:
        typer.echo()
    for document in documents:
        line = (
            f"{document.id}  {document.state:<8}  {document.pages_indexed}/{document.pages} pages"
            f"  {document.collection}  {document.name}"
        )
        if document.reason:
            line += f": {document.reason}"
        typer.echo(_whole(line))


def calibration(fitted: FittedThreshold, model: str | None) -> str:
    """What was fitted to a collection, and whether ``model``, which answers now, uses it."""
    rests_on = (
        f"{fitted.collection}, on {fitted.answerable} answerable and"
        f" {_count(fitted.unanswerable, 'unanswerable case')}"
    )
    if model in (None, fitted.model):
        return f"{rests_on}: {fitted.model} declines below {fitted.threshold:.3g}"
    return (
        f"{rests_on}, for {fitted.model}: not used, since {model} answers"
        " (`pageglass eval calibrate` fits it, too)"
    )


def print_jobs(jobs: Sequence[Job], counts: dict[str, int], left: float | None) -> None:
    """A line a job, and how long all of it takes."""
    for job in jobs:
        typer.echo(job_line(job))
    states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    pace = f"; all is indexed in about {duration(left)}" if left else ""
    typer.echo(f"{states or 'no jobs'}{pace}", err=True)


def job_line(job: Job) -> str:
    """How far one job is, and what it waits for."""
    line = f"{job.state:<9}  {job.document_id}  {job.name}"
    if job.state in ("queued", "running") and job.pages:
        line += f"  {job.pages_done}/{job.pages} pages"
    if job.pages_per_second:
        line += f", {job.pages_per_second:.1f}/s"
    if job.seconds_left is not None:
        line += f", about {duration(job.seconds_left)} left"
    wait = job.run_after - time.time()
    if job.state == "queued" and wait > 0:
        line += f", next attempt in {duration(wait)}"
    return _whole(line + (f": {job.reason}" if job.reason else ""))


def print_keys(keys: Sequence[Key]) -> None:
    """A line a key."""
    now = time.time()
    for key in keys:
        state = "good"
        if key.revoked_at is not None:
            state = "revoked"
        elif key.expires_at is not None:
            left = key.expires_at - now
            state = f"good for {duration(left)}" if left > 0 else "expired"
        where = "all collections" if key.collections is None else ", ".join(key.collections)
        sites = f" from {', '.join(key.origins)}" if key.origins else ""
        used = "never used"
        if key.last_used_at is not None:
            used = f"used {duration(now - key.last_used_at)} ago"
        scopes = ", ".join(sorted(key.scopes))
        typer.echo(_whole(f"{key.id}  {key.name}: {scopes} in {where}{sites}; {state}, {used}"))
    if not keys:
        typer.echo("no keys yet: `pageglass keys add NAME --scope ask` makes one", err=True)


def duration(seconds: float) -> str:
    """Seconds for people."""
    whole = max(0, round(seconds))
    if whole < 90:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 5400 else f"{whole / 3600:.1f} h"


def page_file(folder: Path, number: int, document_name: str, page: int) -> Path:
    """Where ``--save-pages`` puts the image of citation ``number`` (1-based)."""
    stem = "".join(
        letter if letter.isalnum() or letter in "-_" else "-" for letter in Path(document_name).stem
    )
    return folder / f"{number:02d}-{stem[:80]}-page-{page}.png"


def megabytes(size: int) -> str:
    """Bytes for people."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def _outcome_line(outcome: str, name: str, count: str | None, reason: str | None) -> str:
    what = name + (f" ({count})" if count else "") + (f": {reason}" if reason else "")
    return f"{outcome:<9}  {one_line(what)}"


def _place(document_name: str, page: int, label: str) -> str:
    note = f" (label {label})" if label != str(page) else ""
    return one_line(f"{document_name}, page {page}{note}")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
