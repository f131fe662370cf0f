from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from api.cli import app
from evals.answers import (
    FIGURES,
    answer_contained,
    answer_format,
    answer_matches,
    answer_record,
    answer_tables,
    contains,
    mean_of,
    similarity,
    token_f1,
)
from evals.cases import Case
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
from generate.answer import NOT_FOUND
from pageglass.types import Answer, Citation, PageRef, Usage


def gold(answer: str | None, format: str = "", *, answerable: bool = True, **more: Any) -> Case:
    fields: dict[str, Any] = {"id": "a", "question": "What?", "document": "log.pdf", **more}
    return Case(answer=answer, answer_format=format, answerable=answerable, **fields)


def record(text: str, *pages: PageKey, extractive: bool = False, **more: Any) -> AnswerRecord:
    fields: dict[str, Any] = {
        "status": "answered",
        "citations": tuple(CitationRecord(page=p, quote="q", verified=True) for p in pages),
        "support": 1.0,
        "draft": text,
        "model": "m",
        "seconds": 0.1,
    }
    return AnswerRecord(text=text, extractive=extractive, **(fields | more))


DECLINED = record(NOT_FOUND, status="not_found", support=0.0)


def outcome(case: Case, answer: AnswerRecord | None, *pages: int, **more: Any) -> Outcome:
    found = tuple(GoldPage(page=("d0", p), characters=90, text_source="layer") for p in pages)
    return Outcome(case=case, gold=found, rankings={}, seconds=0.1, answer=answer, **more)


def run_of(*outcomes: Outcome, **more: Any) -> Run:
    fields: dict[str, Any] = {
        "version": "0",
        "made_at": "2026-01-02T03:04:05+00:00",
        "cases_file": "cases.jsonl",
        "cases_sha256": "0" * 64,
        "scope": "document",
        "k": 5,
        "profile": "lite",
        "settings": {},
        "documents": {"d0": DocumentFacts(name="log.pdf", pages=9, scanned=0)},
    }
    return Run(outcomes=outcomes, **(fields | more))


@pytest.mark.parametrize(
    ("format", "answer", "text", "score"),
    [
        ("Int", "12", "12", 1),
        ("Int", "12", "12.0", 1),
        ("Int", "2468", "2,468 thousand passengers", 1),
        ("Int", "12", "13", 0),
        ("Int", "12", "12 of 30 pumps", 0),
        ("Int", "12", "twelve", 0),
        ("Int", "-4", "\N{MINUS SIGN}4", 1),
        ("Int", "-4", "4", 0),
        ("Float", "21%", "21", 1),
        ("Float", "21%", "0.21", 1),
        ("Float", "0.21", "21 %", 1),
        ("Float", "155.98", "155.2", 1),
        ("Float", "155.98", "150.98", 0),
        ("Float", "18 Nm", "18 Nm", 1),
        ("Float", "$1,250.50", "1250.5 dollars", 1),
        ("Float", "-3.5", "(3.5)", 1),
        ("Float", "2400000", "2.4 million", 1),
        ("Float", "2.4", "2.4 million", 1),
        ("Float", "21%", "between 20 and 22 %", 0),
        ("Float", "21%", NOT_FOUND, 0),
        ("Float", "0.25", "0", 0),
        ("Float", "0", "0.0", 1),
        ("Float", "21.4%", "0.21", 1),
        ("Str", "The linkspan failed", "the linkspan failed", 1),
        ("Str", "The linkspan failed", "A crew of nine was ill", 0),
        ("Str", "https://pump.example/a", "https://pump.example/b", 0),
        ("Str", "9:30 a.m.", "9:30 a.m.", 1),
        ("Str", "9:30 a.m.", "9:35 a.m.", 0),
        ("Str", "2024-03-04", "2024-03-05", 0),
        ("Str", "555-0134", "555-0135", 0),
        ("Str", "ada@pump.example", "eda@pump.example", 0),
        ("Str", "page 12", "page 13", 0),
        ("Str", "feed.py", "feeds.py", 0),
        ("Date", "March", "march", 1),
        ("List", "['Oak', 'Lime']", "['Lime', 'Oak']", 1),
        ("List", "['Oak', 'Lime']", "Lime and Oak", 1),
        ("List", "['Oak', 'Lime', 'Elm']", "Lime, Oak, and Elm.", 1),
        ("List", "['Oak', 'Lime']", "- Oak\n- Lime", 1),
        ("List", "['Oak', 'Lime']", "1. Lime\n2. Oak", 1),
        ("List", "['Oak, red', 'Lime']", "Lime; Oak, red", 1),
        ("List", "['Oak', 'Lime']", "Oak", 0),
        ("List", "['Oak', 'Lime']", "['Oak', 'Lime', 'Elm']", 0),
        ("List", "['Oak', 'Lime']", "['Oak', 'Beech']", 0),
        ("List", "[16, 19]", "[16, 20]", 0),
        ("List", "[16, 19]", "19, 16", 1),
        ("List", "[]", "[]", 1),
        ("List", "[]", "Oak", 0),
        ("List", "[broken", "[broken", 1),
        ("List", "Oak 4 and Lime 7", "Oak 4 and Lime 7", 1),
    ],
)
def test_an_answer_matches_by_the_rules_of_its_format(
    format: str, answer: str, text: str, score: float
) -> None:
    assert answer_matches(gold(answer, format), text) == score


