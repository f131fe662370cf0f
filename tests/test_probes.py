from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from api.cli import app
from api.services import Services
from evals.cases import Case
from evals.probes import (
    GAVE_GOLD,
    SAMPLINGS,
    Mentions,
    Probe,
    absence_probes,
    ask_probes,
    fell_for_it,
    make_probes,
    negative_probes,
    polling,
    rates,
    things,
    trap_probes,
    yes_or_no,
)
from evals.runs import ProbeOutcome, read_run
from pageglass.errors import PageNotFound, QuestionError
from pageglass.settings import Settings, load_settings
from pageglass.types import Page, PageRef
from tests.openai_server import openai_server
from tests.test_eval_answers import DECLINED, gold, record
from tests.tiny import page, pdf

PUMP = "The feed pump of line two failed on 4 March because its bearing ran dry in Vilna Works."
TREE = "The city planted 312 lime trees along the canal near Vilna Works in the autumn of 2022."
FERRY = "The ferry Hest Maid sails to Brannoch at noon and Vilna Works pays 48 crowns for it."
DRY = "In winter the ferry Hest Maid lies at Brannoch and the crew of Ostrel mends her sails."
PAGES = [page(text, index=i) for i, text in enumerate([PUMP, TREE, FERRY, DRY])]
KNOWN = Mentions.of(PAGES)
REF = (PageRef("d0", 0),)


def test_a_page_mentions_names_or_else_its_long_words() -> None:
    assert list(things(PAGES[0]).values()) == ["March", "Vilna Works"]
    assert list(things(PAGES[2]).values()) == ["Hest Maid", "Brannoch", "Vilna Works"]
    assert "bearing" in things(page("its bearing ran dry and the shaft broke.")).values()
    assert things(page("")) == {}


def test_every_sampling_asks_of_what_is_elsewhere_and_not_here() -> None:
    # Not here, by how many pages they are on: Hest Maid and Brannoch 2, Ostrel and March 1.
    assert KNOWN.absent(PAGES[1], "popular", 2, "") == ["Brannoch", "Hest Maid"]
    # Vilna Works, which is here, stands beside Hest Maid, Brannoch and March; never by Ostrel.
    found = KNOWN.absent(PAGES[3], "adversarial", 9, "")
    assert found == ["Vilna Works", "March"]
    assert KNOWN.absent(PAGES[1], "adversarial", 9, "")[2:] == ["March", "Ostrel"]
    random = KNOWN.absent(PAGES[1], "random", 9, "seed")
    assert sorted(random) == ["Brannoch", "Hest Maid", "March", "Ostrel"]


def test_what_might_be_read_there_is_not_called_absent() -> None:
    banks = page("The Hest-\nMaid and the Brannochs of old meet on Monday.", index=9)
    known = Mentions.of([*PAGES, banks])
    assert {"Brannoch", "Hest Maid"}.isdisjoint(known.absent(banks, "random", 99, ""))


def test_absent_and_present_things_are_balanced_and_the_same_for_a_seed() -> None:
    probes = absence_probes(PAGES, KNOWN, each=2, seed=3)
    assert probes == absence_probes(PAGES, KNOWN, each=2, seed=3)
    assert probes != absence_probes(PAGES, KNOWN, each=2, seed=4)
    for asked in PAGES:
        mine = [probe for probe in probes if probe.pages == (asked.ref,)]
        present = [probe for probe in mine if probe.kind == "present"]
        assert present
        assert all(probe.truth in asked.text for probe in present)
        for sampling in SAMPLINGS:
            absent = [probe for probe in mine if probe.id.startswith(f"absent:{sampling}:")]
            assert len(absent) == len(present)
            assert not any(probe.truth in asked.text for probe in absent)
    assert len({probe.id for probe in probes}) == len(probes)
    # A page that is all there is has nothing else to be asked about.
    assert absence_probes(PAGES[:1], Mentions.of(PAGES[:1])) == []


