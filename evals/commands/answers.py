"""Answers: how good they are, what a judge says of them, and what tempts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    progress,
    say_resumed,
    scope_name,
)
from pageglass.text import one_line

if TYPE_CHECKING:
    from evals.answers import Mean
    from evals.judge import Judge
    from evals.runs import Outcome, Run


def answers(ctx: typer.Context, run: RunFile, as_json: AsJson = False) -> None:
    """Are the answers right, do their citations hold the evidence, are the right ones declined?

    Every figure with its 95 % interval and the number of cases it rests on, by answer format and by
    kind of evidence.

    \b
    pageglass eval answers run.json
    """
    begin(ctx, as_json)
    from dataclasses import asdict

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
    print_excluded(tables.excluded)


def judge(
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
    settings = begin(ctx, as_json, here=True)
    import os

    from api.owner import require_data_folder
    from api.services import Services
    from evals.judge import KEY_VARIABLE, Judge, judge_model
    from evals.runs import read_run

    recorded = read_run(run)
    require_data_folder(settings.data_dir)
    with Services(settings, command="eval judge") as services:
        vlm = judge_model(services, url, model, key=os.environ.get(KEY_VARIABLE) or None)
        try:
            judge = Judge(vlm, services, seconds=seconds, pages=pages)
            if pairwise is not None:
                with keeping(run, "compare") as kept:
                    _compare(recorded, read_run(pairwise), judge, as_json, kept)
            else:
                _judge(recorded, run, judge, as_json)
        finally:
            if vlm is not services.vlm:
                vlm.close()


def _judge(run: Run, file: Path, judge: Judge, as_json: bool) -> None:
    from dataclasses import asdict

    from evals.judge import judge_run, judged, new_verdicts
    from evals.runs import write_run

    seen: list[Outcome] = []
    try:
        with (
            keeping(file, "judge") as kept,
            progress("judging", len(run.outcomes), as_json) as moved,
        ):

            def told(outcome: Outcome) -> None:
                seen.append(outcome)
                moved(outcome)

            done = judge_run(run, judge, told=told, keep=kept, resumed=say_resumed)
            if new := new_verdicts(run.outcomes, done.outcomes):
                write_run(done, file)
    except KeyboardInterrupt:
        new = new_verdicts(run.outcomes, seen)
        if not new:
            raise KeyboardInterrupt("stopped; the run is as it was") from None
        rest = run.outcomes[len(seen) :]
        write_run(run.model_copy(update={"outcomes": (*seen, *rest)}), file)
        raise KeyboardInterrupt(
            f"stopped; new verdicts in {file}: {new}; run the same command again to go on"
        ) from None
    found = judged(done)
    if as_json:
        printing.print_json(asdict(found))
    else:
        typer.echo(f"correct, of the answers judged    {_mean(found.correct)}")
        typer.echo(f"right, declining included         {_mean(found.right)}")
        typer.echo(f"declined, and not judged          {found.declined}")
        typer.echo(f"judge                             {', '.join(found.models)}")
        typer.echo(f"prompt                            {', '.join(found.prompts)}")
        print_excluded(found.excluded)
    earlier = found.correct.n - new
    if earlier:
        typer.echo(f"{earlier} could not be judged now: their earlier verdicts count", err=True)
    if not new:
        printing.print_error("no answer could be judged: the run is as it was")
        raise typer.Exit(1)


def _compare(run: Run, other: Run, judge: Judge, as_json: bool, kept: Path) -> None:
    from collections import Counter
    from dataclasses import asdict

    from evals.judge import compare, preferred

    with progress("comparing", len(run.outcomes), as_json) as moved:
        preferences = compare(run, other, judge, told=moved, keep=kept, resumed=say_resumed)
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
        print_excluded(excluded)
    if not share.n:
        printing.print_error("no pair of answers could be compared")
        raise typer.Exit(1)


def agreement(
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
    begin(ctx, as_json)
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
    kappa = interval(found.kappa, found.kappa_low, found.kappa_high)
    typer.echo(f"agreement      {_mean(found.accuracy)}")
    typer.echo(f"Cohen's kappa  {kappa}")
    for (person, judge), count in found.table.items():
        typer.echo(f"person {_verdict(person):7}  judge {_verdict(judge):7}  {count}")
    print_excluded(excluded)


def _verdict(correct: bool) -> str:
    return "correct" if correct else "wrong"


def probes(
    ctx: typer.Context,
    cases: CasesToAsk,
    out: Annotated[
        Path, typer.Option(metavar="RUN", help="The run to add them to, or a new file.")
    ],
    collection: Annotated[
        str | None, typer.Option("--collection", "-c", help="Where the documents are.")
    ] = None,
    scope: ScopeOption = "collection",
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
    settings = begin(ctx, as_json, here=True)
    from dataclasses import asdict

    from api.owner import require_data_folder
    from api.services import Services
    from evals.evaluate import blank_run, cases_about, check_usable, documents_here
    from evals.files import check_output
    from evals.probes import ask_probes, join, make_probes, polling, rates
    from evals.runs import read_run, write_run

    within = scope_name(scope)
    check_output(out, inputs=[cases])
    earlier = read_run(out) if out.is_file() else None
    require_data_folder(settings.data_dir)
    with Services(settings, command="eval probes") as services:
        chosen, ids = cases_about(cases, documents_here(services, collection))
        check_usable(cases, chosen)
        blank = blank_run(
            services,
            chosen,
            ids,
            cases_file=cases,
            scope=within,
            k=settings.search.top_k,
            collection=collection,
        )
        run = blank if earlier is None else join(earlier, blank)
        made = make_probes(
            services,
            chosen.usable,
            ids,
            scope=within,
            collection=collection,
            seed=seed,
            limit=limit,
        )
        with keeping(out, "probes") as kept:
            with progress("asking", len(made.probes), as_json) as moved:
                outcomes = ask_probes(
                    services, made.probes, told=moved, keep=kept, resumed=say_resumed
                )
            write_run(run.model_copy(update={"probes": tuple(outcomes)}), out)
    excluded = [*chosen.excluded, *made.excluded]
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
            f"  {interval(rate.rate, rate.low, rate.high)}{unclear}"
        )
    for name, one in polling(outcomes).items():
        typer.echo(
            f"polling, {name:13} accuracy {one.accuracy:.3f}  precision {_figure(one.precision)}"
            f"  recall {_figure(one.recall)}  f1 {_figure(one.f1)}  yes {one.yes:.3f}  n={one.n}"
        )
    print_excluded(excluded)
    for line in chosen.remarks:
        typer.echo(one_line(line), err=True)


def _print_means(
    title: str, figures: Sequence[str], rows: Mapping[str, Mapping[str, Mean]]
) -> None:
    used = {
        one_line(name): [_mean(row[figure]) for figure in figures]
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
    return f"{interval(mean.mean, mean.low, mean.high)} n={mean.n}" if mean.n else "-"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
