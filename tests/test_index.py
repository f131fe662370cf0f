"""The contract of every index, kept by each store: retrieval.index.Index."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from qdrant_client import QdrantClient
from qdrant_grpc import serve_grpc
from qdrant_http import serve

from pageglass.errors import IndexMismatch
from pageglass.settings import IndexSettings
from pageglass.types import PageRef
from retrieval.encoders import SparseVector, Vector, Vectors
from retrieval.index import (
    CollectionSpec,
    Index,
    PagePoint,
    Prefetch,
    Scope,
    VectorSpec,
    open_index,
)
from retrieval.index.edge import EdgeIndex
from retrieval.index.server import ServerIndex, connect

# What qdrant-client says of its in-memory mode.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Payload indexes have no effect", "ignore:Local mode performs exact"
)

SERVER = os.environ.get("PAGEGLASS_TEST_QDRANT_URL")
SPEC = CollectionSpec(
    "text--tiny-1",
    {
        "dense": VectorSpec("dense", 4),
        "tokens": VectorSpec("multi", 4),
        "half": VectorSpec("multi", 4, "float16"),
        "bytes": VectorSpec("multi", 4, "uint8", scale=100.0),
        "sparse": VectorSpec("sparse", idf=True),
    },
    {"name": "tiny-1"},
)
EVERYTHING = Scope()
Store = Callable[[CollectionSpec], Index]


STORES = ["edge", "memory", "http", "grpc", *(["server", "server by grpc"] if SERVER else [])]


@pytest.fixture(scope="module", params=STORES)
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    """Opens indexes in one kind of store; they are closed, and gone, after the module."""
    root = tmp_path_factory.mktemp("index")
    with ExitStack() as stack:
        if request.param == "http":
            settings = IndexSettings(url=stack.enter_context(serve()).url)
        elif request.param == "grpc":
            settings = IndexSettings(url=stack.enter_context(serve_grpc()).url, grpc=True)
        elif request.param.startswith("server"):
            prefix = f"pageglass-test-{uuid.uuid4().hex}-"
            settings = IndexSettings(url=SERVER, grpc="grpc" in request.param, prefix=prefix)
            stack.callback(_remove_collections, settings)
        else:
            settings = IndexSettings()
        client = QdrantClient(":memory:")

        def open_(spec: CollectionSpec) -> Index:
            if request.param == "memory":
                index = ServerIndex(client, spec, IndexSettings())
            else:
                index = open_index(settings, root, spec)
            stack.callback(index.close)
            return index

        yield open_


def _remove_collections(settings: IndexSettings) -> None:
    client = connect(settings)
    for collection in client.get_collections().collections:
        if collection.name.startswith(settings.prefix):
            client.delete_collection(collection.name)
    client.close()


@pytest.fixture(scope="module")
def shared(store: Store) -> Index:
    """One index for tests that keep to documents of their own."""
    return store(SPEC)


@pytest.fixture
def index(store: Store) -> Index:
    """An index that nothing else writes to."""
    return store(unnamed())


def unnamed(spec: CollectionSpec = SPEC) -> CollectionSpec:
    return replace(spec, name=f"text--{uuid.uuid4().hex}")


def point(document: str, index: int, vectors: Vectors, collection: str = "c") -> PagePoint:
    return PagePoint(PageRef(document, index), collection, vectors)


def dense(*values: float) -> Vectors:
    return {"dense": np.array(values)}


def maxsim(question: np.ndarray, page: np.ndarray) -> float:
    return float((question @ page.T).max(axis=1).sum())


def refs(found: Sequence[tuple[PageRef, float]]) -> list[PageRef]:
    return [ref for ref, _ in found]


def scores(found: Sequence[tuple[PageRef, float]]) -> list[float]:
    return [score for _, score in found]


def exactly(expected: Sequence[float]) -> object:
    """Equal but for the order in which float32 products are summed up."""
    return pytest.approx(expected, rel=2e-6, abs=1e-5)


def same(one: Vectors, other: Vectors) -> bool:
    """Whether they are equal to the bit; the terms of sparse vectors in any order."""

    def plain(vector: Vector) -> object:
        if isinstance(vector, SparseVector):
            return dict(zip(vector.indices, vector.values, strict=True))
        return np.asarray(vector).tolist()

    return {name: plain(v) for name, v in one.items()} == {n: plain(v) for n, v in other.items()}


bags = arrays(
    np.int8, st.tuples(st.integers(1, 5), st.just(4)), elements=st.integers(-127, 127)
).map(lambda whole: whole / 100)
balanced = bags.map(lambda bag: np.hstack([bag[:, :2], -bag[:, :2]]))


@given(st.lists(bags, min_size=1, max_size=6), bags)
def test_multi_vector_search_equals_brute_force_maxsim(
    shared: Index, pages: list[np.ndarray], question: np.ndarray
) -> None:
    document = uuid.uuid4().hex
    shared.upsert([point(document, i, {"tokens": page}) for i, page in enumerate(pages)])
    found = shared.query("tokens", question, limit=10, scope=Scope(documents=(document,)))
    expected = sorted((maxsim(question, page) for page in pages), reverse=True)
    assert scores(found) == exactly(expected)


@given(st.lists(balanced, min_size=1, max_size=6), balanced)
def test_bytes_give_the_scores_of_the_vectors_they_stand_for(
    shared: Index, pages: list[np.ndarray], question: np.ndarray
) -> None:
    document = uuid.uuid4().hex
    shared.upsert([point(document, i, {"bytes": page}) for i, page in enumerate(pages)])
    found = shared.query("bytes", question, limit=10, scope=Scope(documents=(document,)))
    expected = sorted((maxsim(question, page) for page in pages), reverse=True)
    # Exact: these vectors are whole hundredths, and hundredths are what the bytes count.
    assert scores(found) == exactly(expected)


@given(bags, bags)
def test_half_precision_scores_are_those_of_rounded_vectors(
    shared: Index, page: np.ndarray, question: np.ndarray
) -> None:
    document = uuid.uuid4().hex
    shared.upsert([point(document, 0, {"half": page})])
    found = shared.query("half", question, limit=1, scope=Scope(documents=(document,)))
    rounded = [side.astype(np.float16).astype(np.float64) for side in (question, page)]
    assert scores(found) == exactly([maxsim(*rounded)])


@given(bags, balanced)
def test_vectors_written_back_are_the_same_to_the_bit(
    shared: Index, bag: np.ndarray, whole: np.ndarray
) -> None:
    ref = PageRef(uuid.uuid4().hex, 7)
    written = {
        "dense": bag[0],
        "tokens": bag / 3,
        "half": bag / 3,
        "bytes": whole / 3,
        "sparse": SparseVector((9, 2), (0.1, 0.7)),
    }
    shared.upsert([PagePoint(ref, "c", written)])
    first = shared.vectors(ref)
    shared.upsert([PagePoint(ref, "c", first)])
    assert same(shared.vectors(ref), first)
    for name, precision in (("dense", 1e-7), ("tokens", 1e-7), ("half", 1e-3), ("bytes", 0.00501)):
        assert np.asarray(first[name]) == pytest.approx(np.asarray(written[name]), abs=precision)


def test_a_page_of_more_tokens_than_a_server_takes_is_stored_and_found(store: Store) -> None:
    """8,192 rows of 128 are one too many: neighbours are merged."""
    tokens = VectorSpec("multi", 128)
    index = store(CollectionSpec(f"text--{uuid.uuid4().hex}", {"tokens": tokens}, {"name": "t"}))
    long = np.zeros((8200, 128))
    long[np.arange(8200), np.arange(8200) // 100] = 1
    index.upsert([point("long", 0, {"tokens": long}), point("short", 0, {"tokens": long[:1]})])
    ((first, score), (second, _)) = index.query("tokens", long[-1:], limit=5, scope=EVERYTHING)
    assert (first.document_id, second.document_id) == ("long", "short")
    assert score == pytest.approx(1)


def test_a_page_written_twice_is_one_point(index: Index) -> None:
    for values in ((1, 0, 0, 0), (0, 1, 0, 0)):
        index.upsert([point("d", 0, dense(*values))])
    assert index.count() == 1
    assert index.query("dense", np.array([0, 1, 0, 0]), limit=1, scope=EVERYTHING)[0][1] == 1


def test_writing_a_page_again_drops_the_vectors_it_had(index: Index) -> None:
    index.upsert([point("d", 0, {**dense(1, 0, 0, 0), "tokens": np.ones((2, 4))})])
    index.upsert([point("d", 0, dense(1, 0, 0, 0))])
    assert set(index.vectors(PageRef("d", 0))) == {"dense"}


def test_rare_terms_weigh_more_than_common_ones(index: Index) -> None:
    common, rare = 1, 2
    index.upsert([point("d", i, {"sparse": SparseVector((common,), (1.0,))}) for i in range(9)])
    index.upsert([point("d", 9, {"sparse": SparseVector((rare,), (1.0,))})])
    found = index.query(
        "sparse", SparseVector((common, rare), (1.0, 1.0)), limit=2, scope=EVERYTHING
    )
    assert found[0][0] == PageRef("d", 9)
    assert found[0][1] > 2 * found[1][1]


def test_the_scope_holds_in_every_stage(index: Index) -> None:
    best, good = {**dense(9, 0, 0, 0), "tokens": np.full((1, 4), 9.0)}, dense(1, 0, 0, 0)
    index.upsert([point("other", i, best, "elsewhere") for i in range(5)])
    index.upsert([point("mine", 0, {**good, "tokens": np.full((1, 4), 1.0)})])
    question = np.array([1.0, 0, 0, 0])
    for scope in (Scope(("c",)), Scope(None, ("mine",)), Scope(("c",), ("mine",))):
        found = index.query(
            "tokens",
            np.full((1, 4), 1.0),
            limit=5,
            scope=scope,
            # Without the scope in the prefetch the other tenant's pages would fill it.
            prefetch=Prefetch([("dense", question)], limit=1),
        )
        assert refs(found) == [PageRef("mine", 0)]
    assert index.query("dense", question, limit=5, scope=Scope(("c",), ("other",))) == []
    assert index.count(Scope(("elsewhere",))) == 5
    assert index.count(Scope(("c",), ("other",))) == 0


def test_two_stages_return_only_prefetched_pages_in_exact_order(index: Index) -> None:
    index.upsert(
        [
            point("d", i, {**dense(i, 0, 0, 0), "tokens": np.full((1, 4), float(10 - i))})
            for i in range(6)
        ]
    )
    found = index.query(
        "tokens",
        np.full((1, 4), 1.0),
        limit=10,
        scope=EVERYTHING,
        prefetch=Prefetch([("dense", np.array([1.0, 0, 0, 0]))], limit=3),
    )
    assert [ref.index for ref in refs(found)] == [3, 4, 5]
    assert scores(found) == [28, 24, 20]


def test_candidates_of_every_prefetch_are_scored(index: Index) -> None:
    index.upsert(
        [
            point("d", 0, {**dense(5, 0, 0, 0), "tokens": np.ones((1, 4))}),
            point("d", 1, {"sparse": SparseVector((3,), (1.0,)), "tokens": 2 * np.ones((1, 4))}),
            point("d", 2, {**dense(1, 0, 0, 0), "tokens": 9 * np.ones((1, 4))}),
        ]
    )
    first = [("dense", np.array([1.0, 0, 0, 0])), ("sparse", SparseVector((3,), (1.0,)))]
    found = index.query(
        "tokens", np.ones((1, 4)), limit=9, scope=EVERYTHING, prefetch=Prefetch(first, limit=1)
    )
    assert [ref.index for ref in refs(found)] == [1, 0]


def test_a_prefetch_of_nothing_counts_as_none(index: Index) -> None:
    index.upsert([point("d", 0, {"tokens": np.ones((1, 4))})])
    for nothing in ([], [("sparse", SparseVector((), ()))]):
        found = index.query(
            "tokens",
            np.ones((1, 4)),
            limit=1,
            scope=EVERYTHING,
            prefetch=Prefetch(nothing, limit=5),
        )
        assert refs(found) == [PageRef("d", 0)]


def test_pages_without_a_vector_are_points_all_the_same(index: Index) -> None:
    index.upsert([point("d", 0, {}), point("d", 1, {"tokens": np.empty((0, 4))})])
    index.upsert([])
    assert index.count() == 2
    assert index.vectors(PageRef("d", 0)) == {}
    assert index.query("tokens", np.ones((1, 4)), limit=9, scope=EVERYTHING) == []
    assert index.query("tokens", np.empty((0, 4)), limit=1, scope=EVERYTHING) == []
    assert {of.ref.index for batch in index.points() for of in batch} == {0, 1}


def test_deleting_a_document_leaves_the_others(index: Index) -> None:
    index.upsert([point(d, i, dense(1, 0, 0, 0)) for d in "ab" for i in range(3)])
    index.delete_document("a")
    index.delete_document("never there")
    found = index.query("dense", np.array([1.0, 0, 0, 0]), limit=9, scope=EVERYTHING)
    assert {ref.document_id for ref in refs(found)} == {"b"}
    assert index.vectors(PageRef("a", 0)) == {}
    assert index.count() == 3


def test_single_pages_can_be_deleted(index: Index) -> None:
    index.upsert([point(d, i, dense(1, 0, 0, 0)) for d in "ab" for i in range(3)])
    index.delete([PageRef("a", 1), PageRef("b", 0), PageRef("never there", 0)])
    index.delete([])
    assert {ref for _, ref in index.refs()} == {
        PageRef("a", 0),
        PageRef("a", 2),
        PageRef("b", 1),
        PageRef("b", 2),
    }


@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_every_point_is_named_once_with_its_tenant(index: Index, batch: int) -> None:
    written = [point(d, i, dense(i, 1, 2, 3), f"of {d}") for d in "ab" for i in range(4)]
    index.upsert(written)
    index.flush()
    named = list(index.refs(batch))
    assert len(named) == len(written)
    assert set(named) == {(of.collection, of.ref) for of in written}


@pytest.mark.parametrize("batch", [1, 3, 7, 64])
def test_points_come_each_once_and_whole(index: Index, batch: int) -> None:
    written = [point(d, i, dense(i, 1, 2, 3), f"of {d}") for d in "ab" for i in range(7)]
    index.upsert(written)
    batches = list(index.points(batch))
    assert all(0 < len(points) <= batch for points in batches)
    read = {of.ref: of for points in batches for of in points}
    assert sum(len(points) for points in batches) == len(read) == len(written)
    for of in written:
        assert read[of.ref].collection == of.collection
        assert same(read[of.ref].vectors, index.vectors(of.ref))


def test_an_index_of_another_model_is_refused_and_left_alone(store: Store) -> None:
    spec = unnamed()
    index = store(spec)
    index.upsert([point("d", 0, dense(1, 0, 0, 0))])
    with pytest.raises(IndexMismatch, match="other models or settings"):
        store(replace(spec, model={"name": "tiny-1", "pooling": "mean"}))
    with pytest.raises(IndexMismatch, match="other models or settings"):
        store(replace(spec, vectors={**SPEC.vectors, "dense": VectorSpec("dense", 8)}))
    assert index.count() == 1


@pytest.mark.parametrize("quantization", ["scalar", "binary"])
def test_compressed_vectors_are_rescored_by_the_vectors_themselves(
    store: Store, quantization: str
) -> None:
    multi = VectorSpec("multi", 4, "float16", quantization=quantization)  # pyright: ignore[reportArgumentType]
    index = store(unnamed(replace(SPEC, vectors={**SPEC.vectors, "half": multi})))
    random = np.random.default_rng(3)
    pages = [random.integers(-8, 8, (3, 4)) / 4 for _ in range(40)]
    index.upsert([point("d", i, {"half": p, **dense(i, 0, 0, 0)}) for i, p in enumerate(pages)])
    question = random.integers(-8, 8, (2, 4)) / 4
    found = index.query("half", question, limit=5, scope=EVERYTHING)
    assert len(found) == 5
    assert scores(found) == [maxsim(question, pages[ref.index]) for ref in refs(found)]
    candidates = Prefetch([("dense", np.array([1.0, 0, 0, 0]))], limit=10)
    found = index.query("half", question, limit=10, scope=EVERYTHING, prefetch=candidates)
    expected = sorted((maxsim(question, page) for page in pages[30:]), reverse=True)
    assert scores(found) == expected


def test_the_embedded_engine_and_the_client_s_own_agree(tmp_path: Path) -> None:
    size = 16
    spec = CollectionSpec(
        "agreement",
        {
            "dense": VectorSpec("dense", size),
            "tokens": VectorSpec("multi", size),
            "half": VectorSpec("multi", size, "float16"),
            "bytes": VectorSpec("multi", size, "uint8", scale=30.0),
            "sparse": VectorSpec("sparse", idf=True),
            "plain": VectorSpec("sparse"),
        },
        {},
    )
    random = np.random.default_rng(5)

    def vectors() -> Vectors:
        rows = random.standard_normal((int(random.integers(1, 9)), size))
        terms = tuple(int(term) for term in random.choice(30, 6, replace=False))
        weights = tuple(float(weight) for weight in random.random(6))
        return {
            "dense": rows[0],
            "tokens": rows,
            "half": rows,
            "bytes": rows - rows.mean(axis=1, keepdims=True),
            "sparse": SparseVector(terms, weights),
            "plain": SparseVector(terms, weights),
        }

    edge: Index = EdgeIndex(tmp_path, spec)
    memory: Index = ServerIndex(QdrantClient(":memory:"), spec, IndexSettings())
    pages = [point(f"document {i % 3}", i, vectors(), f"c{i % 2}") for i in range(60)]
    for index in (edge, memory):
        # Nothing is deleted: the engine's document frequencies remember pages until it vacuums.
        index.upsert(pages)
    question = vectors()
    first = Prefetch([("dense", question["dense"]), ("sparse", question["sparse"])], limit=7)
    for name in spec.vectors:
        for scope in (EVERYTHING, Scope(("c0",)), Scope(None, ("document 2",))):
            for prefetch in (None, first):
                one, other = (
                    index.query(name, question[name], limit=25, scope=scope, prefetch=prefetch)
                    for index in (edge, memory)
                )
                assert refs(one) == refs(other)
                assert len(one) > 5
                # Float32 sums in another order; the bytes' scores are whole numbers before that.
                assert scores(one) == pytest.approx(scores(other), rel=1e-5, abs=1e-4)
    for index in (edge, memory):
        index.close()
