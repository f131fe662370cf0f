"""Reciprocal rank fusion of ranked lists."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

Item = TypeVar("Item", bound=Hashable)


def reciprocal_rank_fusion(
    rankings: Mapping[str, Sequence[Item]],
    *,
    weights: Mapping[str, float] | None = None,
    k: int = 60,
) -> list[tuple[Item, float]]:
    """Fuse ranked lists into one: an item's score is the sum of weight / (k + rank).

    Ranks count from 1. A retriever without a weight weighs 1; weight 0 leaves a list out. Ties
    keep the order in which items were first met, so the result is deterministic. Source of the
    formula and of k = 60: Cormack, Clarke and Büttcher, SIGIR 2009.
    """
    scores: dict[Item, float] = {}
    for name, ranking in rankings.items():
        weight = 1.0 if weights is None else weights.get(name, 1.0)
        if weight <= 0:
            continue
        for rank, item in enumerate(dict.fromkeys(ranking), start=1):
            scores[item] = scores.get(item, 0.0) + weight / (k + rank)
    return sorted(scores.items(), key=lambda pair: -pair[1])
