"""Ask every case, and record what became of it: rankings step by step, and answers.

A question is encoded once and each retriever asked once; every ranking of a case is made of these
same lists, so that two of them differ by what is done with the lists and by nothing else.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import get_args

from api.services import FileReport, Services
from evals.answers import answer_record
from evals.cases import Case, Cases, Shelf, read_cases
from evals.partial import Partial, Resumed, fingerprint, say_nothing
from evals.runs import (
    DEPTH,
    FUSION,
    GROUPED,
    RETRIEVER,
    SEARCH,
    UNGROUPED,
    WITHOUT,
    AnswerRecord,
    DocumentFacts,
    GoldPage,
    Outcome,
    PageKey,
    Run,
    RunError,
    ScopeName,
)
from pageglass import __version__
from pageglass.errors import PageglassError, QuestionError, StoreError
from pageglass.types import Document, Hit, NamedPages, Page, PageRef, PageStore, Scope
from retrieval.fusion import Scale
from retrieval.profiles import PAGE_NUMBER
from retrieval.search import EncodedQuestion, Ranking, Searcher

Watch = Callable[[Sequence[Case]], Iterable[Case]]
"""Hands the cases on, one by one, and may show how far it is."""

_FUSIONS = ("rrf", *get_args(Scale))

_DEEPER = 1000
"""How far is looked for a page that is among no retriever's candidates."""

_REMEMBERED = 1000
"""Pages kept in memory at most, about 100 kB each."""


# The documents of cases


@dataclass(frozen=True, slots=True)
class Found:
    """The documents that cases may be about; ``failed`` has a line on each that could not be
    indexed. ``only`` are the ids of all documents to search, where there are others beside them."""

    shelf: Shelf
    failed: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None


def documents_here(services: Services, collection: str | None = None) -> Found:
    """The documents of the data folder, or of a collection of it; RunError where none is there."""
    documents = services.documents(collection=collection)
    if not any(document.pages_indexed for document in documents):
        where = "the data folder" if collection is None else f"the collection {collection}"
        raise RunError(f"no document is indexed in {where}: `pageglass ingest PATH` adds some")
    failed = tuple(f"{d.name}: {d.reason}" for d in documents if d.state == "failed")
    return Found(Shelf.of(d if d.pages_indexed else replace(d, pages=0) for d in documents), failed)


def index_folder(docs: Path) -> Path:
    """The data folder, below ``.evals``, of a folder of files: a folder's index is kept."""
    digest = hashlib.sha256(str(docs.resolve()).encode()).hexdigest()[:12]
    return Path(".evals") / f"{docs.resolve().parent.name}-{digest}"


def documents_of_folder(
    services: Services, folder: Path, *, told: Callable[[FileReport], None] = lambda report: None
) -> Found:
    """Index a folder of files; ``told`` is called with what became of each. What an earlier run
    indexed and is gone from the folder is not among them. StoreError where none could be."""
    there: dict[str, Document] = {}
    failed: list[str] = []
    for report in services.ingest([folder]):
        told(report)
        if report.document is not None and report.document.pages:
            there[report.document.id] = services.document(report.document.id)
        if report.outcome == "failed":
            failed.append(f"{Path(report.path).name}: {report.reason}")
    if not there:
        raise StoreError(f"no document of {folder} could be indexed")
    others = any(document.id not in there for document in services.documents())
    return Found(Shelf.of(there.values()), tuple(failed), tuple(there) if others else None)


def cases_about(file: Path, found: Found) -> tuple[Cases, dict[str, str]]:
    """The cases of a file about these documents, and the documents' ids by the cases' names;
    CasesError where the file cannot be read."""
    cases = read_cases(file, found.shelf)
    return cases, {case.document: found.shelf.id_of(case.document) for case in cases.usable}


def check_usable(file: Path, cases: Cases) -> None:
    """RunError where no case of the file can be used."""
    if not cases.usable:
        why = f": {cases.excluded[0]}" if cases.excluded else ": it has none"
        raise RunError(f"no case of {file} can be used{why}")


# Asking