def test_strings_match_by_degrees_and_half_is_nothing() -> None:
    assert answer_matches(gold("bearing", "Str"), "bearings") == pytest.approx(1 - 1 / 8)
    assert similarity("abcd", "abxy") == 0
    assert similarity("abcd", "abcx") == 0.75
    assert similarity("", "") == 1
    # The worst pair of a list counts.
    case = gold("['bearing', 'shaft']", "List")
    assert answer_matches(case, "['bearings', 'shaft']") == pytest.approx(1 - 1 / 8)


def test_what_cannot_be_answered_is_right_when_declined() -> None:
    case = gold(None, "None", answerable=False)
    assert answer_matches(case, NOT_FOUND) == 1
    assert answer_matches(case, "") == 1
    assert answer_matches(case, "Not answerable") == 1
    assert answer_matches(case, "The Moravian pump") == 0


def test_without_a_gold_answer_nothing_is_scored() -> None:
    assert answer_matches(gold(None), "12") is None
    assert answer_matches(gold("  "), "12") is None
    assert answer_contained(gold(None), "12") is None
    assert answer_contained(gold(None, answerable=False), "12") is None


@pytest.mark.parametrize(
    ("answer", "format"),
    [("12", "Int"), ("12.5", "Float"), ("12%", "Float"), ("['a']", "List"), ("Oak", "Str")],
)
def test_a_format_that_is_not_named_is_seen_from_the_answer(answer: str, format: str) -> None:
    assert answer_format(gold(answer)) == format
    assert answer_format(gold(answer, "float")) == "Float"
    assert answer_format(gold(answer, answerable=False)) == "None"


@pytest.mark.parametrize(
    ("format", "answer", "text", "stands"),
    [
        ("Int", "312", "The city planted 312 lime trees in 2022.", True),
        ("Int", "31", "The city planted 312 lime trees in 2022.", False),
        ("Int", "2021", "The city planted 312 lime trees in 2022.", False),
        ("Float", "2468", "Passengers … 2,468 … 2,511", True),
        ("Float", "21%", "a share of 21 % in 2022", True),
        ("Float", "21%", "a share of 22 % in 2021", False),
        ("Str", "the feed pump", "It was, says the log, Feed Pump two.", True),
        ("Str", "pump feed", "It was, says the log, Feed Pump two.", False),
        ("Str", "2022", "planted in 2022.", True),
        ("Str", "The", "planted in the park", True),
        ("List", "['Oak', 'Lime']", "Limes no, but lime and oak", True),
        ("List", "['Oak', 'Elm']", "Limes no, but lime and oak", False),
        ("List", "['Chapter 2']", "see 2 in chapter 3", False),
    ],
)
def test_a_quoted_passage_contains_the_gold_value_or_not(
    format: str, answer: str, text: str, stands: bool
) -> None:
    assert answer_contained(gold(answer, format), text) == float(stands)


TEXTS = st.text(st.sampled_from("abc AB 12.,%-$()['];\u00a0é"), max_size=24)
WORDS = st.text(st.sampled_from("abcd xyz"), min_size=1, max_size=24)
FORMATS = st.sampled_from(["Int", "Float", "Str", "List", "None", "", "Date"])


@given(TEXTS, TEXTS, FORMATS, st.booleans())
def test_every_score_is_a_share_or_none(
    answer: str, text: str, format: str, answerable: bool
) -> None:
    case = gold(answer, format, answerable=answerable)
    for score in (answer_matches(case, text), answer_contained(case, text)):
        assert score is None or 0 <= score <= 1
    assert 0 <= token_f1(answer, text) <= 1


