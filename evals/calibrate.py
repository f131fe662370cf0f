"""`pageglass eval calibrate`: below which support should an answer be declined?

A threshold that declines more also declines more good answers. Given cases whose answers stand in
the documents, and how often these may be declined, the largest threshold is chosen that keeps to
that on cases it has not seen, too.

The choice is that of split conformal prediction (Vovk et al., 2005; Angelopoulos, Bates, 2021, 1).
With n answerable cases and a target rate a, it is the r-th smallest support among them, r =
floor(a (n + 1)). It declines at most r - 1 of these cases, and for a further case of the same kind
the probability of a false decline is at most r / (n + 1) <= a. The fewer the cases, the more that
holds back: with 1/a - 1 of them no false decline is allowed, and fewer fit nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from evals.cases import Case
from evals.evaluate import Watch, blank_run, cases_about, documents_here
from evals.intervals import wilson
from evals.partial import Partial, Resumed, fingerprint, say_nothing
from ingest.thresholds import FittedThreshold
from pageglass.errors import PageglassError, UsageError

if TYPE_CHECKING:
    from api.services import Services
    from evals.runs import Run


@dataclass(frozen=True, slots=True)
class Supported:
    """How surely a case was answered: ``support`` is 0..1, 0 where there is nothing to say, which
    is declined whatever the threshold."""

    support: float
    answerable: bool
    document: str


@dataclass(frozen=True, slots=True)
class Rate:
    """``count`` of ``total``, with the ends of its Wilson interval (0..1)."""

    count: int
    total: int

    @property
    def share(self) -> float:
        """0..1; nan where there is nothing to count."""
        return self.count / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The interval of Wilson (1927), as if cases were independent of each other; 0..1 where
        there are none."""
        return wilson(self.count, self.total) if self.total else (0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Declines:
    """What a threshold declines: answerable cases, falsely, and unanswerable ones, rightly."""

    false: Rate
    right: Rate


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Declines of cases by thresholds that were fitted without the documents they are about.

    ``documents`` were left out, one at a time; ``unfit`` ones could not be, since what remained
    fits no threshold.
    """

    declines: Declines
    documents: int
    unfit: int


@dataclass(frozen=True, slots=True)
class Observed:
    """Cases as ``model`` answered them; ``excluded`` has a line on each that cannot be used,
    ``remarks`` on what of the others counts less than it seems."""

    model: str
    cases: tuple[Supported, ...]
    excluded: tuple[str, ...]
    cases_sha256: str
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Calibration:
    """A threshold for a collection, what it declines of the cases it was fitted to and of documents
    left out, and what the one until now (``before``) declined of them."""

    collection: str
    target: float
    observed: Observed
    threshold: float
    fitted: Declines
    left_out: LeftOut
    before: float
    declined_before: Declines

    def to_keep(self) -> FittedThreshold:
        """What the catalog keeps of it."""
        return FittedThreshold(
            collection=self.collection,
            model=self.observed.model,
            threshold=self.threshold,
            answerable=self.fitted.false.total,
            unanswerable=self.fitted.right.total,
            false_declines=self.fitted.false.count,
            declined=self.fitted.right.count,
            cases_sha256=self.observed.cases_sha256,
            fitted_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def to_json(self) -> dict[str, Any]:
        """Every figure, for programs."""
        return {
            "collection": self.collection,
            "model": self.observed.model,
            "target": self.target,
            "threshold": self.threshold,
            "fitted": _json(self.fitted),
            "left_out": _json(self.left_out.declines)
            | {"documents": self.left_out.documents, "unfit": self.left_out.unfit},
            "before": _json(self.declined_before) | {"threshold": self.before},
            "excluded": list(self.observed.excluded),
            "remarks": list(self.observed.remarks),
        }


def calibrate(
    observed: Observed, false_declines: float, *, collection: str, before: float
) -> Calibration:
    """Fit a threshold and measure it; UsageError as ``fit``."""
    threshold = fit(observed.cases, false_declines)
    return Calibration(
        collection=collection,
        target=false_declines,
        observed=observed,
        threshold=threshold,
        fitted=declines(observed.cases, threshold),
        left_out=left_out(observed.cases, false_declines),
        before=before,
        declined_before=declines(observed.cases, before),
    )


def fewest_cases(false_declines: float) -> int:
    """The answerable cases that it takes to fit a threshold."""
    return math.ceil(1 / false_declines - 1e-9) - 1


def fit(cases: Iterable[Supported], false_declines: float) -> float:
    """The largest threshold, 0..1, that keeps false declines to a target rate (0..1, neither end).

    UsageError where the cases are too few for that, or where too many answerable ones have no
    support at all.
    """
    if not 0 < false_declines < 1:
        raise UsageError(f"false declines are a share between 0 and 1, not {false_declines:g}")
    supports = sorted(case.support for case in cases if case.answerable)
    # A product such as 0.07 * 100 falls short of the whole number it stands for.
    rank = math.floor(false_declines * (len(supports) + 1) + 1e-9)
    if rank < 1:
        raise UsageError(
            f"{len(supports)} answerable cases do not tell a threshold with {false_declines:.3g} of"
            f" false declines: it takes {fewest_cases(false_declines)} or more, or a higher"
            " --false-declines"
        )
    threshold = supports[rank - 1]
    if threshold <= 0:
        without = sum(support <= 0 for support in supports)
        raise UsageError(
            f"{without} of {len(supports)} answerable cases get no answer at all, so no threshold"
            f" keeps false declines to {false_declines:.3g}: see why (`pageglass eval run`), or"
            " allow more (--false-declines)"
        )
    return threshold


def declines(cases: Iterable[Supported], threshold: float) -> Declines:
    """What a threshold declines."""
    counted = Counter(
        (case.answerable, case.support <= 0 or case.support < threshold) for case in cases
    )
    return Declines(
        false=Rate(counted[True, True], counted[True, True] + counted[True, False]),
        right=Rate(counted[False, True], counted[False, True] + counted[False, False]),
    )


def left_out(cases: Sequence[Supported], false_declines: float) -> LeftOut:
    """Fit on all documents but one and measure on that one, for each document in turn."""
    documents = sorted({case.document for case in cases})
    counts: Counter[str] = Counter()
    unfit = 0
    for document in documents:
        try:
            threshold = fit((c for c in cases if c.document != document), false_declines)
        except UsageError:
            unfit += 1
            continue
        found = declines((c for c in cases if c.document == document), threshold)
        for name, rate in (("false", found.false), ("right", found.right)):
            counts[name] += rate.count
            counts[f"{name} total"] += rate.total
    return LeftOut(
        Declines(
            false=Rate(counts["false"], counts["false total"]),
            right=Rate(counts["right"], counts["right total"]),
        ),
        documents=len(documents) - unfit,
        unfit=unfit,
    )


class _OtherModel(PageglassError):
    """A case was answered by another model than the one that is calibrated."""


def ask(
    services: Services,
    file: Path,
    *,
    collection: str,
    watch: Watch = lambda cases: cases,
    keep: Path | None = None,
    resumed: Resumed = say_nothing,
) -> Observed:
    """Ask every case of a file of a collection, as its users do.

    Cases that cannot be read, are not answered, or are answered by another model than the one in
    use are excluded. RunError where the collection holds no document. What is done is kept in the
    file ``keep`` (evals.partial).
    """
    cases, ids = cases_about(file, documents_here(services, collection))
    seen: list[Supported] = []
    excluded = list(cases.excluded)
    model = services.answering_model

    def ask(case: Case) -> Supported:
        answer = services.ask(case.question, collection=collection)
        if answer.model != model:
            raise _OtherModel(f"answered by {answer.model}, not by the model in use")
        return _supported(case, answer.support, answer.draft)

    blank = blank_run(
        services, cases, ids, cases_file=file, scope="collection", k=1, collection=collection
    )
    same = blank.model_dump(mode="json", exclude={"made_at", "cases_file"})
    work = fingerprint(command="calibrate", run=same, model=model)
    with Partial(keep, Supported, work, resumed) as kept:
        for case in watch(cases.usable):
            try:
                seen.append(kept.once(case.id, partial(ask, case)))
            except PageglassError as error:
                excluded.append(f"{case.id}: {error}")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return Observed(model, tuple(seen), tuple(excluded), digest, cases.remarks)


def observed_in(run: Run) -> Observed:
    """The cases of a run that were answered, by the model that answered most of them."""
    models = Counter(o.answer.model for o in run.outcomes if o.answer is not None)
    if not models:
        raise UsageError("the run has no answers: ask now, with --cases")
    model = min(models, key=lambda name: (-models[name], name))
    return Observed(
        model,
        tuple(
            _supported(outcome.case, outcome.answer.support, outcome.answer.draft)
            for outcome in run.outcomes
            if outcome.answer is not None and outcome.answer.model == model
        ),
        (*run.excluded, *_not_answered_by(model, run)),
        run.cases_sha256,
        run.remarks,
    )


def check_is_of(run: Run, services: Services, collection: str) -> None:
    """UsageError where the run was not made on documents of the collection."""
    there = {document.id for document in services.documents(collection=collection)}
    if not run.documents.keys() <= there:
        raise UsageError(
            f"{len(run.documents.keys() - there)} of the run's {len(run.documents)} documents are"
            f" not in the collection {collection} of this data folder: name the one that it was"
            " made on (--collection)"
        )


def table(calibration: Calibration) -> Table:
    """What is declined, for people."""
    found = Table("declined", "answerable", "", "unanswerable", "")
    rows = {
        f"until now, below {calibration.before:.3g}": calibration.declined_before,
        f"fitted, below {calibration.threshold:.3g}": calibration.fitted,
        f"{calibration.left_out.documents} documents left out": calibration.left_out.declines,
    }
    for name, of in rows.items():
        found.add_row(name, *_cells(of.false), *_cells(of.right))
    return found


def _cells(rate: Rate) -> tuple[str, str]:
    if not rate.total:
        return "no cases", ""
    low, high = rate.interval
    return f"{rate.count} of {rate.total}", f"{rate.share:.1%} ({low:.1%} to {high:.1%})"


def _json(of: Declines) -> dict[str, Any]:
    return {
        name: {"declined": rate.count, "cases": rate.total, "interval": rate.interval}
        for name, rate in (("answerable", of.false), ("unanswerable", of.right))
    }


def _not_answered_by(model: str, run: Run) -> Iterator[str]:
    for outcome in run.outcomes:
        if outcome.answer is None:
            yield f"{outcome.case.id}: was not answered"
        elif outcome.answer.model != model:
            yield f"{outcome.case.id}: answered by {outcome.answer.model}, not by {model}"


def _supported(case: Case, support: float | None, draft: str) -> Supported:
    return Supported(support if support and draft else 0.0, case.answerable, case.document)