def evaluate(
    services: Services,
    cases: Cases,
    ids: Mapping[str, str],
    *,
    cases_file: Path,
    scope: ScopeName,
    k: int,
    answers: bool,
    collection: str | None = None,
    only: Sequence[str] | None = None,
    failed_documents: Sequence[str] = (),
    watch: Watch = lambda cases: cases,
    keep: Path | None = None,
    resumed: Resumed = say_nothing,
) -> Run:
    """Ask every case as users do; ``ids`` is each document's id by the name that cases give it.

    ``scope`` ``document`` searches only the case's document, ``collection`` all documents, or those
    of ``collection``, or ``only`` those with these ids. A question that cannot be asked is
    excluded, and an answer that does not come is a note; StoreError and ModelError where nothing
    can be searched. What is done is kept in the file ``keep`` (evals.partial), and taken from there
    by a later call for the same.
    """
    asker = _Asker(services)
    collections = None if collection is None else (collection,)
    outcomes: list[Outcome] = []
    excluded = list(cases.excluded)

    def ask(case: Case) -> Outcome:
        document = ids[case.document]
        within = (document,) if scope == "document" else None if only is None else tuple(only)
        outcome = asker.ask(case, document, Scope(collections, within), k)
        return _answered(services, outcome, collection, within or ()) if answers else outcome

    def complete(outcome: Outcome) -> bool:
        # An answer that did not come may come the next time.
        return outcome.answer is not None or not answers

    blank = blank_run(
        services,
        cases,
        ids,
        cases_file=cases_file,
        scope=scope,
        k=k,
        collection=collection,
        only=only,
        failed_documents=failed_documents,
    )
    same = blank.model_dump(mode="json", exclude={"made_at", "cases_file"})
    work = fingerprint(command="run", run=same, answers=answers)
    with Partial(keep, Outcome, work, resumed) as kept:
        for case in watch(cases.usable):
            try:
                outcomes.append(kept.once(case.id, partial(ask, case), keep=complete))
            except QuestionError as error:
                excluded.append(f"case {case.id}: {error}")
    return blank.model_copy(update={"outcomes": tuple(outcomes), "excluded": tuple(excluded)})


def blank_run(
    services: Services,
    cases: Cases,
    ids: Mapping[str, str],
    *,
    cases_file: Path,
    scope: ScopeName,
    k: int,
    collection: str | None = None,
    only: Sequence[str] | None = None,
    failed_documents: Sequence[str] = (),
) -> Run:
    """The run of these cases of which none is asked yet; arguments as for ``evaluate``."""
    used = dict.fromkeys(ids[case.document] for case in cases.usable)
    searched = [
        document
        for document in services.documents(collection=collection)
        if document.id in used
        or (
            scope == "collection"
            and document.pages_indexed
            and (only is None or document.id in only)
        )
    ]
    names = {id: name for name, id in ids.items()}
    return Run(
        version=__version__,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        cases_file=str(cases_file),
        cases_sha256=hashlib.sha256(cases_file.read_bytes()).hexdigest(),
        collection=collection,
        scope=scope,
        k=k,
        profile=services.settings.profile,
        settings=services.settings.model_dump(
            mode="json",
            include={"models", "search", "rerank", "answer"},
            exclude={"rerank": {"api_key"}, "answer": {"api_key"}},
        ),
        documents={
            document.id: _facts(services, document, names.get(document.id, document.name))
            for document in searched
        },
        outcomes=(),
        excluded=cases.excluded,
        remarks=cases.remarks,
        failed_documents=tuple(failed_documents),
    )


def _facts(services: Services, document: Document, name: str) -> DocumentFacts:
    from_layer = services.catalog.text_sources(document.id).get("layer", 0)
    return DocumentFacts(name=name, pages=document.pages, scanned=document.pages - from_layer)


def _answered(
    services: Services, outcome: Outcome, collection: str | None, documents: Sequence[str]
) -> Outcome:
    record: AnswerRecord | None = None
    notes = outcome.notes
    began = time.perf_counter()
    try:
        answer = services.ask(outcome.case.question, collection=collection, documents=documents)
        record = answer_record(answer, time.perf_counter() - began)
    except PageglassError as error:
        notes = (*notes, f"not answered: {error}")
    return outcome.model_copy(update={"answer": record, "notes": notes})


