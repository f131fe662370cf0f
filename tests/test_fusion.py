from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.fusion import reciprocal_rank_fusion

rankings = st.lists(st.integers(0, 30), unique=True, max_size=20)


def test_the_score_is_the_sum_of_weighted_reciprocal_ranks() -> None:
    fused = dict(
        reciprocal_rank_fusion({"a": ["x", "y"], "b": ["y"]}, weights={"a": 1, "b": 0.5}, k=60)
    )
    assert fused == {"x": pytest.approx(1 / 61), "y": pytest.approx(1 / 62 + 0.5 / 61)}


def test_weight_zero_leaves_a_retriever_out() -> None:
    assert reciprocal_rank_fusion({"a": ["x"], "b": ["y"]}, weights={"b": 0}) == [("x", 1 / 61)]


@given(rankings)
def test_fusing_one_list_keeps_its_order(ranking: list[int]) -> None:
    assert [item for item, _ in reciprocal_rank_fusion({"only": ranking})] == ranking


@given(rankings, rankings)
def test_fusion_returns_every_item_once_by_falling_score(a: list[int], b: list[int]) -> None:
    fused = reciprocal_rank_fusion({"a": a, "b": b})
    assert sorted(item for item, _ in fused) == sorted({*a, *b})
    scores = [score for _, score in fused]
    assert scores == sorted(scores, reverse=True)


@given(rankings, rankings)
def test_an_item_that_every_retriever_ranks_higher_stays_higher(a: list[int], b: list[int]) -> None:
    places = {item: rank for rank, (item, _) in enumerate(reciprocal_rank_fusion({"a": a, "b": b}))}
    for x in set(a) & set(b):
        for y in set(a) & set(b):
            if a.index(x) < a.index(y) and b.index(x) < b.index(y):
                assert places[x] < places[y]
