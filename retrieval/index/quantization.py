"""Vectors as both stores keep them, and their scores as they were meant.

Whole numbers 0..255 can stand for vectors in a way that keeps their dot products. The engine
stores bytes without a sign and multiplies them as they are. For vectors x, y whose
coordinates sum to zero, with bytes x' = s*x + 128 and y' = s*y + 128 in n dimensions,

    x'·y' = s²·(x·y) + 128·s·(sum x + sum y) + n·128² = s²·(x·y) + n·128²

so that order is kept and the true dot product can be had back. Rounding costs about 1/s a
coordinate.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.encoders import FloatArray, SparseVector, Vector
from retrieval.index import VectorSpec

OVERSAMPLING = 4.0
"""How many times the pages asked for are taken from the compressed copy, to be rescored."""

MOST_NUMBERS = 1024 * 1024 - 1
"""Most numbers of a multi-vector, rows times size: a Qdrant server refuses more (qdrant#6929)."""

_ZERO = 128


def to_bytes(rows: FloatArray, scale: float) -> npt.NDArray[np.uint8]:
    """Rows (n, size) whose coordinates sum to zero, as bytes; beyond ±128/scale they are cut."""
    return np.clip(np.rint(rows * scale) + _ZERO, 0, 255).astype(np.uint8)


def from_bytes(rows: npt.NDArray[Any], scale: float) -> npt.NDArray[np.float32]:
    """The vectors that ``rows`` of bytes stand for; ``to_bytes`` makes the same bytes of them."""
    return ((rows.astype(np.float64) - _ZERO) / scale).astype(np.float32)


def true_score(score: float, *, question_rows: int, size: int, scale: float) -> float:
    """The MaxSim of the vectors themselves from the MaxSim ``score`` of their bytes."""
    return (score - question_rows * size * _ZERO**2) / scale**2


def is_empty(vector: Vector) -> bool:
    """Whether there is nothing in it to store or to search for."""
    return not len(vector.indices if isinstance(vector, SparseVector) else vector)


def merged_rows(rows: FloatArray) -> FloatArray:
    """Rows (n, size), neighbours merged evenly so that they have at most MOST_NUMBERS numbers.

    A merged row is the mean of its neighbours, as long as they are on average: some 1,024 tokens
    of BGE-M3 or 8,192 of MiniLM stay apart, and a longer page is compared more coarsely.
    """
    count, size = rows.shape
    if count * size <= MOST_NUMBERS:
        return rows
    together = -(-count // (MOST_NUMBERS // size))
    starts = np.arange(0, count, together)
    counts = np.diff(np.append(starts, count))[:, None]
    means = np.add.reduceat(rows, starts, axis=0, dtype=np.float64) / counts
    lengths = np.linalg.norm(np.asarray(rows, np.float64), axis=1, keepdims=True)
    wanted = np.add.reduceat(lengths, starts, axis=0) / counts
    now = np.linalg.norm(means, axis=1, keepdims=True)
    return means * np.divide(wanted, now, out=np.zeros_like(now), where=now > 0)


def to_stored(vector: FloatArray, spec: VectorSpec) -> npt.NDArray[Any]:
    """A vector in the numbers it is stored in: bytes, half or single precision.

    Questions are rounded, and merged where they are very long, like pages; the engine would do
    the former itself.
    """
    if spec.kind == "multi":
        vector = merged_rows(vector)
    if spec.datatype == "uint8":
        return to_bytes(vector, spec.scale)
    return np.asarray(vector, np.float16 if spec.datatype == "float16" else np.float32)


def from_stored(raw: Any, spec: VectorSpec) -> Vector:
    """A vector from what a store gives back: nested lists, or an object with indices and values.

    Storing it again stores the same bits.
    """
    if spec.kind == "sparse":
        return SparseVector(tuple(raw.indices), tuple(raw.values))
    rows = np.asarray(raw, np.float32)
    return from_bytes(rows, spec.scale) if spec.datatype == "uint8" else rows


def score_from_stored(score: float, question: Vector, spec: VectorSpec) -> float:
    """The similarity of the vectors themselves from the store's score of what it stores."""
    if spec.datatype != "uint8" or isinstance(question, SparseVector):
        return score
    rows = len(merged_rows(np.atleast_2d(question)))
    return true_score(score, question_rows=rows, size=spec.size, scale=spec.scale)


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
