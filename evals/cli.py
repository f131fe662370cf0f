"""`pageglass eval`: is retrieval good, are answers true, and what holds them back?

Loaded by the command line (entry point ``eval`` of ``pageglass.commands``). Heavy imports happen
inside the commands.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pageglass.errors import UsageError
from pageglass.types import DEFAULT_COLLECTION

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


@app.command(short_help="Fit the support below which answers are declined.")
def calibrate(
    ctx: typer.Context,
    cases: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Questions to ask now, one JSON object a line."),
    ] = None,
    run: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Take the answers of this run instead.")
    ] = None,
    collection: Annotated[
        str, typer.Option(help="The collection that is asked and calibrated.")
    ] = DEFAULT_COLLECTION,
    false_declines: Annotated[
        float, typer.Option(metavar="SHARE", help="Good answers that may be declined.")
    ] = 0.05,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Store nothing.")] = False,
    forget: Annotated[
        bool, typer.Option("--forget", help="Forget what was fitted to the collection.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fit the support below which answers are declined to your own cases, and store it with the
    collection: its answers by the same model keep to it from then on.

    \b
    pageglass eval calibrate --cases cases.jsonl --false-declines 0.1 --dry-run
    """
    from contextlib import nullcontext

    from rich.console import Console
    from rich.progress import track

    from api.cli import _begin
    from api.printing import one_line, print_json
    from api.services import Services
    from evals import calibrate as fitting
    from evals.runs import read_run
    from pageglass.types import check_collection_name

    settings = _begin(ctx, as_json, here=True)
    check_collection_name(collection)
    if sum((cases is not None, run is not None, forget)) != 1:
        raise UsageError("name one of --cases, --run and --forget")
    before = settings.answer.threshold
    recorded = None if run is None else read_run(run)
    looks_only = recorded is not None and dry_run
    opened = nullcontext() if looks_only else Services(settings, command="eval calibrate")
    with opened as services:
        if services is not None and forget:
            forgotten = services.thresholds.forget(collection)
            if as_json:
                print_json({"collection": collection, "forgotten": forgotten})
            else:
                typer.echo(f"{collection}: {forgotten} forgotten")
            return
        if recorded is not None:
            if services is not None:
                fitting.check_is_of(recorded, services, collection)
            observed = fitting.observed_in(recorded)
        else:
            assert services is not None and cases is not None
            shown = Console(stderr=True)
            observed = fitting.ask(
                services,
                cases,
                collection=collection,
                watch=lambda of: track(of, "asking", console=shown, disable=as_json),
            )
        for fitted in services.thresholds.list([collection]) if services is not None else ():
            if fitted.model == observed.model:
                before = fitted.threshold
        if not as_json:
            for line in observed.excluded:
                typer.echo(f"excluded: {one_line(line)}", err=True)
        found = fitting.calibrate(observed, false_declines, collection=collection, before=before)
        if services is not None and not dry_run:
            services.thresholds.put(found.to_keep())
    if as_json:
        print_json(found.to_json() | {"stored": not dry_run})
        return
    Console().print(fitting.table(found))
    typer.echo(
        f"{collection}: {observed.model} declines below {found.threshold:.3g}; fitted to"
        f" {found.fitted.false.total} answerable and {found.fitted.right.total} unanswerable cases"
        f" for {false_declines:.3g} of false declines at most; {len(observed.excluded)} excluded"
    )
    typer.echo("nothing was stored (--dry-run)" if dry_run else "stored with the collection")
