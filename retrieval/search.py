"""A question becomes ranked pages, each with the reasons it was found."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pageglass.cancellation import current
from pageglass.errors import QuestionError
from pageglass.settings import SearchSettings
from pageglass.tracing import span
from pageglass.types import Hit, PageRef, PageStore, RetrieverRank, SearchResult, Why
from retrieval.duplicates import group_duplicates
from retrieval.encoders import Encoder, ImageEncoder, Vectors
from retrieval.fusion import reciprocal_rank_fusion, score_fusion
from retrieval.index import Index, Prefetch, Scope
from retrieval.page_numbers import named_pages
from retrieval.profiles import BY_PICTURE, PAGE_NUMBER, Profile
from retrieval.rerank import Reranker

if TYPE_CHECKING:
    from PIL import Image

# Near-duplicates are looked for among this many times the pages asked for: a page that far down
# could not displace a hit, only be counted with it.
_DUPLICATE_DEPTH = 4

Ranking = list[tuple[PageRef, float]]


@dataclass(frozen=True, slots=True)
class EncodedQuestion:
    """A question's vectors, space by space: by its words and, where it has one, by its picture."""

    text: str
    words: tuple[Vectors, ...]
    picture: tuple[Vectors, ...]


class Searcher:
    """Searches every space of a profile, fuses what they find, and has the best looked at again."""

    def __init__(
        self,
        profile: Profile,
        indexes: Mapping[str, Index],
        pages: PageStore,
        settings: SearchSettings,
        reranker: Reranker | None = None,
    ) -> None:
        """``indexes`` are by collection name (``Space.spec.name``)."""
        self._profile = profile
        self.indexes = indexes
        self._pages = pages
        self._settings = settings
        self._reranker = reranker

    @property
    def reranks(self) -> bool:
        """Whether there is a reranking model."""
        return self._reranker is not None

    def under(self, settings: SearchSettings, *, pages: PageStore | None = None) -> Searcher:
        """The same models and indexes, searched and fused by other settings; ``pages``, if given,
        is where pages are looked up instead."""
        other = copy.copy(self)
        other._settings = settings
        other._pages = pages or self._pages
        return other

    def search(
        self,
        question: str,
        *,
        picture: Image.Image | None = None,
        scope: Scope | None = None,
        top_k: int | None = None,
    ) -> SearchResult:
        """The best pages for a question, a picture, or both.

        QuestionError where the question is too long, or empty without a picture.
        """
        question = self.check_question(question, optional=picture is not None)
        top_k = top_k or self._settings.top_k
        started = time.perf_counter()
        with span("search.encode"):
            encoded = self.encode(question, picture)
        encoded_at = time.perf_counter()
        with span("search.retrieve"):
            rankings = self.rankings(encoded, scope or Scope())
        searched_at = time.perf_counter()
        looked_at = self._reranker.pages if self._reranker else 0
        with span("search.fuse", {"pageglass.lists": len(rankings)}):
            fused = self.fuse(rankings, max(top_k, looked_at))
        fused_at = time.perf_counter()
        current().check()
        with span("search.rerank") if looked_at else nullcontext():
            ranked = self.rerank(question, fused)
        ended = time.perf_counter()
        timings = {
            "encode": 1000 * (encoded_at - started),
            "retrieve": 1000 * (searched_at - encoded_at),
            "fuse": 1000 * (fused_at - searched_at),
        }
        if self._reranker is not None:
            timings["rerank"] = 1000 * (ended - fused_at)
        return replace(ranked, hits=ranked.hits[:top_k], timings_ms=timings)

    def check_question(self, question: str, *, optional: bool = False) -> str:
        """The question without surrounding space; QuestionError says what is wrong with it.

        It may be empty where it is ``optional``, beside a picture.
        """
        question = question.strip()
        if not question and not optional:
            raise QuestionError("the question is empty")
        try:
            question.encode()
        except UnicodeEncodeError:
            # From a terminal with another encoding, or half of a surrogate pair.
            raise QuestionError("the question is not Unicode text: send it as UTF-8") from None
        longest = self._settings.question_characters
        if len(question) > longest:
            raise QuestionError(
                f"the question has {len(question):,} characters and may have {longest:,}"
                " (setting search.question_characters)"
            )
        return question

    def encode(self, question: str, picture: Image.Image | None = None) -> EncodedQuestion:
        """The question's vectors, each model run once."""

        def by_words(encoder: Encoder) -> Vectors:
            return encoder.encode_question(question) if question else {}

        def by_picture(encoder: Encoder) -> Vectors:
            if picture is None or not isinstance(encoder, ImageEncoder):
                return {}
            return encoder.encode_image(picture)

        return EncodedQuestion(question, self._encode(by_words), self._encode(by_picture))

    def _encode(self, encode: Callable[[Encoder], Vectors]) -> tuple[Vectors, ...]:
        return tuple(
            {name: vec for encoder in space.encoders for name, vec in encode(encoder).items()}
            for space in self._profile.spaces
        )

    def rankings(self, encoded: EncodedQuestion, scope: Scope) -> dict[str, Ranking]:
        """Every retriever's ranked list; what it finds by the picture is a list of its own.

        Pages that the question names ("on page 14") are a list of their own, too, ordered by what
        the others say of them.
        """
        rankings: dict[str, Ranking] = {}
        limit = self._settings.candidates
        for mark, by_space in (("", encoded.words), (BY_PICTURE, encoded.picture)):
            for space, vectors in zip(self._profile.spaces, by_space, strict=True):
                index = self.indexes[space.spec.name]
                for retriever in space.retrievers:
                    if retriever.name not in vectors:
                        continue
                    first = [
                        (name, vectors[name]) for name in retriever.prefetch if name in vectors
                    ]
                    with span(f"search.retrieve {retriever.name}{mark}"):
                        rankings[retriever.name + mark] = index.query(
                            retriever.name,
                            vectors[retriever.name],
                            limit=limit,
                            scope=scope,
                            prefetch=Prefetch(first, limit) if first else None,
                        )
        if named := named_pages(encoded.text):
            fused = dict(self._fused(rankings))
            pages = self._pages.named_pages(named, scope)
            pages.sort(key=lambda ref: -fused.get(ref, 0))
            # Named is named: where scores are fused, the last of them must not count as nothing.
            rankings[PAGE_NUMBER] = [(ref, 1.0) for ref in pages[:limit]]
        return rankings

    def rerank(self, question: str, hits: Sequence[Hit]) -> SearchResult:
        """``hits`` in the order of the fused ranks blended with what the reranking model says.

        Without a reranking model, or where it fails, they stay as they are, and a note says why.
        """
        if self._reranker is None or not question:
            return SearchResult(tuple(hits), {})
        stored = self._pages.pages([hit.ref for hit in hits])
        there = [hit for hit in hits if hit.ref in stored]
        outcome = self._reranker.rerank(
            question, [stored[hit.ref] for hit in there], [hit.score for hit in there]
        )
        return SearchResult(
            hits=tuple(
                replace(there[i], why=replace(there[i].why, yes=outcome.yes.get(there[i].ref)))
                for i in outcome.order
            ),
            timings_ms={},
            usage=(outcome.usage,) if outcome.usage else (),
            notes=(outcome.note,) if outcome.note else (),
        )

    def _fused(self, rankings: Mapping[str, Ranking]) -> list[tuple[PageRef, float]]:
        weights = self._profile.weights(self._settings.weights)
        if self._settings.fusion == "rrf":
            refs = {name: [ref for ref, _ in ranking] for name, ranking in rankings.items()}
            return reciprocal_rank_fusion(refs, weights=weights, k=self._settings.rrf_k)
        return score_fusion(rankings, scale=self._settings.fusion, weights=weights)

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
