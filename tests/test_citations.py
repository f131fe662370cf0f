"""Whether quoted words are found where they stand, and nothing else is."""

from __future__ import annotations

from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generate.citations import boxes_of, find_quote, same_words, verify
from pageglass.types import Citation, Page, PageRef
from tests.tiny import page

WORDS = st.sampled_from(
    "the pump of line two ran dry Über naïve ﬁnal non-executive 4,812 4.812 (1,137) -5 12% $9.50 "
    "FY2023 “quoted” — – … • A-3 3/4 10² 日本語 है İstanbul straße".split()
)
TEXTS = st.lists(st.lists(WORDS, min_size=1, max_size=8).map(" ".join), min_size=1, max_size=8).map(
    "\n".join
)


def found(text: Page, quote: str) -> str | None:
    """The words that ``quote`` was found in."""
    words = find_quote(text, quote)
    return None if words is None else " ".join(text.words[i].text for i in words)


def claim(text: Page, quote: str) -> Citation:
    return Citation(text.ref, "log.pdf", text.label, quote, (), verified=False)


@given(TEXTS, st.data())
def test_any_run_of_words_is_found_where_it_or_an_equal_one_stands(
    text: str, data: st.DataObject
) -> None:
    laid = page(text)
    start = data.draw(st.integers(0, len(laid.words) - 1))
    stop = data.draw(st.integers(start + 1, len(laid.words)))
    quote = " ".join(word.text for word in laid.words[start:stop])
    if "…" in quote.split():
        return  # A free-standing ellipsis in a quote stands for words left out.
    words = find_quote(laid, quote)
    assert words is not None
    assert same_words(" ".join(laid.words[i].text for i in words), quote)


@given(TEXTS)
def test_boxes_lie_on_the_page_one_for_each_line(text: str) -> None:
    laid = page(text)
    boxes = boxes_of(laid.words)
    assert len(boxes) == len(text.splitlines())
    for x0, y0, x1, y1 in boxes:
        assert 0 <= x0 <= x1 <= 1
        assert 0 <= y0 <= y1 <= 1


@given(
    st.integers(1, 10**7),
    st.integers(0, 6),
    st.integers(1, 9),
    st.sampled_from(["layer", "ocr"]),
)
def test_a_quote_with_a_changed_digit_is_never_verified(
    number: int, place: int, by: int, source: str
) -> None:
    digits = str(number)
    place %= len(digits)
    changed = digits[:place] + str((int(digits[place]) + by) % 10) + digits[place + 1 :]
    text = f"Total revenue of the northern region came to {number:,} crowns"
    scanned = page(text, source="ocr" if source == "ocr" else "layer")
    assert verify(claim(scanned, text), {scanned.ref: scanned}).verified
    false = text.replace(f"{number:,}", f"{int(changed):,}")
    assert not verify(claim(scanned, false), {scanned.ref: scanned}).verified


@given(TEXTS, st.booleans())
def test_only_pages_shown_are_cited(text: str, shown: bool) -> None:
    laid = page(text)
    other = page(text, index=9)
    checked = verify(claim(laid, laid.words[0].text), {(laid if shown else other).ref: laid})
    assert checked.verified <= shown
    assert bool(checked.boxes) == checked.verified


@pytest.mark.parametrize(
    ("text", "quote"),
    [
        ("The  Feed PUMP ran dry", "the feed pump\nran   dry"),
        ("the ﬁnal oﬃce “said” so", 'the final office "said" so'),
        ("the appli-\ncation of rules", "the application of rules"),
        ("the soft\u00adhyphen\u200b here", "the softhyphen here"),
        ("US–EU trade — in full", "US-EU trade - in full"),
        ("a loss of (1,137) crowns", "a loss of -1137 crowns"),
        ("a loss of (1,137 ) crowns", "a loss of (1,137) crowns"),
        ("in the year (2021) we", "in the year 2021 we"),
        ("of $ 4,812 million", "of $4,812 million"),
        ("人口は二千人です。", "二千人"),
        ("Ａ full width １２", "A full width 12"),
    ],
)
def test_typography_makes_no_difference(text: str, quote: str) -> None:
    assert found(page(text), quote) is not None


