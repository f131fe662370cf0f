"""Boxes of marked words."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pageglass.boxes import fewer_boxes
from pageglass.types import Box


@given(
    st.lists(
        st.tuples(*[st.floats(0, 1)] * 4).map(
            lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
        ),
        max_size=30,
    ),
    st.integers(1, 5),
)
def test_fewer_boxes_still_cover_all(boxes: list[Box], most: int) -> None:
    fewer = fewer_boxes(boxes, most)
    assert len(fewer) == min(most, len(boxes))
    for x0, y0, x1, y1 in boxes:
        assert any(a0 <= x0 and b0 <= y0 and x1 <= a1 and y1 <= b1 for a0, b0, a1, b1 in fewer)


def test_lines_are_joined_before_a_head_and_a_row() -> None:
    head, row = (0.1, 0.1, 0.9, 0.12), (0.1, 0.70, 0.9, 0.72)
    below = (0.1, 0.73, 0.9, 0.75)
    assert fewer_boxes([head, row, below], 2) == (head, (0.1, 0.70, 0.9, 0.75))
