"""`pageglass eval`: is retrieval good, are answers true, and what holds them back?

Loaded by the command line (entry point ``eval`` of ``pageglass.commands``). Heavy imports happen
inside the commands.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pageglass.errors import UsageError
from pageglass.types import DEFAULT_COLLECTION

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence

    from rich.table import Table

    from evals.answers import Mean
    from evals.judge import Judge
    from evals.misses import Cause, PageCause
    from evals.ranking import Difference, RankingTables
    from evals.ranking import Mean as RankingMean
    from evals.runs import Run
    from pageglass.settings import Settings

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


# Answers, judges, probes

RunFile = Annotated[
    Path, typer.Argument(metavar="RUN", help="The file of a run.", exists=True, dir_okay=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


@app.command("answers", short_help="Tables of how good a run's answers are.")
def answers_command(ctx: typer.Context, run: RunFile, as_json: AsJson = False) -> None:
    """Are the answers right, do their citations hold the evidence, are the right ones declined?

    Every figure with its 95 % interval and the number of cases it rests on, by answer format and by
    kind of evidence.

    \b
    pageglass eval answers run.json
    """
    _begin(ctx, as_json)
    from dataclasses import asdict

    from api import printing
    from evals.answers import answer_tables
    from evals.runs import RunError, read_run

    recorded = read_run(run)
    if all(outcome.answer is None for outcome in recorded.outcomes):
        raise RunError(f"{run} has no answers: make the run again, with answers")
    tables = answer_tables(recorded)
    if as_json:
        printing.print_json(asdict(tables))
        return
    rows = {
        **tables.overall,
        **{f"format {name}": row for name, row in tables.by_format.items()},
        **{f"evidence {name}": row for name, row in tables.by_source.items()},
    }
    _print_means("Answers", ("match", "contains", "f1", "judged"), rows)
    _print_means("Citations", ("citation_precision", "citation_recall", "verified_quotes"), rows)
    _print_means("Declined", ("declined_unanswerable", "declined_answerable"), rows)
    _print_excluded(tables.excluded)


@app.command("judge", short_help="Have a model judge a run's answers by the page images.")
def judge_command(
    ctx: typer.Context,
    run: RunFile,
    url: Annotated[
        str | None,
        typer.Option(
            help="OpenAI-compatible server of the judge (http://host:8000/v1), its key in"
            " PAGEGLASS_JUDGE_KEY; default: the model that answers."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The judge's name; default: the first its server has.")
    ] = None,
    pairwise: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Compare with the answers of this run instead, case by case.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Time for one judgement.")] = 120.0,
    pages: Annotated[
        int, typer.Option(min=1, max=50, help="Most pages that the judge is shown.")
    ] = 8,
    as_json: AsJson = False,
) -> None:
    """Have a model judge every answer of a run, by the pages with the evidence and those cited.

    The judgements are written into the run. Answers that the judge did not judge are excluded and
    counted. The data folder must be the one the run was made on.

    \b
    pageglass eval judge run.json --url http://127.0.0.1:8000/v1
    """
    settings = _begin(ctx, as_json, here=True)
    import os

    from api.services import Services
    from evals.judge import KEY_VARIABLE, Judge, judge_model
    from evals.runs import read_run

    recorded = read_run(run)
    with Services(settings, command="eval judge") as services:
        vlm = judge_model(services, url, model, key=os.environ.get(KEY_VARIABLE) or None)
        try:
            judge = Judge(vlm, services, seconds=seconds, pages=pages)
            if pairwise is not None:
                _compare(recorded, read_run(pairwise), judge, as_json)
            else:
                _judge(recorded, run, judge, as_json)
        finally:
            if vlm is not services.vlm:
                vlm.close()


def _judge(run: Run, file: Path, judge: Judge, as_json: bool) -> None:
    from dataclasses import asdict

    from api import printing
    from evals.judge import judge_run, judged
    from evals.runs import write_run

    with _progress("judging", len(run.outcomes), as_json) as moved:
        done = judge_run(run, judge, told=moved)
    found = judged(done)
    if found.correct.n:
        write_run(done, file)
    if as_json:
        printing.print_json(asdict(found))
    else:
        typer.echo(f"correct, of the answers judged    {_mean(found.correct)}")
        typer.echo(f"right, declining included         {_mean(found.right)}")
        typer.echo(f"declined, and not judged          {found.declined}")
        typer.echo(f"judge                             {', '.join(found.models)}")
        typer.echo(f"prompt                            {', '.join(found.prompts)}")
        _print_excluded(found.excluded)
    if not found.correct.n:
        printing.print_error("no answer could be judged: the run is as it was")
        raise typer.Exit(1)


def _compare(run: Run, other: Run, judge: Judge, as_json: bool) -> None:
    from collections import Counter
    from dataclasses import asdict

    from api import printing
    from evals.judge import compare, preferred

    with _progress("comparing", len(run.outcomes), as_json) as moved:
        preferences = compare(run, other, judge, told=moved)
    share = preferred(preferences)
    counts = Counter(one.better for one in preferences)
    excluded = [f"{one.case.id}: {one.reason}" for one in preferences if one.better is None]
    if as_json:
        printing.print_json(
            {
                "first": counts["first"],
                "second": counts["second"],
                "ties": counts["tie"],
                "share_first": asdict(share),
                "prompt": preferences[0].prompt,
                "preferences": [
                    {"id": one.case.id, "better": one.better, "reason": one.reason}
                    for one in preferences
                ],
                "excluded": excluded,
            }
        )
    else:
        typer.echo(
            f"first better {counts['first']}, second better {counts['second']},"
            f" ties {counts['tie']}"
        )
        typer.echo(f"share of the first, ties as half  {_mean(share)}")
        typer.echo(f"prompt                            {preferences[0].prompt}")
        _print_excluded(excluded)
    if not share.n:
        printing.print_error("no pair of answers could be compared")
        raise typer.Exit(1)


@app.command("agreement", short_help="How often a judge agrees with a person.")
def agreement_command(
    ctx: typer.Context,
    run: RunFile,
    labels: Annotated[
        Path,
        typer.Argument(
            metavar="LABELS",
            help='One JSON object a line: {"id": "the case", "correct": true or false}.',
            exists=True,
            dir_okay=False,
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Compare the judgements of a run with what a person said of the same answers.

    \b
    pageglass eval agreement run.json labels.jsonl
    """
    _begin(ctx, as_json)
    from api import printing
    from evals.judge import agreement, read_labels
    from evals.runs import read_run

    said, excluded = read_labels(labels)
    found = agreement(read_run(run), said)
    excluded = [*excluded, *found.excluded]
    if as_json:
        printing.print_json(
            {
                "n": found.n,
                "accuracy": found.accuracy.mean,
                "accuracy_interval": [found.accuracy.low, found.accuracy.high],
                "kappa": found.kappa,
                "kappa_interval": [found.kappa_low, found.kappa_high],
                "table": [
                    {"person": person, "judge": judge, "answers": count}
                    for (person, judge), count in found.table.items()
                ],
                "excluded": excluded,
            }
        )
        return
    kappa = _interval(found.kappa, found.kappa_low, found.kappa_high)
    typer.echo(f"agreement      {_mean(found.accuracy)}")
    typer.echo(f"Cohen's kappa  {kappa}")
    for (person, judge), count in found.table.items():
        typer.echo(f"person {_verdict(person):7}  judge {_verdict(judge):7}  {count}")
    _print_excluded(excluded)


