from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.index import VectorSpec
from retrieval.index.quantization import (
    MOST_NUMBERS,
    merged_rows,
    to_bytes,
    to_stored,
    true_score,
    zero_sum_basis,
)

SIZE, SCALE = 128, 300.0


def rows(seed: int, count: int) -> np.ndarray:
    """Rows of length 1 and zero sum."""
    raw = np.random.default_rng(seed).standard_normal((count, SIZE - 1)) @ zero_sum_basis(SIZE)
    return raw / np.linalg.norm(raw, axis=1, keepdims=True)


def test_the_zero_sum_basis_keeps_dot_products() -> None:
    basis = zero_sum_basis(SIZE)
    assert np.allclose(basis @ basis.T, np.eye(SIZE - 1))
    assert np.allclose(basis.sum(axis=1), 0)


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 40))
def test_maxsim_of_bytes_gives_the_true_maxsim(seed: int, asked: int, stored: int) -> None:
    question, page = rows(seed, asked), rows(seed + 1, stored)
    bytes_ = [to_bytes(side, SCALE).astype(np.float64) for side in (question, page)]
    score = float((bytes_[0] @ bytes_[1].T).max(axis=1).sum())
    found = true_score(score, question_rows=asked, size=SIZE, scale=SCALE)
    assert found == pytest.approx(float((question @ page.T).max(axis=1).sum()), abs=0.02 * asked)


def test_coordinates_out_of_range_are_cut_not_wrapped() -> None:
    assert to_bytes(np.array([[9.0, -9.0, 0.0]]), SCALE).tolist() == [[255, 0, 128]]


@given(st.integers(1, 4000), st.sampled_from([128, 768, 1024]))
def test_a_multi_vector_is_never_larger_than_a_server_takes(count: int, size: int) -> None:
    spec = VectorSpec("multi", size, "float16")
    page = np.random.default_rng(count).standard_normal((count, size)).astype(np.float32)
    stored = to_stored(page, spec)
    assert stored.size <= MOST_NUMBERS
    assert stored.shape[1] == size
    if count * size <= MOST_NUMBERS:
        assert merged_rows(page) is page
    else:
        # Rows stay in order and as long as they were, and each is in one of them.
        together = -(-count // (MOST_NUMBERS // size))
        assert len(stored) == -(-count // together)
        first = page[:together].astype(np.float64)
        lengths = np.linalg.norm(first, axis=1).mean()
        assert np.linalg.norm(merged_rows(page)[0]) == pytest.approx(lengths, rel=1e-5)


def test_merged_rows_keep_their_zero_sum_and_a_zero_row_stays_one() -> None:
    many = MOST_NUMBERS // SIZE + 2
    page = np.concatenate([rows(0, many), np.zeros((2, SIZE))])
    merged = merged_rows(page)
    assert np.allclose(merged.sum(axis=1), 0)
    assert np.isfinite(merged).all()
