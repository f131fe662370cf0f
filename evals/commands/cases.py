"""Cases: propose them, look at them, save what was asked, read what others made."""

from __future__ import annotations

import sys
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Annotated

import typer

from api.cli import begin
from evals.commands.output import keeping, say_resumed
from pageglass.errors import UsageError


def new(
    ctx: typer.Context,
    out: Annotated[
        Path,
        typer.Option(metavar="FILE", help="The cases they are added to; what it has is skipped."),
    ],
    count: Annotated[int, typer.Option(min=1, max=10_000, help="How many, at most.")] = 50,
    collection: Annotated[
        str | None,
        typer.Option("--collection", "-c", metavar="NAME", help="Of this one; default: of all."),
    ] = None,
    unanswerable: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of questions about what no page names."),
    ] = 0.2,
    seed: Annotated[int, typer.Option(help="Another seed picks other pages.")] = 0,
) -> None:
    """Propose questions whose answers stand on indexed pages, with gold page and quote, and some
    that no page answers.

    Where the profile has a model that looks at pages it writes them; without one, rules make them
    of sentences and table rows, and these are easier to find than what people ask. Look at all of
    them with `pageglass eval review`. Pages that cases of the file cover already are skipped, and
    so are questions that were rejected.

    \b
    pageglass eval new --collection work --count 50 --out cases.jsonl
    """
    from rich.console import Console

    from api.backend import open_backend
    from api.vision import load_vision_models
    from evals.cases import append_cases, listed_cases
    from evals.partial import Partial, fingerprint
    from evals.proposing import Written, propose, remembering, writer
    from evals.review import rejected_file
    from retrieval.profiles import Checkpoints, chosen_models

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
        write = None
        if vlm is not None:
            path = stack.enter_context(keeping(out))
            work = fingerprint(command="new", model=vlm.name)
            kept = stack.enter_context(Partial(path, Written, work, say_resumed))
            seconds = settings.answer.seconds
            write = remembering(writer(vlm, backend.page_image, seconds=seconds), kept)
        status = stack.enter_context(console.status("reading pages"))
        proposals = propose(
            documents,
            lambda ref: backend.page(ref.document_id, ref.number),
            count=count,
            seed=seed,
            unanswerable=unanswerable,
            known=known,
            rejected=rejected,
            write=write,
            model=vlm.name if vlm else None,
            looked=lambda pages: status.update(f"read {pages} pages"),
        )
        for reason, times in sorted(proposals.dropped.items()):
            typer.echo(f"dropped {times}: {reason}", err=True)
        if not proposals.cases:
            raise UsageError(
                "no page is left that a question can be made of: index more documents, or use a"
                " profile with a model that looks at pages"
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


def review(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Cases, one JSON object a line.")],
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Port on 127.0.0.1; 0 picks a free one.")
    ] = 0,
) -> None:
    """Show cases one by one beside their pages, on a page that only this machine can open.

    Every decision is saved at once; what is rejected goes to a file beside the cases, so that it is
    not proposed again. Ctrl-C ends it.

    \b
    pageglass eval review cases.jsonl
    """
    from api.backend import open_backend
    from evals.cases import read_cases
    from evals.review import serve_review

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


def save(
    request_id: Annotated[
        str, typer.Argument(metavar="REQUEST_ID", help="The X-Request-Id of the answer.")
    ],
    log: Annotated[
        Path, typer.Option(metavar="FILE", help="The server's log, as JSON lines; - for stdin.")
    ],
    into: Annotated[Path, typer.Option(metavar="FILE", help="The cases it is added to.")],
) -> None:
    """Add a question that a server was asked to a file of cases, with the pages it cited, for a
    person to review.

    The log must be JSON (log_format = "json") and have the texts (server.log_text = true).

    \b
    pageglass eval save 4bf92f3577b34da6 --log server.log --into cases.jsonl
    """
    from evals.cases import append_case
    from evals.saving import find_request

    with nullcontext(sys.stdin) if str(log) == "-" else log.open(errors="replace") as lines:
        saved = find_request(lines, request_id)
    append_case(into, saved.case)
    for note in saved.notes:
        typer.echo(note, err=True)
    pages = ", ".join(map(str, saved.case.pages)) or "none"
    typer.echo(f"{saved.case.id}: {saved.case.document}, gold pages {pages}")
    typer.echo(f"review it: pageglass eval review {into}", err=True)


def convert(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A question set, in any layout.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the cases go.")],
) -> None:
    """Write a question set as cases, one JSON object a line, and name what could not be used.

    Reads samples.json of MMLongBench-Doc, financebench_open_source.jsonl, and cases. All commands
    that take cases read these as they are, too.

    \b
    pageglass eval convert samples.json --out cases.jsonl
    """
    from evals.cases import CasesError, read_cases, write_cases
    from evals.files import check_output

    check_output(out, inputs=[file])
    cases = read_cases(file, None)
    for line in cases.excluded:
        typer.echo(f"excluded: {line}", err=True)
    for line in cases.remarks:
        typer.echo(line, err=True)
    if not cases.usable:
        raise CasesError(f"{file} holds no question that can be used")
    write_cases(out, cases.usable)
    typer.echo(f"{len(cases.usable)} cases in {out}, {len(cases.excluded)} excluded")
