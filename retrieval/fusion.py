"""Fusing ranked lists into one: by rank, or by scores brought to one scale. Pure functions."""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Mapping, Sequence
from typing import Literal, TypeVar

Item = TypeVar("Item", bound=Hashable)
Scale = Literal["minmax", "dbsf"]


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
    return _sum(
        {
            name: [(item, 1 / (k + rank)) for rank, item in enumerate(dict.fromkeys(items), 1)]
            for name, items in rankings.items()
        },
        weights,
    )


def score_fusion(
    rankings: Mapping[str, Sequence[tuple[Item, float]]],
    *,
    scale: Scale,
    weights: Mapping[str, float] | None = None,
) -> list[tuple[Item, float]]:
    """Fuse scored lists into one: an item's score is the sum of weight * its scaled score.

    ``minmax`` scales each list so that its worst is 0 and its best 1; ``dbsf`` so that three
    standard deviations below its mean is 0 and three above is 1, cut at both ends (distribution
    based score fusion, as Qdrant has it). A list whose scores are all the same says only which
    items it found: 1 (minmax) or one half (dbsf) each. Weights and ties as in
    ``reciprocal_rank_fusion``.
    """
    scaled = {"minmax": _minmax, "dbsf": _three_deviations}[scale]
    lists: dict[str, list[tuple[Item, float]]] = {}
    for name, ranking in rankings.items():
        # Like ranks, scores count where an item is first met.
        unique = dict(reversed(ranking))
        ordered = list(dict.fromkeys(item for item, _ in ranking))
        values = scaled([unique[item] for item in ordered])
        lists[name] = list(zip(ordered, values, strict=True))
    return _sum(lists, weights)


def _sum(
    lists: Mapping[str, Sequence[tuple[Item, float]]], weights: Mapping[str, float] | None
) -> list[tuple[Item, float]]:
    scores: dict[Item, float] = {}
    for name, scored in lists.items():
        weight = 1.0 if weights is None else weights.get(name, 1.0)
        if weight <= 0:
            continue
        for item, score in scored:
            scores[item] = scores.get(item, 0.0) + weight * score
    return sorted(scores.items(), key=lambda pair: -pair[1])


def _minmax(scores: Sequence[float]) -> list[float]:
    if not scores:
        return []
    low, high = min(scores), max(scores)
    return [(score - low) / (high - low) if high > low else 1.0 for score in scores]


def _three_deviations(scores: Sequence[float]) -> list[float]:
    if not scores:
        return []
    mean, deviation = statistics.fmean(scores), statistics.pstdev(scores)
    if not deviation:
        return [0.5 for _ in scores]
    low = mean - 3 * deviation
    return [min(1.0, max(0.0, (score - low) / (6 * deviation))) for score in scores]
