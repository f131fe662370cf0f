from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pageglass.types import Word
from retrieval.duplicates import are_duplicates, group_duplicates, hamming_distance
from tests.tiny import page

SLIDE = "\n".join(["Where the water goes", *(f"point {word} of the talk" for word in "abcdefghij")])
HASH = "f" * 64
NEAR = "f" * 63 + "0"  # distance 4
FAR = "f" * 62 + "00"  # distance 8


def test_hamming_distance_counts_bits() -> None:
    assert hamming_distance(HASH, NEAR) == 4


def test_identical_renders_are_duplicates_whatever_their_hashes_say() -> None:
    a, b = page(SLIDE, render="0" * 64), page(SLIDE, index=1, render="0" * 64, perceptual=FAR)
    assert are_duplicates(a, b)


def test_pages_that_look_and_read_alike_are_duplicates() -> None:
    a, b = page(SLIDE, perceptual=HASH, render="1"), page(SLIDE, perceptual=NEAR, render="2")
    assert are_duplicates(a, b)


def test_pages_that_look_alike_and_read_differently_are_not() -> None:
    other = SLIDE.replace("water", "money").replace("talk", "tale")
    assert not are_duplicates(page(SLIDE, perceptual=HASH), page(other, perceptual=HASH))


def test_pages_that_read_alike_and_look_differently_are_not() -> None:
    a, b = page(SLIDE, perceptual=HASH, render="1"), page(SLIDE, perceptual=FAR, render="2")
    assert not are_duplicates(a, b)


def test_a_form_filled_in_twice_is_two_pages_even_where_one_number_differs() -> None:
    form = "\n".join(f"field {name} as found on site" for name in "abcdefghijklmnopqrst")
    first, second = f"{form}\nreading 12.4 bar", f"{form}\nreading 12.9 bar"
    assert not are_duplicates(page(first, perceptual=HASH), page(second, perceptual=HASH))


def test_page_numbers_in_the_margin_tell_no_pages_apart() -> None:
    def numbered(number: int) -> tuple[Word, ...]:
        return (*page(SLIDE).words, Word(str(number), (0.5, 0.96, 0.52, 0.98), 99))

    from dataclasses import replace

    a = replace(page(SLIDE, perceptual=HASH, render="1"), words=numbered(7))
    b = replace(page(SLIDE, perceptual=HASH, render="2"), words=numbered(8))
    assert are_duplicates(a, b)


def test_blank_pages_are_never_duplicates() -> None:
    assert not are_duplicates(page("", render="0"), page("", index=1, render="0"))


def test_the_best_ranked_page_stands_for_its_group() -> None:
    pages = [page(SLIDE, index=i, render="same") for i in (4, 2)]
    pages.insert(1, page("another page altogether", index=9))
    grouped = group_duplicates(pages)
    assert [ref.index for ref in grouped] == [4, 9]
    assert [ref.index for ref in grouped[pages[0].ref]] == [2]


@given(st.lists(st.sampled_from(["one text", "two texts", ""]), max_size=8))
def test_grouping_loses_no_page_and_invents_none(texts: list[str]) -> None:
    pages = [page(text, index=i) for i, text in enumerate(texts)]
    grouped = group_duplicates(pages)
    members = [ref for ref, twins in grouped.items() for ref in (ref, *twins)]
    assert sorted(members) == [page.ref for page in pages]
