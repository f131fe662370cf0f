from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from api.cli import app
from evals.cases import Case
from evals.misses import (
    ANSWER_CAUSES,
    PAGE_CAUSES,
    answer_miss,
    case_miss,
    find_misses,
    page_miss,
    page_misses,
)
from evals.runs import (
    AnswerRecord,
    CitationRecord,
    DocumentFacts,
    GoldPage,
    Judgement,
    Outcome,
    PageKey,
    Run,
    write_run,
)

K = 2
GOLD: PageKey = ("a", 1)
OTHERS: list[PageKey] = [("b", 1), ("b", 2), ("b", 3)]


def outcome(
    rankings: Mapping[str, Sequence[PageKey]],
    *,
    gold: Sequence[GoldPage] | None = None,
    stands_for: Sequence[tuple[PageKey, PageKey]] = (),
    answer: AnswerRecord | None = None,
    correct: bool | None = None,
    answerable: bool = True,
    id: str = "c",
) -> Outcome:
    """A case with the gold page GOLD, unless others are given."""
    if gold is None:
        gold = [page(GOLD)] if answerable else []
    return Outcome(
        case=Case(
            id=id,
            question="Where does the pump stand?",
            document="a.pdf",
            pages=tuple(one.page[1] for one in gold),
            answer="hall 7" if answerable else None,
            answerable=answerable,
        ),
        gold=tuple(gold),
        rankings={name: tuple(pages) for name, pages in rankings.items()},
        stands_for=tuple(stands_for),
        seconds=0.1,
        answer=answer,
        judgement=Judgement(model="m", prompt="p", correct=correct) if answer else None,
    )


def page(
    key: PageKey, *, characters: int = 90, deeper: int | None = None, **ranks: int
) -> GoldPage:
    return GoldPage(
        page=key, characters=characters, text_source="layer", ranks=ranks, deeper=deeper
    )


def answered(
    text: str = "hall 7",
    cited: Sequence[PageKey] = (GOLD,),
    *,
    declined: bool = False,
    extractive: bool = False,
) -> AnswerRecord:
    return AnswerRecord(
        text=text,
        status="not_found" if declined else "answered",
        citations=tuple(CitationRecord(page=key, quote="pump", verified=True) for key in cited),
        support=0.25,
        draft=text,
        model="m",
        extractive=extractive,
        seconds=0.1,
    )


def run(outcomes: Sequence[Outcome]) -> Run:
    return Run(
        version="0",
        made_at="2026-01-01T00:00:00+00:00",
        cases_file="cases.jsonl",
        cases_sha256="0",
        scope="collection",
        k=K,
        profile="lite",
        settings={},
        documents={"a": DocumentFacts(name="a.pdf", pages=3, scanned=0)},
        outcomes=tuple(outcomes),
    )


FAR = {"retriever:dense": [*OTHERS, GOLD], "ungrouped": OTHERS, "search": OTHERS}
NEAR = {**FAR, "retriever:dense": [GOLD, *OTHERS]}


@pytest.mark.parametrize(
    ("cause", "lost", "detail"),
    [
        (
            "no text",
            outcome({**FAR, "retriever:dense": OTHERS}, gold=[page(GOLD, characters=0)]),
            "nothing was read on it",
        ),
        # Found by its title, far down: there was nothing else to find it by.
        ("no text", outcome(FAR, gold=[page(GOLD, characters=0)]), "nothing was read on it"),
        # A retriever that sees the page's image needs no text.
        ("fusion", outcome(NEAR, gold=[page(GOLD, characters=0)]), "dense ranks it 1"),
        (
            "not retrieved",
            outcome({"search": OTHERS}, gold=[page(GOLD, deeper=312)]),
            "best rank 312",
        ),
        ("not retrieved", outcome({"search": OTHERS}), "nor in a search for more"),
        ("ranked low", outcome(FAR), "dense ranks it 4"),
        # What the run does not keep of a list, it keeps of the gold page.
        ("ranked low", outcome({"search": OTHERS}, gold=[page(GOLD, sparse=88)]), "ranks it 88"),
        ("fusion", outcome(NEAR), "dense ranks it 1"),
        (
            "duplicates",
            outcome(
                {**NEAR, "grouped": OTHERS},
                stands_for=[(GOLD, OTHERS[1])],
            ),
            "page 2 stands for it",
        ),
        # What stands for it is not shown either.
        (
            "ranked low",
            outcome({**FAR, "grouped": OTHERS}, stands_for=[(GOLD, OTHERS[2])]),
            "dense ranks it 4",
        ),
        ("rerank", outcome({**FAR, "ungrouped": [OTHERS[0], GOLD]}), "among the first 2 before"),
        (
            "rerank",
            outcome(
                {**FAR, "grouped": [OTHERS[2], *OTHERS[:2]]},
                stands_for=[(GOLD, OTHERS[2])],
            ),
            "among the first 2 before",
        ),
    ],
)
def test_each_step_that_can_lose_a_page(cause: str, lost: Outcome, detail: str) -> None:
    miss = page_miss(lost, lost.gold[0], K)
    assert miss is not None
    assert miss.cause == cause
    assert detail in miss.detail
    case = case_miss(lost, K)
    assert case is not None
    assert (case.cause, case.document_found, case.pages) == (cause, False, (miss,))


