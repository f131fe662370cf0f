"""Runs: make one, and say how good its rankings are, against another, and where they fail."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api import printing
from api.cli import begin
from evals.commands.output import (
    AsJson,
    CasesToAsk,
    RunFile,
    ScopeOption,
    interval,
    keeping,
    print_excluded,
    print_table,
    say_resumed,
    scope_name,
)
from pageglass.errors import UsageError
from pageglass.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evals.misses import Cause, PageCause
    from evals.ranking import Difference, Mean, RankingTables
    from evals.runs import Run

CutOff = Annotated[
    int | None, typer.Option("-k", min=1, max=50, help="Pages looked at; default: the run's.")
]


def run(
    ctx: typer.Context,
    cases: CasesToAsk,
    out: Annotated[Path, typer.Option(metavar="RUN", help="The file to write the run to.")],
    collection: Annotated[
        str | None,
        typer.Option("--collection", "-c", help="Where the documents are; default: anywhere."),
    ] = None,
    docs: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Index this folder and search it alone, apart from your documents, in .evals.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    scope: ScopeOption = "collection",
    k: Annotated[int, typer.Option("-k", min=1, max=50, help="Pages looked at.")] = 5,
    answers: Annotated[bool, typer.Option("--answers", help="Answer, too.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an older run.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask every case of documents that are indexed, and record rankings and answers in a file.

    Cases name documents by file name or id. What cannot be used is named and left out. Afterwards:
    `table`, `misses`, `compare`, `answers` and `judge` say what the run is worth.

    \b
    pageglass eval run --cases cases.jsonl --out run.json
    """
    settings = begin(ctx, as_json, here=True)
    from rich.console import Console
    from rich.progress import track

    from api.owner import require_data_folder
    from api.services import FileReport, Services
    from evals.evaluate import (
        cases_about,
        check_usable,
        documents_here,
        documents_of_folder,
        evaluate,
        index_folder,
    )
    from evals.files import check_output
    from evals.ranking import ranking_tables
    from evals.runs import replaced, write_run

    within = scope_name(scope)
    check_output(out, inputs=[cases])
    older = replaced(out)
    if docs is not None and collection is not None:
        raise UsageError("--docs is a collection of its own: leave --collection out")
    if older is not None and not force and not _may_replace(out, older):
        raise UsageError(f"{out} is there already: choose another name, or --force")
    if docs is not None and ctx.obj.data_dir is None:
        settings = settings.model_copy(update={"data_dir": index_folder(docs)})

    def told(file: FileReport) -> None:
        if not as_json:
            typer.echo(printing.report_line(file), err=True)

    if docs is None:
        require_data_folder(settings.data_dir)
    with Services(settings, command="eval run") as services:
        found = (
            documents_here(services, collection)
            if docs is None
            else documents_of_folder(services, docs, told=told)
        )
        chosen, ids = cases_about(cases, found)
        check_usable(cases, chosen)
        errors = Console(stderr=True)
        with keeping(out) as kept:
            run = evaluate(
                services,
                chosen,
                ids,
                cases_file=cases,
                scope=within,
                k=k,
                answers=answers,
                collection=collection,
                only=found.only,
                failed_documents=found.failed,
                watch=lambda usable: track(usable, "asking", console=errors, disable=as_json),
                keep=kept,
                resumed=say_resumed,
            )
            write_run(run, out)
    if as_json:
        printing.print_json({"run": str(out), **_tables_json(ranking_tables(run))})
        return
    _print_tables(ranking_tables(run), groups=False)
    typer.echo(f"{out}: {len(run.outcomes)} cases; `pageglass eval table {out}` says more")


_NAME_WIDTH = 17
"""Longer names break over lines, so that the table of kinds fits into 80 columns."""


