"""The embedded store: one Qdrant Edge shard a collection.

Qdrant Edge is the server's own engine inside this process. One process holds a shard at a time;
its write-ahead log makes every update survive the process being killed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pageglass.errors import IndexMismatch, StoreError
from pageglass.types import PageRef
from retrieval.encoders import SparseVector, Vector
from retrieval.index import CollectionSpec, PagePoint, Prefetch, Scope, VectorSpec
from retrieval.index.quantization import to_bytes, true_score

if TYPE_CHECKING:
    import qdrant_edge


class EdgeIndex:
    """One collection of page points in the folder ``root / spec.name``.

    Thread-safe: the engine serialises updates and answers queries meanwhile.
    """

    def __init__(self, root: Path, spec: CollectionSpec) -> None:
        """Open or create. IndexMismatch where another model made it, StoreError where it is
        damaged or another process holds it."""
        self.spec = spec
        self._path = root / spec.name
        shard, manifest = self._path / "shard", self._path / "manifest.json"
        if manifest.exists():
            if json.loads(manifest.read_text()) != json.loads(json.dumps(spec.manifest())):
                raise IndexMismatch(
                    f"the index {spec.name} was made by other models or settings: ingest the"
                    " documents into a new data folder, or remove this one's index folder and"
                    " ingest again"
                )
            self._shard = _guarded(lambda: _edge().EdgeShard.load(str(shard)), self._path)
        else:
            # Without a manifest, whatever stands here is a creation cut short.
            shutil.rmtree(self._path, ignore_errors=True)
            shard.mkdir(parents=True)
            self._shard = _guarded(
                lambda: _edge().EdgeShard.create(str(shard), _config(spec)), self._path
            )
            edge = _edge()
            for field in ("collection", "document_id"):
                self._shard.update(
                    edge.UpdateOperation.create_field_index(field, edge.PayloadSchemaType.Keyword)
                )
            self._shard.flush()
            manifest.write_text(json.dumps(spec.manifest(), indent=1))

    def upsert(self, points: Sequence[PagePoint]) -> None:
        """Write points; a page that is there already is replaced."""
        edge = _edge()
        batch = [
            edge.Point(
                point.id,
                {
                    name: _to_edge(vector, self.spec.vectors[name])
                    for name, vector in point.vectors.items()
                    if len(_rows(vector))
                },
                {
                    "collection": point.collection,
                    "document_id": point.ref.document_id,
                    "page_index": point.ref.index,
                },
            )
            for point in points
        ]
        if batch:
            self._shard.update(edge.UpdateOperation.upsert_points(batch))

    def delete_document(self, document_id: str) -> None:
        """Remove a document's points; nothing happens where there are none."""
        edge = _edge()
        self._shard.update(
            edge.UpdateOperation.delete_points_by_filter(_filter(Scope(None, (document_id,))))
        )

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

        With ``prefetch`` only pages that one of its vectors brings up are scored.
        """
        if not len(_rows(vector)):
            return []
        edge = _edge()
        condition = _filter(scope)
        prefetches = None
        if prefetch is not None:
            # The scope must hold in every stage: candidates outside it would crowd out others.
            prefetches = [
                edge.Prefetch(limit=prefetch.limit, query=self._query(n, v), filter=condition)
                for n, v in prefetch.vectors
                if len(_rows(v))
            ]
        points = self._shard.query(
            edge.QueryRequest(
                limit=limit,
                query=self._query(name, vector),
                prefetches=prefetches,
                filter=condition,
                with_payload=True,
            )
        )
        spec, rows = self.spec.vectors[name], len(_rows(vector))
        return [(_ref(point.payload), _score(point.score, spec, rows)) for point in points]

    def count(self, scope: Scope | None = None) -> int:
        """Points in the collection, or in a part of it."""
        condition = _filter(scope) if scope else None
        return self._shard.count(_edge().CountRequest(filter=condition, exact=True))

    def close(self) -> None:
        """Flush to disk and release the folder."""
        self._shard.flush()
        self._shard.close()

    def _query(self, name: str, vector: Vector) -> qdrant_edge.Query:
        return _edge().Query.Nearest(_to_edge(vector, self.spec.vectors[name]), using=name)


def _edge() -> Any:
    # Imported late: 35 MB of native code that `pageglass --help` does not need.
    import qdrant_edge

    return qdrant_edge


def _guarded(open_shard: Any, path: Path) -> Any:
    try:
        return open_shard()
    except Exception as error:  # the engine raises bare exceptions of its own
        reason = str(error).splitlines()[0]
        raise StoreError(f"cannot open the index {path.name}: {reason}") from error


def _config(spec: CollectionSpec) -> Any:
    edge = _edge()
    datatypes = {
        "float32": edge.VectorStorageDatatype.Float32,
        "float16": edge.VectorStorageDatatype.Float16,
        "uint8": edge.VectorStorageDatatype.Uint8,
    }
    vectors: dict[str, Any] = {}
    sparse: dict[str, Any] = {}
    for name, vector in spec.vectors.items():
        if vector.kind == "sparse":
            sparse[name] = edge.EdgeSparseVectorParams(
                modifier=edge.Modifier.Idf if vector.idf else None
            )
            continue
        multi = edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim)
        vectors[name] = edge.EdgeVectorParams(
            size=vector.size,
            distance=edge.Distance.Dot,
            datatype=datatypes[vector.datatype],
            multivector_config=multi if vector.kind == "multi" else None,
        )
    return edge.EdgeConfig(vectors=vectors, sparse_vectors=sparse)


def _filter(scope: Scope) -> Any:
    edge = _edge()
    conditions: list[Any] = []
    if scope.collection is not None:
        conditions.append(
            edge.FieldCondition("collection", match=edge.MatchValue(scope.collection))
        )
    if scope.documents:
        conditions.append(
            edge.FieldCondition("document_id", match=edge.MatchAny(list(scope.documents)))
        )
    return edge.Filter(must=conditions) if conditions else None


def _rows(vector: Vector) -> Any:
    return vector.indices if isinstance(vector, SparseVector) else vector


def _to_edge(vector: Vector, spec: VectorSpec) -> Any:
    if isinstance(vector, SparseVector):
        return _edge().SparseVector(list(vector.indices), list(vector.values))
    if spec.datatype == "uint8":
        return to_bytes(vector, spec.scale).tolist()
    return np.asarray(vector, dtype=np.float32).tolist()


def _score(score: float, spec: VectorSpec, question_rows: int) -> float:
    if spec.datatype != "uint8":
        return score
    return true_score(score, question_rows=question_rows, size=spec.size, scale=spec.scale)


def _ref(payload: Any) -> PageRef:
    return PageRef(payload["document_id"], payload["page_index"])
