"""`pageglass eval gate`: did a metric drop by more than its noise?

Two runs over the same cases are compared case by case (evals.ranking), so that what makes a case
hard or easy cancels out. A metric has dropped where the whole 95 % interval of the mean difference,
by document, lies on the worse side of nought. Of fewer than five documents that interval is too
narrow to fail a build on: such a metric is not compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from evals import answers, ranking
from evals.intervals import FEW_DOCUMENTS
from evals.ranking import CaseScores, Difference
from evals.runs import Outcome, Run, RunError
from pageglass.errors import UsageError

LOWER_IS_BETTER = frozenset({"declined_answerable"})

RANKING = ("hit", "page-recall", "mrr", "ndcg")
"""Metrics of the ranking that users get, at the runs' cut-off."""

ANSWERS: Mapping[str, Callable[[Outcome], float | None]] = {
    "match": answers.match,
    "contains": answers.contains,
    "f1": answers.f1,
    "judged": answers.judged,
    "citation_precision": answers.citation_precision,
    "citation_recall": answers.citation_recall,
    "declined_unanswerable": answers.declined_rightly,
    "declined_answerable": answers.declined_falsely,
}
"""Figures of answers: a case's value, 0..1, or None where the figure says nothing of it. Verified
quotes are not among them: they count citations, of which two runs need not have the same."""

METRICS = (*RANKING, *ANSWERS)

DEFAULT = ("hit", "page-recall", "ndcg", "judged", "declined_unanswerable", "declined_answerable")
"""What is compared where no metric is named, as far as the baseline has it."""


@dataclass(frozen=True, slots=True)
class Change:
    """How a metric moved from a baseline to a run, on the cases that both have a value for.

    ``gain`` is the mean difference and ``low`` and ``high`` the ends of its 95 % interval; positive
    is better, for metrics that should be low, too.
    """

    metric: str
    old: float
    new: float
    gain: float
    low: float
    high: float
    cases: int
    documents: int

    @property
    def few(self) -> bool:
        """Whether its documents are so few that its interval is too narrow."""
        return self.documents < FEW_DOCUMENTS

    @property
    def dropped(self) -> bool:
        """Whether it is worse by more than its noise."""
        return self.high < 0 and not self.few


@dataclass(frozen=True, slots=True)
class Unchecked:
    """A metric that was not compared, and why."""

    metric: str
    reason: str
    lacking: Literal["run", "baseline", "documents"]


def gate(
    run: Run, baseline: Run, wanted: Sequence[str] = ()
) -> tuple[list[Change], list[Unchecked]]:
    """How each metric moved from ``baseline`` to ``run``; by default those of ``DEFAULT`` that the
    baseline has.

    UsageError where a name is unknown. RunError where the runs are not of the same cases asked in
    the same way, where one that is ``wanted`` cannot be compared, where the run lacks one that the
    baseline has, or where there is none to compare: what cannot be compared has not passed.
    """
    plain = [name.removesuffix(f"@{run.k}") for name in wanted]
    if unknown := [name for name in plain if name not in METRICS]:
        raise UsageError(f"no metric {unknown[0]}: there are {', '.join(METRICS)}")
    check_comparable(run, baseline)
    compared, unchecked = compare(run, baseline, plain or DEFAULT)
    changes = [change for change in compared if not change.few]
    unchecked += [
        Unchecked(change.metric, _few(change.documents), "documents")
        for change in compared
        if change.few
    ]
    for one in unchecked:
        if wanted or one.lacking == "run":
            raise RunError(f"{one.metric} cannot be compared: {one.reason}")
    if not changes:
        why: dict[str, list[str]] = {}
        for one in unchecked:
            why.setdefault(one.reason, []).append(one.metric)
        named = "; ".join(f"{', '.join(metrics)}: {reason}" for reason, metrics in why.items())
        raise RunError(f"nothing can be compared: {named}")
    return changes, unchecked


def compare(
    run: Run, baseline: Run, metrics: Sequence[str] = METRICS
) -> tuple[list[Change], list[Unchecked]]:
    """How each of these metrics moved from ``baseline`` to ``run``, where that can be said."""
    changes: list[Change] = []
    unchecked: list[Unchecked] = []
    for name in dict.fromkeys(metrics):
        old, new = _scores(baseline, name), _scores(run, name)
        pairs = [(old[id], new[id]) for id in old if id in new]
        if not pairs:
            lacking = "run" if old else "baseline"
            unchecked.append(Unchecked(name, f"the {lacking} has no value for it", lacking))
            continue
        for found in ranking.differences(pairs):
            if (change := _change(name, found)) is not None:
                changes.append(change)
            else:
                unchecked.append(Unchecked(name, _few(found.documents), "documents"))
    return changes, unchecked


def _few(documents: int) -> str:
    of = "one document" if documents == 1 else f"{documents} documents"
    return f"its cases are of {of}: it takes {FEW_DOCUMENTS} to tell a drop from noise"


def check_comparable(run: Run, baseline: Run) -> None:
    """RunError unless both are of the same cases, asked within the same scope, cut off at the
    same place."""
    for what, new, old in (("scope", run.scope, baseline.scope), ("k", run.k, baseline.k)):
        if new != old:
            raise RunError(f"the runs differ in {what}: {new} and, in the baseline, {old}")
    unpaired = ranking.unpaired_cases(run, baseline)
    only, missing = unpaired.only_first, unpaired.only_second
    if len(only) == len(run.outcomes) or len(missing) == len(baseline.outcomes):
        raise RunError("the runs have no case in common: make the baseline again with these cases")
    if only or missing:
        raise RunError(
            f"the runs are of different cases: {len(missing)} of the baseline's are not in the run"
            f" and {len(only)} of the run's not in the baseline, such as {(missing or only)[0]!r}:"
            " see what was excluded, or make the baseline again"
        )
    gold = {outcome.case.id: outcome.case.gold for outcome in baseline.outcomes}
    changed = unpaired.changed or [
        outcome.case.id for outcome in run.outcomes if outcome.case.gold != gold[outcome.case.id]
    ]
    if changed:
        raise RunError(
            f"{len(changed)} cases were changed since the baseline, such as {changed[0]!r}: make"
            " the baseline again with these cases"
        )


def _scores(run: Run, metric: str) -> dict[str, CaseScores]:
    """The cases that a metric says something of, by id, each with this one score."""
    if figure := ANSWERS.get(metric):
        values = ((o.case, figure(o)) for o in run.outcomes)
        return {
            case.id: CaseScores(case.id, case.document, {metric: value})
            for case, value in values
            if value is not None
        }
    full = ranking.names(run.k)[RANKING.index(metric)]
    return {
        scored.id: CaseScores(scored.id, scored.document, {full: scored.scores[full]})
        for scored in ranking.score_cases(run.outcomes, run.k)
    }


def _change(name: str, found: Difference) -> Change | None:
    if found.low is None or found.high is None:
        return None
    low, high, gain = found.low, found.high, found.difference
    if name in LOWER_IS_BETTER:
        # Nought minus x, since minus nought is printed with its sign.
        low, high, gain = 0 - high, 0 - low, 0 - gain
    return Change(
        metric=found.metric,
        old=found.first,
        new=found.second,
        gain=gain,
        low=low,
        high=high,
        cases=found.cases,
        documents=found.documents,
    )
