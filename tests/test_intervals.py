"""Intervals: of means by document, and of shares."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.intervals import by_document, wilson

documents = st.lists(
    st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=1, max_size=5),
    min_size=1,
    max_size=8,
)


@given(documents)
def test_the_interval_of_a_mean_lies_around_it_and_within_the_documents(
    values: list[list[float]],
) -> None:
    flat = [value for document in values for value in document]
    low, high = by_document(values)
    assert low <= sum(flat) / len(flat) + 1e-9
    assert high >= sum(flat) / len(flat) - 1e-9
    # No draw of documents has a mean beyond those of single documents.
    means = flat if len(values) == 1 else [sum(of) / len(of) for of in values]
    assert min(means) - 1e-9 <= low <= high <= max(means) + 1e-9
    assert by_document(values) == (low, high)


def test_documents_are_drawn_whole() -> None:
    # Ten alike cases of one document tell no more than one.
    apart = by_document([[float(i % 2)] for i in range(20)])
    together = by_document([[0.0] * 10, [1.0] * 10])
    assert together == (0, 1)
    assert apart[1] - apart[0] < 0.6
    # Of the only one, its cases.
    assert by_document([[0.0, 1.0] * 10]) == apart


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_interval_holds_the_share(counts: tuple[int, int]) -> None:
    successes, n = counts
    low, high = wilson(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    other = wilson(n - successes, n)
    assert (low, high) == pytest.approx((1 - other[1], 1 - other[0]))


def test_wilsons_interval_is_wilsons() -> None:
    # Newcombe 1998, table I.
    for successes, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson(5, 5)[1] == 1
