from __future__ import annotations

import multiprocessing
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pageglass.errors import IndexMismatch, StoreError
from pageglass.types import PageRef
from retrieval.encoders import SparseVector, Vectors
from retrieval.index import CollectionSpec, PagePoint, Prefetch, Scope, VectorSpec
from retrieval.index.edge import EdgeIndex

SPEC = CollectionSpec(
    "text--tiny-1",
    {
        "dense": VectorSpec("dense", 4),
        "tokens": VectorSpec("multi", 4),
        "bytes": VectorSpec("multi", 4, "uint8", scale=100.0),
        "sparse": VectorSpec("sparse", idf=True),
    },
    {"name": "tiny-1"},
)
EVERYTHING = Scope()


def point(document: str, index: int, vectors: Vectors, collection: str = "c") -> PagePoint:
    return PagePoint(PageRef(document, index), collection, vectors)


def dense(*values: float) -> Vectors:
    return {"dense": np.array(values)}


def maxsim(question: np.ndarray, page: np.ndarray) -> float:
    return float((question @ page.T).max(axis=1).sum())


def refs(found: Sequence[tuple[PageRef, float]]) -> list[PageRef]:
    return [ref for ref, _ in found]


bags = arrays(
    np.int8, st.tuples(st.integers(1, 5), st.just(4)), elements=st.integers(-127, 127)
).map(lambda whole: whole / 100)
balanced = bags.map(lambda bag: np.hstack([bag[:, :2], -bag[:, :2]]))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeIndex]:
    """One index for tests that keep to documents of their own."""
    index = EdgeIndex(tmp_path_factory.mktemp("shared"), SPEC)
    yield index
    index.close()


@given(st.lists(bags, min_size=1, max_size=6), bags)
def test_multi_vector_search_equals_brute_force_maxsim(
    shared: EdgeIndex, pages: list[np.ndarray], question: np.ndarray
) -> None:
    document = uuid.uuid4().hex
    shared.upsert([point(document, i, {"tokens": page}) for i, page in enumerate(pages)])
    found = shared.query("tokens", question, limit=10, scope=Scope(documents=(document,)))
    expected = sorted((maxsim(question, page) for page in pages), reverse=True)
    assert [score for _, score in found] == pytest.approx(expected, abs=1e-6)


@given(st.lists(balanced, min_size=1, max_size=6), balanced)
def test_bytes_give_the_scores_of_the_vectors_they_stand_for(
    shared: EdgeIndex, pages: list[np.ndarray], question: np.ndarray
) -> None:
    document = uuid.uuid4().hex
    shared.upsert([point(document, i, {"bytes": page}) for i, page in enumerate(pages)])
    found = shared.query("bytes", question, limit=10, scope=Scope(documents=(document,)))
    expected = sorted((maxsim(question, page) for page in pages), reverse=True)
    # Exact: these vectors are whole hundredths, and hundredths are what the bytes count.
    assert [score for _, score in found] == pytest.approx(expected, abs=1e-6)


def test_a_page_written_twice_is_one_point(tmp_path: Path) -> None:
    index = EdgeIndex(tmp_path, SPEC)
    for values in ((1, 0, 0, 0), (0, 1, 0, 0)):
        index.upsert([point("d", 0, dense(*values))])
    assert index.count() == 1
    assert index.query("dense", np.array([0, 1, 0, 0]), limit=1, scope=EVERYTHING)[0][1] == 1
    index.close()


def test_rare_terms_weigh_more_than_common_ones(tmp_path: Path) -> None:
    index = EdgeIndex(tmp_path, SPEC)
    common, rare = 1, 2
    index.upsert([point("d", i, {"sparse": SparseVector((common,), (1.0,))}) for i in range(9)])
    index.upsert([point("d", 9, {"sparse": SparseVector((rare,), (1.0,))})])
    found = index.query(
        "sparse", SparseVector((common, rare), (1.0, 1.0)), limit=2, scope=EVERYTHING
    )
    assert found[0][0] == PageRef("d", 9)
    assert found[0][1] > 2 * found[1][1]
    index.close()


