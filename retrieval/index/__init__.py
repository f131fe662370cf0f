"""Where vectors are kept and searched; one file per store, one contract.

A collection (in Qdrant's sense) holds one point a page with one named vector per retriever. Every
point's payload is ``collection`` (the tenant), ``document_id`` and ``page_index`` (0-based).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from pageglass.settings import IndexSettings
from pageglass.types import PageRef, Scope
from retrieval.encoders import Vector, Vectors

_POINTS = uuid.UUID("6f1c9b0e-6a4f-5c39-9a4e-6a9fd3d1a6b7")


@dataclass(frozen=True, slots=True)
class VectorSpec:
    """How one named vector is stored.

    ``kind``: ``dense`` is one vector, ``multi`` a bag of vectors compared by MaxSim, ``sparse``
    term weights; ``idf`` multiplies these by the collection's inverse document frequencies.
    Similarity is the dot product throughout. ``uint8`` is for vectors whose coordinates sum to
    zero (see quantization.py); ``scale`` is what they are multiplied by. ``quantization`` adds a
    compressed copy that is searched first, the best of it rescored with the vectors themselves;
    ``binary`` keeps signs alone and so is not for ``uint8``.
    """

    kind: Literal["dense", "multi", "sparse"]
    size: int = 0
    datatype: Literal["float32", "float16", "uint8"] = "float32"
    idf: bool = False
    scale: float = 1.0
    quantization: Literal["none", "scalar", "binary"] = "none"


@dataclass(frozen=True, slots=True)
class CollectionSpec:
    """A collection's name and vectors; ``name`` carries model and revision, ``model`` whatever
    else must agree for vectors to be comparable (pooling, preprocessing, checksums)."""

    name: str
    vectors: Mapping[str, VectorSpec]
    model: Mapping[str, Any]

    def manifest(self) -> dict[str, Any]:
        """What an index must agree on with the code that opens it."""
        return {
            "name": self.name,
            # A compressed copy can be made, or dropped, without embedding anything anew.
            "vectors": {
                name: {key: value for key, value in asdict(spec).items() if key != "quantization"}
                for name, spec in self.vectors.items()
            },
            "model": dict(self.model),
        }


def point_id(ref: PageRef) -> str:
    """The point id: the same page is the same point, however often it is written."""
    return str(uuid.uuid5(_POINTS, f"{ref.document_id}/{ref.index}"))


@dataclass(frozen=True, slots=True)
class PagePoint:
    """A page's vectors on their way into a collection. ``collection`` is the tenant."""

    ref: PageRef
    collection: str
    vectors: Vectors

    @property
    def id(self) -> str:
        """The point id of the page."""
        return point_id(self.ref)


@dataclass(frozen=True, slots=True)
class Prefetch:
    """The first stage of a two-stage search: candidates by other named vectors."""

    vectors: Sequence[tuple[str, Vector]]
    limit: int


class Index(Protocol):
    """One collection of page points. EdgeIndex and ServerIndex are ones; tests/test_index.py is
    the contract both must keep. Thread-safe."""

    spec: CollectionSpec

    @property
    def folder(self) -> Path | None:
        """Where its files are; None where a server keeps them."""
        ...

    def upsert(self, points: Sequence[PagePoint]) -> None:
        """Write points; a page that is there already is replaced."""
        ...

    def delete_document(self, document_id: str) -> None:
        """Remove a document's points; nothing happens where there are none."""
        ...

    def delete(self, refs: Sequence[PageRef]) -> None:
        """Remove single pages' points; nothing happens where there are none."""
        ...

    def query(
        self,
        name: str,
        vector: Vector,
        *,
        limit: int,
        scope: Scope,
        prefetch: Prefetch | None = None,
    ) -> list[tuple[PageRef, float]]:
        """The best pages by the named vector's similarity, best first.

        With ``prefetch`` only pages that one of its vectors brings up are scored, exactly; one
        whose vectors are all empty counts as none. An empty ``vector`` finds nothing.
        """
        ...

    def vectors(self, ref: PageRef) -> Vectors:
        """A page's vectors, rounded as they are stored; none where the page is not there."""
        ...

    def points(self, batch: int = 64) -> Iterator[list[PagePoint]]:
        """Every point with its vectors, a batch at a time, each once.

        Written to another index they are the same there, to the bit.
        """
        ...

    def refs(self, batch: int = 1000) -> Iterator[tuple[str, PageRef]]:
        """Every point's tenant and page, without its vectors."""
        ...

    def count(self, scope: Scope | None = None) -> int:
        """Points in the collection, or in a part of it."""
        ...

    def flush(self) -> None:
        """Have everything that was written on disk."""
        ...

    def close(self) -> None:
        """Let go of files or connections; what was written is safe."""
        ...


def open_index(settings: IndexSettings, root: Path, spec: CollectionSpec) -> Index:
    """The index of ``spec`` on the server that ``settings`` name, else in the folder ``root``.

    It is made where there is none; StoreError and its kinds where it cannot be used.
    """
    # Imported late: each store builds on this module.
    if settings.url is None:
        from retrieval.index.edge import EdgeIndex

        return EdgeIndex(root, spec)
    from retrieval.index.server import ServerIndex, connect

    return ServerIndex(connect(settings), spec, settings)
