"""Why did a case fail: which step between its question and a cited answer lost it?

A gold page is missed where it is not among the first k pages that users get. It has exactly one
cause, the first of these that applies:

``no text``        ingestion read no words on it (OCR found none or failed, or the page could not
                   be read), and no retriever alone had it among its first k
``not retrieved``  it is in no retriever's list of candidates; ``best_rank`` is then its best rank
                   in a search for more candidates, if it is there
``duplicates``     a near-duplicate that is among the first k stands for it
``rerank``         it, or what stands for it, was among the first k before reranking
``fusion``         a retriever alone had it among its first k, and all together had not
``ranked low``     it is among the candidates, but no retriever had it among its first k

A case whose ranking is scored fails where all its gold pages are missed: its cause is that of the
page that came furthest along these steps (no text, not retrieved, ranked low, fusion, duplicates,
rerank), and among pages that came as far, of the one ranked best. Where a gold page was found and
the case was answered, the answer can fail:

``wrongly declined``  an answerable question was declined
``not cited``         no gold page is cited
``cited but wrong``   a gold page is cited, and the answer is wrong
``not declined``      a question without an answer was answered (such cases have no gold pages)

Whether an answer is right is the judge's word where there is one (``Judgement.correct``), else, of
quoted passages, whether the gold value stands in them, and of written answers whether they match
it (evals.answers); where nobody can say, it counts as right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from evals import answers
from evals.runs import (
    GROUPED,
    RETRIEVER,
    SEARCH,
    UNGROUPED,
    GoldPage,
    Outcome,
    PageKey,
    Run,
)

PageCause = Literal["no text", "not retrieved", "ranked low", "fusion", "duplicates", "rerank"]
AnswerCause = Literal["wrongly declined", "not cited", "cited but wrong", "not declined"]
Cause = PageCause | AnswerCause

PAGE_CAUSES: tuple[PageCause, ...] = (
    "no text",
    "not retrieved",
    "ranked low",
    "fusion",
    "duplicates",
    "rerank",
)
"""Along the way: a page lost by a later one came further."""

ANSWER_CAUSES: tuple[AnswerCause, ...] = (
    "wrongly declined",
    "not cited",
    "cited but wrong",
    "not declined",
)

_RIGHT = 0.5
"""From this match on an answer counts as right; similarities of strings are 0 at .5 and below."""


@dataclass(frozen=True, slots=True)
class PageMiss:
    """A gold page that users did not get. ``best_rank`` is the best rank that a retriever alone
    gave it, None where it is nowhere; ``found_rank`` its rank in what users get, where a run keeps
    that much of it; ``document_found`` whether another page of its document is among the first
    k."""

    page: PageKey
    cause: PageCause
    detail: str
    best_rank: int | None
    found_rank: int | None
    document_found: bool


@dataclass(frozen=True, slots=True)
class CaseMiss:
    """A case that failed. ``document_found`` is whether a page of the right document is among the
    first k: then it was the wrong page, else the wrong document."""

    id: str
    question: str
    document: str
    cause: Cause
    detail: str
    document_found: bool | None
    pages: tuple[PageMiss, ...] = ()


@dataclass(frozen=True, slots=True)
class Misses:
    """What a run missed: ``cases`` that failed, of ``asked`` (those that could); and, by case, all
    gold ``pages`` that were missed, of ``gold``, whether or not another one was found."""

    k: int
    scope: str
    asked: int
    cases: tuple[CaseMiss, ...]
    gold: int
    pages: Mapping[str, tuple[PageMiss, ...]]

    def case_counts(self) -> dict[Cause, tuple[int, int]]:
        """Failed cases by cause: in the right document (or where there is none to be found), and in
        a wrong one."""
        wrong = Counter(miss.cause for miss in self.cases if miss.document_found is False)
        every = Counter(miss.cause for miss in self.cases)
        causes: tuple[Cause, ...] = (*PAGE_CAUSES, *ANSWER_CAUSES)
        return {c: (every[c] - wrong[c], wrong[c]) for c in causes if every[c]}

    def page_counts(self) -> dict[PageCause, tuple[int, int]]:
        """Missed gold pages by cause: with another page of the document found, and without."""
        lost = [miss for pages in self.pages.values() for miss in pages]
        found = Counter(miss.cause for miss in lost if miss.document_found)
        every = Counter(miss.cause for miss in lost)
        return {c: (found[c], every[c] - found[c]) for c in PAGE_CAUSES if every[c]}


def find_misses(run: Run, k: int | None = None) -> Misses:
    """What a run missed; ``k`` is the run's unless given."""
    k = k or run.k
    cases = [case_miss(outcome, k) for outcome in run.outcomes]
    scored = run.scored()
    return Misses(
        k=k,
        scope=run.scope,
        asked=sum(outcome.scored or outcome.answer is not None for outcome in run.outcomes),
        cases=tuple(miss for miss in cases if miss is not None),
        gold=sum(len(outcome.gold_pages) for outcome in scored),
        pages={
            outcome.case.id: missed for outcome in scored if (missed := page_misses(outcome, k))
        },
    )