def test_a_trap_is_a_sentence_with_one_thing_that_stands_nowhere_on_the_page() -> None:
    probes = trap_probes(PAGES, KNOWN, seed=1)
    assert probes == trap_probes(PAGES, KNOWN, seed=1)
    assert [probe.pages[0].index for probe in probes] == [0, 1, 2, 3]
    for probe, asked in zip(probes, PAGES, strict=True):
        assert probe.truth in asked.text
        assert probe.falsehood not in asked.text
        assert probe.falsehood in probe.question
        sentence = asked.text.replace("\n", " ").replace(probe.truth, probe.falsehood, 1)
        assert probe.question == f"Where does it say that {sentence[0].lower()}{sentence[1:-1]}?"
    # No number on the last page: a name gives way to another.
    assert probes[3].truth in {"Hest Maid", "Brannoch", "Ostrel"}
    assert probes[3].falsehood in {"Vilna Works", "March"}


LETTERS = st.sampled_from(
    "The Hest Maid 12 1,204.5 2019 3.5 ran to Ostrel by 7 of 12. It was".split()
)


@given(st.lists(LETTERS, min_size=6, max_size=40), st.integers(0, 99))
def test_traps_claim_what_is_not_there(words: list[str], seed: int) -> None:
    asked = page(" ".join([*words, "and so it ended."]), index=7)
    for probe in trap_probes([asked], Mentions.of([*PAGES, asked]), each=3, seed=seed):
        assert probe.falsehood not in asked.text.split()
        assert probe.truth in asked.text
        assert probe.falsehood in probe.question


# What it means to fall for it


def outcome_of(kind: Any, fell: bool | None, id: str = "x", reason: str = "") -> ProbeOutcome:
    return ProbeOutcome(
        kind=kind, id=id, question="Is it?", document="d0", answer=DECLINED,
        fell_for_it=fell, reason=reason,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["absent", "negative_pages", "trap"])
def test_declining_is_never_falling_for_it_but_denies_what_is_there(kind: Any) -> None:
    assert fell_for_it(Probe(kind, "x", "Is it?", REF, truth="4"), DECLINED)[0] is False
    assert fell_for_it(Probe("present", "x", "Is it?", REF), DECLINED)[0] is True


@pytest.mark.parametrize(
    ("text", "extractive", "yes"),
    [
        ("Yes.", False, True),
        ("Yes, it is mentioned, though not at length.", False, True),
        ("No, it is not.", False, False),
        ("Hest Maid is mentioned in line 2.", False, True),
        ("The page does not mention it.", False, False),
        ("It isn't mentioned here.", False, False),
        ("There is a pump.", False, None),
        ("There is a pump.", True, True),
    ],
)
def test_a_yes_to_what_is_absent_and_a_no_to_what_is_present(
    text: str, extractive: bool, yes: bool | None
) -> None:
    answer = record(text, extractive=extractive)
    if not extractive:
        assert yes_or_no(text) is yes
    denied = None if yes is None else not yes
    assert fell_for_it(Probe("absent", "x", "Is it?", REF), answer)[0] is yes
    assert fell_for_it(Probe("present", "x", "Is it?", REF), answer)[0] is denied


def test_any_answer_without_the_evidence_is_one_too_many_and_the_gold_one_is_worst() -> None:
    probe = Probe("negative_pages", "x", "How many?", REF, case=gold("312", "Int"))
    assert fell_for_it(probe, record("40", ("d0", 2))) == (True, "it answers without the evidence")
    assert fell_for_it(probe, record("312", ("d0", 2))) == (True, GAVE_GOLD)
    assert fell_for_it(probe, record("312 lime trees", extractive=True))[1] != GAVE_GOLD
    quoted = record("In all, 312 trees were planted there.", ("d0", 2), extractive=True)
    assert fell_for_it(probe, quoted) == (True, GAVE_GOLD)