class _Asker:
    """Makes every ranking of a question."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._settings = services.settings.search
        self._pages = _Remembered(services.catalog)
        self._in_use = {
            GROUPED: self._under(group_duplicates=True),
            UNGROUPED: self._under(group_duplicates=False),
        }
        self._fusions = {fusion: self._under(fusion=fusion) for fusion in _FUSIONS}
        self._deeper = self._under(candidates=_DEEPER)

    def _under(self, **changed: object) -> Searcher:
        settings = self._settings.model_copy(update=changed)
        return self._services.searcher.under(settings, pages=self._pages)

    def ask(self, case: Case, document: str, scope: Scope, k: int) -> Outcome:
        searcher = self._services.searcher
        reranked_pages = self._services.settings.rerank.pages if searcher.reranks else 0
        began = time.perf_counter()
        question = searcher.check_question(case.question)
        encoded = searcher.encode(question)
        lists = searcher.rankings(encoded, scope)
        # Timed as deep as users search; what is recorded goes deeper.
        searcher.fuse(lists, max(k, reranked_pages))
        searched = time.perf_counter()

        in_use = {name: other.fuse(lists, DEPTH) for name, other in self._in_use.items()}
        hits = in_use[GROUPED if self._settings.group_duplicates else UNGROUPED]
        reranking = time.perf_counter()
        found = searcher.rerank(question, hits)
        seconds = (searched - began) + (time.perf_counter() - reranking)

        rankings = {name: _pages_of(of) for name, of in in_use.items()}
        for fusion, other in self._fusions.items():
            same = fusion == self._settings.fusion
            rankings[FUSION + fusion] = _pages_of(hits if same else other.fuse(lists, DEPTH))
        for name, ranking in lists.items():
            rankings[RETRIEVER + name] = tuple(_key(ref) for ref, _ in ranking[:DEPTH])
            if len(lists) > 1:
                others = self._under(weights={**self._settings.weights, name: 0.0})
                rankings[WITHOUT + name] = _pages_of(others.fuse(lists, DEPTH))
        rankings[SEARCH] = _pages_of(found.hits)
        gold = [PageRef(document, number - 1) for number in case.pages]
        return Outcome(
            case=case,
            gold=self._gold(gold, lists, encoded, scope),
            rankings=rankings,
            stands_for=tuple(
                (_key(twin), _key(hit.ref)) for hit in found.hits for twin in hit.why.duplicates
            ),
            seconds=seconds,
            notes=found.notes,
        )

    def _gold(
        self,
        refs: Sequence[PageRef],
        lists: Mapping[str, Ranking],
        encoded: EncodedQuestion,
        scope: Scope,
    ) -> tuple[GoldPage, ...]:
        refs = list(dict.fromkeys(refs))
        ranks = _ranks(refs, lists)
        deeper: dict[PageRef, int] = {}
        if lost := [ref for ref in refs if not ranks[ref]]:
            more = self._deeper.rankings(encoded, scope)
            more.pop(PAGE_NUMBER, None)
            deeper = {ref: min(of.values()) for ref, of in _ranks(lost, more).items() if of}
        stored = self._services.catalog.pages(refs)
        failed: dict[PageRef, list[str]] = {}
        for id in {ref.document_id for ref in refs}:
            for stage in self._services.catalog.stages(id):
                if stage.state == "failed":
                    failed.setdefault(PageRef(id, stage.page_index), []).append(stage.stage)
        return tuple(
            GoldPage(
                page=_key(ref),
                characters=len(stored[ref].text) if ref in stored else 0,
                text_source=stored[ref].text_source if ref in stored else "none",
                failed=tuple(failed.get(ref, ())),
                ranks=ranks[ref],
                deeper=deeper.get(ref),
            )
            for ref in refs
        )


def _ranks(refs: Sequence[PageRef], lists: Mapping[str, Ranking]) -> dict[PageRef, dict[str, int]]:
    ranks: dict[PageRef, dict[str, int]] = {ref: {} for ref in refs}
    for name, ranking in lists.items():
        for rank, (ref, _) in enumerate(ranking, start=1):
            if ref in ranks:
                ranks[ref].setdefault(name, rank)
    return ranks


def _pages_of(hits: Iterable[Hit]) -> tuple[PageKey, ...]:
    return tuple(_key(hit.ref) for hit in hits)


def _key(ref: PageRef) -> PageKey:
    return ref.document_id, ref.number


class _Remembered:
    """A store of pages that remembers those it looked up: a case's lists are fused many times."""

    def __init__(self, pages: PageStore) -> None:
        self._store = pages
        self._pages: dict[PageRef, Page] = {}

    def pages(self, refs: Sequence[PageRef]) -> dict[PageRef, Page]:
        new = [ref for ref in refs if ref not in self._pages]
        if len(self._pages) + len(new) > _REMEMBERED:
            self._pages.clear()
            new = list(refs)
        self._pages |= self._store.pages(new)
        return {ref: self._pages[ref] for ref in refs if ref in self._pages}

    def named_pages(self, named: NamedPages, scope: Scope) -> list[PageRef]:
        return self._store.named_pages(named, scope)

    def document_names(self, ids: Sequence[str]) -> dict[str, str]:
        return self._store.document_names(ids)
