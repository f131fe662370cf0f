"""What a question is searched by."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.expansion import expansions, without_orders


@pytest.mark.parametrize(
    ("question", "left"),
    [
        ("How high is the dam? Round your answer to one decimal place.", "How high is the dam?"),
        ("Which ports are served? Answer in a list.", "Which ports are served?"),
        ("Who wrote it? e.g. ['A', 'B']", "Who wrote it?"),
        ("Please give the height in metres", "Please give the height in metres"),
        ("Answer briefly.", "Answer briefly."),
        ("What did they owe in 2020?Round it to millions", "What did they owe in 2020?"),
        ("Which tables give the total of all sales", "Which tables give the total of all sales"),
        ("How did the board answer the union", "How did the board answer the union"),
        ("Which roots, e.g. carrots, are sold", "Which roots, e.g. carrots, are sold"),
        ("Give the height of the dam", "Give the height of the dam"),
    ],
)
def test_what_a_question_orders_at_its_end_is_not_searched_by(question: str, left: str) -> None:
    assert without_orders(question) == left


def test_an_abbreviation_is_spelled_out_and_a_measure_taken_apart() -> None:
    assert expansions("What was the capex?")[0].startswith("capital expenditures")
    assert any("current liabilities" in words for words in expansions("the quick ratio"))
    assert "chief executive officer" in expansions("Who is the CEO, and who was CEO before?")
    assert expansions("What is D&A?") == ["depreciation and amortization"]


@pytest.mark.parametrize("text", ["FY2021", "fy21", "fiscal 2021", "Fiscal Year 2021", "FY '21"])
def test_fiscal_years_are_years(text: str) -> None:
    assert "2021 fiscal year" in expansions(f"What were sales in {text}?")


@pytest.mark.parametrize("text", ["the coop", "capexit", "R&Db", "equator", "minute", "tempo"])
def test_parts_of_words_are_no_abbreviations(text: str) -> None:
    assert expansions(text) == []


@pytest.mark.parametrize("piece", ["\n", " ", "answer. ", "e.g. ", "return on total ", "fy "])
def test_a_long_question_takes_no_time(piece: str) -> None:
    began = time.perf_counter()
    text = "a" + piece * (4000 // len(piece)) + "?"
    without_orders(text)
    expansions(text)
    assert time.perf_counter() - began < 0.25


@given(st.text())
def test_any_text_can_be_asked(text: str) -> None:
    assert without_orders(text) in text
    assert without_orders(text).strip() or not text.strip()
    assert len(set(expansions(text))) == len(expansions(text))