@pytest.mark.parametrize(
    ("text", "extractive", "fell"),
    [
        ("It says 512 on page 1.", False, True),
        ("On page 1, under Trees.", False, True),
        ("It says 312.", False, False),
        ("It does not say that.", False, False),
        ("The city planted 312 lime trees.", True, False),
        ("No trees were planted in 1312.", True, True),
    ],
)
def test_a_trap_is_escaped_by_the_truth_or_a_denial(
    text: str, extractive: bool, fell: bool
) -> None:
    probe = Probe("trap", "x", "Where?", REF, truth="312", falsehood="512")
    assert fell_for_it(probe, record(text, extractive=extractive))[0] is fell


# Rates


def test_rates_are_by_kind_with_what_could_not_be_told() -> None:
    outcomes = [
        outcome_of("absent", True, "absent:random:a"),
        outcome_of("absent", False, "absent:popular:a"),
        outcome_of("absent", None, "absent:popular:b"),
        outcome_of("present", False),
        outcome_of("negative_pages", True, reason=GAVE_GOLD),
        outcome_of("negative_pages", True),
        outcome_of("trap", None),
    ]
    found = rates(outcomes)
    assert list(found) == [
        "absent", "absent: popular", "absent: random", "negative_pages", "negative_pages: gold",
        "present", "trap",
    ]  # fmt: skip
    assert (found["absent"].fell, found["absent"].n, found["absent"].unclear) == (1, 2, 1)
    assert (found["absent: popular"].fell, found["absent: popular"].n) == (0, 1)
    assert found["negative_pages"].rate == 1
    assert found["negative_pages: gold"].rate == 0.5
    assert (found["trap"].n, found["trap"].rate, found["trap"].unclear) == (0, None, 1)


def test_polling_tells_who_always_says_yes() -> None:
    yes_sayer = [outcome_of("absent", True, f"absent:random:{i}") for i in range(4)]
    yes_sayer += [outcome_of("present", False, f"present:{i}") for i in range(4)]
    found = polling(yes_sayer)["random"]
    assert (found.n, found.accuracy, found.yes) == (8, 0.5, 1)
    assert (found.precision, found.recall) == (0.5, 1)
    assert found.f1 == pytest.approx(2 / 3)
    no_sayer = [outcome_of("absent", False, "absent:random:1"), outcome_of("present", True)]
    found = polling(no_sayer)["random"]
    assert (found.accuracy, found.yes, found.precision, found.f1) == (0.5, 0, None, None)
    assert polling([]) == {}


# Asked of the real thing


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings({"data_dir": tmp_path / "data", "ingest": {"workers": 0}})


@pytest.fixture
def ids(services: Services, tmp_path: Path) -> Iterator[Mapping[str, str]]:
    """Two documents; the second page of the log is there twice."""
    log = pdf(tmp_path / "log.pdf", [PUMP, TREE, TREE, FERRY])
    other = pdf(tmp_path / "other.pdf", [DRY])
    found: dict[str, str] = {}
    for done in services.ingest([log, other]):
        assert done.document is not None
        found[done.document.name] = done.document.id
    yield found


def a_case(id: str, question: str, pages: tuple[int, ...], answer: str, **more: Any) -> Case:
    return Case(id=id, question=question, document="log.pdf", pages=pages, answer=answer, **more)


TREES = a_case("trees", "How many lime trees were planted along the canal?", (2,), "312")
REGATTA = a_case("regatta", "Who sponsored the regatta?", (), "", answerable=False)


