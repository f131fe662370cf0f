"""Does search find the pages that hold the answer?

    python -m evals.page_recall --cases samples/questions.jsonl --docs samples/docs

Indexes the documents (or reuses the index of an earlier run), asks every question, and prints
hit@k, page-recall@k, MRR and nDCG@k: overall, reranked where the profile has a reranking model, by
kind of evidence and by retriever, and how often questions without an answer are declined.
`pageglass eval run` records the same, and what more there is to say (evals.ranking).
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from api.services import FileReport, Services
from evals.commands.output import scope_name
from evals.evaluate import (
    cases_about,
    documents_of_folder,
    evaluate,
    index_folder,
)
from evals.ranking import names, score_cases
from evals.runs import DEPTH, FUSION, RETRIEVER, SEARCH, Outcome, Run
from pageglass.errors import PageglassError
from pageglass.settings import load_settings

Scores = Mapping[str, float]


def mean_scores(outcomes: Iterable[Outcome], k: int, ranking: str) -> Scores:
    """How many ``cases`` can be scored, and their mean metrics; of no cases, only their number."""
    scored = score_cases(outcomes, k, ranking)
    means = {
        name: sum(case.scores[name] for case in scored) / len(scored) for name in names(k) if scored
    }
    return {"cases": len(scored), **means}


def report(run: Run, *, reranks: bool) -> dict[str, Any]:
    """Every figure of a run; before reranking, but for ``reranked``."""

    def scores(outcomes: Iterable[Outcome], ranking: str) -> Scores:
        return mean_scores(outcomes, run.k, ranking)

    outcomes = run.outcomes
    fused = FUSION + run.settings["search"]["fusion"]
    sources = sorted({source for o in outcomes for source in o.case.sources})
    retrievers = sorted({n for o in outcomes for n in o.rankings if n.startswith(RETRIEVER)})
    result: dict[str, Any] = {
        "overall": scores(outcomes, fused),
        "by_source": {
            source: scores((o for o in outcomes if source in o.case.sources), fused)
            for source in sources
        },
        "by_retriever": {
            name.removeprefix(RETRIEVER): scores(outcomes, name) for name in retrievers
        },
    }
    if reranks:
        result["reranked"] = scores(outcomes, SEARCH)
        result["rerank_failed"] = Counter(note for o in outcomes for note in o.notes)
    return result


def declined(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """How many of the answered cases were declined."""
    answered = [(o.case.answerable, o.answer.declined) for o in outcomes if o.answer is not None]
    return {
        name: {
            "cases": sum(one is answerable for one, _ in answered),
            "declined": sum(one is answerable and said_so for one, said_so in answered),
        }
        for name, answerable in (("declined_unanswerable", False), ("declined_answerable", True))
    }


def main(
    cases: Annotated[Path, typer.Option(help="Questions, one JSON object a line.", exists=True)],
    docs: Annotated[Path, typer.Option(help="Folder with their PDF files.", exists=True)],
    scope: Annotated[
        str, typer.Option(help="Search only the case's document, or the whole collection.")
    ] = "collection",
    k: Annotated[int, typer.Option(min=1, max=DEPTH, help="Pages looked at.")] = 5,
    answers: Annotated[
        bool, typer.Option("--answers", help="Answer, too, and count what is declined.")
    ] = False,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where the index is kept; default: .evals/ by folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure page retrieval on questions with known pages."""
    within = scope_name(scope)
    console = Console(stderr=True, quiet=as_json)

    def told(file: FileReport) -> None:
        reason = f": {file.reason}" if file.reason else ""
        console.print(f"{file.outcome:9} {Path(file.path).name}{reason}", markup=False)

    try:
        settings = load_settings({"data_dir": data_dir or index_folder(docs)})
        with Services(settings, command="evals.page_recall") as services:
            found = documents_of_folder(services, docs, told=told)
            chosen, ids = cases_about(cases, found)
            run = evaluate(
                services,
                chosen,
                ids,
                cases_file=cases,
                scope=within,
                k=k,
                answers=answers,
                only=found.only,
                failed_documents=found.failed,
                watch=lambda usable: track(usable, "asking", console=console, disable=as_json),
            )
            reranks = services.searcher.reranks
        result = {"scope": scope, "k": k, **report(run, reranks=reranks)}
    except PageglassError as error:
        print(f"page_recall: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    if answers:
        result["answers"] = declined(run.outcomes)
    result["excluded"] = list(run.excluded)
    result["remarks"] = list(run.remarks)
    result["failed_documents"] = list(run.failed_documents)
    if as_json:
        print(json.dumps(result, indent=1))
    else:
        _print(result)


def _print(result: Mapping[str, Any]) -> None:
    console = Console()
    rows: dict[str, Scores] = {f"all ({result['scope']} scope)": result["overall"]}
    if "reranked" in result:
        rows["all, reranked"] = result["reranked"]
    rows |= {f"evidence: {name}": scores for name, scores in result["by_source"].items()}
    rows |= {f"only {name}": scores for name, scores in result["by_retriever"].items()}
    table = Table("", *result["overall"])
    for name, scores in rows.items():
        table.add_row(
            name, *(f"{v:.3f}" if isinstance(v, float) else str(v) for v in scores.values())
        )
    console.print(table)
    for kind, counts in result.get("answers", {}).items():
        console.print(f"{kind}: {counts['declined']} of {counts['cases']}")
    for note, count in result.get("rerank_failed", {}).items():
        console.print(f"{count} questions: {note}", style="yellow", markup=False)
    for line in (*result["excluded"], *result["failed_documents"]):
        console.print(f"excluded: {line}", style="yellow", markup=False)
    for line in result["remarks"]:
        console.print(line, style="yellow", markup=False)


if __name__ == "__main__":
    typer.run(main)
