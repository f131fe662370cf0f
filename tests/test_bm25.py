"""BM25 terms: single words, pairs of them, and what a question's abbreviations stand for."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.services import Services
from pageglass.settings import load_settings
from pageglass.types import Page, PageRef, Word
from retrieval.encoders import PageInput, SparseVector
from retrieval.encoders.bm25 import Bm25Encoder
from tests.tiny import pdf

FILLER = "The town keeps a register of bridges, wells and lamps, and of who looks after each."


def page(text: str) -> PageInput:
    words = tuple(Word(word, (0, 0, 0.1, 0.02), 0) for word in text.split())
    made = Page(PageRef("d", 0), "1", 600, 800, words, "layer", "i", "r", "0" * 64)
    return PageInput(made, "a title", b"")


def document(text: str) -> dict[int, float]:
    (vectors,) = Bm25Encoder().encode_pages([page(text)])
    return weights(vectors.get("sparse"))


def question(text: str) -> dict[int, float]:
    return weights(Bm25Encoder().encode_question(text).get("sparse"))


def weights(vector: object) -> dict[int, float]:
    if vector is None:
        return {}
    assert isinstance(vector, SparseVector)
    assert len(set(vector.indices)) == len(vector.indices)
    return dict(zip(vector.indices, vector.values, strict=True))


def test_neighbouring_words_are_a_term_of_their_own() -> None:
    asked = question("figure 3")
    assert set(asked.values()) == {1.0}
    assert len(asked) == 3
    assert asked.keys() <= document("As Figure 3 shows, five wells ran dry.").keys()
    assert not asked.keys() <= document("Figure 5 shows that 3 wells ran dry.").keys()


def test_words_that_say_nothing_are_in_no_pair() -> None:
    assert len(question("the well of the town")) == 2


def test_a_pair_counts_more_often_met_and_less_on_a_longer_page() -> None:
    (pair,) = question("figure 3").keys() - question("figure").keys() - question("3").keys()
    short = document(f"Figure 3. {FILLER}")
    twice = document(f"Figure 3. {FILLER} Figure 3.")
    long = document(f"Figure 3. {' '.join([FILLER] * 20)}")
    assert long[pair] < short[pair] < twice[pair]


def test_what_an_abbreviation_stands_for_counts_half_of_what_was_said() -> None:
    asked = question("ebitda")
    assert set(asked.values()) == {0.5, 1.0}
    assert [value for value in asked.values() if value == 1.0] == [1.0]
    assert question("depreciation and amortization").keys() <= asked.keys()


def test_how_the_answer_is_to_be_written_is_not_searched_for() -> None:
    assert question("How long is the pier? Round to two decimal places.") == question(
        "How long is the pier?"
    )


@given(st.text(max_size=200))
def test_any_text_has_terms_with_weights(text: str) -> None:
    assert all(weight > 0 for weight in document(text).values())
    assert all(0 <= term < 2**32 for term in question(text))


def test_how_rare_a_word_is_counts_among_the_pages_that_are_asked(tmp_path: Path) -> None:
    """ "Lamp" is on every page of the one document and on none of the others."""
    lamps = ["Lamp ledger. Lamp one stands at the weir.", "Lamp ledger. Lamp two was painted."]
    others = [f"Well ledger. Well {number} is at the weir." for number in range(12)]
    with Services(load_settings({"data_dir": tmp_path / "data"}), command="test") as services:
        one = pdf(tmp_path / "lamps.pdf", lamps)
        two = pdf(tmp_path / "wells.pdf", others)
        ids = {r.path: r.document.id for r in services.ingest([one, two]) if r.document}
        everywhere = services.search("lamp weir").hits[0].why.retrievers
        within = services.search("lamp weir", documents=[ids[str(one)]]).hits[0].why.retrievers
        (all_pages,) = [seen.score for seen in everywhere if seen.retriever == "sparse"]
        (its_pages,) = [seen.score for seen in within if seen.retriever == "sparse"]
        assert its_pages < all_pages
        assert its_pages > 0


@pytest.mark.parametrize("question_", ["lamp", "the", ""])
def test_a_question_without_pairs_is_as_it_was(question_: str) -> None:
    assert len(question(question_)) <= 1
