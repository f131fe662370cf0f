"""The embedded store: one Qdrant Edge shard a collection.

Qdrant Edge is the server's own engine inside this process. One process holds a shard at a time;
its write-ahead log makes every update survive the process being killed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pageglass.durable import make_folder, put_in_place, sync_folder
from pageglass.errors import IndexMismatch, StoreDamaged, StoreError
from pageglass.types import PageRef
from retrieval.encoders import SparseVector, Vector, Vectors
from retrieval.index import CollectionSpec, PagePoint, Prefetch, Scope, VectorSpec, point_id
from retrieval.index.quantization import (
    OVERSAMPLING,
    from_stored,
    is_empty,
    score_from_stored,
    to_stored,
)

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
        self.folder = root / spec.name
        if not self.folder.exists():
            _create(self.folder, spec)
        if _manifest(self.folder) != json.loads(json.dumps(spec.manifest())):
            raise IndexMismatch(
                f"the index {spec.name} was made by other models or settings: ingest the"
                " documents into a new data folder, or remove this one's index folder and"
                " ingest again"
            )
        shard = self.folder / "shard"
        self._shard = _guarded(
            lambda: _edge().EdgeShard.load(str(shard), _config(spec)), self.folder
        )
        if any(vector.quantization != "none" for vector in spec.vectors.values()):
            # The engine compresses only when told to; what is new since then is searched as
            # it is.
            _guarded(self._shard.optimize, self.folder)

    def upsert(self, points: Sequence[PagePoint]) -> None:
        """Write points; a page that is there already is replaced."""
        edge = _edge()
        batch = [
            edge.Point(
                point.id,
                {
                    name: _to_edge(vector, self.spec.vectors[name])
                    for name, vector in point.vectors.items()
                    if not is_empty(vector)
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

    def delete(self, refs: Sequence[PageRef]) -> None:
        """Remove single pages' points; nothing happens where there are none."""
        if refs:
            ids = [point_id(ref) for ref in refs]
            self._shard.update(_edge().UpdateOperation.delete_points(ids))

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
        if is_empty(vector) or scope.empty:
            return []
        edge = _edge()
        condition = _filter(scope)
        # The scope must hold in every stage: candidates outside it would crowd out others.
        prefetches: list[Any] = []
        if prefetch is not None:
            prefetches = [
                edge.Prefetch(
                    limit=prefetch.limit,
                    query=self._query(first, v),
                    filter=condition,
                    params=_search_params(self.spec.vectors[first], scope, exact=False),
                )
                for first, v in prefetch.vectors
                if not is_empty(v)
            ]
        spec = self.spec.vectors[name]
        points = self._shard.query(
            edge.QueryRequest(
                limit=limit,
                query=self._query(name, vector),
                prefetches=prefetches or None,
                filter=condition,
                params=_search_params(spec, scope, exact=bool(prefetches)),
                with_payload=True,
            )
        )
        return [
            (_ref(point.payload), score_from_stored(point.score, vector, spec)) for point in points
        ]

    def vectors(self, ref: PageRef) -> Vectors:
        """A page's vectors, rounded as they are stored; none where the page is not there."""
        records = self._shard.retrieve([point_id(ref)], with_payload=False, with_vector=True)
        return self._vectors(records[0]) if records else {}

    def points(self, batch: int = 64) -> Iterator[list[PagePoint]]:
        """Every point with its vectors, a batch at a time, each once."""
        for records in self._scroll(batch, with_vector=True):
            yield [
                PagePoint(_ref(of.payload), of.payload["collection"], self._vectors(of))
                for of in records
            ]

    def refs(self, batch: int = 1000) -> Iterator[tuple[str, PageRef]]:
        """Every point's tenant and page, without its vectors."""
        for records in self._scroll(batch, with_vector=False):
            for of in records:
                yield of.payload["collection"], _ref(of.payload)

    def _scroll(self, batch: int, *, with_vector: bool) -> Iterator[list[Any]]:
        edge = _edge()
        offset = None
        while True:
            records, offset = self._shard.scroll(
                edge.ScrollRequest(
                    offset=offset, limit=batch, with_payload=True, with_vector=with_vector
                )
            )
            if records:
                yield records
            if offset is None:
                return

    def count(self, scope: Scope | None = None) -> int:
        """Points in the collection, or in a part of it."""
        if scope is not None and scope.empty:
            return 0
        condition = _filter(scope) if scope else None
        return self._shard.count(_edge().CountRequest(filter=condition, exact=True))

    def flush(self) -> None:
        """Have everything that was written on disk."""
        self._shard.flush()

    def close(self) -> None:
        """Flush to disk and release the folder."""
        self._shard.flush()
        self._shard.close()

    def _query(self, name: str, vector: Vector) -> qdrant_edge.Query:
        return _edge().Query.Nearest(_to_edge(vector, self.spec.vectors[name]), using=name)

    def _vectors(self, record: Any) -> Vectors:
        stored: dict[str, Any] = record.vector or {}
        return {name: from_stored(raw, self.spec.vectors[name]) for name, raw in stored.items()}


