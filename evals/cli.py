"""`pageglass eval`: is retrieval good, are answers true, and what holds them back?

Loaded by the command line (entry point ``eval`` of ``pageglass.commands``). Heavy imports happen
inside the commands.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Measure search and answers on questions whose pages are known.",
    short_help="Measure search and answers on your own cases.",
)


@app.callback()
def _group() -> None:
    """Measure search and answers on questions whose pages are known."""


# Cases

CasesFile = Annotated[Path, typer.Argument(metavar="FILE", help="Cases, one JSON object a line.")]


@app.command(short_help="Make cases of MMLongBench-Doc and FinanceBench files.")
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

    cases = read_cases(file, None)
    for line in cases.excluded:
        typer.echo(f"excluded: {line}", err=True)
    for line in cases.remarks:
        typer.echo(line, err=True)
    if not cases.usable:
        raise CasesError(f"{file} holds no question that can be used")
    write_cases(out, cases.usable)
    typer.echo(f"{len(cases.usable)} cases in {out}, {len(cases.excluded)} excluded")


@app.command(short_help="Save a logged question as a case.")
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


@app.command(short_help="Propose cases from an index, for you to review.")
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
    from evals.commands import propose_cases

    propose_cases(
        ctx,
        out,
        count=count,
        collection=collection,
        unanswerable=unanswerable,
        seed=seed,
    )


@app.command(short_help="Accept, edit or reject cases on a local page.")
def review(
    ctx: typer.Context,
    file: CasesFile,
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
    from evals.commands import review_cases

    review_cases(ctx, file, port=port)