def test_an_answer_comes_from_the_pages_given_and_no_others(
    services: Services, ids: Mapping[str, str]
) -> None:
    log = ids["log.pdf"]
    answer = services.answer_from(TREES.question, [PageRef(log, 0), PageRef(log, 1)])
    assert [hit.ref.number for hit in answer.hits] == [1, 2]
    assert {citation.ref.number for citation in answer.citations} == {2}
    assert "312" in answer.text
    elsewhere = services.answer_from(TREES.question, [PageRef(ids["other.pdf"], 0)])
    assert elsewhere.status == "not_found"
    assert services.answer_from(TREES.question, []).status == "not_found"
    with pytest.raises(PageNotFound):
        services.answer_from(TREES.question, [PageRef(log, 9)])
    with pytest.raises(QuestionError):
        services.answer_from(" ", [PageRef(log, 0)])


def test_negative_pages_leave_out_the_evidence_and_what_looks_the_same(
    services: Services, ids: Mapping[str, str]
) -> None:
    ((probe,), excluded) = negative_probes(services, [TREES, REGATTA], ids, scope="document")
    assert excluded == []
    log = ids["log.pdf"]
    assert set(probe.pages) == {PageRef(log, 0), PageRef(log, 3)}
    ((probe,), _) = negative_probes(services, [TREES], ids, scope="collection")
    assert PageRef(ids["other.pdf"], 0) in probe.pages
    alone = Case(id="o", question="Where does she lie?", document="other.pdf", pages=(1,))
    found, excluded = negative_probes(services, [alone], ids, scope="document")
    assert found == []
    assert excluded == ["o: no page is left to ask"]


def test_probes_are_made_asked_and_recorded(services: Services, ids: Mapping[str, str]) -> None:
    made = make_probes(services, [TREES, REGATTA], ids, scope="collection", seed=5)
    assert made == make_probes(services, [TREES, REGATTA], ids, scope="collection", seed=5)
    assert {probe.kind for probe in made.probes} == {"absent", "present", "negative_pages", "trap"}
    told: list[ProbeOutcome] = []
    outcomes = ask_probes(services, made.probes, told=told.append)
    assert told == outcomes
    assert [one.id for one in outcomes] == [probe.id for probe in made.probes]
    # Whoever only quotes is never unclear.
    assert all(one.answer.extractive and one.fell_for_it is not None for one in outcomes)
    for probe, one in zip(made.probes, outcomes, strict=True):
        cited = {citation.page for citation in one.answer.citations}
        assert cited <= {(ref.document_id, ref.number) for ref in probe.pages}


def test_a_limit_takes_some_and_more_take_these_too(
    services: Services, ids: Mapping[str, str]
) -> None:
    cases = [a_case(f"c{i}", f"What of {i}?", (1 + i % 4,), "x") for i in range(9)]
    asked: list[set[str]] = []
    for limit in (2, 5):
        made = make_probes(services, cases, ids, scope="document", limit=limit)
        asked.append({p.id for p in made.probes if p.kind == "negative_pages"})
        assert len(asked[-1]) == limit
    assert asked[0] < asked[1]


def test_a_model_is_asked_like_a_quoting_one(settings: Settings, tmp_path: Path) -> None:
    with openai_server() as server:
        server.context = 10_000
        given = settings.model_copy(
            update={"answer": settings.answer.model_copy(update={"url": server.url})}
        )
        with Services(given, command="test") as services:
            (done,) = services.ingest([pdf(tmp_path / "log.pdf", [PUMP, TREE])])
            assert done.document is not None
            ids = {"log.pdf": done.document.id}
            probes = make_probes(services, [TREES], ids, scope="document").probes
            absent = next(probe for probe in probes if probe.kind == "absent")
            server.saying = '{"found": true, "citations": [], "answer": "Yes, it is."}'
            (fell,) = ask_probes(services, [absent])
            assert (fell.fell_for_it, fell.reason) == (True, "yes")
            server.saying = '{"found": true, "citations": [], "answer": "No, it is not."}'
            (stood,) = ask_probes(services, [absent])
            assert (stood.fell_for_it, stood.answer.extractive) == (False, False)
            server.saying = '{"found": true, "citations": [], "answer": "It is an old pump."}'
            (unclear,) = ask_probes(services, [absent])
            assert unclear.fell_for_it is None
            assert absent.question in server.completions[0].text
            server.misbehave("broken_body")
            (away,) = ask_probes(services, [absent])
            assert away.fell_for_it is None
            assert "away" in away.reason