@given(TEXTS, FORMATS)
def test_the_gold_answer_itself_is_a_perfect_answer(answer: str, format: str) -> None:
    case = gold(answer, format)
    if answer.strip():
        assert answer_matches(case, answer) == 1
        assert token_f1(answer, answer) == 1
        if not answer.strip().startswith("["):
            assert answer_contained(case, answer) == 1


@given(WORDS, WORDS)
def test_strings_and_f1_do_not_care_which_is_gold(one: str, other: str) -> None:
    assert similarity(one, other) == similarity(other, one)
    assert token_f1(one, other) == token_f1(other, one)


@given(st.floats(-1e6, 1e6), st.floats(0.9, 1.1))
def test_floats_of_one_unit_do_not_care_which_is_gold(one: float, times: float) -> None:
    first, second = f"{one:.3f}", f"{one * times:.3f}"
    there = answer_matches(gold(first, "Float"), second)
    assert there == answer_matches(gold(second, "Float"), first)
    if 0.992 < times < 1.008 and abs(one) > 1:
        assert there == 1


@given(st.lists(WORDS.map(str.strip).filter(bool), min_size=1, max_size=4).flatmap(
    lambda items: st.tuples(st.just(items), st.permutations(items))
))  # fmt: skip
def test_the_order_of_a_list_is_no_matter(lists: tuple[list[str], list[str]]) -> None:
    items, shuffled = lists
    assert answer_matches(gold(repr(items), "List"), repr(shuffled)) == 1


def test_token_f1_is_squads() -> None:
    assert token_f1("The bearing ran dry.", "bearing ran") == pytest.approx(2 * 2 / 5)
    assert token_f1("dry dry", "dry") == pytest.approx(2 / 3)
    assert token_f1("", "") == 1
    assert token_f1("dry", "") == 0


def test_what_a_run_keeps_of_an_answer() -> None:
    citation = Citation(PageRef("d0", 4), "log.pdf", "v", "ran dry", (), verified=True)
    used = Usage("answer", "m@1", (), 70, 9, 1.0)
    answer = Answer(
        "It ran dry.", "answered", (citation,), (), "m", False, {}, (used, used), ("slow",),
        support=1.0, draft="It ran dry.",
    )  # fmt: skip
    kept = answer_record(answer, 2.5)
    assert kept.citations == (CitationRecord(page=("d0", 5), quote="ran dry", verified=True),)
    assert (kept.input_tokens, kept.output_tokens, kept.seconds) == (140, 18, 2.5)
    assert (kept.text, kept.status, kept.notes) == ("It ran dry.", "answered", ("slow",))


def judgement(correct: bool | None, reason: str = "") -> Judgement:
    return Judgement(model="j", prompt="judge-1-0", correct=correct, reason=reason)


def a_run() -> Run:
    """Two documents; every figure has something to count."""
    quoting = record("The pump failed on 4 March … 12 hours", ("d0", 1), ("d0", 9), extractive=True)
    return run_of(
        outcome(gold("12", "Int", id="a", sources=("Table",)), quoting, 1, 2,
                judgement=judgement(True)),
        outcome(gold("dry", "Str", id="b"), record("dry", ("d0", 3)), 3,
                judgement=judgement(None, "out of order")),
        outcome(gold("dry", "Str", id="c", document="b.pdf"), DECLINED, 1),
        outcome(gold(None, "None", id="d", answerable=False), DECLINED),
        outcome(gold(None, "None", id="e", answerable=False), record("Moravia", status="unverified",
                citations=(CitationRecord(page=("d0", 2), quote="x", verified=False),))),
        outcome(gold(None, "Str", id="f"), record("dry")),
        outcome(gold("dry", "Str", id="g"), None, 1),
        excluded=("line 3: no document 'x.pdf'",),
    )  # fmt: skip