def test_a_failed_stage_is_named() -> None:
    gold = GoldPage(page=GOLD, characters=0, text_source="none", failed=("ocr",))
    miss = page_miss(outcome({"search": OTHERS}, gold=[gold]), gold, K)
    assert miss is not None
    assert miss.detail == "nothing was read on it, and these steps failed: ocr"


def test_a_case_is_lost_where_its_furthest_page_was() -> None:
    second, third = ("a", 2), ("a", 3)
    lost = outcome(
        {"search": OTHERS},
        gold=[page(GOLD, characters=0), page(second, dense=40), page(third, dense=30)],
    )
    miss = case_miss(lost, K)
    assert miss is not None
    assert (miss.cause, miss.detail) == ("ranked low", "dense ranks it 30")
    assert [one.cause for one in miss.pages] == ["no text", "ranked low", "ranked low"]
    # One of the pages is there: the case did not fail, the others are still missed.
    found = lost.model_copy(update={"rankings": {"search": (OTHERS[0], third)}})
    assert case_miss(found, K) is None
    assert [one.page for one in page_misses(found, K)] == [GOLD, second]
    misses = find_misses(run([found]))
    assert (misses.asked, misses.gold, misses.cases) == (1, 3, ())
    assert misses.page_counts() == {"no text": (1, 0), "ranked low": (1, 0)}


def test_the_wrong_page_is_told_from_the_wrong_document() -> None:
    beside = {"search": [("a", 3), *OTHERS]}
    wrong_page, wrong_document = outcome(beside), outcome({"search": OTHERS}, id="d")
    first, second = find_misses(run([wrong_page, wrong_document])).cases
    assert (first.document_found, second.document_found) == (True, False)
    counts = find_misses(run([wrong_page, wrong_document])).case_counts()
    assert counts == {"not retrieved": (1, 1)}
    # Rank 3 is beyond the first two.
    late = case_miss(outcome({"search": [*OTHERS[:2], ("a", 3)]}), K)
    assert late is not None
    assert late.document_found is False


FOUND = {"search": [GOLD]}


@pytest.mark.parametrize(
    ("cause", "failed", "detail"),
    [
        ("wrongly declined", outcome(FOUND, answer=answered(declined=True)), "support 0.25"),
        ("not cited", outcome(FOUND, answer=answered(cited=())), "cites nothing"),
        (
            "not cited",
            outcome(FOUND, answer=answered(cited=[("b", 2), ("b", 1)])),
            "other pages: 1, 2, though it is right",
        ),
        (
            "not cited",
            outcome(FOUND, answer=answered("hall 1", cited=[("b", 2)]), correct=False),
            "2, and is wrong",
        ),
        ("cited but wrong", outcome(FOUND, answer=answered("the yard")), "wrong"),
        # The judge's word goes before what code can tell, either way.
        ("cited but wrong", outcome(FOUND, answer=answered(), correct=False), "wrong"),
        (None, outcome(FOUND, answer=answered("the yard"), correct=True), ""),
        (None, outcome(FOUND, answer=answered()), ""),
        # A quoted passage need not be the bare value.
        (
            None,
            outcome(FOUND, answer=answered("It stands in hall 7 since May.", extractive=True)),
            "",
        ),
        (
            "cited but wrong",
            outcome(FOUND, answer=answered("It stands in the yard.", extractive=True)),
            "wrong",
        ),
        ("not declined", outcome(FOUND, answerable=False, answer=answered()), "no answer"),
        (None, outcome(FOUND, answerable=False, answer=answered(declined=True)), ""),
        (None, outcome(FOUND), ""),
    ],
)
def test_each_way_an_answer_can_fail(cause: str | None, failed: Outcome, detail: str) -> None:
    found = answer_miss(failed)
    assert (found and found[0]) == cause
    assert detail in (found[1] if found else "")
    miss = case_miss(failed, K)
    assert (miss and miss.cause) == cause


