"""How long indexing will still take, as far as the pages of late allow to say."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

_HALF_LIFE_SECONDS = 60.0
"""After so long a page counts half as much for the pace: scans and text come in stretches."""

_MOST_STEP = 1.5
"""An estimate grows or shrinks by no more than this from one look to the next, beyond what passed
meanwhile and what work arrived. A wrong one is left behind within some looks."""


@dataclass(slots=True)
class TimeLeft:
    """The time left of work that is looked at again and again."""

    _pages: float = 0.0
    _seconds: float = 0.0
    _last: tuple[float, float, float] | None = field(default=None)
    _shown: float | None = None

    def update(self, now: float, done: float, left: float) -> float | None:
        """Seconds left, where at ``now`` (seconds, of any clock that runs on) so many pages are
        ``done`` and so many ``left``; None until a page was done."""
        before, self._last = self._last, (now, done, left)
        if before is None:
            return None
        passed = max(0.0, now - before[0])
        kept = 0.5 ** (passed / _HALF_LIFE_SECONDS)
        self._seconds = self._seconds * kept + passed
        self._pages = self._pages * kept + max(0.0, done - before[1])
        if not self._pages or not self._seconds:
            return self._shown
        raw = left * self._seconds / self._pages
        if self._shown is None:
            self._shown = raw
            return raw
        grown = left / before[2] if 0 < before[2] < left else 1.0
        expected = max(0.0, self._shown * grown - passed)
        # Never below a second as long as there is work: else nothing could grow from it.
        low = max(min(expected, self._shown) / _MOST_STEP, 1.0)
        high = max(self._shown * grown, 1.0) * _MOST_STEP
        self._shown = min(max(raw, low), high) if left > 0 else 0.0
        return self._shown


def busy_seconds(spans: Iterable[tuple[float, float]]) -> float:
    """How long at least one of the spans (begin, end) went on; inf or NaN never."""
    total, until = 0.0, -math.inf
    for begin, end in sorted(spans):
        if end > until:
            total += end - max(begin, until)
            until = end
    return total
