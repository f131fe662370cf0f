"""MiniLM's vectors of pages and questions: one a chunk (``dense``), one a token (``tokens``)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from retrieval.encoders import PageInput, Vectors
from retrieval.encoders.minilm import DIMENSION, MiniLM
from retrieval.headings import heading
from retrieval.index import VectorSpec


# Dot leaders of contents pages would fill whole windows.
_LEADERS = re.compile(r"([._\-=*·•…]\s?){4,}")


class MiniLMEncoder:
    """Fills and asks the named vectors ``dense`` and ``tokens``."""

    def __init__(self, model: MiniLM) -> None:
        """Encode with ``model``, which loads at the first text."""
        self._minilm = model

    @property
    def vectors(self) -> dict[str, VectorSpec]:
        """The named vectors this encoder fills."""
        return {
            "dense": VectorSpec("multi", DIMENSION, "float16"),
            "tokens": VectorSpec("multi", DIMENSION, "float16"),
        }

    @property
    def model(self) -> dict[str, Any]:
        """What must agree for vectors to be comparable."""
        return {"name": "minilm-l6-v2-1"}

    def encode_pages(self, pages: Sequence[PageInput]) -> list[Vectors]:
        """``dense`` (chunks, 384) and ``tokens`` (tokens, 384) a page, neither for an empty one."""
        passages = self._minilm.encode_passages(
            [_LEADERS.sub(" ", of.page.text) for of in pages],
            [f"{of.title} . {heading(of.page)} ." for of in pages],
        )
        return [
            {"dense": passage.chunks, "tokens": passage.tokens} if len(passage.tokens) else {}
            for passage in passages
        ]

    def encode_question(self, text: str) -> Vectors:
        """``dense`` (1, 384) and ``tokens`` (tokens, 384)."""
        question = self._minilm.encode_question(text)
        if not len(question.tokens):
            return {}
        return {"dense": question.chunks, "tokens": np.asarray(question.tokens)}