def test_what_search_lost_is_not_put_on_the_answer() -> None:
    for answer in (answered(declined=True), answered("the yard", cited=OTHERS[:1])):
        miss = case_miss(outcome(FAR, answer=answer), K)
        assert miss is not None
        assert miss.cause == "ranked low"


pages = st.sampled_from([("a", 1), ("a", 2), ("b", 1), ("b", 2), ("c", 1)])
ranking = st.lists(pages, unique=True)
RANKINGS = ("retriever:dense", "retriever:sparse", "ungrouped", "grouped", "search")


@given(
    st.fixed_dictionaries(
        dict.fromkeys(
            ("retriever:dense", "retriever:sparse", "ungrouped", "grouped", "search"), ranking
        )
    ),
    st.lists(pages, min_size=1, max_size=3, unique=True),
    st.booleans(),
    st.lists(st.tuples(pages, pages), max_size=2),
    st.integers(1, 4),
    st.booleans(),
)
def test_every_miss_has_one_cause_and_a_hit_has_none(
    rankings: dict[str, list[PageKey]],
    gold: list[PageKey],
    text: bool,
    stands_for: list[tuple[PageKey, PageKey]],
    k: int,
    with_answer: bool,
) -> None:
    case = outcome(
        dict(rankings),
        gold=[page(key, characters=90 * text) for key in gold],
        stands_for=stands_for,
        answer=answered(cited=gold) if with_answer else None,
    )
    first = rankings["search"][:k]
    missed = page_misses(case, k)
    assert [miss.page for miss in missed] == [key for key in gold if key not in first]
    assert all(miss.cause in PAGE_CAUSES for miss in missed)
    miss = case_miss(case, k)
    if any(key in first for key in gold):
        assert miss is None
    else:
        assert miss is not None
        assert miss.cause in {one.cause for one in missed}
        assert miss.cause not in ANSWER_CAUSES
        assert miss.pages == missed


def test_misses_are_counted_and_listed(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    wrong = outcome(FOUND, answer=answered("the yard"), id="wrong")
    made_up = outcome(FOUND, answerable=False, answer=answered(), id="made-up")
    write_run(run([outcome(FAR, id="low"), wrong, outcome(FOUND, id="good"), made_up]), file)
    printed = CliRunner().invoke(app, ["eval", "misses", str(file)])
    assert printed.exit_code == 0, printed.stderr
    assert "3 of 4 cases failed; 1 of 3 gold pages are not among the first 2" in printed.stdout
    lines = printed.stdout.splitlines()
    rows = [line.split() for line in lines]
    # Cases; in the right document, in a wrong one, neither; gold pages.
    assert ["ranked", "low", "1", "1", "1"] in rows
    assert ["cited", "but", "wrong", "1", "1"] in rows
    assert ["not", "declined", "1"] in rows
    assert ["3", "1", "1", "1"] in rows
    assert (
        "low: ranked low (wrong document): dense ranks it 4; a.pdf p. 1; Where does the pump stand?"
    ) in lines
    assert any(line.startswith("wrong: cited but wrong: ") for line in lines)
    read = json.loads(CliRunner().invoke(app, ["eval", "misses", str(file), "--json"]).stdout)
    assert read["case_counts"] == {
        "ranked low": {"right_document": 0, "wrong_document": 1},
        "cited but wrong": {"right_document": 1, "wrong_document": 0},
        "not declined": {"right_document": 1, "wrong_document": 0},
    }
    assert read["page_counts"] == {"ranked low": {"right_document": 0, "wrong_document": 1}}
    assert [case["id"] for case in read["cases"]] == ["low", "wrong", "made-up"]
    # Among its first four the retriever had it.
    deeper = CliRunner().invoke(app, ["eval", "misses", str(file), "--json", "-k", "4"])
    assert json.loads(deeper.stdout)["cases"][0]["cause"] == "fusion"
