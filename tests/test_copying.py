from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from qdrant_client import QdrantClient
from qdrant_http import Fault, serve

from pageglass.errors import IndexMismatch, StoreError, StoreUnreachable
from pageglass.settings import IndexSettings
from pageglass.types import PageRef
from retrieval.encoders import SparseVector, Vectors
from retrieval.index import CollectionSpec, Index, PagePoint, Scope, VectorSpec, open_index
from retrieval.index.copying import copy
from retrieval.index.edge import EdgeIndex
from retrieval.index.server import ServerIndex

pytestmark = pytest.mark.filterwarnings(
    "ignore:Payload indexes have no effect", "ignore:Local mode performs exact"
)

SPEC = CollectionSpec(
    "text--tiny-1",
    {
        "dense": VectorSpec("dense", 8),
        "half": VectorSpec("multi", 8, "float16"),
        "bytes": VectorSpec("multi", 8, "uint8", scale=40.0),
        "sparse": VectorSpec("sparse", idf=True),
    },
    {"name": "tiny-1"},
)


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[EdgeIndex]:
    """Forty pages of four documents in two tenants, some of them without vectors."""
    index = EdgeIndex(tmp_path / "edge", SPEC)
    index.upsert([PagePoint(PageRef(f"d{i % 4}", i), f"c{i % 2}", page(i)) for i in range(40)])
    yield index
    index.close()


@pytest.fixture
def memory() -> ServerIndex:
    return ServerIndex(QdrantClient(":memory:"), SPEC, IndexSettings())


def page(seed: int) -> Vectors:
    if seed % 9 == 8:
        return {}
    random = np.random.default_rng(seed)
    rows = random.standard_normal((1 + seed % 5, 8))
    return {
        "dense": rows[0],
        "half": rows,
        "bytes": rows - rows.mean(axis=1, keepdims=True),
        "sparse": SparseVector((seed, 3 + seed), (0.1, float(rows[0, 0]))),
    }


def content(index: Index) -> dict[PageRef, tuple[str, dict[str, object]]]:
    """Everything in an index, in plain numbers."""
    return {
        point.ref: (
            point.collection,
            {
                name: dict(zip(vector.indices, vector.values, strict=True))
                if isinstance(vector, SparseVector)
                else np.asarray(vector).tolist()
                for name, vector in point.vectors.items()
            },
        )
        for batch in index.points()
        for point in batch
    }


def nothing(written: int, total: int) -> None:
    assert written <= total


def test_a_copy_holds_the_same_vectors_and_gives_the_same_scores(
    edge: EdgeIndex, memory: ServerIndex
) -> None:
    seen: list[tuple[int, int]] = []
    assert copy(edge, memory, progress=lambda written, total: seen.append((written, total))) == 40
    assert seen == [(16, 40), (32, 40), (40, 40)]
    assert content(memory) == content(edge)
    for name, vector in page(100).items():
        one, other = (
            index.query(name, vector, limit=40, scope=Scope(("c1",))) for index in (edge, memory)
        )
        assert [ref for ref, _ in one] == [ref for ref, _ in other]
        assert [score for _, score in one] == pytest.approx([s for _, s in other], rel=1e-5)


def test_a_copy_of_a_copy_in_the_folder_is_the_original(
    edge: EdgeIndex, memory: ServerIndex, tmp_path: Path
) -> None:
    copy(edge, memory, progress=nothing)
    back = EdgeIndex(tmp_path / "back", SPEC)
    copy(memory, back, progress=nothing)
    assert content(back) == content(edge)
    back.close()


def test_copying_again_finishes_what_was_cut_short(edge: EdgeIndex) -> None:
    with serve() as qdrant:
        target = open_index(IndexSettings(url=qdrant.url, retries=0), Path(), SPEC)

        def unplug(written: int, _: int) -> None:
            qdrant.faults.append(Fault(status=502))

        with pytest.raises(StoreUnreachable):
            copy(edge, target, progress=unplug)
        assert target.count() == 16
        assert copy(edge, target, progress=nothing) == 40
        assert content(target) == content(edge)
        target.close()


def test_other_documents_in_the_target_are_left_alone(edge: EdgeIndex, memory: ServerIndex) -> None:
    memory.upsert([PagePoint(PageRef("another", 0), "c", page(0))])
    copy(edge, memory, progress=nothing)
    assert memory.count() == 41


def test_pages_that_the_source_does_not_have_are_noticed(
    edge: EdgeIndex, memory: ServerIndex
) -> None:
    memory.upsert([PagePoint(PageRef("d1", 999), "c1", page(0))])
    with pytest.raises(StoreError, match="document d1 11 pages arrived and 10 were sent"):
        copy(edge, memory, progress=nothing)


def test_other_models_are_not_copied(edge: EdgeIndex) -> None:
    other = replace(SPEC, model={"name": "tiny-2"})
    target = ServerIndex(QdrantClient(":memory:"), other, IndexSettings())
    with pytest.raises(IndexMismatch, match="other models or settings"):
        copy(edge, target, progress=nothing)
    assert target.count() == 0


def test_a_copy_may_be_compressed_where_the_original_is_not(edge: EdgeIndex) -> None:
    half = replace(SPEC.vectors["half"], quantization="scalar")
    other = replace(SPEC, vectors={**SPEC.vectors, "half": half})
    target = ServerIndex(QdrantClient(":memory:"), other, IndexSettings())
    assert copy(edge, target, progress=nothing) == 40
