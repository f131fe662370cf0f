from __future__ import annotations

from ingest.labels import margin_numbers, printed_numbers
from pageglass.types import Word


def line(text: str, y: float, number: int) -> list[Word]:
    return [
        Word(word, (0.1 + 0.05 * i, y, 0.14 + 0.05 * i, y + 0.01), number)
        for i, word in enumerate(text.split())
    ]


def sheet(header: str, footer: str) -> tuple[Word, ...]:
    body = [word for i in range(8) for word in line("it says 17 things here", 0.3 + i / 20, i + 1)]
    return (*line(header, 0.03, 0), *body, *line(footer, 0.96, 99))


def test_numbers_in_the_body_are_no_page_numbers() -> None:
    assert margin_numbers(sheet("Annual report", "- 12 -")) == {12: 2}


def test_numbers_that_run_with_the_pages_are_believed() -> None:
    seen = {i: margin_numbers(sheet("Report 2024", f"page {i - 3}")) for i in range(4, 14)}
    assert printed_numbers(seen) == {i: i - 3 for i in range(4, 14)}


def test_chapter_numbers_lose_against_page_numbers() -> None:
    seen = {i: margin_numbers(sheet(f"{i} Chapter", f"{i + 1}")) for i in range(8)}
    assert printed_numbers(seen) == {i: i + 1 for i in range(8)}


def test_a_page_without_a_number_is_filled_in() -> None:
    seen = {i: margin_numbers(sheet("Report", f"{i + 10}")) for i in range(8)}
    seen[4] = {}
    assert printed_numbers(seen)[4] == 14


def test_years_and_stray_numbers_say_nothing() -> None:
    seen = {i: margin_numbers(sheet("2024", "2024")) for i in range(10)}
    assert printed_numbers(seen) == {}
