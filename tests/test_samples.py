"""The sample collection, and its questions answered by its pages."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pymupdf
import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "samples" / "docs"
QUESTIONS: list[dict[str, Any]] = [
    json.loads(line)
    for line in (ROOT / "samples" / "questions.jsonl").read_text(encoding="utf-8").splitlines()
]
SCANS = {"corvina_duo_2_manual_scan.pdf": ROOT / "samples" / "corvina_duo_2_manual_scan.txt"}
KEYS = ["id", "question", "document", "pages", "answer", "answerable", "sources", "answer_format"]
SOURCES = {"Pure-text (Plain-text)", "Table", "Chart", "Figure", "Generalized-text (Layout)"}

ANSWERABLE = [case for case in QUESTIONS if case["answerable"]]
UNANSWERABLE = [case for case in QUESTIONS if not case["answerable"]]


def _words(text: str) -> list[str]:
    return re.findall(r"\w[\w.,]*\w|\w", text.lower())


@cache
def _pages(document: str) -> list[str]:
    """The text of each page, with single blanks."""
    pdf: Any = pymupdf.open(DOCS / document)
    with pdf:
        return [" ".join(str(page.get_text()).split()) for page in pdf]


def _name(case: dict[str, Any]) -> str:
    return str(case["id"])


def test_the_collection_is_about_two_hundred_pages_in_less_than_twelve_megabytes() -> None:
    files = sorted(DOCS.glob("*.pdf"))
    assert 180 <= sum(len(_pages(file.name)) for file in files) <= 240
    assert sum(file.stat().st_size for file in files) < 12_000_000


def test_only_the_scan_is_without_text() -> None:
    for file in DOCS.glob("*.pdf"):
        assert any(_pages(file.name)) != (file.name in SCANS)


def test_printed_page_numbers_differ_from_positions() -> None:
    pdf: Any = pymupdf.open(DOCS / "skerrin_line_annual_report_2024.pdf")
    with pdf:
        labels = [page.get_label() for page in pdf]
    assert labels[:6] == ["i", "ii", "iii", "iv", "1", "2"]


def test_the_agenda_slides_are_alike_and_the_two_forms_are_not() -> None:
    slides = _pages("project_lantern_slides.pdf")
    agenda = [re.sub(r"2025 \d+", "2025", text) for text in slides if text.startswith("Agenda")]
    assert len(agenda) > 3 and len(set(agenda)) == 1
    assert _pages("crane_inspection_bay_3.pdf") != _pages("crane_inspection_bay_5.pdf")


def test_there_are_thirty_questions_in_the_agreed_form() -> None:
    assert (len(ANSWERABLE), len(UNANSWERABLE)) == (24, 6)
    assert len({case["id"] for case in QUESTIONS}) == 30
    for case in QUESTIONS:
        assert list(case) == KEYS
        assert set(case["sources"]) <= SOURCES
        assert case["answer_format"] in {"Str", "Int", "Float", "List", "None"}


@pytest.mark.parametrize("case", ANSWERABLE, ids=_name)
def test_a_question_names_pages_that_exist_and_hold_its_answer(case: dict[str, Any]) -> None:
    pages = _pages(case["document"])
    assert case["pages"] and all(1 <= page <= len(pages) for page in case["pages"])
    if case["document"] in SCANS:
        evidence = SCANS[case["document"]].read_text(encoding="utf-8")
    else:
        evidence = " ".join(pages[page - 1] for page in case["pages"])
    assert set(_words(case["answer"])) <= set(_words(evidence))


@pytest.mark.parametrize("case", UNANSWERABLE, ids=_name)
def test_an_unanswerable_question_has_no_answer_and_no_pages(case: dict[str, Any]) -> None:
    assert (case["answer"], case["pages"], case["sources"]) == (None, [], [])
    assert (DOCS / case["document"]).exists()


def test_most_unanswerable_questions_use_a_word_that_stands_nowhere() -> None:
    known = {
        word for file in DOCS.glob("*.pdf") for text in _pages(file.name) for word in _words(text)
    }
    known |= {
        word for source in SCANS.values() for word in _words(source.read_text(encoding="utf-8"))
    }
    strange = [
        [word for word in _words(case["question"]) if len(word) > 4 and word not in known]
        for case in UNANSWERABLE
    ]
    assert sum(bool(words) for words in strange) >= 3
