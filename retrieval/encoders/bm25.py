"""BM25 term weights, by Qdrant's own tokenizer, stemmer and stop words."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property
from typing import Any

from pageglass.types import Page
from retrieval.encoders import PageInput, SparseVector, Vectors
from retrieval.headings import first_lines, heading
from retrieval.index import VectorSpec


class Bm25Encoder:
    """Fills and asks the named vector ``sparse``.

    Term frequencies are weighted here, inverse document frequencies by the index, over all pages
    of the tenants that are asked. Terms are hashed to 32 bits.
    """

    name = "sparse"

    def __init__(self, *, k: float = 1.2, b: float = 0.75, average_words: float = 256) -> None:
        """BM25's ``k`` and ``b``; ``average_words`` is the length of an average page."""
        self._parameters: dict[str, Any] = {
            "k": k,
            "b": b,
            "avg_len": average_words,
            "language": "english",
        }

    @property
    def vectors(self) -> dict[str, VectorSpec]:
        """The named vectors this encoder fills."""
        return {self.name: VectorSpec("sparse", idf=True)}

    @property
    def model(self) -> dict[str, Any]:
        """What must agree for vectors to be comparable."""
        return {"bm25": self._parameters, "bm25_text": "page, heading, first lines"}

    @cached_property
    def _bm25(self) -> Any:
        import qdrant_edge

        return qdrant_edge.Bm25(qdrant_edge.Bm25Config(**self._parameters))

    def encode_pages(self, pages: Sequence[PageInput]) -> list[Vectors]:
        """``{"sparse": term weights}`` a page, without a name for pages without terms."""
        return [_named(self.name, self._bm25.embed_document(_text(of.page))) for of in pages]

    def encode_question(self, text: str) -> Vectors:
        """``{"sparse": ...}`` with weight 1 a term, or nothing where no term is left."""
        return _named(self.name, self._bm25.embed_query(text))


def is_stopword(word: str) -> bool:
    """Whether BM25 drops the word: an English function word, or punctuation."""
    return not _stopwords().embed_query(word).indices


@cache
def _stopwords() -> Any:
    import qdrant_edge

    return qdrant_edge.Bm25()


def _text(page: Page) -> str:
    """The page's text with its heading and first lines once more: what a page is about counts
    more than what it mentions."""
    return "\n".join((page.text, heading(page), first_lines(page)))


def _named(name: str, sparse: Any) -> Vectors:
    if not sparse.indices:
        return {}
    return {name: SparseVector(tuple(sparse.indices), tuple(sparse.values))}
