"""How good a run's rankings are: metrics, intervals by document, comparisons, one ablation table.

Metrics are ir_measures' (MacAvaney et al., ECIR 2022), which asks pytrec_eval; all are 0..1:

``hit@k``           Success@k: 1 where any gold page is among the first k
``page-recall@k``   R@k: the share of gold pages among the first k
``mrr``             RR: 1 / rank of the first gold page in what a run keeps of a ranking, else 0
``ndcg@k``          nDCG@k with gains 0 and 1 (Järvelin, Kekäläinen 2002)

Intervals are drawn by document (evals.intervals).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import ir_measures
import numpy as np

from evals.answers import answer_format
from evals.intervals import by_document
from evals.runs import (
    FUSION,
    GROUPED,
    RETRIEVER,
    SEARCH,
    UNGROUPED,
    WITHOUT,
    Outcome,
    PageKey,
    Run,
    RunError,
)

_LENGTHS = (20, 50, 100, 250)
"""Documents up to so many pages are a group."""


# Metrics


def names(k: int) -> tuple[str, ...]:
    """The metrics at a cut-off, in the order in which they are printed."""
    return f"hit@{k}", f"page-recall@{k}", "mrr", f"ndcg@{k}"


@dataclass(frozen=True, slots=True)
class CaseScores:
    """A case's metrics by name, each 0..1, and the document it is about."""

    id: str
    document: str
    scores: Mapping[str, float]


def score_cases(outcomes: Iterable[Outcome], k: int, ranking: str = SEARCH) -> list[CaseScores]:
    """Each case's metrics for one of its rankings; one that it does not have found nothing. Cases
    whose ranking cannot be right or wrong (``Outcome.scored``) are left out."""
    scored = [outcome for outcome in outcomes if outcome.scored]
    found = score_rankings(
        [(outcome.rankings.get(ranking, ()), outcome.gold_pages) for outcome in scored], k
    )
    return [
        CaseScores(outcome.case.id, outcome.case.document, scores)
        for outcome, scores in zip(scored, found, strict=True)
    ]


def score_rankings(
    rankings: Sequence[tuple[Sequence[PageKey], Iterable[PageKey]]], k: int
) -> list[dict[str, float]]:
    """The metrics of each ranking (best first, free of repeats), given its gold pages (at least
    one), in the order given."""
    measures = dict(
        zip(
            (
                ir_measures.Success @ k,
                ir_measures.R @ k,
                ir_measures.RR,
                ir_measures.nDCG @ k,
            ),
            names(k),
            strict=True,
        )
    )
    # A question's id is its place here, since ids of cases may be those of other runs' cases.
    qrels = [
        ir_measures.Qrel(str(n), _document_id(page), 1)
        for n, (_, gold) in enumerate(rankings)
        for page in gold
    ]
    # Ties would be broken by the pages' names: a rank's score is a number of its own.
    run = [
        ir_measures.ScoredDoc(str(n), _document_id(page), float(-rank))
        for n, (ranking, _) in enumerate(rankings)
        for rank, page in enumerate(ranking)
    ]
    found: list[dict[str, float]] = [dict.fromkeys(names(k), 0.0) for _ in rankings]
    if run:
        for metric in ir_measures.iter_calc(list(measures), qrels, run):
            found[int(metric.query_id)][measures[metric.measure]] = float(metric.value)
    return found


def _document_id(page: PageKey) -> str:
    document, number = page
    return f"{document}/{number}"


