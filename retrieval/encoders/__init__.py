"""Encoders put pages and questions into vector spaces; one file per model family.

Heavy imports (onnxruntime, tokenizers, later torch) live only in the files of this folder, inside
functions, so that importing Pageglass touches no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pageglass.types import Page

FloatArray = npt.NDArray[np.floating]
"""A vector (size,) or a multi-vector (count, size)."""


@dataclass(frozen=True, slots=True)
class SparseVector:
    """Non-zero dimensions and their values, both of one length."""

    indices: tuple[int, ...]
    values: tuple[float, ...]


Vector = FloatArray | SparseVector
Vectors = Mapping[str, Vector]
"""Vectors of one page or question by retriever name; a missing name means: nothing to search."""


@dataclass(frozen=True, slots=True)
class PageInput:
    """A page to encode, and the title of its document (retrieval.headings)."""

    page: Page
    title: str


class Encoder(Protocol):
    """Puts pages and questions into one or more vector spaces."""

    def encode_pages(self, pages: Sequence[PageInput]) -> list[Vectors]:
        """One Vectors a page, in order; a page's vectors never depend on its neighbours."""
        ...

    def encode_question(self, text: str) -> Vectors:
        """The question's vectors, in the same spaces."""
        ...