def test_the_scope_holds_in_every_stage(tmp_path: Path) -> None:
    index = EdgeIndex(tmp_path, SPEC)
    best, good = {**dense(9, 0, 0, 0), "tokens": np.full((1, 4), 9.0)}, dense(1, 0, 0, 0)
    index.upsert([point("other", i, best, "elsewhere") for i in range(5)])
    index.upsert([point("mine", 0, {**good, "tokens": np.full((1, 4), 1.0)})])
    question = np.array([1.0, 0, 0, 0])
    for scope in (Scope("c"), Scope(None, ("mine",)), Scope("c", ("mine",))):
        found = index.query(
            "tokens",
            np.full((1, 4), 1.0),
            limit=5,
            scope=scope,
            # Without the scope in the prefetch the other tenant's pages would fill it.
            prefetch=Prefetch([("dense", question)], limit=1),
        )
        assert refs(found) == [PageRef("mine", 0)]
    assert index.query("dense", question, limit=5, scope=Scope("c", ("other",))) == []
    assert index.count(Scope("elsewhere")) == 5
    index.close()


def test_two_stages_return_only_prefetched_pages_in_exact_order(tmp_path: Path) -> None:
    index = EdgeIndex(tmp_path, SPEC)
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
    index.close()


def test_pages_without_a_vector_are_points_all_the_same(tmp_path: Path) -> None:
    index = EdgeIndex(tmp_path, SPEC)
    index.upsert([point("d", 0, {}), point("d", 1, {"tokens": np.empty((0, 4))})])
    assert index.count() == 2
    assert index.query("tokens", np.empty((0, 4)), limit=1, scope=EVERYTHING) == []
    index.close()


def test_deleting_a_document_leaves_the_others(tmp_path: Path) -> None:
    index = EdgeIndex(tmp_path, SPEC)
    index.upsert([point(d, i, dense(1, 0, 0, 0)) for d in "ab" for i in range(3)])
    index.delete_document("a")
    index.delete_document("never there")
    found = index.query("dense", np.array([1.0, 0, 0, 0]), limit=9, scope=EVERYTHING)
    assert {ref.document_id for ref in refs(found)} == {"b"}
    index.close()


def test_an_index_is_found_again_after_closing(tmp_path: Path) -> None:
    index = EdgeIndex(tmp_path, SPEC)
    index.upsert([point("d", 3, dense(1, 0, 0, 0))])
    index.close()
    index = EdgeIndex(tmp_path, SPEC)
    assert refs(index.query("dense", np.array([1.0, 0, 0, 0]), limit=1, scope=EVERYTHING)) == [
        PageRef("d", 3)
    ]
    index.close()


def _write_and_die(root: Path) -> None:
    import os
    import signal

    index = EdgeIndex(root, SPEC)
    index.upsert([point("d", 0, dense(1, 0, 0, 0))])
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_was_written_survives_a_kill_without_a_flush(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_write_and_die, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -9
    index = EdgeIndex(tmp_path, SPEC)
    assert index.count() == 1
    index.close()


def test_an_index_of_another_model_is_refused(tmp_path: Path) -> None:
    EdgeIndex(tmp_path, SPEC).close()
    other = CollectionSpec(SPEC.name, SPEC.vectors, {"name": "tiny-1", "pooling": "mean"})
    with pytest.raises(IndexMismatch, match="other models or settings"):
        EdgeIndex(tmp_path, other)


def test_a_damaged_index_is_a_clear_error(tmp_path: Path) -> None:
    EdgeIndex(tmp_path, SPEC).close()
    shard = tmp_path / SPEC.name / "shard"
    for file in shard.rglob("*.json"):
        file.write_text("{")
    with pytest.raises(StoreError, match="cannot open the index"):
        EdgeIndex(tmp_path, SPEC)


def test_a_creation_cut_short_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / SPEC.name / "shard").mkdir(parents=True)
    (tmp_path / SPEC.name / "shard" / "rubbish").write_text("x")
    index = EdgeIndex(tmp_path, SPEC)
    assert index.count() == 0
    index.close()
