"""Encoders put pages and questions into vector spaces; one file per model family.

Heavy imports (onnxruntime, tokenizers, later torch) live only in the files of this folder, inside
functions, so that importing Pageglass touches no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from pageglass.types import Page

if TYPE_CHECKING:
    from PIL import Image

    from retrieval.index import VectorSpec
    from retrieval.similarity import PatchGrid

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
    """A page to encode, the title of its document (retrieval.headings), and its image (JPEG)."""

    page: Page
    title: str
    image: bytes = b""


class Encoder(Protocol):
    """Puts pages and questions into one or more vector spaces.

    Building one loads no model: ``vectors`` and ``model`` come from the checkpoint's small files,
    and its weights load at the first page or question.
    """

    @property
    def vectors(self) -> dict[str, VectorSpec]:
        """The named vectors this encoder fills."""
        ...

    @property
    def model(self) -> dict[str, Any]:
        """What must agree for vectors to be comparable, as JSON: the index manifest keeps it."""
        ...

    def encode_pages(self, pages: Sequence[PageInput]) -> list[Vectors]:
        """One Vectors a page, in order; a page's vectors never depend on its neighbours."""
        ...

    def encode_question(self, text: str) -> Vectors:
        """The question's vectors, in the same spaces."""
        ...


@runtime_checkable
class ImageEncoder(Protocol):
    """An Encoder that can search by a picture."""

    def encode_image(self, image: Image.Image) -> Vectors:
        """The picture's vectors, as a question, in the same spaces."""
        ...


@runtime_checkable
class PatchEncoder(Protocol):
    """An Encoder whose ``patches`` can be laid out on the page they are from."""

    def encode_question(self, text: str) -> Vectors:
        """As Encoder's."""
        ...

    def patch_grid(self, image: Image.Image) -> PatchGrid:
        """Where the rows of a page's ``patches`` lie on its image; no model runs."""
        ...

    def question_tokens(self, text: str) -> list[str]:
        """What each row of the question's ``patches`` stands for, to be read by people."""
        ...
