from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from retrieval.similarity import PatchGrid, heat, maxsim, pooled_rows, similarity_maps

FloatRows = npt.NDArray[np.float32]


def _rows(size: int, least: int = 0) -> st.SearchStrategy[FloatRows]:
    numbers = st.floats(-4, 4, width=32)
    return st.integers(least, 6).flatmap(
        lambda count: arrays(np.float32, (count, size), elements=numbers)
    )


@given(_rows(5), _rows(5))
def test_maxsim_is_what_comparing_every_pair_gives(question: FloatRows, page: FloatRows) -> None:
    best = [max(float(np.dot(q, p)) for p in page) for q in question] if len(page) else []
    assert maxsim(question, page) == pytest.approx(sum(best), abs=1e-3)


@given(_rows(3, least=1), _rows(3, least=1), st.randoms())
def test_maxsim_does_not_mind_the_order_of_rows(
    question: FloatRows, page: FloatRows, random: object
) -> None:
    turned = maxsim(question[::-1], page[::-1])
    assert turned == pytest.approx(maxsim(question, page), abs=1e-3)


def test_negative_similarities_count_as_they_are() -> None:
    question = np.array([[1.0, 0.0]], np.float32)
    assert maxsim(question, -question) == -1.0


def test_maxsim_of_half_precision_sums_in_single() -> None:
    question = np.full((4000, 2), 0.7, np.float16)
    exact = maxsim(question.astype(np.float32), question[:1].astype(np.float32))
    assert maxsim(question, question[:1]) == pytest.approx(exact, rel=1e-6)


def test_a_map_shows_each_cell_the_row_that_stands_for_it() -> None:
    patches = np.eye(7, dtype=np.float32)
    grid = PatchGrid(np.array([[1, 3, 5], [2, 4, 6]]))
    maps = similarity_maps(patches[[3, 2]], patches, grid)
    assert grid.shape == (2, 3)
    np.testing.assert_array_equal(maps[0], [[0, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(maps[1], [[0, 0, 0], [1, 0, 0]])


@given(_rows(4, least=1), _rows(4, least=6))
def test_the_best_cells_of_a_map_add_up_to_the_score(question: FloatRows, page: FloatRows) -> None:
    maps = similarity_maps(question, page, PatchGrid(np.arange(len(page)).reshape(1, -1)))
    assert maps.max(axis=(1, 2)).sum() == pytest.approx(maxsim(question, page), abs=1e-3)


def test_the_grid_of_another_page_is_refused() -> None:
    rows = np.ones((4, 3), np.float32)
    with pytest.raises(ValueError, match="the grid names patch 5 of 4"):
        similarity_maps(rows, rows, PatchGrid(np.arange(6).reshape(2, 3)))


def test_heat_is_what_stands_out_of_the_chosen_tokens_maps() -> None:
    maps = np.array([[[0, 1], [2, 4]], [[9, 9], [9, 9]]], np.float32)
    # The median is 1.5: below it all cells are alike.
    np.testing.assert_allclose(heat(maps, [0]), [[0, 0], [0.2, 1]])
    np.testing.assert_allclose(heat(maps), [[0, 0], [0.2, 1]])
    np.testing.assert_array_equal(heat(maps, [1]), np.zeros((2, 2)))
    np.testing.assert_array_equal(heat(maps, []), np.zeros((2, 2)))


def test_pooled_rows_are_the_means_along_each_line_of_the_page() -> None:
    patches = np.array([[9, 9], [1, 0], [0, 1], [0, 2], [0, 4]], np.float32)
    pooled = pooled_rows(patches, PatchGrid(np.array([[1, 2], [3, 4]])))
    np.testing.assert_allclose(pooled, [[0.5**0.5, 0.5**0.5], [0, 1]], atol=1e-6)


def test_a_line_whose_patches_cancel_out_pools_to_nothing() -> None:
    patches = np.array([[1, 0], [-1, 0]], np.float32)
    np.testing.assert_array_equal(pooled_rows(patches, PatchGrid(np.array([[0, 1]]))), [[0, 0]])