@pytest.mark.parametrize(
    ("text", "quote"),
    [
        ("revenue 4,812", "revenue 4.812"),
        ("revenue 4,812", "revenue 48,12"),
        ("revenue 4,812", "revenue 812"),
        ("revenue (4,812)", "revenue 4,812"),
        ("a rate of 12%", "a rate of 12"),
        ("a price of $ 9.50", "a price of €9.50"),
        ("10² litres", "102 litres"),
        ("1½ litres", "11/2 litres"),
        ("the concatenated list", "cat"),
        ("the pump ran dry", "the pump ran wet"),
        ("the pump ran dry", "pump the ran dry"),
        ("the pump ran dry", ""),
        ("the pump ran dry", " ... "),
        ("", "anything"),
    ],
)
def test_other_words_and_other_numbers_are_not_found(text: str, quote: str) -> None:
    assert find_quote(page(text), quote) is None


def test_parts_between_ellipses_must_follow_one_another() -> None:
    laid = page("one two three four\nfive six seven eight")
    assert found(laid, "two three ... six seven") == "two three six seven"
    assert found(laid, "two three [...] six … eight") == "two three six eight"
    assert found(laid, "six seven ... two three") is None


def test_a_table_row_is_found_though_the_pdf_tells_it_by_columns() -> None:
    laid = page("Region\t2023\t2022\nNorth\t4,812\t4,310\nSouth\t2,105\t1,998")
    by_column = sorted(laid.words, key=lambda word: (round(word.box[0], 1), word.box[1]))
    columns = Page(laid.ref, "1", 595, 842, tuple(by_column), "layer", "", "", "")
    assert found(columns, "South 2,105 1,998") == "South 2,105 1,998"
    assert found(columns, "2023 2022 ... South 2,105 1,998") == "2023 2022 South 2,105 1,998"
    assert found(columns, "South 4,812") is None


@pytest.mark.parametrize(
    ("read", "quote", "verified"),
    [
        ("its bearlng ran dry", "its bearing ran dry", True),
        ("itsbearing ran dry", "its bearing ran dry", True),
        ("its bea ring ran dry", "its bearing ran dry", True),
        ("a loss of a million", "a loss of a billion", False),
        ("costs will increase by half", "costs will decrease by half", False),
        ("it is now allowed here", "it is not allowed here", False),
        ("the bearing of pump 17", "the bearing of pump 11", False),
    ],
)
def test_ocr_may_misread_letters_but_no_meaning(read: str, quote: str, verified: bool) -> None:
    scanned = page(read, source="ocr")
    assert verify(claim(scanned, quote), {scanned.ref: scanned}).verified == verified


def test_a_claim_is_not_believed() -> None:
    laid = page("the pump ran dry")
    boastful = Citation(laid.ref, "log.pdf", "1", "all is well", ((0, 0, 1, 1),), verified=True)
    checked = verify(boastful, {laid.ref: laid})
    assert not checked.verified
    assert checked.boxes == ()
    assert not verify(claim(laid, "the pump"), {PageRef("other", 0): laid}).verified


def test_five_pages_of_a_thousand_words_are_checked_quickly() -> None:
    text = "\n".join(
        f"line {i} says the pump number {i} of hall {i % 7} is fine" for i in range(90)
    )
    pages = [page(text, index=i) for i in range(5)]
    took: list[float] = []
    for _ in range(5):
        began = perf_counter()
        for laid in pages:
            assert find_quote(laid, "line 89 says the pump number 89 of hall 5 is fine")
        took.append(perf_counter() - began)
    # A few milliseconds on an idle core; the bound only catches another order of growth.
    assert min(took) < 0.1