def case_miss(outcome: Outcome, k: int) -> CaseMiss | None:
    """Why a case failed; None where it did not, or cannot."""
    if outcome.scored:
        missed = page_misses(outcome, k)
        if len(missed) == len(outcome.gold_pages):
            furthest = max(missed, key=_progress)
            return _case(outcome, k, furthest.cause, furthest.detail, missed)
    failed = answer_miss(outcome)
    return _case(outcome, k, *failed) if failed is not None else None


def _case(
    outcome: Outcome, k: int, cause: Cause, detail: str, pages: tuple[PageMiss, ...] = ()
) -> CaseMiss:
    documents = {document for document, _ in outcome.gold_pages}
    return CaseMiss(
        id=outcome.case.id,
        question=outcome.case.question,
        document=outcome.case.document,
        cause=cause,
        detail=detail,
        document_found=any(document in documents for document, _ in _first(outcome, SEARCH, k))
        if documents
        else None,
        pages=pages,
    )


def _progress(miss: PageMiss) -> tuple[int, float]:
    rank = miss.best_rank if miss.best_rank is not None else float("inf")
    return PAGE_CAUSES.index(miss.cause), -rank


# Pages


def page_misses(outcome: Outcome, k: int) -> tuple[PageMiss, ...]:
    """The gold pages of a case that are not among the first k, each with its cause."""
    gold = {gold.page: gold for gold in outcome.gold}
    missed = (page_miss(outcome, one, k) for one in gold.values())
    return tuple(miss for miss in missed if miss is not None)


def page_miss(outcome: Outcome, gold: GoldPage, k: int) -> PageMiss | None:
    """Why a gold page is not among the first k; None where it is."""
    search = outcome.rankings.get(SEARCH, ())
    if gold.page in search[:k]:
        return None
    cause, detail = _cause(outcome, gold, k)
    ranks = _ranks(outcome, gold)
    document = gold.page[0]
    return PageMiss(
        page=gold.page,
        cause=cause,
        detail=detail,
        best_rank=min(ranks.values(), default=gold.deeper),
        found_rank=search.index(gold.page) + 1 if gold.page in search else None,
        document_found=any(other == document for other, _ in search[:k]),
    )


def _cause(outcome: Outcome, gold: GoldPage, k: int) -> tuple[PageCause, str]:
    ranks = _ranks(outcome, gold)
    best = min(ranks, key=lambda name: ranks[name], default=None)
    alone = best is not None and ranks[best] <= k
    if not gold.characters and not alone:
        failed = f", and these steps failed: {', '.join(gold.failed)}" if gold.failed else ""
        return "no text", f"nothing was read on it{failed}"
    if best is None:
        deeper = "nor in a search for more" if gold.deeper is None else f"best rank {gold.deeper}"
        return "not retrieved", f"no retriever has it among its candidates, {deeper}"
    said = f"{best} ranks it {ranks[best]}"
    by = dict(outcome.stands_for).get(gold.page)
    if by is not None and by in _first(outcome, SEARCH, k):
        return "duplicates", f"page {by[1]} stands for it; {said}"
    before = _first(outcome, _fused(outcome), k)
    if gold.page in before or by in before:
        return "rerank", f"it was among the first {k} before; {said}"
    return ("fusion" if alone else "ranked low"), said


def _fused(outcome: Outcome) -> str:
    """The ranking that users would get without reranking. Where nothing was grouped, grouping is
    off or makes no difference."""
    return GROUPED if outcome.stands_for or UNGROUPED not in outcome.rankings else UNGROUPED


def _ranks(outcome: Outcome, gold: GoldPage) -> dict[str, int]:
    """Its ranks by retriever; those in the lists that the run keeps, where it has no others."""
    kept = {
        name.removeprefix(RETRIEVER): ranking.index(gold.page) + 1
        for name, ranking in outcome.rankings.items()
        if name.startswith(RETRIEVER) and gold.page in ranking
    }
    return kept | gold.ranks


def _first(outcome: Outcome, ranking: str, k: int) -> Sequence[PageKey]:
    return outcome.rankings.get(ranking, ())[:k]


# Answers


def answer_miss(outcome: Outcome) -> tuple[AnswerCause, str] | None:
    """Why an answer failed whose gold page was found; None where it did not, or there is none."""
    answer = outcome.answer
    if answer is None:
        return None
    if not outcome.case.answerable:
        return None if answer.declined else ("not declined", "the question has no answer")
    if answer.declined:
        support = "" if answer.support is None else f" with support {answer.support:.2f}"
        return "wrongly declined", f"declined{support}"
    right = is_right(outcome)
    wrong = right is not None and not right
    cited = sorted({citation.page for citation in answer.citations})
    if not cited or (outcome.gold and not outcome.gold_pages & set(cited)):
        others = ", ".join(str(number) for _, number in cited)
        said = f"it cites other pages: {others}" if cited else "it cites nothing"
        verdict = "" if right is None else ", and is wrong" if wrong else ", though it is right"
        return "not cited", said + verdict
    if wrong:
        return "cited but wrong", "the answer is wrong"
    return None


def is_right(outcome: Outcome) -> bool | None:
    """Whether an answer that was not declined is right; None where nobody can say."""
    if outcome.judgement is not None and outcome.judgement.correct is not None:
        return outcome.judgement.correct
    if outcome.answer is None:
        return None
    extractive = outcome.answer.extractive
    value = answers.contains(outcome) if extractive else answers.match(outcome)
    return None if value is None else value >= _RIGHT
