"""Questions made of pages by rules."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.questions import Question, made_up_name, questions_of, without_answer
from generate.citations import find_quote
from pageglass.types import Page
from tests.tiny import page


def made(page: Page, seed: int = 0) -> dict[str, Question]:
    return {q.text: q for q in questions_of(page, "yard log", random.Random(seed))}


@pytest.mark.parametrize(
    ("sentence", "question", "answer"),
    [
        (
            "The feed pump is the machine that lifts water to the tower.",
            "What is the feed pump, according to yard log?",
            "the machine that lifts water to the tower",
        ),
        (
            "Amber means that nobody may enter the lower yard.",
            "What does Amber mean?",
            "that nobody may enter the lower yard",
        ),
        (
            "The crane was inspected on 4 March 2024 by the harbour master.",
            "When was the crane inspected by the harbour master, according to yard log?",
            "4 March 2024",
        ),
        (
            "The average refund was 43 crowns.",
            "What was the average refund, according to yard log?",
            "43 crowns",
        ),
        (
            "The city planted 312 lime trees along the canal.",
            'Which number is left out: "The city planted ___ lime trees along the canal"?',
            "312",
        ),
        (
            "About 12.5% of visitors came by boat.",
            'Which share is left out: "About ___ of visitors came by boat"?',
            "12.5%",
        ),
        (
            "The bridge cost the town $4,800 to repair.",
            'Which amount is left out: "The bridge cost the town ___ to repair"?',
            "$4,800",
        ),
        (
            "The old ferry was sold to the town of Marrowgate for scrap.",
            'Which name is left out: "The old ferry was sold to the town of ___ for scrap"?',
            "Marrowgate",
        ),
    ],
)
def test_a_sentence_is_asked_for_what_it_says(sentence: str, question: str, answer: str) -> None:
    found = made(page(sentence))[question]
    assert (found.answer, found.quote) == (answer, sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        "It was the largest crane of all those in the harbour.",
        "This is the reason for which the pump was stopped.",
        "Most of the difference is the price of moving cables.",
        "Too short.",
        "and begins in the middle of a longer sentence of 12 words.",
        "No full stop at the end of this line of 12 words",
        "A " + "very " * 60 + "long sentence of 12.",
        "12 34 56 78 90 12 34 56 78.",
    ],
)
def test_what_needs_its_context_is_not_asked(sentence: str) -> None:
    assert made(page(sentence)) == {}


def test_a_number_that_belongs_to_a_name_is_not_left_out() -> None:
    (only,) = made(page("The crane of Bay 3 lifts up to 12 tonnes in still air."))
    assert (
        only
        == 'Which number is left out: "The crane of Bay 3 lifts up to ___ tonnes in still air"?'
    )


TABLE = page(
    "Costs of the yard\n"
    "Item\t2023\t2024\n"
    "Staff costs\t4,100\t4,350\n"
    "Paint, oil\t310\t295 kg\n"
    "Insurance\t88\t91\n"
)


def test_a_cell_is_asked_for_by_its_row_and_column() -> None:
    found = {text: q for seed in range(8) for text, q in made(TABLE, seed).items()}
    staff = found['What is the figure for "Staff costs" under "2024" in yard log?']
    assert (staff.answer, staff.quote) == ("4,350", "Staff costs 4,100 4,350")
    paint = found['What is the figure for "Paint, oil" under "2024" in yard log?']
    assert paint.answer == "295 kg"
    assert {q.source for q in found.values()} == {"Table"}


def test_what_stands_far_above_a_column_is_not_its_header() -> None:
    words = list(TABLE.words)
    high = [replace(w, box=(w.box[0], 0.02, w.box[2], 0.03)) for w in words if w.text == "2024"]
    moved = [replace(word, text="Place") for word in high]
    shown = replace(TABLE, words=(*moved, *words))
    asked = {text for seed in range(8) for text in made(shown, seed)}
    assert 'What is the figure for "Staff costs" under "2024" in yard log?' in asked
    assert not any("Place" in text for text in asked)


@pytest.mark.parametrize(
    ("header", "asked"),
    [
        ("Item\t2023\t2024", True),
        ("Item\tPlan (net)\tPlan (gross)", True),
        ("Item\t30 June 2024\t31 March 2024", True),
        ("Item\t3 months to June\t3 months to May", True),
        ("Item\tThe lower Bay 3\tThe upper Bay 4", True),
        ("Rent\tpaid\t4,100", False),
        ("Rent\tyard\t295 kg", False),
        ("Rent\tyard\t12 per cent of all", False),
        ("Rent\tyard\t—", False),
        ("Item\tthousands)\tcrowns)", False),
        ("Item\t(in oil\t(of oil", False),
        ("Item\t(restated)\t(audited)", False),
    ],
)
def test_only_what_names_a_column_is_its_header(header: str, asked: bool) -> None:
    shown = page(f"{header}\nStaff costs\t4,100\t4,350\n")
    found = {text for seed in range(8) for text in made(shown, seed)}
    assert any('figure for "Staff costs" under' in text for text in found) is asked


def test_answers_have_the_format_of_what_they_are() -> None:
    formats = {"312": "Int", "4,350": "Int", "(1,137)": "Int", "3.5": "Float", "12%": "Float"}
    formats |= {"43 crowns": "Str", "": "Str", "Marrowgate": "Str"}
    for answer, format in formats.items():
        assert Question("", answer, "", "", "").answer_format == format


def test_a_question_about_another_thing_has_no_answer() -> None:
    shown = page("The feed pump is the machine that lifts water to the tower.")
    (question,) = made(shown).values()
    asked = without_answer(question, "Velamar")
    assert asked is not None
    assert (asked.text, asked.answer, asked.quote) == (
        "What is the Velamar pump, according to yard log?",
        "",
        "",
    )
    assert without_answer(Question("How many?", "3", "3", "", ""), "Velamar") is None


def test_a_made_up_name_occurs_nowhere() -> None:
    tried: list[str] = []

    def occurs(name: str) -> bool:
        tried.append(name)
        return len(tried) < 4

    name = made_up_name(random.Random(1), occurs)
    assert name.lower() == tried[-1]
    assert len(set(tried)) == 4


@given(st.text(max_size=200), st.integers(0, 5))
def test_any_text_is_read_and_every_quote_stands_on_its_page(text: str, seed: int) -> None:
    shown = page(text)
    for question in questions_of(shown, "log", random.Random(seed)):
        assert question.text.strip()
        assert find_quote(shown, question.quote) is not None
