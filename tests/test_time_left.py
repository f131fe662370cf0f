"""The time left: close to the truth, and calm."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.time_left import TimeLeft, busy_seconds

PAGES = st.lists(st.sampled_from([0.05, 0.1, 0.5, 4.0, 9.0]), min_size=5, max_size=120)
"""Seconds that each page takes: text, large text, scans."""


@given(PAGES, st.floats(0.5, 5.0))
def test_no_update_jumps_by_more_than_a_factor_of_two(pages: list[float], every: float) -> None:
    ends = [sum(pages[: number + 1]) for number in range(len(pages))]
    left, now, shown = TimeLeft(), 0.0, None
    while now < ends[-1]:
        done = sum(end <= now for end in ends)
        estimate = left.update(now, done, len(pages) - done)
        if estimate is not None and shown is not None and shown > 4 * every:
            assert shown / 2 <= estimate <= 2 * shown
        shown, now = estimate, now + every


@pytest.mark.parametrize("pace", [0.1, 5.0])
def test_at_an_even_pace_it_is_what_is_left(pace: float) -> None:
    left = TimeLeft()
    estimate = None
    for second in range(60):
        estimate = left.update(second, second * pace, (100 - second) * pace)
    assert estimate == pytest.approx(41, rel=0.05)


def test_it_follows_a_lasting_change_of_pace_and_work_that_arrives() -> None:
    left = TimeLeft()
    for second in range(30):
        left.update(second, 10 * second, 3000 - 10 * second)
    estimate = left.update(30, 300, 2700)
    assert estimate == pytest.approx(270, rel=0.1)
    assert left.update(31, 310, 26_900) == pytest.approx(2690, rel=0.1)
    done = 310.0
    for second in range(32, 400):
        done += 1
        estimate = left.update(second, done, 27_210 - done)
    assert estimate == pytest.approx(27_210 - done, rel=0.2)


def test_nothing_is_said_before_a_page_is_done_and_nothing_is_left_at_the_end() -> None:
    left = TimeLeft()
    assert left.update(0, 0, 10) is None
    assert left.update(1, 0, 10) is None
    assert left.update(2, 2, 8) == pytest.approx(8, rel=0.05)
    assert left.update(10, 10, 0) == 0


def test_time_that_several_work_in_counts_once() -> None:
    assert busy_seconds([(0, 4), (2, 5), (2, 3), (10, 11)]) == 6
    assert busy_seconds([]) == 0
