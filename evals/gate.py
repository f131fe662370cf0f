"""`pageglass eval gate`: did a metric drop by more than its noise?

Two runs over the same cases are compared case by case (evals.ranking), so that what makes a case
hard or easy cancels out. A metric has dropped where the whole 95 % interval of the mean difference,
by document, lies on the worse side of nought.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from evals import answers, ranking
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
    def dropped(self) -> bool:
        """Whether it is worse by more than its noise."""
        return self.high < 0


@dataclass(frozen=True, slots=True)
class Unchecked:
    """A metric that was not compared, and why."""

    metric: str
    reason: str


def gate(
    run: Run, baseline: Run, wanted: Sequence[str] = ()
) -> tuple[list[Change], list[Unchecked]]:
    """How each metric moved from ``baseline`` to ``run``; by default those of ``DEFAULT`` that the
    baseline has.

    UsageError where a name is unknown. RunError where the runs are not of the same cases asked in
    the same way, where one that is ``wanted`` is not in the baseline, where the run lacks one that
    the baseline has, or where all cases are of one document: what cannot be compared has not
    passed.
    """
    plain = [name.removesuffix(f"@{run.k}") for name in wanted]
    if unknown := [name for name in plain if name not in METRICS]:
        raise UsageError(f"no metric {unknown[0]}: there are {', '.join(METRICS)}")
    check_comparable(run, baseline)
    changes: list[Change] = []
    unchecked: list[Unchecked] = []
    for name in dict.fromkeys(plain or DEFAULT):
        old, new = _scores(baseline, name), _scores(run, name)
        if pairs := [(old[id], new[id]) for id in old if id in new]:
            changes.extend(_change(name, found) for found in ranking.differences(pairs))
        elif old or wanted:
            where = "run" if old else "baseline"
            raise RunError(f"{name} cannot be compared: the {where} has no value for it")
        else:
            unchecked.append(Unchecked(name, "the baseline has no value for it"))
    if not changes:
        raise RunError("nothing can be compared: no case of the baseline has a gold page or answer")
    return changes, unchecked


def in_both(run: Run, other: Run) -> list[str]:
    """The metrics that can be compared."""
    return [name for name in METRICS if _scores(run, name).keys() & _scores(other, name).keys()]


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
    gold = {outcome.case.id: outcome.case.answer for outcome in baseline.outcomes}
    changed = unpaired.changed or [
        outcome.case.id for outcome in run.outcomes if outcome.case.answer != gold[outcome.case.id]
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


def _change(name: str, found: Difference) -> Change:
    if found.low is None or found.high is None:
        raise RunError(
            f"{name} cannot be compared: all its cases are of one document, which tells nothing of"
            " the noise"
        )
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