# The command


def invoke(*args: str) -> Any:
    return CliRunner().invoke(app, ["eval", "probes", *args])


def write_cases(path: Path, *cases: Case) -> None:
    path.write_text("\n".join(case.model_dump_json() for case in cases))


def test_the_command_writes_a_run_and_adds_to_it(
    ids: Mapping[str, str], services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = ids["log.pdf"]
    services.close()
    monkeypatch.setenv("PAGEGLASS_DATA_DIR", str(tmp_path / "data"))
    lost = a_case("lost", "Why?", (99,), "x")
    write_cases(
        tmp_path / "cases.jsonl", TREES, REGATTA.model_copy(update={"origin": "logged"}), lost
    )
    done = invoke("--cases", "cases.jsonl", "--out", "run.json", "--scope", "document")
    assert done.exit_code == 0, done.output
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("negative_pages  ")]
    assert " of 1 fell for it" in line
    assert "excluded: 1" in done.stderr
    assert "has no page 99" in done.stderr
    run = read_run(tmp_path / "run.json")
    assert run.outcomes == ()
    assert "1 case was made by a program" in "".join(run.remarks)
    assert "1 case was made by a program" in done.stderr
    assert (run.scope, run.collection) == ("document", None)
    assert [facts.name for facts in run.documents.values()] == ["log.pdf"]
    assert {probe.kind for probe in run.probes} == {"absent", "present", "negative_pages", "trap"}
    again = invoke("--cases", "cases.jsonl", "--out", "run.json", "--scope", "document", "--json")
    found = json.loads(again.stdout)
    assert found["rates"]["trap"]["n"] == 1
    assert [p.id for p in read_run(tmp_path / "run.json").probes] == [p.id for p in run.probes]
    # Documents can be named by id.
    write_cases(tmp_path / "named.jsonl", TREES.model_copy(update={"document": log}))
    args = ("--cases", "named.jsonl", "--out", "named.json", "--collection", "default")
    named = invoke(*args, "--limit", "1")
    assert named.exit_code == 0, named.output
    run = read_run(tmp_path / "named.json")
    assert (run.collection, run.documents[log].name) == ("default", log)
    assert len(run.documents) == 2
    nobody = invoke("--cases", "cases.jsonl", "--out", "new.json", "--collection", "nobody")
    assert (nobody.exit_code, "no collection 'nobody'" in nobody.stderr) == (2, True)
    other = invoke("--cases", "cases.jsonl", "--out", "run.json", "--scope", "collection")
    assert other.exit_code == 1
    assert "another scope" in other.stderr
    write_cases(tmp_path / "cases.jsonl", lost)
    none = invoke("--cases", "cases.jsonl", "--out", "new.json")
    assert none.exit_code == 1
    assert "has no page 99" in none.stderr
    assert not (tmp_path / "new.json").exists()


def test_a_page_without_text_is_named(services: Services, tmp_path: Path) -> None:
    (done,) = services.ingest([pdf(tmp_path / "log.pdf", [PUMP, ""])])
    assert done.document is not None
    case = a_case("blank", "What is there?", (2,), "x")
    made = make_probes(services, [case], {"log.pdf": done.document.id}, scope="document")
    assert made.excluded == ["page 2 of log.pdf: it has no text"]
    assert all(isinstance(probe, Probe) and probe.kind == "negative_pages" for probe in made.probes)


def test_pages_of_any_script_can_be_asked_about() -> None:
    greek: list[Page] = [
        page("ο πλάτανος στην πλατεία", index=8),
        page("η θάλασσα λάμπει", index=9),
    ]
    probes = absence_probes(greek, Mentions.of(greek))
    assert {probe.kind for probe in probes} == {"absent", "present"}
