"""BM25 weights of terms and of pairs of them, by Qdrant's own tokenizer, stemmer and stop words."""

from __future__ import annotations

import re
import struct
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache, cached_property, lru_cache
from itertools import pairwise
from typing import Any

from pageglass.types import Page
from retrieval.encoders import PageInput, SparseVector, Vectors
from retrieval.expansion import expansions, without_orders
from retrieval.headings import first_lines, heading
from retrieval.index import VectorSpec

_WORD = re.compile(r"[^\W_]+")
# An expansion says what may be meant, not what was said.
_EXPANSION_WEIGHT = 0.5


class Bm25Encoder:
    """Fills and asks the named vector ``sparse``.

    Term frequencies are weighted here, inverse document frequencies by the index, over the pages
    that are asked. Terms are hashed to 32 bits. Two words that follow one another are a term of
    their own: "Figure 3" and "Appendix C" are rare, "3" and "C" are not.
    """

    name = "sparse"

    def __init__(self, *, k: float = 1.2, b: float = 0.75, average_words: float = 256) -> None:
        """BM25's ``k`` and ``b``; ``average_words`` is the length of an average page."""
        self._k, self._b, self._average = k, b, average_words
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
        return {"bm25": self._parameters, "bm25_text": "page, heading, first lines; pairs"}

    @cached_property
    def _bm25(self) -> Any:
        import qdrant_edge

        return qdrant_edge.Bm25(qdrant_edge.Bm25Config(**self._parameters))

    def encode_pages(self, pages: Sequence[PageInput]) -> list[Vectors]:
        """``{"sparse": term weights}`` a page, without a name for pages without terms."""
        return [self._page(_text(of.page)) for of in pages]

    def encode_question(self, text: str) -> Vectors:
        """``{"sparse": ...}`` with weight 1 a term that is asked for, and one half a term that an
        expansion has, or nothing where no term is left."""
        asked = without_orders(text)
        weights: dict[int, float] = {}
        for expansion in expansions(asked):
            weights |= dict.fromkeys(self._terms(expansion), _EXPANSION_WEIGHT)
        return _named(self.name, weights | dict.fromkeys(self._terms(asked), 1.0))

    def _page(self, text: str) -> Vectors:
        single = self._bm25.embed_document(text)
        weights = dict(zip(single.indices, single.values, strict=True))
        pairs, words = _pairs(text)
        # As for single terms (Robertson, Zaragoza 2009), so that both are on one scale.
        longer = self._k * (1 - self._b + self._b * words / self._average)
        for pair, count in Counter(pairs).items():
            weights[pair] = weights.get(pair, 0.0) + count * (self._k + 1) / (count + longer)
        return _named(self.name, weights)

    def _terms(self, text: str) -> list[int]:
        return [*self._bm25.embed_query(text).indices, *_pairs(text)[0]]


def is_stopword(word: str) -> bool:
    """Whether BM25 drops the word: an English function word, or punctuation."""
    return _term(word) is None


@cache
def _stopwords() -> Any:
    import qdrant_edge

    return qdrant_edge.Bm25()


def _text(page: Page) -> str:
    """The page's text with its heading and first lines once more: what a page is about counts
    more than what it mentions."""
    return "\n".join((page.text, heading(page), first_lines(page)))


def _pairs(text: str) -> tuple[list[int], int]:
    """A term for each two neighbouring words that both say something, and the number of words."""
    terms = [_term(word) for word in _WORD.findall(text.lower())]
    pairs = [_pair(a, b) for a, b in pairwise(terms) if a is not None and b is not None]
    return pairs, len(terms)


@lru_cache(maxsize=100_000)
def _term(word: str) -> int | None:
    """The hash of a word's stem, None for a word that BM25 drops."""
    indices: Sequence[int] = _stopwords().embed_query(word).indices
    return indices[0] if indices else None


def _pair(first: int, second: int) -> int:
    return zlib.crc32(struct.pack("<II", first, second))


def _named(name: str, weights: Mapping[int, float]) -> Vectors:
    if not weights:
        return {}
    return {name: SparseVector(tuple(weights), tuple(weights.values()))}
