from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals import metrics
from evals.ranking import score_rankings


def test_metrics_of_a_ranking_worked_out_by_hand() -> None:
    ranking, gold = ["a", "b", "c", "d"], {"b", "d", "x"}
    assert metrics.hit(ranking, gold, 1) == 0
    assert metrics.hit(ranking, gold, 2) == 1
    assert metrics.recall(ranking, gold, 4) == pytest.approx(2 / 3)
    assert metrics.reciprocal_rank(ranking, gold) == 1 / 2
    ideal = 1 + 1 / math.log2(3) + 1 / 2
    assert metrics.ndcg(ranking, gold, 4) == pytest.approx(
        (1 / math.log2(3) + 1 / math.log2(5)) / ideal
    )


@given(
    st.lists(st.integers(0, 20), unique=True, max_size=10),
    st.sets(st.integers(0, 20), min_size=1, max_size=5),
    st.integers(1, 10),
)
def test_metrics_stay_between_zero_and_one(ranking: list[int], gold: set[int], k: int) -> None:
    for value in (
        metrics.hit(ranking, gold, k),
        metrics.recall(ranking, gold, k),
        metrics.reciprocal_rank(ranking, gold),
        metrics.ndcg(ranking, gold, k),
    ):
        assert 0 <= value <= 1


def test_a_perfect_ranking_scores_one() -> None:
    assert metrics.ndcg([3, 1, 2], {1, 3}, 5) == 1
    assert metrics.recall([3, 1, 2], {1, 3}, 2) == 1


@given(
    st.lists(st.lists(st.integers(0, 12), unique=True, max_size=12), min_size=1, max_size=5),
    st.sets(st.integers(0, 14), min_size=1, max_size=5),
    st.integers(1, 8),
)
def test_they_are_what_ir_measures_says(rankings: list[list[int]], gold: set[int], k: int) -> None:
    pages = [[("d", page + 1) for page in ranking] for ranking in rankings]
    wanted = {("d", page + 1) for page in gold}
    for ranking, said in zip(
        pages, score_rankings([(ranking, wanted) for ranking in pages], k), strict=True
    ):
        ours = {
            f"hit@{k}": metrics.hit(ranking, wanted, k),
            f"page-recall@{k}": metrics.recall(ranking, wanted, k),
            "mrr": metrics.reciprocal_rank(ranking, wanted),
            f"ndcg@{k}": metrics.ndcg(ranking, wanted, k),
        }
        assert ours == pytest.approx(said)
