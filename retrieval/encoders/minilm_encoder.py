"""MiniLM's vectors of pages and questions: one a chunk (``dense``), one a word (``tokens``)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from pageglass.types import Page
from retrieval.encoders import PageInput, Vectors
from retrieval.encoders.bm25 import is_stopword
from retrieval.encoders.minilm import DIMENSION, MiniLM, Passage
from retrieval.expansion import expansions, without_orders
from retrieval.headings import heading
from retrieval.index import VectorSpec

FloatRows = npt.NDArray[np.float32]

# Dot leaders of contents pages would fill whole windows.
_LEADERS = re.compile(r"([._\-=*·•…]\s?){4,}")
# A question's small words say little about which page it means, but not nothing: without them
# MMLongBench gains and FinanceBench loses, at half weight both gain.
_STOPWORD_WEIGHT = 0.5
# Projected coordinates stay within ±127/300.
_SCALE = 300.0
# The best match among many words is better by chance than among few: without this, MaxSim prefers
# long pages. Anything from a twentieth to a fifth helps about as much.
_LENGTH_EXPONENT = 0.1
_FEWEST_WORDS = 10


class MiniLMEncoder:
    """Fills and asks the named vectors ``dense`` and ``tokens``.

    Each chunk of a page is read with the title of its document and the heading of its page before
    it: most pages of a long document do not say what they are about.
    """

    def __init__(self, model: MiniLM) -> None:
        """Encode with ``model``, which loads at the first text."""
        self._minilm = model

    @property
    def vectors(self) -> dict[str, VectorSpec]:
        """The named vectors this encoder fills."""
        return {
            "dense": VectorSpec("multi", DIMENSION, "float16"),
            "tokens": VectorSpec("multi", 128, "uint8", scale=_SCALE),
        }

    @property
    def model(self) -> dict[str, Any]:
        """What must agree for vectors to be comparable."""
        return {
            "name": "minilm-l6-v2-2",
            "checksums": self._minilm.checksums(),
            "context": "title . heading .",
            "length_exponent": _LENGTH_EXPONENT,
        }

    def encode_pages(self, pages: Sequence[PageInput]) -> list[Vectors]:
        """``dense`` (chunks, 384) and ``tokens`` (content words, 128) a page, neither for an empty
        one. Tokens of a page of n words have the length n to the power of -0.1."""
        texts = [_LEADERS.sub(" ", of.page.text) for of in pages]
        passages = self._minilm.encode_passages(
            texts, [f"{of.title} . {heading(of.page)} ." for of in pages]
        )
        return [
            {
                "dense": passage.chunks,
                "tokens": content_words(passage, text) @ self._projection * _shortened(of.page),
            }
            if len(passage.chunks)
            else {}
            for of, passage, text in zip(pages, passages, texts, strict=True)
        ]

    def encode_question(self, text: str) -> Vectors:
        """``dense`` (1, 384) and ``tokens`` (word pieces, 128), of the question with what pages may
        have in place of its abbreviations and measures."""
        text = without_orders(text)
        if more := expansions(text):
            text = f"{text} ({'; '.join(more)})"
        question = self._minilm.encode_question(text)
        if not len(question.chunks):
            return {}
        small = [_is_small(text[start:end]) for start, end in question.offsets]
        weights = np.where(small, np.float32(_STOPWORD_WEIGHT), np.float32(1))
        tokens = question.tokens * weights[:, None]
        return {"dense": question.chunks, "tokens": tokens @ self._projection}

    @cached_property
    def _projection(self) -> FloatRows:
        """(384, 128): principal components, turned so that coordinates sum to zero."""
        return self._minilm.projection()


def _shortened(page: Page) -> np.float32:
    return np.float32(max(_FEWEST_WORDS, len(page.words)) ** -_LENGTH_EXPONENT)


def content_words(passage: Passage, text: str) -> FloatRows:
    """One vector of length 1 for each word that carries meaning: the mean of its pieces.

    Rows (words, 384) in the order of the text; a text of nothing but small words keeps them all.
    """
    if not len(passage.words):
        return passage.tokens
    starts = np.flatnonzero(np.diff(passage.words, prepend=-1))
    ends = np.append(starts[1:], len(passage.words))
    spans = zip(passage.offsets[starts, 0], passage.offsets[ends - 1, 1], strict=True)
    keep = np.array([not _is_small(text[start:end]) for start, end in spans])
    means = np.add.reduceat(passage.tokens, starts) / (ends - starts)[:, None]
    chosen = means[keep] if keep.any() else means
    return (chosen / np.linalg.norm(chosen, axis=1, keepdims=True)).astype(np.float32)


@lru_cache(maxsize=100_000)
def _is_small(word: str) -> bool:
    return is_stopword(word)