def test_every_figure_of_a_run_with_its_count() -> None:
    tables = answer_tables(a_run())
    row = tables.overall["all"]
    # Of a, b, c, d, e; f has no gold answer and g no answer.
    assert (row["match"].n, row["match"].mean) == (5, pytest.approx(2 / 5))
    assert (row["contains"].n, row["contains"].mean) == (1, 1)
    assert (row["f1"].n, row["f1"].mean) == (3, pytest.approx(1.25 / 3))
    assert (row["judged"].n, row["judged"].mean) == (1, 1)
    # a cites 1 and 9 of 1 and 2, b 3 of 3; c declined, and f has no pages.
    assert (row["citation_precision"].n, row["citation_precision"].mean) == (2, 0.75)
    assert (row["citation_recall"].n, row["citation_recall"].mean) == (2, 0.75)
    assert (row["verified_quotes"].n, row["verified_quotes"].mean) == (4, 0.75)
    assert (row["declined_unanswerable"].n, row["declined_unanswerable"].mean) == (2, 0.5)
    assert (row["declined_answerable"].n, row["declined_answerable"].mean) == (4, 0.25)
    for mean in row.values():
        assert mean.low is not None
        assert mean.high is not None
        assert mean.mean is not None
        assert mean.low <= mean.mean <= mean.high
    assert set(tables.by_format) == {"Int", "Str", "None"}
    assert tables.by_format["None"]["match"].n == 2
    assert tables.by_format["Int"]["match"].mean == 0
    assert tables.by_source["Table"]["contains"].mean == 1
    assert tables.overall["unanswerable"]["citation_recall"].n == 0
    assert list(tables.excluded) == [
        "line 3: no document 'x.pdf'",
        "b: not judged: out of order",
        "f: it has no gold answer to match",
        "g: no answer is recorded",
    ]


def test_a_passage_is_never_scored_as_a_value_nor_a_value_as_a_passage() -> None:
    passage = record("In all, 312 lime trees were planted there.", extractive=True)
    quoted = outcome(gold("312", "Int"), passage)
    said = outcome(gold("312", "Int"), record("312"))
    assert FIGURES["match"](quoted) == [0]
    assert contains(quoted) == 1
    assert FIGURES["match"](said) == [1]
    assert contains(said) is None
    declined = DECLINED.model_copy(update={"extractive": True})
    assert contains(outcome(gold("312", "Int"), declined)) == 0


def test_where_all_are_alike_nothing_is_certain() -> None:
    assert mean_of({}).n == 0
    same = mean_of({f"d{i}": [1.0] * 9 for i in range(4)})
    assert (same.n, same.mean, same.high) == (36, 1, 1)
    # Four documents, not 36 cases: 1 / (1 + 1.96^2 / 4).
    assert same.low == pytest.approx(1 / (1 + 1.959964**2 / 4))
    alone = mean_of({"d": [0.0] * 9})
    assert alone.low == 0
    assert alone.high == pytest.approx(1 - 1 / (1 + 1.959964**2 / 9))


def test_the_tables_are_printed_for_people_and_programs(tmp_path: Path) -> None:
    write_run(a_run(), tmp_path / "run.json")
    done = CliRunner().invoke(app, ["eval", "answers", "run.json"])
    assert done.exit_code == 0, done.output
    (line,) = [one for one in done.stdout.splitlines() if one.startswith("format Int")][:1]
    assert "0.000 [0.000, 0.793] n=1" in line
    assert "excluded: 4" in done.stderr
    done = CliRunner().invoke(app, ["eval", "answers", "run.json", "--json"])
    tables = json.loads(done.stdout)
    assert tables["overall"]["all"]["match"]["n"] == 5
    assert len(tables["excluded"]) == 4


def test_a_run_without_answers_and_a_file_that_is_no_run_are_one_line(tmp_path: Path) -> None:
    write_run(run_of(outcome(gold("dry"), None, 1)), tmp_path / "run.json")
    (tmp_path / "other.json").write_text('{"a": 1}')
    for file, said in (("run.json", "no answers"), ("other.json", "is not a run")):
        done = CliRunner().invoke(app, ["eval", "answers", file])
        assert done.exit_code == 1
        assert said in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("case", "right", "wrong"),
    [
        (gold("183.4", scale="million"), ["183.4", "$183.4 million", "183.4m"], ["183.4 billion"]),
        (gold("88,848", "Str", scale="thousand"), ["88,848", "88.848 million"], ["88,848 million"]),
        (gold("0.98", "Float", scale="percent"), ["0.98", "0.98%", "0.98 %"], ["0.45%"]),
        (
            Case(id="l", question="?", document="d", answer=("ALP", "Liberal")),
            ["ALP and Liberal", "['Liberal', 'ALP']"],
            ["ALP", "ALP and Greens"],
        ),
        (Case(id="l", question="?", document="d", answer=("2018",)), ["2018"], ["2019"]),
    ],
)
def test_lists_and_numbers_with_a_scale_match_by_value(
    case: Case, right: list[str], wrong: list[str]
) -> None:
    assert [answer_matches(case, text) for text in right] == [1.0] * len(right)
    assert all((answer_matches(case, text) or 0.0) < 1 for text in wrong)
    assert all(answer_contained(case, f"It was {text}.") == 1 for text in right[:2])
