"""Vectors in whole numbers 0..255, in a way that keeps their dot products.

The engine stores bytes without a sign and multiplies them as they are. For vectors x, y whose
coordinates sum to zero, with bytes x' = s*x + 128 and y' = s*y + 128 in n dimensions,

    x'·y' = s²·(x·y) + 128·s·(sum x + sum y) + n·128² = s²·(x·y) + n·128²

so that order is kept and the true dot product can be had back. Rounding costs about 1/s a
coordinate.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from retrieval.encoders import FloatArray

_ZERO = 128


def to_bytes(rows: FloatArray, scale: float) -> npt.NDArray[np.uint8]:
    """Rows (n, size) whose coordinates sum to zero, as bytes; beyond ±128/scale they are cut."""
    return np.clip(np.rint(rows * scale) + _ZERO, 0, 255).astype(np.uint8)


def true_score(score: float, *, question_rows: int, size: int, scale: float) -> float:
    """The MaxSim of the vectors themselves from the MaxSim ``score`` of their bytes."""
    return (score - question_rows * size * _ZERO**2) / scale**2


@cache
def zero_sum_basis(size: int) -> npt.NDArray[np.float64]:
    """Orthonormal rows (size - 1, size), each of which sums to zero.

    Multiplying by it turns any vector of size - 1 into one of zero sum, keeping dot products. The
    rows are a fixed random rotation, so that no coordinate carries much more than its share and
    one scale fits all.
    """
    rotation, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((size, size)))
    # Make the constant vector the first direction, then leave it out.
    rotation[:, 0] = 1
    basis, _ = np.linalg.qr(rotation)
    return basis[:, 1:].T
