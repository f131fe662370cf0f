"""How far a figure could be another with other documents or cases: 95 % intervals.

``by_document``
    Of means. A cluster bootstrap (Field, Welsh 2007): documents are drawn with replacement, each
    with all its cases, since cases of a document stand and fall together; the ends are percentiles
    of the draws' means (Efron, Tibshirani 1993, 13.3).
``bootstrap``
    The same of any statistic of sums over documents.
``wilson``
    Of shares of what is counted singly, and where nothing varies, so that nothing can be drawn.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from statistics import NormalDist
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Value = TypeVar("Value")
Columns = NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 2000
FEW_DOCUMENTS = 5
"""Intervals of fewer are too narrow: draws of four or less are of one document alone so often that
they end at the documents that happen to be there."""

_SEED = 0


def by_document(documents: Iterable[Sequence[float]]) -> tuple[float, float]:
    """The interval of the mean of values, given by document, of which there are some. Of a single
    document its values are drawn, which tells nothing of other documents."""
    table = [(sum(values), len(values)) for values in units(documents)]
    # Where hardly a document differs from the others, no draw may be on one side of the mean.
    mean = sum(of for of, _ in table) / sum(count for _, count in table)
    low, high = bootstrap(table, _ratio) or (mean, mean)
    return min(low, mean), max(high, mean)


def _ratio(sums: Columns, counts: Columns) -> Columns:
    return sums / counts


def units(documents: Iterable[Sequence[Value]]) -> list[Sequence[Value]]:
    """What is drawn as one: the values of each document, or each value of the only one."""
    found: list[Sequence[Value]] = [values for values in documents if values]
    return [[value] for value in found[0]] if len(found) == 1 else found


def bootstrap(
    table: Sequence[Sequence[float]], statistic: Callable[..., Columns]
) -> tuple[float, float] | None:
    """The interval of ``statistic``, which is given the sum of each column of ``table`` over rows
    drawn with replacement, as arrays of one shape, and is NaN where it is not defined: such draws
    are left out. None where it is defined for no draw, or there is but one row. The same draws
    each time."""
    if len(table) < 2:
        return None
    from scipy import stats  # half a second, and most commands draw nothing

    def of_sums(*columns: Columns, axis: int) -> Columns:
        with np.errstate(invalid="ignore", divide="ignore"):
            return statistic(*(column.sum(axis=axis) for column in columns))

    with warnings.catch_warnings():
        # Of draws that are all alike, which is no fault here.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        drawn = stats.bootstrap(
            tuple(np.asarray(table, float).T),
            of_sums,
            paired=True,
            vectorized=True,
            n_resamples=RESAMPLES,
            method="percentile",
            rng=np.random.default_rng(_SEED),
        ).bootstrap_distribution
    defined = drawn[~np.isnan(drawn)]
    if not defined.size:
        return None
    outside = (1 - CONFIDENCE) / 2
    low, high = np.percentile(defined, [100 * outside, 100 * (1 - outside)])
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
