"""Lines, table rows and reading order of a page, from where its words stand. Pure geometry.

PDF text layers give words in the order they were drawn; a table's row is often several lines at
one height. Here rows are put together again by height, and prose beside a table is kept apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from pageglass.types import Page

_GAP = 1.2
"""Words of a line further apart than this many line heights are different cells. Spaces are about
a quarter of the height, in loosely justified text up to a whole one."""

_PROSE_WORDS = 5
"""Text with at least this many words in a run may be prose; shorter runs are cells or lines."""


@dataclass(frozen=True, slots=True)
class Run:
    """Words ``start`` to ``stop`` (exclusive) of a page that stand close together on one line.

    ``x0, y0, x1, y1`` are points.
    """

    start: int
    stop: int
    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def height(self) -> float:
        """Height of the line in points."""
        return self.y1 - self.y0

    @property
    def words(self) -> int:
        """How many words."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Row:
    """Runs at one height, left to right: a table row when there are two or more."""

    runs: tuple[Run, ...]

    @property
    def indices(self) -> tuple[int, ...]:
        """Positions in ``page.words``, left to right."""
        return tuple(i for run in self.runs for i in range(run.start, run.stop))

    @property
    def y0(self) -> float:
        """Top in points."""
        return min(run.y0 for run in self.runs)

    @property
    def y1(self) -> float:
        """Bottom in points."""
        return max(run.y1 for run in self.runs)

    @property
    def height(self) -> float:
        """Height of the tallest run in points."""
        return max(run.height for run in self.runs)


@dataclass(frozen=True, slots=True)
class Layout:
    """A page's runs in reading order, and the same runs as rows from top to bottom."""

    runs: tuple[Run, ...]
    rows: tuple[Row, ...]


def read_layout(page: Page) -> Layout:
    """Find the runs and rows of ``page``; every word is in exactly one of each."""
    runs = _runs(page)
    prose = _prose(runs)
    rows: list[Row] = []
    for level in _levels(runs):
        cells: list[Run] = []
        for position in level:
            if position in prose:
                # Prose never shares a row: beside it stands another column, not another cell.
                if cells:
                    rows.append(Row(tuple(cells)))
                    cells = []
                rows.append(Row((runs[position],)))
            else:
                cells.append(runs[position])
        if cells:
            rows.append(Row(tuple(cells)))
    return Layout(tuple(runs), tuple(rows))


def _runs(page: Page) -> list[Run]:
    runs: list[Run] = []
    width, height = page.width or 1.0, page.height or 1.0
    start = 0
    line = -1
    x0 = y0 = x1 = y1 = 0.0
    for i, word in enumerate(page.words):
        left, top, right, bottom = word.box
        left, top, right, bottom = left * width, top * height, right * width, bottom * height
        gap = left - x1
        tall = max(y1 - y0, bottom - top)
        if i and word.line == line and -tall < gap < _GAP * tall:
            x0, y0, x1, y1 = min(x0, left), min(y0, top), max(x1, right), max(y1, bottom)
            continue
        if i:
            runs.append(Run(start, i, x0, y0, x1, y1))
        start, line = i, word.line
        x0, y0, x1, y1 = left, top, right, bottom
    if page.words:
        runs.append(Run(start, len(page.words), x0, y0, x1, y1))
    return runs


def follows(above: Run, below: Run) -> bool:
    """Whether ``below`` may be the next line of the paragraph that ``above`` is in."""
    height = min(above.height, below.height)
    gap = below.y0 - above.y1
    if not -0.6 * height <= gap <= 0.75 * height or below.y0 <= above.y0 + 0.3 * height:
        return False
    if max(above.height, below.height) > 1.35 * height:
        return False
    return min(above.x1, below.x1) - max(above.x0, below.x0) > 0


def _prose(runs: list[Run]) -> set[int]:
    """Positions of runs that are lines of a paragraph: long, with a long one above or below."""
    prose: set[int] = set()
    for i, (above, below) in enumerate(pairwise(runs)):
        if above.words >= _PROSE_WORDS and below.words >= 1 and follows(above, below):
            # The left edges of a paragraph's lines agree; only its first line may be indented.
            aligned = abs(above.x0 - below.x0) <= 3 * below.height
            if aligned and (below.words >= _PROSE_WORDS or below.x1 <= above.x1):
                prose.add(i)
                if below.words >= _PROSE_WORDS:
                    prose.add(i + 1)
    return prose


def _levels(runs: list[Run]) -> list[list[int]]:
    """Positions of runs grouped by height on the page, top to bottom, each left to right."""
    order = sorted(range(len(runs)), key=lambda i: (runs[i].y0 + runs[i].y1, runs[i].x0))
    levels: list[list[int]] = []
    middle = -1e9
    for i in order:
        run = runs[i]
        centre = (run.y0 + run.y1) / 2
        if levels and centre - middle <= 0.45 * min(run.height, runs[levels[-1][0]].height):
            levels[-1].append(i)
        else:
            levels.append([i])
            middle = centre
    for level in levels:
        level.sort(key=lambda i: (runs[i].x0, i))
    return levels
