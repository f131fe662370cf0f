"""Boxes in a page image's address: ``?highlight=1250-300-4800-342.1250-350-2100-392``.

Each box is x0-y0-x1-y1 in ten-thousandths of the page's width and height, boxes joined by a dot:
digits and unreserved characters only, so the address survives being copied anywhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from pageglass.types import Box

MAX_BOXES = 100
"""Boxes one address may hold: more than any quote has lines, and an address of under 2.5 kB."""

_SCALE = 10_000
_BOX = re.compile(r"([0-9]{1,5})-([0-9]{1,5})-([0-9]{1,5})-([0-9]{1,5})")


def format_boxes(boxes: Sequence[Box]) -> str:
    """Boxes as they stand in an address; never smaller than they were, at most MAX_BOXES."""
    return ".".join(_format_box(box) for box in boxes[:MAX_BOXES])


def fewer_boxes(boxes: Sequence[Box], most: int) -> tuple[Box, ...]:
    """At most ``most`` (1 or more) boxes that cover ``boxes``, in their order.

    Neighbours are joined where that covers the least besides, so lines of a paragraph become one
    block before a table's head and a row do.
    """
    fewer = list(boxes)
    while len(fewer) > most:
        at = min(range(len(fewer) - 1), key=lambda i: _besides(fewer[i], fewer[i + 1]))
        fewer[at : at + 2] = [_around(fewer[at], fewer[at + 1])]
    return tuple(fewer)


def _around(one: Box, other: Box) -> Box:
    return (
        min(one[0], other[0]),
        min(one[1], other[1]),
        max(one[2], other[2]),
        max(one[3], other[3]),
    )


def _besides(one: Box, other: Box) -> float:
    return _area(_around(one, other)) - _area(one) - _area(other)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def parse_boxes(text: str) -> tuple[Box, ...]:
    """The boxes of an address; ValueError says what is wrong with it."""
    parts = text.split(".")
    if len(parts) > MAX_BOXES:
        raise ValueError(f"more than {MAX_BOXES} boxes")
    return tuple(_parse_box(part) for part in parts)


def _parse_box(text: str) -> Box:
    match = _BOX.fullmatch(text)
    if match is None:
        raise ValueError("each box is x0-y0-x1-y1, boxes joined by '.'")
    x0, y0, x1, y1 = (int(number) for number in match.groups())
    if not (x0 < x1 <= _SCALE and y0 < y1 <= _SCALE):
        raise ValueError(f"a box needs x0 < x1 <= {_SCALE} and y0 < y1 <= {_SCALE}")
    return x0 / _SCALE, y0 / _SCALE, x1 / _SCALE, y1 / _SCALE


def _format_box(box: Box) -> str:
    x0, y0 = (_floor(share) for share in box[:2])
    x1, y1 = (_ceil(share) for share in box[2:])
    return f"{x0}-{y0}-{max(x1, x0 + 1)}-{max(y1, y0 + 1)}"


def _floor(share: float) -> int:
    # The small term keeps 0.29 * 10,000 = 2899.9999999999995 from becoming 2899.
    return min(_SCALE - 1, max(0, math.floor(share * _SCALE + 1e-6)))


def _ceil(share: float) -> int:
    return min(_SCALE, max(0, math.ceil(share * _SCALE - 1e-6)))
