from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.index.quantization import to_bytes, true_score, zero_sum_basis

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
