"""What is read from a page, and which of it answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generate.citations import find_quote
from generate.excerpts import MAX_WORDS, read_excerpts
from generate.layout import read_layout
from generate.models import Asked, Draft, ShownPage
from generate.models.extractive import ExtractiveModel
from generate.question import read_question, stem_of
from pageglass.types import Page
from retrieval.encoders.minilm import MiniLM
from tests.tiny import page

LINES = st.lists(st.text(alphabet="ab1 .,\t•AÜ日:%-", max_size=40), max_size=12).map("\n".join)

ACCOUNT = """Consolidated balance sheet
Thousand crowns\t2023\t2022
Current assets
Cash\t1,258\t2,277
Inventories\t4,215\t2,242
Total assets\t9,268\t5,556"""


def answer(minilm: MiniLM, question: str, *pages: Page) -> Draft:
    shown = [ShownPage(p, "log.pdf", 1 / (60 + i)) for i, p in enumerate(pages)]
    return ExtractiveModel(minilm).generate(Asked(question), shown, seconds=1)


@given(LINES)
def test_every_word_is_in_one_run_and_one_row(text: str) -> None:
    laid = page(text)
    layout = read_layout(laid)
    everything = list(range(len(laid.words)))
    assert [i for run in layout.runs for i in range(run.start, run.stop)] == everything
    assert sorted(i for row in layout.rows for i in row.indices) == everything


@given(LINES)
def test_every_excerpt_is_quotable(text: str) -> None:
    laid = page(text)
    for excerpt in read_excerpts(laid):
        assert excerpt.text == " ".join(laid.words[i].text for i in excerpt.words)
        if any(char.isalnum() for char in excerpt.text):
            assert find_quote(laid, excerpt.text) is not None


def test_a_row_has_its_section_and_column_header() -> None:
    laid = page(ACCOUNT)
    rows = {e.text: e for e in read_excerpts(laid) if e.kind == "row"}
    inventories = rows["Inventories 4,215 2,242"]
    assert "2023 2022" in " ".join(laid.words[i].text for i in inventories.header)
    assert "Current assets" in inventories.context


def test_long_sentences_are_cut_at_clauses() -> None:
    clause = "the pump of line two was stopped and then started again by its crew,"
    excerpts = read_excerpts(page("\n".join([clause] * 12)))
    assert all(len(excerpt.words) <= MAX_WORDS for excerpt in excerpts)
    assert all(excerpt.text.endswith(",") for excerpt in excerpts)


def test_abbreviations_end_no_sentence() -> None:
    laid = page("Dr. Hallam of Corvina Inc. came at 9.30. He left at noon.")
    assert [excerpt.text for excerpt in read_excerpts(laid)] == [
        "Dr. Hallam of Corvina Inc. came at 9.30.",
        "He left at noon.",
    ]


@pytest.mark.parametrize(
    ("question", "kind", "pages"),
    [
        ("How many hornbeams are there on page 14?", "number", ((14, 14),)),
        ("When was the valve tower built?", "time", ()),
        ("Who moved the amendment?", "person", ()),
        ("What is working capital in FY2015? Answer in thousands.", "number", ()),
        ("Why did the pump fail?", "any", ()),
    ],
)
def test_questions_are_taken_apart(
    question: str, kind: str, pages: tuple[tuple[int, int], ...]
) -> None:
    read = read_question(question)
    assert read.kind == kind
    assert read.pages == pages


def test_stems_join_forms_of_a_word() -> None:
    assert stem_of("liabilities") == stem_of("liability")
    assert stem_of("stopped") == stem_of("stopping")
    assert stem_of("4,812") == stem_of("4812")


def test_a_number_is_quoted_with_its_row(minilm: MiniLM) -> None:
    draft = answer(minilm, "How much were total assets in 2023?", page(ACCOUNT))
    assert draft.text.endswith("2023 2022 ... Total assets 9,268 5,556")


def test_a_sentence_that_leans_back_brings_the_one_before(minilm: MiniLM) -> None:
    laid = page("The pump of hall three was replaced. It now runs at 40 litres a second.")
    draft = answer(minilm, "How many litres a second does the pump now run at?", laid)
    assert draft.text == "The pump of hall three was replaced. It now runs at 40 litres a second."


def test_two_rows_answer_together(minilm: MiniLM) -> None:
    fleet = page("Name\tBuilt\tCars\nBrannoch\t1994\t104\nKittiwake\t2001\t52\nWester\t1979\t77")
    draft = answer(minilm, "How many cars can Brannoch and Wester take?", fleet)
    assert "104" in draft.text
    assert "77" in draft.text
    assert len(draft.quotes) == 2


def test_a_sentence_that_stands_twice_is_quoted_once(minilm: MiniLM) -> None:
    text = "The pump failed because its bearing ran dry."
    draft = answer(minilm, "Why did the pump fail?", page(text), page(text, index=1))
    assert draft.text == text


def test_other_scripts_are_read_and_quoted(minilm: MiniLM) -> None:
    laid = page(
        "Die Prüfung der Maßöfen begann früh.\n日本語の文です。\nDer Überdruck betrug 12 bar."
    )
    draft = answer(minilm, "Wie hoch war der Überdruck?", laid)
    assert draft.text == "Der Überdruck betrug 12 bar."


def test_what_cannot_be_asked_gives_an_empty_draft(minilm: MiniLM) -> None:
    empty = Draft("", (), 0.0)
    assert answer(minilm, "What is it?", page("The pump ran dry.")) == empty
    assert answer(minilm, "Why did the pump fail?", page("")) == empty
    assert answer(minilm, "", page("The pump ran dry.")) == empty