def _verdict(correct: bool) -> str:
    return "correct" if correct else "wrong"


@app.command("probes", short_help="Ask what tempts to make something up.")
def probes_command(
    ctx: typer.Context,
    cases: Annotated[
        Path, typer.Option(help="Questions, one JSON object a line.", exists=True, dir_okay=False)
    ],
    out: Annotated[
        Path, typer.Option(metavar="RUN", help="The run to add them to, or a new file.")
    ],
    collection: Annotated[
        str | None, typer.Option("--collection", "-c", help="Where the documents are.")
    ] = None,
    scope: Annotated[
        str, typer.Option(help="Search only the case's document, or the whole collection.")
    ] = "collection",
    limit: Annotated[
        int, typer.Option(min=1, help="Most pages, and most cases, to ask about.")
    ] = 50,
    seed: Annotated[int, typer.Option(help="Which ones; the same give the same questions.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Ask questions that tempt to make something up, and say how often an answer fell for it.

    On things that a page does not mention, without the pages that hold the evidence, and on false
    variants of sentences. The documents of the cases must be indexed.

    \b
    pageglass eval probes --cases cases.jsonl --out run.json
    """
    settings = _begin(ctx, as_json, here=True)
    from dataclasses import asdict

    from api import printing
    from api.services import Services
    from evals.probes import ask_probes, join, make_probes, open_cases, polling, rates
    from evals.runs import read_run, write_run

    if scope not in ("document", "collection"):
        raise typer.BadParameter("must be 'document' or 'collection'", param_hint="--scope")
    earlier = read_run(out) if out.exists() else None
    with Services(settings, command="eval probes") as services:
        opened = open_cases(services, cases, collection=collection, scope=scope)
        run = opened.run if earlier is None else join(earlier, opened.run)
        made = make_probes(
            services,
            opened.cases,
            opened.ids,
            scope=scope,
            collection=collection,
            seed=seed,
            limit=limit,
        )
        with _progress("asking", len(made.probes), as_json) as moved:
            outcomes = ask_probes(services, made.probes, told=moved)
    write_run(run.model_copy(update={"probes": tuple(outcomes)}), out)
    excluded = [*opened.run.excluded, *made.excluded]
    if as_json:
        printing.print_json(
            {
                "rates": {name: asdict(rate) for name, rate in rates(outcomes).items()},
                "polling": {name: asdict(one) for name, one in polling(outcomes).items()},
                "excluded": excluded,
            }
        )
        return
    for name, rate in rates(outcomes).items():
        unclear = f", {rate.unclear} unclear" if rate.unclear else ""
        what = "denied it" if name == "present" else "fell for it"
        typer.echo(
            f"{name:22} {rate.fell} of {rate.n} {what}"
            f"  {_interval(rate.rate, rate.low, rate.high)}{unclear}"
        )
    for name, one in polling(outcomes).items():
        typer.echo(
            f"polling, {name:13} accuracy {one.accuracy:.3f}  precision {_figure(one.precision)}"
            f"  recall {_figure(one.recall)}  f1 {_figure(one.f1)}  yes {one.yes:.3f}  n={one.n}"
        )
    _print_excluded(excluded)


def _begin(ctx: typer.Context, as_json: bool, *, here: bool = False) -> Settings:
    from api import cli

    return cli.begin(ctx, as_json, here=here)


@contextmanager
def _progress(what: str, total: int, quiet: bool) -> Generator[Callable[[object], None]]:
    """Shows on standard error how many are done, of which it is told; nothing if ``quiet``."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=quiet, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.advance(task)


def _print_means(
    title: str, figures: Sequence[str], rows: Mapping[str, Mapping[str, Mean]]
) -> None:
    from api import printing

    used = {
        printing.one_line(name): [_mean(row[figure]) for figure in figures]
        for name, row in rows.items()
        if any(row[figure].n for figure in figures)
    }
    width = max(len(name) for name in (title, *used)) + 2
    heads = [figure.replace("_", " ") for figure in figures]
    for name, cells in {title: heads, **used}.items():
        line = name.ljust(width) + "".join(cell.ljust(_CELL) for cell in cells)
        typer.echo(line.rstrip())
    typer.echo()


_CELL = len("0.000 [0.000, 0.000] n=0000  ")


def _mean(mean: Mean) -> str:
    return f"{_interval(mean.mean, mean.low, mean.high)} n={mean.n}" if mean.n else "-"


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "not defined"
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _print_excluded(lines: Iterable[str]) -> None:
    from api import printing

    excluded = list(lines)
    if excluded:
        typer.echo(f"excluded: {len(excluded)}", err=True)
    for line in excluded:
        typer.echo(f"  {printing.one_line(line)}", err=True)


# Runs, rankings, misses

CutOff = Annotated[
    int | None, typer.Option("-k", min=1, max=50, help="Pages looked at; default: the run's.")
]


@app.command("run", short_help="Ask every case and record what became of it.")
def run_command(
    ctx: typer.Context,
    cases: Annotated[
        Path, typer.Option(help="Questions, one JSON object a line.", exists=True, dir_okay=False)
    ],
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
    scope: Annotated[
        str, typer.Option(help="Search only the case's document, or the whole collection.")
    ] = "collection",
    k: Annotated[int, typer.Option("-k", min=1, max=50, help="Pages looked at.")] = 5,
    answers: Annotated[bool, typer.Option("--answers", help="Answer, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask every case of documents that are indexed, and record rankings and answers in a file.

    Cases name documents by file name or id. What cannot be used is named and left out. Afterwards:
    `table`, `misses`, `compare`, `answers` and `judge` say what the run is worth.

    \b
    pageglass eval run --cases cases.jsonl --out run.json
    """
    settings = _begin(ctx, as_json, here=True)
    from rich.console import Console
    from rich.progress import track

    from api import printing
    from api.services import FileReport, Services
    from evals.evaluate import (
        cases_about,
        documents_here,
        documents_of_folder,
        evaluate,
        index_folder,
    )
    from evals.ranking import ranking_tables
    from evals.runs import RunError, write_run
    from pageglass.errors import UsageError

    if scope not in ("document", "collection"):
        raise typer.BadParameter("must be 'document' or 'collection'", param_hint="--scope")
    if docs is not None and collection is not None:
        raise UsageError("--docs is a collection of its own: leave --collection out")
    if docs is not None and ctx.obj.data_dir is None:
        settings = settings.model_copy(update={"data_dir": index_folder(docs)})

    def told(file: FileReport) -> None:
        if not as_json:
            typer.echo(printing.report_line(file), err=True)

    with Services(settings, command="eval run") as services:
        found = (
            documents_here(services, collection)
            if docs is None
            else documents_of_folder(services, docs, told=told)
        )
        chosen, ids = cases_about(cases, found)
        if not chosen.usable:
            why = f": {chosen.excluded[0]}" if chosen.excluded else ": it has none"
            raise RunError(f"no case of {cases} can be used{why}")
        errors = Console(stderr=True)
        run = evaluate(
            services,
            chosen,
            ids,
            cases_file=cases,
            scope=scope,
            k=k,
            answers=answers,
            collection=collection,
            only=found.only,
            failed_documents=found.failed,
            watch=lambda usable: track(usable, "asking", console=errors, disable=as_json),
        )
    write_run(run, out)
    if as_json:
        printing.print_json({"run": str(out), **_tables_json(ranking_tables(run))})
        return
    _print_tables(ranking_tables(run), groups=False)
    typer.echo(f"{out}: {len(run.outcomes)} cases; `pageglass eval table {out}` says more")


@app.command("table", short_help="Tables of how good a run's rankings are.")
def table_command(
    ctx: typer.Context, run: RunFile, k: CutOff = None, as_json: AsJson = False
) -> None:
    """How good is search, step by step and by kind of case?

    One row a ranking of the same cases: what users get (search), before reranking with and without
    grouping of near-duplicates, other fusions, each retriever alone, and all but it. Each row
    but the first says how it differs from search. Intervals are of 95 %, by document.

    \b
    pageglass eval table run.json
    """
    _begin(ctx, as_json)
    from api import printing
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

    from api import printing

    metrics = list(tables.variants[0].scores)
    if not metrics:
        typer.echo("no case can be scored: none is answerable and names a page with the evidence")
    else:
        table = Table("ranking", *metrics, *(f"{name} to search" for name in metrics[:2]), "n")
        for variant in tables.variants:
            moved = {one.metric: one for one in variant.differences}
            table.add_row(
                variant.ranking,
                *(_mean_cell(variant.scores[name]) for name in metrics),
                *(_difference_cell(moved[name]) if moved else "" for name in metrics[:2]),
                str(variant.scores[metrics[0]].cases),
            )
        _show(table)
        if groups:
            table = Table("cases of search", *metrics, "n", "documents")
            for kind, rows in tables.groups.items():
                for name, row in rows.items():
                    table.add_row(
                        printing.one_line(f"{kind}: {name}"),
                        *(_mean_cell(row[metric]) for metric in metrics),
                        str(row[metrics[0]].cases),
                        str(row[metrics[0]].documents),
                    )
            _show(table)
        cases = f"{tables.cases} cases of {tables.documents} documents, scope {tables.scope}"
        typer.echo(f"{cases}; intervals: 95 %, bootstrap over documents")
        _caution(tables.documents)
    if tables.seconds is not None:
        half, most = tables.seconds
        typer.echo(f"a search took {half:.3f} s (median), {most:.3f} s (95th percentile)")
    _print_excluded([*tables.excluded, *tables.failed_documents])
    for line in tables.remarks:
        typer.echo(printing.one_line(line), err=True)


def _caution(documents: int) -> None:
    """Say what intervals of few documents are worth."""
    from evals.ranking import FEW_DOCUMENTS

    if documents == 1:
        typer.echo("a single document tells nothing of others: no intervals")
    elif documents < FEW_DOCUMENTS:
        typer.echo(f"intervals of fewer than {FEW_DOCUMENTS} documents are too narrow")


def _show(table: Table) -> None:
    """Print a table; into files and pipes as wide as it is."""
    from rich import box
    from rich.console import Console

    table.box = box.SIMPLE
    console = Console(highlight=False, markup=False)
    console.print(table) if console.is_terminal else Console(
        highlight=False, markup=False, width=500
    ).print(table)


def _mean_cell(mean: RankingMean) -> str:
    return _interval(mean.value, mean.low, mean.high)


def _difference_cell(one: Difference) -> str:
    if one.low is None or one.high is None:
        return f"{one.difference:+.3f}"
    sure = " *" if one.sure else ""
    return f"{one.difference:+.3f} [{one.low:+.3f}, {one.high:+.3f}]{sure}"


@app.command("compare", short_help="Compare two runs over the same cases.")
def compare_command(
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
    _begin(ctx, as_json)
    from dataclasses import asdict

    from rich.table import Table

    from api import printing
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
    _show(table)
    typer.echo(f"{found[0].cases} cases of {found[0].documents} documents")
    _caution(found[0].documents)
    for what, ids in asdict(unpaired).items():
        if ids:
            named = ", ".join(printing.one_line(id) for id in ids)
            typer.echo(f"{what.replace('_', ' ')}: {len(ids)}: {named}", err=True)


@app.command("misses", short_help="Say which step lost each failed case.")
def misses_command(
    ctx: typer.Context, run: RunFile, k: CutOff = None, as_json: AsJson = False
) -> None:
    """Which step lost each failed case: the text, a retriever, fusion, grouping, reranking, or the
    answer?

    \b
    pageglass eval misses run.json
    """
    _begin(ctx, as_json)
    from collections import Counter
    from dataclasses import asdict

    from rich.table import Table

    from api import printing
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
    _show(table)
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
        typer.echo(printing.one_line(line))


_PAGES_NAMED = 5
"""Of the gold pages that a case missed."""


def _counts_json(
    counts: Mapping[Cause, tuple[int, int]] | Mapping[PageCause, tuple[int, int]],
) -> dict[str, dict[str, int]]:
    return {
        cause: {"right_document": right, "wrong_document": wrong}
        for cause, (right, wrong) in counts.items()
    }


# Calibration, comparison, report


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


@app.command("gate", short_help="Fail where a metric dropped by more than its noise.")
def gate_command(
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
    pageglass eval gate new.json --baseline old.json --metric page_recall
    """
    _begin(ctx, as_json)
    from dataclasses import asdict

    from api.printing import one_line, print_error, print_json
    from evals.gate import gate
    from evals.runs import read_run
    from pageglass.errors import PageglassError

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


@app.command("report", short_help="Show a run, and what it got wrong, in one HTML file.")
def report_command(
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
    settings = _begin(ctx, as_json, here=True)
    from api.printing import one_line, print_json
    from evals.report import Pages, check_target, write_report
    from evals.runs import read_run

    check_target(out)
    recorded = read_run(run)
    other = None if compare is None else read_run(compare)
    with Pages(settings.data_dir) as pages:
        shown = write_report(recorded, out, pages=pages, other=other, misses=misses)
    size = out.stat().st_size
    if as_json:
        print_json({"file": str(out), "bytes": size, "misses": shown})
    else:
        typer.echo(one_line(f"{out}: {size / 1e6:.1f} MB, {shown} misses shown"))
