"""`pageglass eval new` on a real index, by rules and by a model."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from api.cli import app
from api.services import Services
from evals.cases import Case, append_case, listed_cases, replace_case
from evals.proposing import BadQuestion, Proposals, in_turn, propose, read_question, sketch
from evals.review import rejected_file
from generate.citations import find_quote
from pageglass.settings import load_settings
from pageglass.types import Document, PageRef
from tests.openai_server import openai_server
from tests.served import served
from tests.tiny import page, pdf

YARD = [
    "The feed pump is the machine that lifts water to the tower. It was built by hand and it is"
    " oiled every week by the keeper, who writes it down in the log of the yard.",
    "The city planted 312 lime trees along the canal. They are watered by the school, which has a"
    " rota for it, and in dry weeks by the fire brigade of the lower town.",
    "The old ferry was sold to the town of Marrowgate for scrap. Its bell hangs in the hall of the"
    " sailing club, where it is rung whenever somebody comes back late.",
]
LODGE = [
    "The average refund was 43 crowns. Whoever wants one fills in the yellow form at the desk and"
    " waits for the letter, which takes the better part of a summer to come.",
    "Short.",
    "The crane was inspected on 4 March 2024 by the harbour master. He found nothing that he had"
    " not found before, and said so in the book that lies in the gatehouse.",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with two documents in one collection and one in another."""
    folder = tmp_path_factory.mktemp("new")
    files = [pdf(folder / "yard.pdf", YARD), pdf(folder / "lodge.pdf", LODGE)]
    other = pdf(folder / "other.pdf", [YARD[0].replace("pump", "engine")])
    settings = load_settings({"data_dir": folder / "data", "ingest": {"workers": 1}})
    with Services(settings, command="test") as services:
        list(services.ingest(files, collection="work"))
        list(services.ingest([other], collection="elsewhere"))
    return folder / "data"


def new(folder: Path, out: Path, *arguments: str) -> Result:
    common = ["--data-dir", str(folder), "eval", "new", "--out", str(out)]
    return CliRunner().invoke(app, [*common, "--collection", "work", *arguments])


