"""Does search find the pages that hold the answer?

    python -m evals.page_recall --cases samples/questions.jsonl --docs samples/docs

Indexes the documents (or reuses the index of an earlier run), asks every question, and prints
hit@k, page-recall@k, MRR and nDCG@k: overall, reranked where the profile has a reranking model, by
kind of evidence and by retriever, and how often questions without an answer are declined.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from api.services import Services
from evals import metrics
from evals.cases import Case, read_cases
from pageglass.errors import PageglassError, StoreError
from pageglass.settings import load_settings
from pageglass.types import PageRef, Scope

ScopeName = Literal["document", "collection"]
Scores = dict[str, float]

# MRR needs more of a ranking than hit@k does; deeper than this adds less than a hundredth.
_DEPTH = 50


@dataclass(frozen=True, slots=True)
class Outcome:
    """A case with the pages search found, fused and by each retriever, best first.

    ``reranked`` is what users get: the fused order where the reranking model failed, with a note.
    """

    case: Case
    gold: frozenset[PageRef]
    fused: Sequence[PageRef]
    reranked: Sequence[PageRef] | None
    notes: Sequence[str]
    retrievers: Mapping[str, Sequence[PageRef]]
    answered: bool | None


def evaluate(
    services: Services,
    cases: Iterable[Case],
    ids: Mapping[str, str],
    *,
    scope: ScopeName,
    answers: bool,
) -> list[Outcome]:
    """Ask every question; ``ids`` is each document's id by file name."""
    outcomes: list[Outcome] = []
    searcher = services.searcher
    for case in cases:
        document = ids[case.document]
        within = Scope(documents=(document,)) if scope == "document" else Scope()
        rankings = searcher.rankings(searcher.encode(case.question), within)
        hits = searcher.fuse(rankings, _DEPTH)
        reranked = searcher.rerank(case.question, hits) if searcher.reranks else None
        answered = None
        if answers:
            answer = services.ask(case.question, documents=within.documents or ())
            # An answer that nothing supports is an answer all the same.
            answered = answer.status != "not_found"
        outcomes.append(
            Outcome(
                case=case,
                gold=frozenset(PageRef(document, page - 1) for page in case.pages),
                fused=[hit.ref for hit in hits],
                reranked=None if reranked is None else [hit.ref for hit in reranked.hits],
                notes=() if reranked is None else reranked.notes,
                retrievers={name: [ref for ref, _ in list_] for name, list_ in rankings.items()},
                answered=answered,
            )
        )
    return outcomes


def score(
    outcomes: Iterable[Outcome], k: int, ranking: Callable[[Outcome], Sequence[PageRef]]
) -> Scores:
    """Mean metrics over the cases that have gold pages."""
    rows = [(ranking(o), o.gold) for o in outcomes if o.gold and o.case.answerable]
    if not rows:
        return {"cases": 0}
    mean = 1 / len(rows)
    return {
        "cases": len(rows),
        f"hit@{k}": mean * sum(metrics.hit(r, gold, k) for r, gold in rows),
        f"page-recall@{k}": mean * sum(metrics.recall(r, gold, k) for r, gold in rows),
        "mrr": mean * sum(metrics.reciprocal_rank(r, gold) for r, gold in rows),
        f"ndcg@{k}": mean * sum(metrics.ndcg(r, gold, k) for r, gold in rows),
    }


def report(outcomes: Sequence[Outcome], k: int) -> dict[str, Any]:
    """Every figure of a run."""
    sources = sorted({source for o in outcomes for source in o.case.sources})
    retrievers = sorted({name for o in outcomes for name in o.retrievers})

    def of(name: str) -> Callable[[Outcome], Sequence[PageRef]]:
        return lambda outcome: outcome.retrievers.get(name, ())

    result: dict[str, Any] = {
        "overall": score(outcomes, k, lambda o: o.fused),
        "by_source": {
            source: score([o for o in outcomes if source in o.case.sources], k, lambda o: o.fused)
            for source in sources
        },
        "by_retriever": {name: score(outcomes, k, of(name)) for name in retrievers},
    }
    if any(o.reranked is not None for o in outcomes):
        result["reranked"] = score(outcomes, k, lambda o: o.reranked or ())
        result["rerank_failed"] = Counter(note for o in outcomes for note in o.notes)
    if any(o.answered is not None for o in outcomes):
        result["answers"] = {
            "declined_unanswerable": _share_declined(o for o in outcomes if not o.case.answerable),
            "declined_answerable": _share_declined(o for o in outcomes if o.case.answerable),
        }
    return result


def _share_declined(outcomes: Iterable[Outcome]) -> dict[str, float]:
    declined = [not o.answered for o in outcomes]
    return {"cases": len(declined), "declined": sum(declined)}


def index(services: Services, docs: Path, *, quiet: bool) -> tuple[dict[str, str], list[str]]:
    """Ingest the folder; (document id by file name, a line on each file that failed)."""
    console = Console(stderr=True, quiet=quiet)
    ids: dict[str, str] = {}
    failed: list[str] = []
    for done in services.ingest([docs]):
        name = Path(done.path).name
        console.print(f"{done.outcome:9} {name}" + (f": {done.reason}" if done.reason else ""))
        if done.document is not None:
            ids[name] = done.document.id
        if done.outcome == "failed":
            failed.append(f"{name}: {done.reason}")
    return ids, failed


def main(
    cases: Annotated[Path, typer.Option(help="Questions, one JSON object a line.", exists=True)],
    docs: Annotated[Path, typer.Option(help="Folder with their PDF files.", exists=True)],
    scope: Annotated[
        str, typer.Option(help="Search only the case's document, or the whole collection.")
    ] = "collection",
    k: Annotated[int, typer.Option(min=1, max=_DEPTH, help="Pages looked at.")] = 5,
    answers: Annotated[
        bool, typer.Option("--answers", help="Answer, too, and count what is declined.")
    ] = False,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where the index is kept; default: .evals/ by folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure page retrieval on questions with known pages."""
    if scope not in ("document", "collection"):
        raise typer.BadParameter("must be 'document' or 'collection'", param_hint="--scope")
    digest = hashlib.sha256(str(docs.resolve()).encode()).hexdigest()[:12]
    folder = data_dir or Path(".evals") / f"{docs.resolve().parent.name}-{digest}"
    try:
        settings = load_settings({"data_dir": folder})
        with Services(settings, command="evals.page_recall") as services:
            ids, failed = index(services, docs, quiet=as_json)
            if not ids:
                raise StoreError(f"no document of {docs} could be indexed")
            pages = {name: services.document(id).pages for name, id in ids.items()}
            chosen = read_cases(cases, pages)
            outcomes = evaluate(
                services,
                track(chosen.usable, "asking", console=Console(stderr=True), disable=as_json),
                ids,
                scope=scope,
                answers=answers,
            )
    except PageglassError as error:
        print(f"page_recall: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    result = {
        "scope": scope,
        "k": k,
        **report(outcomes, k),
        "excluded": list(chosen.excluded),
        "failed_documents": failed,
    }
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
        console.print(f"{count} questions: {note}", style="yellow")
    for line in (*result["excluded"], *result["failed_documents"]):
        console.print(f"excluded: {line}", style="yellow")


if __name__ == "__main__":
    typer.run(main)