# Means and intervals


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean of values of ``cases`` cases of ``documents`` documents, with the ends of its 95 %
    interval: None where there is one document, which tells nothing of others."""

    value: float
    low: float | None
    high: float | None
    cases: int
    documents: int


def mean_by_document(values: Iterable[tuple[str, float]]) -> Mean | None:
    """The mean of (document, value) pairs with its interval; None of none."""
    found: dict[str, list[float]] = {}
    for document, value in values:
        found.setdefault(document, []).append(value)
    if not found:
        return None
    cases = sum(len(of) for of in found.values())
    mean = sum(sum(of) for of in found.values()) / cases
    low, high = by_document(found.values()) if len(found) > 1 else (None, None)
    return Mean(mean, low, high, cases, len(found))


Row = Mapping[str, Mean]
"""A mean for each metric."""


def row(scored: Sequence[CaseScores]) -> Row:
    """The mean of every metric over cases; empty of none."""
    metrics = scored[0].scores if scored else ()
    means = {
        name: mean_by_document((c.document, c.scores[name]) for c in scored) for name in metrics
    }
    return {name: mean for name, mean in means.items() if mean is not None}


# Comparisons


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric of the same cases in two rankings: the means, the mean difference ``second`` -
    ``first`` with its interval by document (None: a single document), and how many of the cases
    the second did better, worse and equally well."""

    metric: str
    first: float
    second: float
    difference: float
    low: float | None
    high: float | None
    wins: int
    losses: int
    ties: int
    documents: int

    @property
    def cases(self) -> int:
        """On how many cases it rests."""
        return self.wins + self.losses + self.ties

    @property
    def sure(self) -> bool:
        """Whether the whole interval lies on one side of nought."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True, slots=True)
class Unpaired:
    """Ids of cases that are in one of two runs only, or whose question, gold pages or
    answerability differ (``changed``): none of them is compared."""

    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    changed: tuple[str, ...]


def compare(a: Run, b: Run, k: int | None = None, *, ranking: str = SEARCH) -> list[Difference]:
    """How each metric differs from ``a`` to ``b``, case by case, on the cases that both have with
    the same question; ``k`` is the first run's unless given. RunError where there is no such case
    with gold pages, or the scopes differ."""
    if a.scope != b.scope:
        raise RunError(f"the runs cannot be compared: scope {a.scope} and scope {b.scope}")
    there = {name for run in (a, b) for outcome in run.outcomes for name in outcome.rankings}
    if ranking not in there:
        raise RunError(f"no ranking {ranking!r}: there are {', '.join(sorted(there))}")
    k = k or a.k
    unpaired = set(unpaired_cases(a, b).changed)
    first = {scores.id: scores for scores in score_cases(a.outcomes, k, ranking)}
    second = {scores.id: scores for scores in score_cases(b.outcomes, k, ranking)}
    both = [id for id in first if id in second and id not in unpaired]
    if not both:
        raise RunError("the runs cannot be compared: no case with gold pages is in both")
    return differences([(first[id], second[id]) for id in both])


def unpaired_cases(a: Run, b: Run) -> Unpaired:
    """The cases of two runs that have no like in the other."""
    first = {outcome.case.id: outcome for outcome in a.outcomes}
    second = {outcome.case.id: outcome for outcome in b.outcomes}
    return Unpaired(
        only_first=tuple(id for id in first if id not in second),
        only_second=tuple(id for id in second if id not in first),
        changed=tuple(
            id for id in first if id in second and _asked(first[id]) != _asked(second[id])
        ),
    )


def _asked(outcome: Outcome) -> tuple[object, ...]:
    case = outcome.case
    return case.question, case.document, frozenset(case.pages), case.answerable


def differences(pairs: Sequence[tuple[CaseScores, CaseScores]]) -> list[Difference]:
    """Every metric of pairs of the same case; none of no pairs."""
    found: list[Difference] = []
    for metric in pairs[0][0].scores if pairs else ():
        moved = [(a.document, b.scores[metric] - a.scores[metric]) for a, b in pairs]
        mean = mean_by_document(moved)
        assert mean is not None
        signs = Counter((change > 0) - (change < 0) for _, change in moved)
        found.append(
            Difference(
                metric=metric,
                first=sum(a.scores[metric] for a, _ in pairs) / len(pairs),
                second=sum(b.scores[metric] for _, b in pairs) / len(pairs),
                difference=mean.value,
                low=mean.low,
                high=mean.high,
                wins=signs[1],
                losses=signs[-1],
                ties=signs[0],
                documents=mean.documents,
            )
        )
    return found


# Tables


@dataclass(frozen=True, slots=True)
class Variant:
    """One ranking of a run's cases, and how it differs from ``search`` on the cases that have it:
    ``differences`` are positive where it is better."""

    ranking: str
    scores: Row
    differences: Sequence[Difference]


@dataclass(frozen=True, slots=True)
class RankingTables:
    """What a run says of its rankings.

    ``variants`` is the ablation, ``search`` first; ``groups`` are the cases of ``search`` by kind
    of evidence, length of the document, source of the gold pages' text, number of gold pages and
    format of the answer; ``seconds`` the median and the 95th percentile of a search.
    ``excluded``, ``remarks`` and ``failed_documents`` are the run's.
    """

    scope: str
    k: int
    cases: int
    documents: int
    variants: Sequence[Variant]
    groups: Mapping[str, Mapping[str, Row]]
    seconds: tuple[float, float] | None
    excluded: Sequence[str]
    remarks: Sequence[str]
    failed_documents: Sequence[str]


def ranking_tables(run: Run, k: int | None = None) -> RankingTables:
    """Every table of a run; ``k`` is the run's unless given."""
    k = k or run.k
    scored = score_cases(run.outcomes, k)
    seconds = [outcome.seconds for outcome in run.outcomes]
    return RankingTables(
        scope=run.scope,
        k=k,
        cases=len(scored),
        documents=len({case.document for case in scored}),
        variants=ablation(run, k),
        groups=_groups(run, scored),
        seconds=(float(np.percentile(seconds, 50)), float(np.percentile(seconds, 95)))
        if seconds
        else None,
        excluded=run.excluded,
        remarks=run.remarks,
        failed_documents=run.failed_documents,
    )


