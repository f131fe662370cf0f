from __future__ import annotations

from dataclasses import replace

from pageglass.types import Page
from retrieval.headings import document_title, first_lines, heading
from tests.tiny import page


def with_large_line(text: str, large: int) -> Page:
    plain = page(text)
    words = tuple(
        replace(w, box=(*w.box[:3], w.box[1] + 0.05)) if w.line == large else w for w in plain.words
    )
    return replace(plain, words=words)


def test_the_heading_is_the_largest_line() -> None:
    found = heading(with_large_line("12 June\nThe pump house\nall is well here", 1))
    assert found == "The pump house"


def test_a_page_without_words_has_no_heading() -> None:
    assert heading(page("")) == first_lines(page("")) == ""


def test_the_title_is_the_file_name_and_the_first_heading() -> None:
    first = with_large_line("Skerrin Line\nAnnual report\nsmall print", 1)
    assert document_title("SKERRIN_annualReport-2024.pdf", first) == (
        "SKERRIN annual Report 2024 Annual report"
    )


def test_hashes_and_upload_noise_are_no_title() -> None:
    assert document_title("0e94b4197b10096b1f4c_talk-110722143746-phpapp02.pdf", None) == "talk"
