"""What follows from runs: a threshold, a report for people, and whether a build passes."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from api.cli import begin
from api.printing import print_error, print_json
from evals.commands.output import AsJson, RunFile, keeping, say_resumed
from pageglass.errors import PageglassError, UsageError
from pageglass.text import one_line
from pageglass.types import DEFAULT_COLLECTION, check_collection_name


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
    as_json: AsJson = False,
) -> None:
    """Fit the support below which answers are declined to your own cases, and store it with the
    collection: its answers by the same model keep to it from then on.

    \b
    pageglass eval calibrate --cases cases.jsonl --false-declines 0.1 --dry-run
    """
    from rich.console import Console
    from rich.progress import track

    from api.owner import require_data_folder
    from api.services import Services
    from evals import calibrate as fitting
    from evals.runs import read_run

    settings = begin(ctx, as_json, here=True)
    check_collection_name(collection)
    if sum((cases is not None, run is not None, forget)) != 1:
        raise UsageError("name one of --cases, --run and --forget")
    before = settings.answer.threshold
    recorded = None if run is None else read_run(run)
    looks_only = recorded is not None and dry_run
    if not looks_only:
        require_data_folder(settings.data_dir)
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
            with keeping(settings.data_dir / collection, "calibrate") as kept:
                observed = fitting.ask(
                    services,
                    cases,
                    collection=collection,
                    watch=lambda of: track(of, "asking", console=shown, disable=as_json),
                    keep=kept,
                    resumed=say_resumed,
                )
        for fitted in services.thresholds.list([collection]) if services is not None else ():
            if fitted.model == observed.model:
                before = fitted.threshold
        if not as_json:
            for line in observed.excluded:
                typer.echo(f"excluded: {one_line(line)}", err=True)
            for line in observed.remarks:
                typer.echo(f"note: {one_line(line)}", err=True)
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


def report(
    ctx: typer.Context,
    run: RunFile,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the report is written.")] = Path(
        "report.html"
    ),
    compare: Annotated[
        Path | None, typer.Option(metavar="RUN", help="An earlier run of the same cases.")
    ] = None,
    misses: Annotated[int, typer.Option(min=0, help="Most misses that are shown.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Show a run in one HTML file that needs nothing else: tables, plots, and the cases that went
    wrong with their pages.

    Page images are from the data folder, which may be in use; --data-dir names another.

    \b
    pageglass eval report run.json --compare old.json --out report.html
    """
    settings = begin(ctx, as_json, here=True)
    from evals.files import check_output
    from evals.report import Pages, write_report
    from evals.runs import read_run

    check_output(out, inputs=[run] if compare is None else [run, compare])
    recorded = read_run(run)
    other = None if compare is None else read_run(compare)
    with Pages(settings.data_dir) as pages:
        shown = write_report(recorded, out, pages=pages, other=other, misses=misses)
    size = out.stat().st_size
    if as_json:
        print_json({"file": str(out), "bytes": size, "misses": shown})
    else:
        typer.echo(one_line(f"{out}: {size / 1e6:.1f} MB, {shown} misses shown"))


def gate(
    ctx: typer.Context,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run to check.")],
    baseline: Annotated[
        Path, typer.Option(metavar="RUN", help="The run that it must not fall behind.")
    ],
    metric: Annotated[
        list[str] | None,
        typer.Option(help="A metric to compare; may repeat. Default: those that both runs have."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare a run with an earlier one of the same cases, case by case.

    Exits 1 where a metric is worse by more than its noise: where the whole 95 % interval of its
    change, by document, lies below nought. Exits 2 where the runs cannot be compared.

    \b
    pageglass eval gate new.json --baseline old.json --metric page-recall
    """
    begin(ctx, as_json)
    from dataclasses import asdict

    from evals.gate import gate
    from evals.runs import read_run

    try:
        changes, unchecked = gate(read_run(run), read_run(baseline), metric or ())
    except PageglassError as error:
        # 1 says that something dropped, so that must not be said of what cannot be read.
        if as_json:
            print_json({"error": {"code": error.code, "message": one_line(str(error))}})
        print_error(str(error))
        raise typer.Exit(2) from None
    dropped = [change for change in changes if change.dropped]
    if as_json:
        rows = [asdict(change) | {"dropped": change.dropped} for change in changes]
        print_json({"changes": rows, "unchecked": [asdict(one) for one in unchecked]})
    else:
        for change in changes:
            typer.echo(
                f"{'DROPPED' if change.dropped else 'ok':<8} {change.metric:<22}"
                f" {change.old:.3f} -> {change.new:.3f}  {change.gain:+.3f}"
                f" [{change.low:+.3f}, {change.high:+.3f}]"
                f"  {change.cases} cases, {change.documents} documents"
            )
        for one in unchecked:
            typer.echo(f"{'-':<8} {one.metric:<22} not compared: {one.reason}")
    if dropped:
        raise typer.Exit(1)
