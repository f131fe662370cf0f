"""Whether a value is what quoted words say."""

from __future__ import annotations

import time
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generate.values import is_said
from pageglass.types import Scalar


@pytest.mark.parametrize(
    ("value", "quote"),
    [
        (4812, "Total: 4,812 EUR"),
        (4812.5, "Summe 4.812,50 €"),
        (4812.5, "4 812,50 Kč"),
        (4812.5, "CHF 4'812.50"),
        (1234567.89, "1.234.567,89"),
        (4.5, "4.5 litres"),
        (4.5, "4,5 Liter"),
        (-17, "a change of -17 units"),
        (-1137, "(1,137)"),
        (2021, "the year (2021)"),
        (17, "part A-17"),
        (4_200_000, "4.2 million euros"),
        (3_000, "3k"),
        (12, "12 %"),
        (0.12, "12%"),
        (12, "Row: 12 500"),
        (500, "Row: 12 500"),
        (3.0, "3 pieces"),
        ("ACME Ltd", "Supplier: ACME Ltd."),
        ("john smith", "SMITH, John"),
        ("Straße 5", "Strasse 5"),
        ("—", "Remark: —"),
        ("東京", "本社は東京です"),
        ("2025-03-04", "Due on 4 March 2025"),
        ("2025-03-04", "04.03.2025"),
        ("2025-03-04", "3/4/25"),
        ("2025-03-04", "2025-03-04"),
        ("2025-03-04T10:00:00", "4. März 2025, 10 Uhr"),
        ("2024-12-12", "12.12.2024"),
    ],
)
def test_what_the_words_say(value: Scalar, quote: str) -> None:
    assert is_said(value, quote)


@pytest.mark.parametrize(
    ("value", "quote"),
    [
        (4813, "Total: 4,812 EUR"),
        (17, "a change of -17 units"),
        (-17, "part 17"),
        (48, "4,812"),
        (12, "Row: 1,2,3"),
        (5, "five"),
        (5, ""),
        ("ACME Ltd", "Supplier: ACME"),
        ("4812", "48.12"),
        ("+", "Remark: -"),
        ("2025-03-04", "5 March 2025"),
        ("2025-03-04", "4.5.2025"),
        ("2025-03-04", "2025"),
        ("2024-12-12", "12 2024"),
        ("x", "x" * 5000),
    ],
)
def test_what_the_words_do_not_say(value: Scalar, quote: str) -> None:
    assert not is_said(value, quote)


@given(st.decimals(-(10**9), 10**9, places=2), st.sampled_from(["{:,.2f}", "{:.2f}"]))
def test_a_number_is_found_however_it_is_written(number: Decimal, written: str) -> None:
    english = written.format(number)
    german = english.translate(str.maketrans(".,", ",."))
    for quote in (english, german, f"total {english} EUR.", f"Summe: {german} EUR"):
        assert is_said(float(number), quote)
    assert not is_said(float(number + 1), english)


@pytest.mark.parametrize("quote", ["1 111" * 800, "1,1" * 1300, "(((-1 " * 600, "1 " * 2000])
def test_hostile_quotes_take_no_time(quote: str) -> None:
    began = time.process_time()
    is_said(7, quote)
    is_said("2025-03-04", quote)
    assert time.process_time() - began < 2