def _may_replace(path: Path, older: Run) -> bool:
    """Ask whether a run may be written over; where nobody can answer, it may not."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    question = f"{path} is a run of {len(older.outcomes)} cases, made {older.made_at}: replace it?"
    return typer.confirm(question, err=True)


def table(ctx: typer.Context, run: RunFile, k: CutOff = None, as_json: AsJson = False) -> None:
    """How good is search, step by step and by kind of case?

    One row a ranking of the same cases: what users get (search), before reranking with and without
    grouping of near-duplicates, other fusions, each retriever alone, and all but it. Each row
    but the first says how it differs from search. Intervals are of 95 %, by document.

    \b
    pageglass eval table run.json
    """
    begin(ctx, as_json)
    from evals.ranking import ranking_tables
    from evals.runs import read_run

    tables = ranking_tables(read_run(run), k)
    if as_json:
        printing.print_json(_tables_json(tables))
    else:
        _print_tables(tables, groups=True)


def _tables_json(tables: RankingTables) -> dict[str, object]:
    from dataclasses import asdict

    return asdict(tables)


def _print_tables(tables: RankingTables, *, groups: bool) -> None:
    from rich.table import Table

    metrics = list(tables.variants[0].scores)
    if not metrics:
        typer.echo("no case can be scored: none is answerable and names a page with the evidence")
    else:
        heads = [name.replace("@", "\n@") for name in metrics]
        table = Table("ranking", *heads, "n")
        for variant in tables.variants:
            table.add_row(
                variant.ranking,
                *(_mean_cell(variant.scores[name]) for name in metrics),
                str(variant.scores[metrics[0]].cases),
            )
        print_table(table)
        moved = Table("ranking", *(f"{name} to search" for name in metrics[:2]))
        for variant in tables.variants:
            if by := {one.metric: one for one in variant.differences}:
                moved.add_row(variant.ranking, *(_difference_cell(by[n]) for n in metrics[:2]))
        if moved.row_count:
            print_table(moved)
        if groups:
            table = Table("cases of search", *heads, "n", "docs")
            table.columns[0].max_width = _NAME_WIDTH
            for kind, rows in tables.groups.items():
                for name, row in rows.items():
                    table.add_row(
                        one_line(f"{kind}: {name}"),
                        *(_mean_cell(row[metric]) for metric in metrics),
                        str(row[metrics[0]].cases),
                        str(row[metrics[0]].documents),
                    )
            print_table(table)
        cases = f"{tables.cases} cases of {tables.documents} documents, scope {tables.scope}"
        typer.echo(f"{cases}\nintervals: 95 %, bootstrap over documents")
        _caution(tables.documents)
    if tables.seconds is not None:
        half, most = tables.seconds
        typer.echo(f"a search took {half:.3f} s (median), {most:.3f} s (95th percentile)")
    print_excluded([*tables.excluded, *tables.failed_documents])
    for line in tables.remarks:
        typer.echo(one_line(line), err=True)


def _caution(documents: int) -> None:
    """Say what intervals of few documents are worth."""
    from evals.intervals import FEW_DOCUMENTS

    if documents == 1:
        typer.echo("a single document tells nothing of others: no intervals")
    elif documents < FEW_DOCUMENTS:
        typer.echo(f"intervals of fewer than {FEW_DOCUMENTS} documents are too narrow")


def _mean_cell(mean: Mean) -> str:
    """The interval below the figure: a table of four metrics fits into 80 columns so."""
    if mean.low is None or mean.high is None:
        return interval(mean.value, mean.low, mean.high)
    return f"{mean.value:.3f}\n{mean.low:.3f}-{mean.high:.3f}"


def _difference_cell(one: Difference) -> str:
    if one.low is None or one.high is None:
        return f"{one.difference:+.3f}"
    sure = " *" if one.sure else ""
    return f"{one.difference:+.3f} [{one.low:+.3f}, {one.high:+.3f}]{sure}"


def compare(
    ctx: typer.Context,
    first: RunFile,
    second: Annotated[
        Path, typer.Argument(metavar="RUN", help="The other run.", exists=True, dir_okay=False)
    ],
    k: CutOff = None,
    ranking: Annotated[
        str, typer.Option(metavar="NAME", help="Compare this ranking, as `table` names it.")
    ] = "search",
    as_json: AsJson = False,
) -> None:
    """Is the second run better than the first, case by case?

    Only cases with the same id, question and gold pages in both runs are compared; the others are
    named. A difference whose whole interval (95 %, by document) is on one side of nought is marked.

    \b
    pageglass eval compare before.json after.json
    """
    begin(ctx, as_json)
    from dataclasses import asdict

    from rich.table import Table

    from evals.ranking import compare, unpaired_cases
    from evals.runs import read_run

    a, b = read_run(first), read_run(second)
    found = compare(a, b, k, ranking=ranking)
    unpaired = unpaired_cases(a, b)
    if as_json:
        printing.print_json(
            {
                "ranking": ranking,
                "k": k or a.k,
                "differences": [
                    {**asdict(one), "cases": one.cases, "sure": one.sure} for one in found
                ],
                "unpaired": asdict(unpaired),
            }
        )
        return
    table = Table("metric", "first", "second", "difference", "better", "worse", "same")
    for one in found:
        table.add_row(
            one.metric,
            f"{one.first:.3f}",
            f"{one.second:.3f}",
            _difference_cell(one),
            *(str(count) for count in (one.wins, one.losses, one.ties)),
        )
    print_table(table)
    typer.echo(f"{found[0].cases} cases of {found[0].documents} documents")
    _caution(found[0].documents)
    for what, ids in asdict(unpaired).items():
        if ids:
            named = ", ".join(one_line(id) for id in ids)
            typer.echo(f"{what.replace('_', ' ')}: {len(ids)}: {named}", err=True)


def misses(ctx: typer.Context, run: RunFile, k: CutOff = None, as_json: AsJson = False) -> None:
    """Which step lost each failed case: the text, a retriever, fusion, grouping, reranking, or the
    answer?

    \b
    pageglass eval misses run.json
    """
    begin(ctx, as_json)
    from collections import Counter
    from dataclasses import asdict

    from rich.table import Table

    from evals.misses import ANSWER_CAUSES, PAGE_CAUSES, find_misses
    from evals.runs import read_run

    found = find_misses(read_run(run), k)
    if as_json:
        printing.print_json(
            {
                **asdict(found),
                "case_counts": _counts_json(found.case_counts()),
                "page_counts": _counts_json(found.page_counts()),
            }
        )
        return
    table = Table("cause", "cases", "right document", "wrong document", "gold pages missed")
    cases = Counter((miss.cause, miss.document_found) for miss in found.cases)
    pages = found.page_counts()
    missed = {str(cause): sum(counts) for cause, counts in pages.items()}
    for cause in (*PAGE_CAUSES, *ANSWER_CAUSES):
        # A question without an answer has no right document.
        right, wrong, neither = (cases[cause, there] for there in (True, False, None))
        counts = (right + wrong + neither, right, wrong, missed.get(cause, 0))
        if any(counts):
            table.add_row(cause, *(str(count or "") for count in counts))
    lost = sum(missed.values())
    ends = (sum(miss.document_found is there for miss in found.cases) for there in (True, False))
    table.add_section()
    table.add_row("", *(str(count) for count in (len(found.cases), *ends, lost)))
    print_table(table)
    typer.echo(
        f"{len(found.cases)} of {found.asked} cases failed; {lost} of {found.gold} gold pages are"
        f" not among the first {found.k}"
    )
    for miss in found.cases:
        where = {True: "", False: " (wrong document)", None: ""}[miss.document_found]
        pages = ", ".join(str(one.page[1]) for one in miss.pages[:_PAGES_NAMED])
        more = (
            "" if len(miss.pages) <= _PAGES_NAMED else f" and {len(miss.pages) - _PAGES_NAMED} more"
        )
        about = f"{miss.document} p. {pages}{more}" if miss.pages else miss.document
        line = f"{miss.id}: {miss.cause}{where}: {miss.detail}; {about}; {miss.question}"
        typer.echo(one_line(line))


_PAGES_NAMED = 5
"""Of the gold pages that a case missed."""


def _counts_json(
    counts: Mapping[Cause, tuple[int, int]] | Mapping[PageCause, tuple[int, int]],
) -> dict[str, dict[str, int]]:
    return {
        cause: {"right_document": right, "wrong_document": wrong}
        for cause, (right, wrong) in counts.items()
    }
