"""Whatever is asked is answered, declined or refused in one line, and support is a share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from api.services import Services
from evals.answers import answer_matches
from evals.cases import Case
from generate.models.extractive import Evidence, support_of
from generate.question import read_question
from pageglass.errors import QuestionError
from pageglass.settings import load_settings
from retrieval.page_numbers import named_pages
from tests.tiny import pdf

PAGES = [
    "Pump P-17 failed on 4 March 2022 because its bearing ran dry. A new one cost 1,250.00 euros.",
    "Part\tPrice\n123/5\t12.40\n123/6\t13.90",
]
LONGEST = 4000

CHARACTERS = st.characters(exclude_categories=("Cs",))
PIECES = st.sampled_from(
    [
        *("page ", "1,", "9" * 400, "Q1 ", "A. ", '"', "(", "e.g. [", ". answer ", "fy ", "is "),
        *("日本", "\U0001f389", "\u202e", "ا", "\u0663", "\u00b2", "½", "\x00", "\r\n", "\u2028"),
        *("pump P-17 ", "Acme Corp ", "-1e999 ", "u.s.a. ", "last page ", "return on ", "%", "ﬁ"),
    ]
)
QUESTIONS = st.one_of(
    st.text(CHARACTERS, max_size=LONGEST),
    # The same again and again, and all of it mixed.
    st.tuples(PIECES, st.integers(1, LONGEST)).map(lambda of: (of[0] * of[1])[:LONGEST]),
    st.lists(PIECES, max_size=200).map(lambda pieces: "".join(pieces)[:LONGEST]),
    # Part numbers that no page knows.
    st.integers(1, 600).map(lambda n: " ".join(f"PN-{i}X" for i in range(n))[:LONGEST]),
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    folder: Path = tmp_path_factory.mktemp("odd")
    settings = load_settings({"data_dir": folder / "data"})
    with Services(settings, command="test") as services:
        list(services.ingest([pdf(folder / "log.pdf", PAGES)]))
        yield services


@given(QUESTIONS)
@example(" ".join(f"PN-{i}X" for i in range(400)))
@hypothesis_settings(max_examples=60)
def test_any_question_is_answered_or_refused(library: Services, question: str) -> None:
    try:
        answer = library.ask(question)
    except QuestionError as refused:
        assert not question.strip()
        assert "\n" not in str(refused)
        return
    assert answer.support is None or 0 <= answer.support <= 1
    assert all(0 <= citation.ref.number <= 2 for citation in answer.citations)
    assert all(math.isfinite(hit.score) for hit in library.search(question).hits)


@given(QUESTIONS)
def test_any_question_can_be_taken_apart(question: str) -> None:
    assert all(0 < term.weight <= 2 for term in read_question(question).terms)
    assert all(number >= 0 for number in named_pages(question).numbers)


@pytest.mark.parametrize("question", ["\ud800", "What is \udcff?", "a\udfff" * 2000])
def test_what_is_not_unicode_is_refused(library: Services, question: str) -> None:
    for ask in (library.ask, library.search):
        with pytest.raises(QuestionError, match="not Unicode"):
            ask(question)


@given(
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(-1, 1),
    st.integers(0, 10**9),
    st.booleans(),
)
def test_support_is_a_share_and_falls_with_strangers(
    known: float, asked: float, cosine: float, strangers: int, of_looks: bool
) -> None:
    support = support_of(Evidence(known, asked, cosine, strangers, of_looks))
    assert 0 <= support <= 1
    assert support >= support_of(Evidence(known, asked, cosine, strangers + 1, of_looks))


def test_support_is_one_half_at_the_boundary() -> None:
    assert support_of(Evidence(0.5, 0.5, 0.25, 0, False)) == 0.5


@given(st.integers(1, 2000), st.sampled_from(["9", "1,000", "-7"]))
def test_numbers_too_large_for_a_float_are_compared(count: int, piece: str) -> None:
    said = piece * count
    case = Case(id="a", question="How many?", document="a.pdf", pages=(1,), answer="12")
    case = case.model_copy(update={"answer_format": "Int"})
    found = answer_matches(case, said)
    assert found is None or 0 <= found <= 1