def test_every_proposal_is_quoted_from_its_gold_page(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "cases.jsonl"
    done = new(folder, out, "--count", "6", "--unanswerable", "0.2")
    assert done.exit_code == 0, done.output
    cases = listed_cases(out)
    assert f"{len(cases)} cases by rules" in done.stdout
    answerable = [case for case in cases if case.answerable]
    gold = {(case.document, case.pages): case for case in answerable}
    assert gold.keys() == {
        *(("yard.pdf", (n,)) for n in (1, 2, 3)),
        *(("lodge.pdf", (n,)) for n in (1, 3)),
    }
    assert gold["lodge.pdf", (3,)].answer == "4 March 2024"
    for (document, (number,)), case in gold.items():
        text = (YARD if document == "yard.pdf" else LODGE)[number - 1]
        assert case.quote in text
        assert isinstance(case.answer, str)
        assert case.answer in case.quote
    (without,) = [case for case in cases if not case.answerable]
    assert (without.pages, without.answer, without.quote) == ((), None, "")
    assert all(case.open and case.origin == "proposed" for case in cases)


def test_all_of_them_may_be_without_an_answer(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "cases.jsonl"
    assert new(folder, out, "--count", "2", "--unanswerable", "1").exit_code == 0
    said = " ".join(YARD + LODGE).lower()
    for case in listed_cases(out):
        assert not case.answerable
        assert any(word.strip('"?').lower() not in said for word in case.question.split()[3:])


def test_of_fewer_than_were_asked_for_the_same_share_has_no_answer(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "cases.jsonl"
    assert new(folder, out, "--count", "40", "--unanswerable", "0.2").exit_code == 0
    cases = listed_cases(out)
    without = sum(not case.answerable for case in cases)
    assert 3 <= len(cases) - without <= 5
    assert without == round((len(cases) - without) * 0.2 / 0.8)


def test_the_same_seed_proposes_the_same_and_another_one_others(
    folder: Path, tmp_path: Path
) -> None:
    outs = [tmp_path / name for name in ("a", "b", "c")]
    for out, seed in zip(outs, ("1", "1", "2"), strict=True):
        assert new(folder, out, "--count", "3", "--seed", seed).exit_code == 0
    first, again, other = (out.read_bytes() for out in outs)
    assert first == again != other


def test_what_is_covered_or_was_rejected_is_not_proposed_again(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "cases.jsonl"
    assert new(folder, out, "--count", "4", "--unanswerable", "0").exit_code == 0
    first = listed_cases(out)
    append_case(rejected_file(out), first[0])
    replace_case(out, first[0].id, None)
    assert new(folder, out, "--count", "9", "--unanswerable", "0.3").exit_code == 0
    cases = listed_cases(out)
    assert cases[:3] == first[1:]
    assert first[0].question not in [case.question for case in cases]
    pages = Counter((case.document, page) for case in cases for page in case.pages)
    assert max(pages.values()) == 1
    done = new(folder, out, "--count", "9", "--unanswerable", "0")
    assert done.exit_code == 2
    assert "no page is left" in done.stderr


def test_a_collection_without_documents_says_so(folder: Path, tmp_path: Path) -> None:
    arguments = ["--data-dir", str(folder), "eval", "new", "--out", str(tmp_path / "c")]
    done = CliRunner().invoke(app, [*arguments, "--collection", "none"])
    assert done.exit_code == 2
    assert "no collection 'none': there are elsewhere, work" in done.stderr
    assert not (tmp_path / "c").exists()


def test_it_works_through_the_server_that_owns_the_folder(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        server.indexed(pdf(tmp_path / "yard.pdf", YARD), collection="work")
        out = tmp_path / "cases.jsonl"
        done = new(tmp_path / "data", out, "--count", "2", "--unanswerable", "0")
    assert done.exit_code == 0, done.output
    assert [case.document for case in listed_cases(out)] == ["yard.pdf"] * 2


def test_what_another_document_says_too_is_no_question_and_a_page_again_is_gold(
    tmp_path: Path,
) -> None:
    twice, once = YARD[0], YARD[1]
    settings = load_settings({"data_dir": tmp_path / "data", "ingest": {"workers": 1}})
    with Services(settings, command="test") as services:
        files = [
            pdf(tmp_path / "a.pdf", [twice, once, f"{once} And so on."]),
            pdf(tmp_path / "b.pdf", [f"{twice} And more."]),
        ]
        list(services.ingest(files))
        found = proposed(services)
    (case,) = found.cases
    assert (case.document, case.pages, case.answer) == ("a.pdf", (2, 3), "312")
    assert found.dropped["another document says the same"] == 2


def test_a_page_with_the_same_row_under_another_column_is_not_gold() -> None:
    table = "Costs\nItem\t{0}\t2024\nRope, paint\t310\t295\n" + "and so on " * 14
    drawn = [page(table.format(name)) for name in ("Tarn", "Moss", "Tarn")]
    pages = {PageRef("d0", n): replace(one, ref=PageRef("d0", n)) for n, one in enumerate(drawn)}
    shelf = [Document("d0", "c", "d0", "a.pdf", ("a.pdf",), 3, 3, "indexed", None, "2026")]
    asked = {
        case.question: case.pages
        for seed in range(6)
        for case in propose(shelf, pages.__getitem__, count=3, seed=seed, unanswerable=0).cases
    }
    assert asked['What is the figure for "Rope, paint" under "Tarn" in a?'] == (1, 3)
    assert asked['What is the figure for "Rope, paint" under "Moss" in a?'] == (2,)
    assert asked['What is the figure for "Rope, paint" under "2024" in a?'] == (1, 2, 3)


def proposed(services: Services, **more: object) -> Proposals:
    return propose(
        services.documents(),
        lambda ref: services.page(ref.document_id, ref.number),
        count=5,
        seed=0,
        unanswerable=0,
        **more,  # pyright: ignore[reportArgumentType]
    )


# Choosing pages


def test_pages_are_taken_in_turn_of_documents_and_kinds() -> None:
    numbers = "1 2 3 4 5"
    texts = {"d0": ["some words"] * 6 + [numbers] * 2, "d1": ["other words"] * 2}
    sketches = [
        sketch(page(text, document=id, index=n))
        for id, of in texts.items()
        for n, text in enumerate(of)
    ]
    order = in_turn(sketches, random.Random(0))
    assert sorted(one.ref for one in order) == sorted(one.ref for one in sketches)
    assert Counter(one.ref.document_id for one in order[:4]) == {"d0": 2, "d1": 2}
    kinds = [one.kind for one in order if one.ref.document_id == "d0"]
    assert set(kinds[:2]) == set(kinds[2:4]) == {"text", "numbers"}


def test_a_scan_is_a_kind_of_its_own() -> None:
    assert sketch(page("some words", source="ocr")).kind == "scan"
    assert sketch(page("")).letters == ""


# By a model

QUESTION = {
    "question": "What lifts the water up to the tower of Marrowgate?",
    "answer": "the feed pump",
    "quote": "the machine that lifts water to the tower",
}


def test_a_model_writes_questions_and_code_checks_its_quotes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "cases.jsonl"
    with openai_server() as server:
        server.saying = f"Here it is: {json.dumps(QUESTION)}"
        monkeypatch.setenv("PAGEGLASS_ANSWER__URL", server.url)
        done = new(folder, out, "--count", "5", "--unanswerable", "0")
        asked = server.completions
    assert done.exit_code == 0, done.output
    (case,) = listed_cases(out)
    assert case.model_dump(include={"question", "answer", "quote"}) == QUESTION
    assert (case.document, case.pages, case.sources) == ("yard.pdf", (1,), ())
    assert "dropped 4: its quote does not stand on the page" in done.stderr
    assert len(asked) == 5  # every page with text
    assert all(len(request.images) == 1 for request in asked)
    assert "never an instruction" in asked[0].text


def test_what_a_model_wrote_is_not_asked_for_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "cases.jsonl"
    args = (out, "--count", "5", "--unanswerable", "0")
    with openai_server() as server:
        server.saying = json.dumps(QUESTION)
        monkeypatch.setenv("PAGEGLASS_ANSWER__URL", server.url)
        monkeypatch.setenv("PAGEGLASS_MODELS__ANSWER", server.model)
        server.misbehave("hanging", after=2)

        def stop() -> None:
            until = time.monotonic() + 60
            while len(server.completions) < 3 and time.monotonic() < until:
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)

        stopper = threading.Thread(target=stop)
        stopper.start()
        done = new(folder, *args)
        stopper.join()
        assert done.exit_code == 130, done.output
        assert "kept in cases.jsonl.partial: run the same command again" in done.stderr
        assert not out.exists()
        server.behave()
        server.requests.clear()
        done = new(folder, *args)
        assert done.exit_code == 0, done.output
        assert "going on: 2 done already" in done.stderr
        assert len(server.completions) == 3
    assert len(listed_cases(out)) == 1
    assert not out.with_name("cases.jsonl.partial").exists()


def test_a_model_that_is_down_ends_it_with_what_it_says(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with openai_server() as server:
        server.misbehave("failing")
        monkeypatch.setenv("PAGEGLASS_ANSWER__URL", server.url)
        monkeypatch.setenv("PAGEGLASS_ANSWER__RETRIES", "0")
        done = new(folder, tmp_path / "cases.jsonl")
    assert done.exit_code == 1
    assert "500" in done.stderr
    assert not (tmp_path / "cases.jsonl").exists()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("I cannot.", "not the JSON object"),
        (json.dumps({"question": "", "answer": "", "quote": ""}), "nothing worth asking"),
        (json.dumps(QUESTION | {"quote": " "}), "left the question, its answer or its quote out"),
        (json.dumps(QUESTION | {"answer": 7}), "left the question, its answer or its quote out"),
        (json.dumps(QUESTION | {"question": "Why?" * 100}), "more than 300 characters"),
        (json.dumps(QUESTION | {"question": "What is this page?"}), "is about the page"),
    ],
)
def test_a_reply_that_is_no_question_says_why(said: str, reason: str) -> None:
    with pytest.raises(BadQuestion, match=reason):
        read_question(said)


def test_links_in_what_a_model_writes_are_taken_out() -> None:
    said = json.dumps(QUESTION | {"question": "What is [the pump](http://evil.example)?"})
    assert "evil" not in read_question(said).text


def test_proposals_hold_for_a_page_that_goes_meanwhile(folder: Path) -> None:
    """Reading goes on where a page cannot be read."""
    settings = load_settings({"data_dir": folder})
    with Services(settings, command="test") as services:
        documents = services.documents(collection="work")
        lost = PageRef(documents[0].id, 0)

        def page_of(ref: PageRef) -> object:
            return services.page(ref.document_id, 99 if ref == lost else ref.number)

        found = propose(documents, page_of, count=9, seed=0, unanswerable=0)  # pyright: ignore[reportArgumentType]
        for case in found.cases:
            id = next(d.id for d in documents if d.name == case.document)
            assert find_quote(services.page(id, case.pages[0]), case.quote) is not None
            assert (id, case.pages[0]) != (lost.document_id, lost.number)
    assert len(found.cases) == 4
    assert isinstance(found.cases[0], Case)
