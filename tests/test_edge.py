"""What is the embedded store's own; the contract of both stores is in test_index.py."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pageglass.errors import IndexMismatch, StoreDamaged, StoreError
from pageglass.types import PageRef
from retrieval.encoders import Vectors
from retrieval.index import CollectionSpec, PagePoint, Prefetch, Scope, VectorSpec
from retrieval.index.edge import EdgeIndex

SPEC = CollectionSpec(
    "text--tiny-1",
    {"dense": VectorSpec("dense", 4), "tokens": VectorSpec("multi", 16, "float16")},
    {"name": "tiny-1"},
)
EVERYTHING = Scope()


def point(document: str, index: int, vectors: Vectors) -> PagePoint:
    return PagePoint(PageRef(document, index), "c", vectors)


def dense(*values: float) -> Vectors:
    return {"dense": np.array(values)}


def found(index: EdgeIndex, limit: int = 1) -> list[PageRef]:
    question = np.array([1.0, 0, 0, 0])
    return [ref for ref, _ in index.query("dense", question, limit=limit, scope=EVERYTHING)]


def test_an_index_is_found_again_after_closing(tmp_path: Path) -> None:
    index = EdgeIndex(tmp_path, SPEC)
    index.upsert([point("d", 3, dense(1, 0, 0, 0))])
    index.close()
    index = EdgeIndex(tmp_path, SPEC)
    assert found(index) == [PageRef("d", 3)]
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
    other = replace(SPEC, model={"name": "tiny-1", "pooling": "mean"})
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
    cut = tmp_path / f".{SPEC.name}.new"
    (cut / "shard").mkdir(parents=True)
    (cut / "shard" / "rubbish").write_text("x")
    index = EdgeIndex(tmp_path, SPEC)
    assert index.count() == 0
    index.close()
    assert not cut.exists()


@pytest.mark.parametrize("manifest", [None, "", "{", "\0" * 9])
def test_an_index_without_a_readable_manifest_is_refused_and_kept(
    tmp_path: Path, manifest: str | None
) -> None:
    index = EdgeIndex(tmp_path, SPEC)
    index.upsert([point("d", 3, dense(1, 0, 0, 0))])
    index.close()
    path = tmp_path / SPEC.name / "manifest.json"
    good = path.read_text()
    path.unlink()
    if manifest is not None:
        path.write_text(manifest)
    with pytest.raises(StoreDamaged, match=r"manifest\.json.*from a backup.*check --repair"):
        EdgeIndex(tmp_path, SPEC)
    path.write_text(good)
    index = EdgeIndex(tmp_path, SPEC)
    assert found(index) == [PageRef("d", 3)]
    index.close()


def test_a_second_handle_on_an_index_is_refused(tmp_path: Path) -> None:
    index = EdgeIndex(tmp_path, SPEC)
    with pytest.raises(StoreError, match="cannot open the index"):
        EdgeIndex(tmp_path, SPEC)
    index.close()


def _compressed(root: Path) -> Mapping[Path, int]:
    """The files of compressed vectors that hold anything."""
    files = [file for file in root.rglob("*quantized*") if file.is_file()]
    return {file: file.stat().st_size for file in files if file.stat().st_size}


@pytest.mark.parametrize(("quantization", "pages"), [("binary", 50), ("scalar", 700)])
def test_an_index_can_be_compressed_later_and_still_scores_exactly(
    tmp_path: Path, quantization: str, pages: int
) -> None:
    # Scalar quantization begins where a segment reaches the engine's indexing threshold, 10 MB.
    random = np.random.default_rng(1)
    rows = random.integers(-8, 8, (pages, 600 if pages > 100 else 6, 16)) / 8
    index = EdgeIndex(tmp_path, SPEC)
    for start in range(0, pages, 100):
        batch = range(start, min(start + 100, pages))
        index.upsert([point("d", i, {"tokens": rows[i], **dense(1, 0, 0, 0)}) for i in batch])
    index.close()
    assert not _compressed(tmp_path)

    tokens = replace(SPEC.vectors["tokens"], quantization=quantization)
    index = EdgeIndex(tmp_path, replace(SPEC, vectors={**SPEC.vectors, "tokens": tokens}))
    assert _compressed(tmp_path)
    question = random.integers(-8, 8, (3, 16)) / 8
    results = index.query("tokens", question, limit=5, scope=EVERYTHING)
    expected = [(question @ rows[ref.index].T).max(axis=1).sum() for ref, _ in results]
    assert [score for _, score in results] == expected
    # Candidates are few enough to be scored by the vectors themselves, all of them.
    scores = sorted(((question @ page.T).max(axis=1).sum() for page in rows), reverse=True)
    candidates = Prefetch([("dense", np.array([1.0, 0, 0, 0]))], limit=pages)
    results = index.query("tokens", question, limit=2, scope=EVERYTHING, prefetch=candidates)
    assert [score for _, score in results] == scores[:2]
    index.close()

    index = EdgeIndex(tmp_path, SPEC)
    results = index.query("tokens", question, limit=5, scope=EVERYTHING)
    assert [score for _, score in results] == scores[:5]
    index.close()
