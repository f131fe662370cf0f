"""`pageglass eval gate`: did a metric drop by more than its noise?

Two runs over the same cases are compared case by case, so that what makes a case hard or easy
cancels out. A metric has dropped where the whole 95 % interval of the mean difference lies on the
worse side of nought. The interval is a bootstrap by document (evals.answers.interval): cases of a
document stand and fall together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from evals import answers, metrics
from evals.answers import interval
from evals.runs import SEARCH, Outcome, Run, RunError
from pageglass.errors import UsageError

Values = Callable[[Outcome, int], float | None]
"""A case's value, 0..1, at a cut-off; None where the metric says nothing of it."""

LOWER_IS_BETTER = frozenset({"declined_answerable"})


def _ranked(score: Callable[[Sequence[object], frozenset[object], int], float]) -> Values:
    def value(outcome: Outcome, k: int) -> float | None:
        if not outcome.scored:
            return None
        return score(outcome.rankings.get(SEARCH, ()), outcome.gold_pages, k)

    return value


METRICS: Mapping[str, Values] = {
    "hit": _ranked(metrics.hit),
    "page_recall": _ranked(metrics.recall),
    "mrr": _ranked(lambda ranking, gold, _: metrics.reciprocal_rank(ranking, gold)),
    "ndcg": _ranked(metrics.ndcg),
    "match": lambda outcome, _: answers.match(outcome),
    "contains": lambda outcome, _: answers.contains(outcome),
    "f1": lambda outcome, _: answers.f1(outcome),
    "judged": lambda outcome, _: answers.judged(outcome),
    "citation_precision": lambda outcome, _: answers.citation_precision(outcome),
    "citation_recall": lambda outcome, _: answers.citation_recall(outcome),
    "declined_unanswerable": lambda outcome, _: answers.declined_rightly(outcome),
    "declined_answerable": lambda outcome, _: answers.declined_falsely(outcome),
}
"""Those of rankings are of the ranking that users get, at the runs' cut-off."""

DEFAULT = ("hit", "page_recall", "ndcg", "judged", "declined_unanswerable", "declined_answerable")
"""What is compared where no metric is named, as far as the runs have it."""


@dataclass(frozen=True, slots=True)
class Change:
    """How a metric moved: its means over the ``cases`` that both runs have a value for, in
    ``documents``, and the 95 % interval of the mean difference. Positive is better, for metrics
    that should be low, too."""

    metric: str
    old: float
    new: float
    low: float
    high: float
    cases: int
    documents: int

    @property
    def gain(self) -> float:
        """The mean difference, positive where the new run is better."""
        gain = self.new - self.old
        return -gain if self.metric in LOWER_IS_BETTER else gain

    @property
    def dropped(self) -> bool:
        """Whether it is worse by more than its noise."""
        return self.high < 0


@dataclass(frozen=True, slots=True)
class Unchecked:
    """A metric that could not be compared, and why."""

    metric: str
    reason: str


def gate(
    run: Run, baseline: Run, wanted: Sequence[str] = ()
) -> tuple[list[Change], list[Unchecked]]:
    """How each metric moved from ``baseline`` to ``run``; by default those of ``DEFAULT`` that the
    baseline has.

    UsageError where a name is unknown. RunError where the runs are not of the same cases asked in
    the same way, where a metric that is ``wanted`` is in neither, or where the run lacks one that
    the baseline has: what cannot be compared has not passed.
    """
    unknown = [name for name in wanted if name not in METRICS]
    if unknown:
        raise UsageError(f"no metric {unknown[0]}: there are {', '.join(METRICS)}")
    check_comparable(run, baseline)
    old = {outcome.case.id: outcome for outcome in baseline.outcomes}
    changes: list[Change] = []
    unchecked: list[Unchecked] = []
    for name in dict.fromkeys(wanted or DEFAULT):
        values = METRICS[name]
        before = {id: values(outcome, baseline.k) for id, outcome in old.items()}
        after = {outcome.case.id: values(outcome, run.k) for outcome in run.outcomes}
        change = _change(name, before, after, {id: old[id].case.document for id in old})
        if change is not None:
            changes.append(change)
            continue
        there = any(value is not None for value in before.values())
        reason = "the run has no value for it" if there else "the baseline has no value for it"
        if there or wanted:
            raise RunError(f"{name} cannot be compared: {reason}")
        unchecked.append(Unchecked(name, reason))
    if not changes:
        raise RunError("nothing can be compared: no case of the baseline has a gold page or answer")
    return changes, unchecked


def check_comparable(run: Run, baseline: Run) -> None:
    """RunError unless both are of the same cases, asked within the same scope, cut off at the
    same place."""
    for what, new, old in (("scope", run.scope, baseline.scope), ("k", run.k, baseline.k)):
        if new != old:
            raise RunError(f"the runs differ in {what}: {new} and, in the baseline, {old}")
    ours = {outcome.case.id: outcome.case for outcome in run.outcomes}
    theirs = {outcome.case.id: outcome.case for outcome in baseline.outcomes}
    if not ours.keys() & theirs.keys():
        raise RunError("the runs have no case in common: make the baseline again with these cases")
    if ours.keys() != theirs.keys():
        only, missing = sorted(ours.keys() - theirs.keys()), sorted(theirs.keys() - ours.keys())
        name = (missing or only)[0]
        raise RunError(
            f"the runs are of different cases: {len(missing)} of the baseline's are not in the run"
            f" and {len(only)} of the run's not in the baseline, such as {name!r}: see what was"
            " excluded, or make the baseline again"
        )
    changed = [id for id, case in ours.items() if case != theirs[id]]
    if changed:
        raise RunError(
            f"{len(changed)} cases were changed since the baseline, such as {changed[0]!r}: make"
            " the baseline again with these cases"
        )


def _change(
    name: str,
    before: Mapping[str, float | None],
    after: Mapping[str, float | None],
    document: Mapping[str, str],
) -> Change | None:
    sign = -1 if name in LOWER_IS_BETTER else 1
    olds: list[float] = []
    news: list[float] = []
    gains: dict[str, list[float]] = {}
    for id, old in before.items():
        new = after[id]
        if old is not None and new is not None:
            olds.append(old)
            news.append(new)
            gains.setdefault(document[id], []).append(sign * (new - old))
    if not olds:
        return None
    low, high = interval(gains)
    count = len(olds)
    return Change(name, sum(olds) / count, sum(news) / count, low, high, count, len(gains))