def _edge() -> Any:
    # Imported late: 35 MB of native code that `pageglass --help` does not need.
    import qdrant_edge

    return qdrant_edge


def _create(folder: Path, spec: CollectionSpec) -> None:
    """Make an empty collection beside ``folder`` and move it there: one cut short is no index."""
    made = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(made, ignore_errors=True)
    shard = made / "shard"
    make_folder(shard)
    edge = _edge()
    engine = _guarded(lambda: edge.EdgeShard.create(str(shard), _config(spec)), folder)
    for field in ("collection", "document_id"):
        engine.update(
            edge.UpdateOperation.create_field_index(field, edge.PayloadSchemaType.Keyword)
        )
    engine.flush()
    engine.close()
    written = made / "manifest.new"
    written.write_text(json.dumps(spec.manifest(), indent=1))
    put_in_place(written, made / "manifest.json")
    made.rename(folder)
    sync_folder(folder.parent)


def _manifest(folder: Path) -> Any:
    """What the collection was made by; StoreDamaged where that cannot be read.

    Nothing is removed for want of it: the vectors may have taken days.
    """
    try:
        return json.loads((folder / "manifest.json").read_text("utf-8"))
    except FileNotFoundError:
        what = "it has no manifest.json"
    except (OSError, ValueError) as error:
        what = f"its manifest.json is damaged ({_first_line(error)})"
    raise _damaged(folder, what)


def _damaged(folder: Path, what: str) -> StoreDamaged:
    return StoreDamaged(
        f"cannot open the index {folder.name}: {what}. Put {folder} back from a backup, or move it"
        " away and run `pageglass check --repair`, then `pageglass ingest`: that makes its vectors"
        " again"
    )


def _guarded(open_shard: Any, folder: Path) -> Any:
    try:
        return open_shard()
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # the engine raises bare exceptions of its own, and panics
        reason = _first_line(error)
        if "lock" in reason.lower():
            raise StoreError(f"cannot open the index {folder.name}: {reason}") from error
        raise _damaged(folder, reason) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _config(spec: CollectionSpec) -> Any:
    edge = _edge()
    datatypes = {
        "float32": edge.VectorStorageDatatype.Float32,
        "float16": edge.VectorStorageDatatype.Float16,
        "uint8": edge.VectorStorageDatatype.Uint8,
    }
    quantizations = {
        "none": None,
        "scalar": edge.ScalarQuantizationConfig(edge.ScalarType.Int8),
        "binary": edge.BinaryQuantizationConfig(),
    }
    vectors: dict[str, Any] = {}
    sparse: dict[str, Any] = {}
    for name, vector in spec.vectors.items():
        if vector.kind == "sparse":
            sparse[name] = edge.EdgeSparseVectorParams(
                modifier=edge.Modifier.Idf if vector.idf else None
            )
            continue
        vectors[name] = edge.EdgeVectorParams(
            size=vector.size,
            distance=edge.Distance.Dot,
            datatype=datatypes[vector.datatype],
            multivector_config=edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim)
            if vector.kind == "multi"
            else None,
            quantization_config=quantizations[vector.quantization],
            # No graph: compressing would build one, and up to 10^4 pages all can be scored.
            hnsw_config=edge.HnswIndexConfig(m=0, ef_construct=100, full_scan_threshold=10_000),
        )
    return edge.EdgeConfig(vectors=vectors, sparse_vectors=sparse)


def _filter(scope: Scope) -> Any:
    edge = _edge()
    conditions: list[Any] = []
    for field, values in (("collection", scope.collections), ("document_id", scope.documents)):
        if values is not None:
            conditions.append(edge.FieldCondition(field, match=edge.MatchAny(list(values))))
    return edge.Filter(must=conditions) if conditions else None


def _search_params(spec: VectorSpec, scope: Scope, *, exact: bool) -> Any:
    edge = _edge()
    # How rare a word is elsewhere must not show in a tenant's scores.
    own = _filter(scope) if spec.idf else None
    compressed = spec.quantization != "none" and not exact
    return edge.SearchParams(
        exact=exact,
        idf=None if own is None else edge.IdfParams(corpus=own),
        quantization=edge.QuantizationSearchParams(
            ignore=not compressed,
            rescore=True if compressed else None,
            oversampling=OVERSAMPLING if compressed else None,
        ),
    )


def _to_edge(vector: Vector, spec: VectorSpec) -> Any:
    if isinstance(vector, SparseVector):
        return _edge().SparseVector(list(vector.indices), list(vector.values))
    return to_stored(vector, spec).tolist()


def _ref(payload: Any) -> PageRef:
    return PageRef(payload["document_id"], payload["page_index"])