def ablation(run: Run, k: int) -> list[Variant]:
    """Every ranking of a run beside ``search``: each retriever alone and left out, each fusion,
    with and without grouping of near-duplicates and reranking."""
    search = {scores.id: scores for scores in score_cases(run.outcomes, k)}
    variants = [Variant(SEARCH, row(list(search.values())), [])]
    for name in rankings_of(run):
        if name != SEARCH:
            there = (outcome for outcome in run.outcomes if name in outcome.rankings)
            scored = score_cases(there, k, name)
            pairs = [(search[scores.id], scores) for scores in scored]
            variants.append(Variant(name, row(scored), differences(pairs)))
    return variants


def rankings_of(run: Run) -> list[str]:
    """The names of all rankings of a run, in the order in which they are printed."""
    there = {name for outcome in run.outcomes for name in outcome.rankings}
    first = [name for name in (SEARCH, GROUPED, UNGROUPED) if name in there]
    kinds = [[n for n in sorted(there) if n.startswith(p)] for p in (FUSION, RETRIEVER, WITHOUT)]
    return [*first, *(name for kind in kinds for name in kind)]


def _groups(run: Run, scored: Sequence[CaseScores]) -> dict[str, dict[str, Row]]:
    """The cases by kind of group, and there by group; a case may be in several of a kind."""
    by_id = {scores.id: scores for scores in scored}
    chosen: dict[str, dict[str, list[CaseScores]]] = {
        kind: {} for kind in ("evidence", "document", "text", "gold pages", "answer")
    }
    for outcome in run.scored():
        for kind, group in _groups_of(outcome, run):
            chosen[kind].setdefault(group, []).append(by_id[outcome.case.id])
    order = [_length_name(n) for n in range(len(_LENGTHS) + 1)]
    return {
        kind: {
            group: row(groups[group])
            for group in sorted(groups, key=lambda g: (order.index(g) if g in order else 0, g))
        }
        for kind, groups in chosen.items()
        if groups
    }


def _groups_of(outcome: Outcome, run: Run) -> Iterable[tuple[str, str]]:
    for source in dict.fromkeys(outcome.case.sources):
        yield "evidence", source
    document, _ = outcome.gold[0].page
    if document in run.documents:
        pages = run.documents[document].pages
        yield "document", _length_name(sum(pages > most for most in _LENGTHS))
    scanned = any(gold.text_source != "layer" for gold in outcome.gold)
    yield "text", "scanned or none" if scanned else "text layer"
    yield "gold pages", "one" if len(outcome.gold_pages) == 1 else "several"
    yield "answer", answer_format(outcome.case)


def _length_name(n: int) -> str:
    """What the documents longer than ``n`` of the lengths are called."""
    if n == 0:
        return f"up to {_LENGTHS[0]} pages"
    if n == len(_LENGTHS):
        return f"over {_LENGTHS[-1]} pages"
    return f"{_LENGTHS[n - 1] + 1} to {_LENGTHS[n]} pages"
