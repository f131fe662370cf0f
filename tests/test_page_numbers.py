from __future__ import annotations

import pytest

from pageglass.types import NamedPages
from retrieval.page_numbers import named_pages


@pytest.mark.parametrize(
    ("question", "numbers", "positions"),
    [
        ("What does the chart on page 14 show?", (14,), ()),
        ("Compare slides 3 to 5.", (3, 4, 5), ()),
        ("What do pages 3, 7 and 9 have in common?", (3, 7, 9), ()),
        ("the figure on p. 12", (12,), ()),
        ("What stands on slide seven?", (7,), ()),
        ("Who signed the last page?", (), (-1,)),
        ("What is on the second to last page?", (), (-2,)),
        ("the third slide", (), (3,)),
        ("Which year is on the cover?", (), (1,)),
        ("pages 3 to 400", (3, 400), ()),
        ("How many pages are there in 2019?", (), ()),
        ("What is the last word of the first paragraph?", (), ()),
    ],
)
def test_pages_named_in_a_question(
    question: str, numbers: tuple[int, ...], positions: tuple[int, ...]
) -> None:
    assert named_pages(question) == NamedPages(numbers, positions)


def test_a_question_that_names_no_page_is_false() -> None:
    assert not named_pages("Why did the pump fail?")
