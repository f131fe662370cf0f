"""A question that a real server logged, as a case."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from api.cli import app
from evals.cases import Case, listed_cases
from evals.saving import LogError, find_request
from tests.served import Served, served
from tests.tiny import pdf

PAGES = (
    "The keeper counted forty-one lanterns in the boathouse on the first of May.",
    "The regatta was sailed in a strong wind from the west, and two masts broke.",
)
QUESTION = "How many lanterns did the keeper count?"


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The log of a server that was asked, and the id of its document."""
    folder = tmp_path_factory.mktemp("saving")
    options: dict[str, Any] = {"log_level": "INFO", "log_format": "json", "server__log_text": True}
    with served(folder, **options) as server:
        id = server.indexed(pdf(folder / "boathouse.pdf", PAGES))
        ask(server, "lanterns", QUESTION)
        ask(server, "nonsense", "zyxwv qwrtp?")
        server.http.post("/search", json={"question": QUESTION}, headers={"X-Request-Id": "looked"})
        server.http.get("/documents", headers={"X-Request-Id": "listed"})
        server.stop()
        yield server.log, id


def ask(server: Served, request_id: str, question: str) -> None:
    headers = {"X-Request-Id": request_id}
    assert server.http.post("/ask", json={"question": question}, headers=headers).is_success


def saved(log: Path, request_id: str) -> Case:
    with log.open() as lines:
        return find_request(lines, request_id).case


def test_a_logged_answer_becomes_a_case_with_the_pages_it_cites(logged: tuple[Path, str]) -> None:
    assert saved(logged[0], "lanterns") == Case(
        id="logged-lanterns",
        question=QUESTION,
        document="boathouse.pdf",
        pages=(1,),
        answer=PAGES[0],
        quote=PAGES[0],
        origin="logged",
    )


def test_a_declined_question_and_a_search_propose_no_pages(logged: tuple[Path, str]) -> None:
    with logged[0].open() as lines:
        declined = find_request(lines, "nonsense")
    assert (declined.case.answerable, declined.case.pages) == (False, ())
    assert declined.case.answer is None
    assert "declined" in declined.notes[0]
    with logged[0].open() as lines:
        looked = find_request(lines, "looked")
    assert (looked.case.answerable, looked.case.pages) == (True, ())
    assert "no gold pages" in looked.notes[0]


def test_the_command_adds_it_to_the_cases_once(logged: tuple[Path, str], tmp_path: Path) -> None:
    into = tmp_path / "cases.jsonl"
    arguments = ["eval", "save", "lanterns", "--log", str(logged[0]), "--into", str(into)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "boathouse.pdf, gold pages 1" in done.stdout
    (case,) = listed_cases(into)
    assert case.open
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2
    assert "already" in again.stderr
    assert listed_cases(into) == [case]


def test_a_request_that_asked_nothing_or_is_not_there_says_so(logged: tuple[Path, str]) -> None:
    with pytest.raises(LogError, match="GET /documents asks no question"):
        saved(logged[0], "listed")
    with pytest.raises(LogError, match="no request 'other'"):
        saved(logged[0], "other")


def test_a_log_without_texts_names_the_setting() -> None:
    line = json.dumps({"request_id": "a", "method": "POST", "question_characters": 9, "hits": 1})
    with pytest.raises(LogError, match=r"server\.log_text .* ask again"):
        find_request([line], "a")


def test_a_log_that_is_no_json_names_the_setting() -> None:
    with pytest.raises(LogError, match="log_format = json"):
        find_request(["2026-01-01 INFO api.facts request request_id=a"], "a")


def place(page: int, *, id: str = "d0", verified: bool = True, name: str = "a.pdf") -> Any:
    place = {"document_id": id, "document": name, "page": page}
    return place | {"quote": f"words of {page}", "verified": verified}


def record(**more: Any) -> str:
    return json.dumps(
        {"request_id": "a", "question": "Q?", "answer": "A.", "answer_status": "answered"} | more
    )


def test_verified_citations_of_one_document_are_gold() -> None:
    citations = [place(9, verified=False), place(4), place(2), place(4), place(1, id="d1")]
    done = find_request([record(citations=citations)], "a")
    assert (done.case.pages, done.case.quote) == ((2, 4), "words of 4")
    assert done.notes == ("1 of 4 citations are of other documents: left out",)


def test_a_document_whose_name_another_one_has_is_given_by_its_id() -> None:
    done = find_request([record(citations=[place(1)], found=[place(3, id="d1")])], "a")
    assert done.case.document == "d0"
    done = find_request([record(citations=[place(1)], found=[place(3, id="d1", name="b")])], "a")
    assert done.case.document == "a.pdf"


def test_what_is_around_a_line_or_no_record_is_passed_over() -> None:
    lines = [
        "{broken",
        '{"request_id": "a", "found": "b"}',
        '{"request_id": ["a"]}',
        "{" * 5000 + "a",
        f"api-1  | {record(citations=[place(1)])}",
        record(request_id="ab", citations=[place(2)]),
    ]
    assert find_request(lines, "a").case.pages == (1,)


def test_the_last_request_of_an_id_counts() -> None:
    lines = [record(citations=[place(1)]), record(citations=[place(2)])]
    assert find_request(lines, "a").case.pages == (2,)


def test_a_picture_alone_is_no_case() -> None:
    with pytest.raises(LogError, match="picture alone"):
        find_request([record(question=" ", citations=[place(1)])], "a")


VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just([place(2)])
FIELDS = ("question", "answer", "answer_status", "citations", "found", "question_characters")


@given(
    st.lists(
        st.text(max_size=30)
        | st.dictionaries(st.sampled_from(FIELDS), VALUES).map(
            lambda fields: json.dumps({"request_id": "a"} | fields)
        ),
        max_size=4,
    )
)
def test_any_log_gives_a_case_or_says_why_not(lines: list[str]) -> None:
    try:
        case = find_request(lines, "a").case
    except LogError as error:
        assert "\n" not in str(error)
    else:
        assert case.open
        assert case.question.strip()
        assert case.document


def test_a_request_that_found_nothing_names_no_document() -> None:
    with pytest.raises(LogError, match="no page"):
        find_request([record(answer_status="not_found", found=[])], "a")


def test_convert_writes_what_can_be_used_and_names_the_rest(tmp_path: Path) -> None:
    source, out = tmp_path / "samples.json", tmp_path / "cases.jsonl"
    good = {
        "doc_id": "a.pdf",
        "question": "Q?",
        "answer": "A",
        "evidence_pages": "[1]",
        "evidence_sources": "[]",
        "answer_format": "Str",
    }
    source.write_text(json.dumps([good, good | {"evidence_pages": "1]"}]))
    done = CliRunner().invoke(app, ["eval", "convert", str(source), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "1 cases in" in done.stdout
    assert "excluded: line 1: field 'evidence_pages'" in done.stderr
    assert [case.pages for case in listed_cases(out)] == [(1,)]
    source.write_text("[]")
    done = CliRunner().invoke(app, ["eval", "convert", str(source), "--out", str(out)])
    assert done.exit_code == 2
    assert len(listed_cases(out)) == 1
