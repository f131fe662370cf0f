"""What the commands of `pageglass eval` do with an index; evals.cli only declares them."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import typer
from rich.console import Console

from api.backend import open_backend
from api.cli import begin
from api.vision import load_vision_models
from evals.cases import append_cases, listed_cases, read_cases
from evals.proposing import propose, writer
from evals.review import rejected_file, serve_review
from pageglass.errors import UsageError
from retrieval.profiles import Checkpoints, chosen_models


def propose_cases(
    ctx: typer.Context,
    out: Path,
    *,
    count: int,
    collection: str | None,
    unanswerable: float,
    seed: int,
) -> None:
    """`pageglass eval new`."""
    settings = begin(ctx, as_json=False)
    known, rejected = listed_cases(out), listed_cases(rejected_file(out))
    console = Console(stderr=True)
    with ExitStack() as stack:
        backend = stack.enter_context(
            open_backend(settings, command="eval new", server=ctx.obj.server)
        )
        documents = [d for d in backend.documents(collection=collection) if d.state == "indexed"]
        if not documents:
            where = f"the collection {collection!r}" if collection else "the index"
            raise UsageError(f"{where} has no indexed document: `pageglass ingest PATH` adds some")
        vision = load_vision_models(settings, chosen_models(settings), Checkpoints.of(settings))
        stack.callback(vision.close)
        vlm = vision.answer
        status = stack.enter_context(console.status("reading pages"))
        proposals = propose(
            documents,
            lambda ref: backend.page(ref.document_id, ref.number),
            count=count,
            seed=seed,
            unanswerable=unanswerable,
            known=known,
            rejected=rejected,
            write=writer(vlm, backend.page_image, seconds=settings.answer.seconds) if vlm else None,
            model=vlm.name if vlm else None,
            looked=lambda pages: status.update(f"read {pages} pages"),
        )
    for reason, times in sorted(proposals.dropped.items()):
        typer.echo(f"dropped {times}: {reason}", err=True)
    if not proposals.cases:
        raise UsageError(
            "no page is left that a question can be made of: index more documents, or use a profile"
            " with a model that looks at pages"
        )
    append_cases(out, proposals.cases)
    without = sum(not case.answerable for case in proposals.cases)
    by = proposals.model or "rules"
    typer.echo(
        f"{len(proposals.cases)} cases by {by} in {out}, {without} of them without an answer"
    )
    if len(proposals.cases) < count:
        typer.echo(f"no more pages of {len(documents)} documents make a question", err=True)
    typer.echo(f"look at them: pageglass eval review {out}", err=True)


def review_cases(ctx: typer.Context, file: Path, *, port: int) -> None:
    """`pageglass eval review`."""
    settings = begin(ctx, as_json=False)
    for line in read_cases(file, None).excluded:
        typer.echo(f"not shown: {line}", err=True)
    with open_backend(settings, command="eval review", server=ctx.obj.server) as backend:
        serve_review(
            file,
            documents=backend.documents(),
            page_of=lambda ref: backend.page(ref.document_id, ref.number),
            image_of=backend.page_image,
            port=port,
            listening=lambda address: typer.echo(
                f"review the cases at {address} (Ctrl-C ends it; every decision is saved)"
            ),
        )
