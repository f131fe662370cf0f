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
    _say_excluded(cases.excluded)
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


def _say_excluded(lines: tuple[str, ...]) -> None:
    for line in lines:
        typer.echo(f"excluded: {line}", err=True)
