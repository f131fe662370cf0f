"""A question becomes ranked pages, each with the reasons it was found."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pageglass.errors import QuestionError
from pageglass.settings import SearchSettings
from pageglass.types import Hit, PageRef, PageStore, RetrieverRank, Why
from retrieval.duplicates import group_duplicates
from retrieval.encoders import Vectors
from retrieval.fusion import reciprocal_rank_fusion
from retrieval.index import Prefetch, Scope
from retrieval.index.edge import EdgeIndex
from retrieval.page_numbers import named_pages
from retrieval.profiles import PAGE_NUMBER, Profile

# Near-duplicates are looked for among this many times the pages asked for: a page that far down
# could not displace a hit, only be counted with it.
_DUPLICATE_DEPTH = 4

Ranking = list[tuple[PageRef, float]]


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Ranked pages and how long each step took, in milliseconds."""

    hits: tuple[Hit, ...]
    timings_ms: dict[str, float]


class Searcher:
    """Searches every space of a profile and fuses what they find."""

    def __init__(
        self,
        profile: Profile,
        indexes: Mapping[str, EdgeIndex],
        pages: PageStore,
        settings: SearchSettings,
    ) -> None:
        """``indexes`` are by collection name (``Space.spec.name``)."""
        self._profile = profile
        self.indexes = indexes
        self._pages = pages
        self._settings = settings

    def search(
        self, question: str, *, scope: Scope | None = None, top_k: int | None = None
    ) -> SearchResult:
        """The best pages for a question; QuestionError where it is empty or too long."""
        question = self.check_question(question)
        top_k = top_k or self._settings.top_k
        started = time.perf_counter()
        encoded = self.encode(question)
        encoded_at = time.perf_counter()
        rankings = self.rankings(question, encoded, scope or Scope())
        searched_at = time.perf_counter()
        hits = self.fuse(rankings, top_k)
        ended = time.perf_counter()
        return SearchResult(
            hits,
            {
                "encode": 1000 * (encoded_at - started),
                "retrieve": 1000 * (searched_at - encoded_at),
                "fuse": 1000 * (ended - searched_at),
            },
        )

    def check_question(self, question: str) -> str:
        """The question without surrounding space; QuestionError says what is wrong with it."""
        question = question.strip()
        if not question:
            raise QuestionError("the question is empty")
        longest = self._settings.question_characters
        if len(question) > longest:
            raise QuestionError(
                f"the question has {len(question):,} characters and may have {longest:,}"
                " (setting search.question_characters)"
            )
        return question

    def encode(self, question: str) -> list[Vectors]:
        """The question's vectors, space by space."""
        return [
            {
                name: vector
                for encoder in space.encoders
                for name, vector in encoder.encode_question(question).items()
            }
            for space in self._profile.spaces
        ]

    def rankings(
        self, question: str, encoded: Sequence[Vectors], scope: Scope
    ) -> dict[str, Ranking]:
        """Every retriever's ranked list for a question encoded once per space.

        Pages that the question names ("on page 14") are a list of their own, ordered by what the
        others say of them.
        """
        rankings: dict[str, Ranking] = {}
        limit = self._settings.candidates
        for space, vectors in zip(self._profile.spaces, encoded, strict=True):
            index = self.indexes[space.spec.name]
            for retriever in space.retrievers:
                if retriever.name not in vectors:
                    continue
                first = [(name, vectors[name]) for name in retriever.prefetch if name in vectors]
                rankings[retriever.name] = index.query(
                    retriever.name,
                    vectors[retriever.name],
                    limit=limit,
                    scope=scope,
                    prefetch=Prefetch(first, limit) if first else None,
                )
        if named := named_pages(question):
            fused = dict(self._fused(rankings))
            pages = self._pages.named_pages(
                named, collection=scope.collection, documents=scope.documents
            )
            pages.sort(key=lambda ref: -fused.get(ref, 0))
            rankings[PAGE_NUMBER] = [(ref, fused.get(ref, 0)) for ref in pages[:limit]]
        return rankings

    def _fused(self, rankings: Mapping[str, Ranking]) -> list[tuple[PageRef, float]]:
        return reciprocal_rank_fusion(
            {name: [ref for ref, _ in ranking] for name, ranking in rankings.items()},
            weights=self._profile.weights(self._settings.weights),
            k=self._settings.rrf_k,
        )

    def fuse(self, rankings: Mapping[str, Ranking], top_k: int) -> tuple[Hit, ...]:
        """The best ``top_k`` pages of all lists together, near-duplicates grouped."""
        fused = self._fused(rankings)
        seen: dict[PageRef, list[RetrieverRank]] = {}
        for name, ranking in rankings.items():
            for rank, (ref, score) in enumerate(ranking, start=1):
                seen.setdefault(ref, []).append(RetrieverRank(name, rank, score))

        window = fused[: top_k * _DUPLICATE_DEPTH]
        stored = self._pages.pages([ref for ref, _ in window])
        ranked = [stored[ref] for ref, _ in window if ref in stored]
        groups: Mapping[PageRef, Sequence[PageRef]] = (
            group_duplicates(ranked)
            if self._settings.group_duplicates
            else {page.ref: () for page in ranked}
        )
        names = self._pages.document_names(list({page.ref.document_id for page in ranked}))
        fused_ranks = {ref: rank for rank, (ref, _) in enumerate(fused, start=1)}
        scores = dict(fused)
        return tuple(
            Hit(
                ref=ref,
                document_name=names.get(ref.document_id, ref.document_id),
                page_label=stored[ref].label,
                score=scores[ref],
                why=Why(tuple(seen[ref]), fused_ranks[ref], tuple(twins)),
            )
            for ref, twins in list(groups.items())[:top_k]
        )
