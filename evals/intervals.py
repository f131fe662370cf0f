"""How far a figure could be another with other documents or cases: 95 % intervals.

``by_document``
    Of means. A cluster bootstrap (Field, Welsh 2007): documents are drawn with replacement, each
    with all its cases, since cases of a document stand and fall together; the ends are percentiles
    of the draws' means (Efron, Tibshirani 1993, 13.3).
``wilson``
    Of shares of what is counted singly, and where nothing varies, so that nothing can be drawn.

Only numpy is needed: evals.page_recall, where nothing but the base is installed, loads this. Tests
hold ``by_document`` equal to SciPy's bootstrap.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Value = TypeVar("Value")

CONFIDENCE = 0.95
RESAMPLES = 2000
FEW_DOCUMENTS = 5
"""Intervals of fewer are too narrow: draws of four or less are of one document alone so often that
they end at the documents that happen to be there."""

_SEED = 0


def by_document(documents: Iterable[Sequence[float]]) -> tuple[float, float]:
    """The interval of the mean of values, given by document, of which there are some. Of a single
    document its values are drawn, which tells nothing of other documents."""
    drawn = units(documents)
    table = [(sum(values), len(values)) for values in drawn]
    sums, counts = resampled(table).T
    low, high = ends(sums / counts)
    # Where hardly a document differs from the others, no draw may be on one side of the mean.
    mean = sum(of for of, _ in table) / sum(count for _, count in table)
    return min(low, mean), max(high, mean)


def units(documents: Iterable[Sequence[Value]]) -> list[Sequence[Value]]:
    """What is drawn as one: the values of each document, or each value of the only one."""
    found: list[Sequence[Value]] = [values for values in documents if values]
    return [[value] for value in found[0]] if len(found) == 1 else found


def resampled(table: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """The sums of each column over rows drawn with replacement, as many as there are: from (rows,
    columns) to (RESAMPLES, columns). The same draws each time."""
    rows = np.asarray(table, float)
    drawn = np.random.default_rng(_SEED).integers(len(rows), size=(RESAMPLES, len(rows)))
    return rows[drawn].sum(axis=1)


def ends(drawn: Sequence[float] | NDArray[np.float64]) -> tuple[float, float]:
    """The ends of the interval of a statistic, given what the draws made of it."""
    outside = (1 - CONFIDENCE) / 2
    low, high = np.percentile(drawn, [100 * outside, 100 * (1 - outside)])
    return float(low), float(high)


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The score interval of a share (Wilson 1927), within 0..1, as if all ``n`` > 0 were
    independent of each other."""
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    share = successes / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    # At the ends the sums are exact in numbers, not in floats.
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    return low, 1.0 if successes == n else min(1.0, middle + half)
