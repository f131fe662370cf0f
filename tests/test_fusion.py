from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.fusion import Scale, reciprocal_rank_fusion, score_fusion

rankings = st.lists(st.integers(0, 30), unique=True, max_size=20)
scored = st.dictionaries(st.integers(0, 30), st.floats(-100, 100), max_size=20).map(
    lambda scores: sorted(scores.items(), key=lambda pair: -pair[1])
)
scales = st.sampled_from(["minmax", "dbsf"])


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


def test_minmax_runs_from_the_worst_to_the_best_of_each_list() -> None:
    fused = dict(
        score_fusion(
            {"a": [("x", 9.0), ("y", 6.0), ("z", 5.0)], "b": [("z", 0.3), ("y", 0.1)]},
            scale="minmax",
            weights={"b": 0.5},
        )
    )
    assert fused == {"x": 1.0, "y": 0.25, "z": 0.5}


def test_dbsf_measures_in_deviations_from_the_mean() -> None:
    # Mean 3, deviation 2: 5 lies one deviation above the mean, four sixths of the way up.
    fused = dict(score_fusion({"a": [("x", 5.0), ("y", 1.0)]}, scale="dbsf"))
    assert fused == {"x": pytest.approx(4 / 6), "y": pytest.approx(2 / 6)}


def test_one_far_better_score_is_not_levelled_as_its_rank_would_be() -> None:
    lists = {"a": [("x", 9.0), ("y", 1.0), ("z", 0.9)], "b": [("y", 0.31), ("z", 0.3), ("x", 0.29)]}
    by_rank = reciprocal_rank_fusion({name: [i for i, _ in pairs] for name, pairs in lists.items()})
    by_score = score_fusion(lists, scale="minmax", weights={"b": 0.9})
    assert by_rank[0][0] == "y"
    assert by_score[0][0] == "x"


@given(scored, scales)
def test_scores_of_one_list_keep_its_order(list_: list[tuple[int, float]], scale: Scale) -> None:
    fused = score_fusion({"only": list_}, scale=scale)
    assert [item for item, _ in fused] == [item for item, _ in list_]
    assert all(0 <= score <= 1 for _, score in fused)


@given(scored, st.floats(0.1, 10), st.floats(-50, 50), scales)
def test_the_unit_of_a_retrievers_scores_does_not_matter(
    list_: list[tuple[int, float]], factor: float, offset: float, scale: Scale
) -> None:
    # Scores closer than rounding are no scores of a retriever.
    list_ = [(item, round(score, 3)) for item, score in list_]
    other = [(item, factor * score + offset) for item, score in list_]
    here, there = (dict(score_fusion({"only": x}, scale=scale)) for x in (list_, other))
    assert there == pytest.approx(here, abs=1e-6)
