"""Which patches of a page answered which words of a question: similarity maps. Pure arrays.

Late interaction (ColBERT, Khattab and Zaharia, SIGIR 2020; ColPali, Faysse et al., 2024) scores a
page by MaxSim: for every question token the best of the page's patches, summed up. A map is what
was summed, before the maximum, laid out on the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retrieval.encoders import FloatArray

FloatMap = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class PatchGrid:
    """How a page's patch vectors lie on its image.

    ``positions`` (rows, columns) is, for each cell of the image from top left, the row of the
    page's ``patches`` that stands for it. Rows of ``patches`` that it does not name (prompt tokens,
    a thumbnail of the whole page) have no place on the image.
    """

    positions: npt.NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = self.positions.shape
        return rows, columns


def maxsim(question: FloatArray, page: FloatArray) -> float:
    """The late-interaction score of rows (n, size) of a question and rows (m, size) of a page."""
    if not len(question) or not len(page):
        return 0.0
    similarities = np.asarray(question, np.float32) @ np.asarray(page, np.float32).T
    return float(similarities.max(axis=1).sum())


def similarity_maps(question: FloatArray, patches: FloatArray, grid: PatchGrid) -> FloatMap:
    """(tokens, rows, columns): dot product of every question token with the patch of every cell.

    ``question`` is (tokens, size), ``patches`` (m, size). ValueError where the grid names rows the
    page does not have: it was made for another page, or token pooling has merged them.
    """
    if grid.positions.size and int(grid.positions.max()) >= len(patches):
        raise ValueError(f"the grid names patch {int(grid.positions.max())} of {len(patches)}")
    similarities = np.asarray(question, np.float32) @ np.asarray(patches, np.float32).T
    return similarities[:, grid.positions]


def heat(maps: FloatMap, tokens: Sequence[int] | None = None) -> FloatMap:
    """(rows, columns) in 0..1: the mean of the maps of ``tokens`` (None: all), stretched so that
    the page's most similar cell is 1 and the less similar half of it, which is what all of the page
    has in common, 0; all 0 where no cell stands out."""
    chosen = maps if tokens is None else maps[list(tokens)]
    if not len(chosen):
        return np.zeros(maps.shape[1:], np.float32)
    mean = chosen.mean(axis=0)
    low, high = float(np.median(mean)), float(mean.max())
    return np.clip((mean - low) / (high - low), 0, 1) if high > low else np.zeros_like(mean)


def pooled_rows(patches: FloatArray, grid: PatchGrid) -> FloatArray:
    """(rows, size): one vector of length 1 for each row of the grid, the mean of its patches.

    The first stage of two-stage search: a few dozen vectors a page instead of a thousand. The
    order of rows on the page keeps what a mean over the whole page would lose.
    """
    means = np.asarray(patches, np.float32)[grid.positions].mean(axis=1)
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    return means / np.where(lengths > 0, lengths, 1)
