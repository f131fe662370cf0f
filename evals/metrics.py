"""How good a ranked list of pages is, given the pages that hold the evidence.

``ranking`` is best first and free of repeats, ``gold`` is not empty; every value is 0..1. These few
lines serve evals.page_recall, which must run where nothing is installed but the base: ir_measures,
which everything else is scored with (evals.ranking), brings SciPy along. Tests hold the two equal.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Sequence


def hit(ranking: Sequence[Hashable], gold: Collection[Hashable], k: int) -> float:
    """1 where any gold page is among the first k."""
    return float(any(page in gold for page in ranking[:k]))


def recall(ranking: Sequence[Hashable], gold: Collection[Hashable], k: int) -> float:
    """The share of gold pages among the first k."""
    return sum(page in gold for page in ranking[:k]) / len(gold)


def reciprocal_rank(ranking: Sequence[Hashable], gold: Collection[Hashable]) -> float:
    """1 / rank of the first gold page, 0 where there is none."""
    return next((1 / rank for rank, page in enumerate(ranking, start=1) if page in gold), 0.0)


def ndcg(ranking: Sequence[Hashable], gold: Collection[Hashable], k: int) -> float:
    """Normalised discounted cumulative gain at k with gains 0 and 1 (Järvelin, Kekäläinen 2002)."""
    gain = sum(1 / math.log2(r + 1) for r, page in enumerate(ranking[:k], start=1) if page in gold)
    ideal = sum(1 / math.log2(r + 1) for r in range(1, min(k, len(gold)) + 1))
    return gain / ideal
