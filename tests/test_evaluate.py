from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pymupdf
import pytest
from typer.testing import CliRunner, Result

from api.cli import app
from api.services import Services
from evals.cases import Cases, CasesError
from evals.evaluate import cases_about, documents_here, documents_of_folder, evaluate
from evals.misses import find_misses
from evals.runs import (
    FUSION,
    RETRIEVER,
    WITHOUT,
    Judgement,
    Outcome,
    Run,
    ScopeName,
    read_run,
    write_run,
)
from pageglass.settings import load_settings
from pageglass.types import PageRef, Scope
from retrieval.profiles import PAGE_NUMBER
from tests.openai_server import openai_server
from tests.tiny import pdf

PUMP = "The feed pump of line two failed on 4 March because its bearing ran dry."
TREE = "The city planted 312 lime trees along the canal in the autumn of 2022."
BOAT = "The ferry to the island leaves at noon and carries forty passengers."
RETRIEVERS = {"sparse", "dense", "tokens"}


def case(id: str, question: str, pages: Sequence[int], **more: object) -> str:
    fields = {"id": id, "question": question, "document": "log.pdf", "pages": pages, **more}
    return json.dumps(fields)


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    pdf(folder / "log.pdf", [PUMP, TREE])
    pdf(folder / "harbour.pdf", [BOAT])
    return folder


def ran(
    services: Services,
    cases: Path,
    *,
    scope: ScopeName = "collection",
    answers: bool = False,
    collection: str | None = None,
) -> Run:
    found = documents_here(services, collection)
    chosen, ids = cases_about(cases, found)
    return evaluate(
        services,
        chosen,
        ids,
        cases_file=cases,
        scope=scope,
        k=5,
        answers=answers,
        collection=collection,
    )


def by_id(run: Run) -> dict[str, Outcome]:
    return {outcome.case.id: outcome for outcome in run.outcomes}


def test_every_ranking_is_made_of_the_same_lists(
    services: Services, docs: Path, tmp_path: Path
) -> None:
    list(services.ingest([docs]))
    file = tmp_path / "cases.jsonl"
    file.write_text(case("a", "Why did the feed pump fail?", [1], answer="its bearing ran dry"))
    (outcome,) = ran(services, file).outcomes
    assert {*outcome.rankings} == {
        "search",
        "grouped",
        "ungrouped",
        *(FUSION + fusion for fusion in ("rrf", "minmax", "dbsf")),
        *(RETRIEVER + name for name in RETRIEVERS),
        *(WITHOUT + name for name in RETRIEVERS),
    }
    hits = services.search("Why did the feed pump fail?", top_k=50).hits
    assert outcome.rankings["search"] == tuple((h.ref.document_id, h.ref.number) for h in hits)
    assert outcome.rankings["search"][0] in outcome.gold_pages
    searcher = services.searcher
    lists = searcher.rankings(searcher.encode("Why did the feed pump fail?"), Scope())
    for name, ranking in lists.items():
        expected = tuple((ref.document_id, ref.number) for ref, _ in ranking)
        assert outcome.rankings[RETRIEVER + name] == expected
        other = searcher.under(services.settings.search.model_copy(update={"weights": {name: 0}}))
        without = other.fuse(lists, 50)
        assert outcome.rankings[WITHOUT + name] == tuple(
            (hit.ref.document_id, hit.ref.number) for hit in without
        )
    (gold,) = outcome.gold
    assert gold.characters == len(PUMP)
    assert (gold.text_source, gold.failed, gold.deeper) == ("layer", (), None)
    assert gold.ranks == dict.fromkeys(RETRIEVERS, 1)
    assert outcome.seconds > 0
    assert outcome.answer is None


def test_other_settings_leave_the_searcher_as_it_is(services: Services, docs: Path) -> None:
    list(services.ingest([docs]))
    searcher = services.searcher
    question = "lime trees along the canal"
    before = searcher.search(question).hits
    other = searcher.under(services.settings.search.model_copy(update={"top_k": 1}))
    assert len(other.search(question).hits) == 1
    assert searcher.search(question).hits == before
    assert len(before) > 1


def test_scopes_and_collections_are_kept_to(services: Services, docs: Path, tmp_path: Path) -> None:
    list(services.ingest([docs]))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    pdf(elsewhere / "other.pdf", [PUMP.replace("March", "May")])
    list(services.ingest([elsewhere], collection="second"))
    file = tmp_path / "cases.jsonl"
    file.write_text(case("a", "Why did the feed pump fail?", [1]))

    def searched(run: Run) -> set[str]:
        return {run.documents[id].name for id, _ in run.outcomes[0].rankings["search"]}

    assert searched(ran(services, file)) == {"log.pdf", "harbour.pdf", "other.pdf"}
    default = ran(services, file, collection="default", answers=True)
    assert searched(default) == {"log.pdf", "harbour.pdf"}
    assert default.collection == "default"
    one = ran(services, file, scope="document", answers=True)
    assert searched(one) == {"log.pdf"}
    assert [facts.name for facts in one.documents.values()] == ["log.pdf"]
    for run in (default, one):
        answer = run.outcomes[0].answer
        assert answer is not None
        assert {citation.page for citation in answer.citations} == {*run.outcomes[0].gold_pages}
    unknown, _ = cases_about(file, documents_here(services, "second"))
    assert unknown.excluded == ("line 1: no document 'log.pdf'",)


def test_a_run_is_what_was_asked_and_how(services: Services, docs: Path, tmp_path: Path) -> None:
    list(services.ingest([docs]))
    file = tmp_path / "cases.jsonl"
    file.write_text(
        "\n".join(
            [
                case("a", "Why did the feed pump fail?", [1]),
                case("b", "Who sponsored the regatta?", [], answerable=False),
            ]
        )
    )
    run = ran(services, file, answers=True)
    a, b = by_id(run)["a"].answer, by_id(run)["b"].answer
    assert a is not None
    assert b is not None
    assert (a.declined, b.declined) == (False, True)
    assert a.extractive
    assert a.support is not None
    assert a.seconds > 0
    assert "bearing ran dry" in a.text
    assert b.support is not None
    assert run.settings["search"]["fusion"] == "minmax"
    assert "threshold" in run.settings["answer"]
    assert "api_key" not in json.dumps(run.settings)
    assert {facts.name: (facts.pages, facts.scanned) for facts in run.documents.values()} == {
        "log.pdf": (2, 0),
        "harbour.pdf": (1, 0),
    }
    assert (run.scope, run.k, run.profile) == ("collection", 5, "lite")


def test_pages_without_text_are_known_to_have_none(services: Services, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    drawn = pymupdf.open()
    for text in (PUMP, ""):
        sheet = drawn.new_page()
        if text:
            sheet.insert_textbox(pymupdf.Rect(72, 72, 523, 770), text)
        sheet.draw_rect(pymupdf.Rect(80, 200, 300, 400), fill=(0.2, 0.4, 0.6))
    drawn.save(folder / "log.pdf")
    list(services.ingest([folder]))
    file = tmp_path / "cases.jsonl"
    # k = 1: with a single page with text, another one cannot be shown.
    file.write_text(case("a", "How large is the blue box below the pump?", [2]))
    run = ran(services, file)
    (gold,) = run.outcomes[0].gold
    assert (gold.characters, gold.text_source) == (0, "none")
    assert next(iter(run.documents.values())).scanned == 1
    (miss,) = find_misses(run, 1).cases
    assert miss.cause == "no text"
    assert miss.document_found


def test_a_page_shown_by_its_twin_is_lost_to_duplicates(services: Services, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    pdf(folder / "log.pdf", [TREE, PUMP, PUMP])
    list(services.ingest([folder]))
    file = tmp_path / "cases.jsonl"
    question = "Why did the feed pump fail?"
    file.write_text("\n".join(case(f"c{number}", question, [number]) for number in (2, 3)))
    run = ran(services, file)
    id = next(iter(run.documents))
    # Either of the twins may be first; the case of the other is the one that fails.
    (miss,) = find_misses(run).cases
    shown, hidden = {"c2": (3, 2), "c3": (2, 3)}[miss.id]
    outcome = by_id(run)[miss.id]
    assert outcome.stands_for == (((id, hidden), (id, shown)),)
    assert (id, hidden) in outcome.rankings["ungrouped"]
    assert (id, hidden) not in outcome.rankings["grouped"]
    assert (miss.cause, miss.document_found) == ("duplicates", True)
    assert f"page {shown} stands for it" in miss.detail


def test_a_page_beyond_the_candidates_is_looked_for_deeper(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    pdf(folder / "log.pdf", [PUMP, TREE, BOAT])
    file = tmp_path / "cases.jsonl"
    file.write_text(case("a", "Why did the feed pump of line two fail?", [3]))
    flags = {"data_dir": tmp_path / "data", "search": {"candidates": 1}}
    with Services(load_settings(flags), command="test") as services:
        list(services.ingest([folder]))
        run = ran(services, file)
    (gold,) = run.outcomes[0].gold
    assert gold.ranks == {}
    assert gold.deeper in (2, 3)
    (miss,) = find_misses(run).cases
    assert miss.cause == "not retrieved"
    assert f"best rank {gold.deeper}" in miss.detail


def test_named_pages_are_a_list_of_their_own(
    services: Services, docs: Path, tmp_path: Path
) -> None:
    list(services.ingest([docs]))
    file = tmp_path / "cases.jsonl"
    file.write_text(case("a", "What stands on page 2 of the log?", [2]))
    (outcome,) = ran(services, file, scope="document").outcomes
    assert outcome.rankings[RETRIEVER + PAGE_NUMBER] == ((next(iter(outcome.gold_pages))),)
    assert WITHOUT + PAGE_NUMBER in outcome.rankings


def test_reranking_is_told_from_what_comes_before(
    docs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cases.jsonl"
    file.write_text(case("a", "Why did the feed pump fail?", [1]))
    with openai_server() as server:
        monkeypatch.setenv("PAGEGLASS_RERANK__URL", server.url)
        with Services(load_settings({"data_dir": tmp_path / "data"}), command="t") as services:
            list(services.ingest([docs]))
            (outcome,) = ran(services, file).outcomes
            searcher = services.searcher
            lists = searcher.rankings(searcher.encode("Why did the feed pump fail?"), Scope())
            fused = searcher.fuse(lists, 50)
            reranked = searcher.rerank("Why did the feed pump fail?", fused).hits
            server.misbehave("no_logprobs")
            (failed,) = ran(services, file).outcomes
    keys = [tuple((h.ref.document_id, h.ref.number) for h in of) for of in (fused, reranked)]
    assert [outcome.rankings["grouped"], outcome.rankings["search"]] == keys
    assert outcome.notes == ()
    # Where the model fails, the order before stands, and the case says so.
    assert failed.rankings["search"] == failed.rankings["grouped"]
    assert "logprobs" in failed.notes[0]


def test_documents_that_share_a_name_are_not_guessed_at(
    services: Services, docs: Path, tmp_path: Path
) -> None:
    list(services.ingest([docs]))
    second = tmp_path / "second"
    second.mkdir()
    pdf(second / "log.pdf", [BOAT])
    list(services.ingest([second], collection="second"))
    ids = [d.id for d in services.documents(collection="second")]
    file = tmp_path / "cases.jsonl"
    file.write_text(
        case("a", "When does the ferry leave?", [1])
        + "\n"
        + case("b", "When does the ferry leave?", [1], document=ids[0])
    )
    chosen, found = cases_about(file, documents_here(services))
    (line,) = chosen.excluded
    assert line.startswith("line 1: ")
    assert ids[0] in line
    assert found == {ids[0]: ids[0]}
    (outcome,) = ran(services, file).outcomes
    assert outcome.gold[0].page == (ids[0], 1)
    one, _ = cases_about(file, documents_here(services, "second"))
    assert len(one.usable) == 2


def test_a_folder_says_which_files_failed(services: Services, docs: Path) -> None:
    (docs / "broken.pdf").write_bytes(b"%PDF-1.7 nothing")
    told: list[str] = []
    found = documents_of_folder(services, docs, told=lambda file: told.append(file.path))
    assert {*found.shelf.pages} == {"log.pdf", "harbour.pdf", *found.shelf.ids.values()}
    (line,) = found.failed
    assert line.startswith("broken.pdf: ")
    assert len(told) == 3
    # In the data folder, the same document is known to have failed, and to have no pages.
    here = documents_here(services)
    assert len(here.failed) == 1
    assert here.shelf.count("broken.pdf") == 0


def eval_run(*args: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, args)])


def test_a_run_on_documents_that_are_indexed(docs: Path, tmp_path: Path) -> None:
    data, file, out = tmp_path / "mine", tmp_path / "cases.jsonl", tmp_path / "made" / "run.json"
    file.write_text(
        "\n".join(
            [
                case("a", "Why did the feed pump fail?", [1]),
                case("b", "When does the ferry leave?", [1], document="harbour.pdf"),
                case("c", "Why?", [9]),
                case("d", "Which " + "very " * 1000 + "long question?", [1]),
                case("e", "How many lime trees?", []),
                "{broken",
            ]
        )
    )
    args = ["--data-dir", data, "eval", "run", "--cases", file, "--out", out]
    nothing = eval_run(*args)
    assert nothing.exit_code == 1
    assert "is no data folder" in nothing.stderr
    assert not out.exists()
    with Services(load_settings({"data_dir": data}), command="test") as services:
        list(services.ingest([docs]))
    done = eval_run(*args, "-k", "3")
    assert done.exit_code == 0, done.stderr
    assert "2 cases of 2 documents, scope collection" in done.stdout
    assert "hit@3" in done.stdout
    assert "excluded: 3" in done.stderr
    assert "line 3: log.pdf has no page 9" in done.stderr
    assert "line 6: " in done.stderr
    assert "case d: the question has" in done.stderr
    assert "line 5: no gold pages: it is left out of the rankings" in done.stderr
    run = read_run(out)
    assert {*by_id(run)} == {"a", "b", "e"}
    assert len(run.excluded) == 3
    file.write_text(case("c", "Why?", [9]))
    none = eval_run(*args, "--force")
    assert none.exit_code == 1
    assert "can be used: line 1: log.pdf has no page 9" in none.stderr
    assert {*by_id(read_run(out))} == {"a", "b", "e"}
    wrong = eval_run(*args, "--scope", "page")
    assert wrong.exit_code == 2


def test_a_run_takes_the_place_of_nothing_but_a_run(docs: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "cases.jsonl", tmp_path / "run.json"
    file.write_text(case("a", "Why did the feed pump fail?", [1]))
    args = ["--data-dir", tmp_path / "mine", "eval", "run", "--docs", docs, "--cases", file]
    assert eval_run(*args, "--out", out).exit_code == 0
    # Nobody is there to be asked.
    first = out.read_bytes()
    refused = eval_run(*args, "--out", out)
    assert (refused.exit_code, out.read_bytes()) == (2, first)
    assert "is there already: choose another name, or --force" in refused.stderr
    assert eval_run(*args, "--out", out, "--force").exit_code == 0
    made = read_run(out)
    verdict = Judgement(model="m", prompt="p", correct=True)
    (one,) = made.outcomes
    judged = made.model_copy(update={"outcomes": (one.model_copy(update={"judgement": verdict}),)})
    write_run(judged, out)
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    for path, said in (
        (out, "has judgements or probes"),
        (notes, "is there and is no run"),
        (file, "is what is read"),
    ):
        before = path.read_bytes()
        refused = eval_run(*args, "--out", path, "--force")
        assert refused.exit_code == 2
        assert f"{path} {said}" in " ".join(refused.stderr.split())
        assert path.read_bytes() == before


def test_a_run_that_is_stopped_goes_on(
    docs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, file, out = tmp_path / "mine", tmp_path / "cases.jsonl", tmp_path / "run.json"
    kept = tmp_path / "run.json.partial"
    questions = ("Why did the feed pump fail?", "When did the pump fail?", "How many lime trees?")
    file.write_text("\n".join(case(str(n), q, [1]) for n, q in enumerate(questions)))
    args = ("--data-dir", data, "eval", "run", "--cases", file, "--out", out)
    with openai_server() as server:
        monkeypatch.setenv("PAGEGLASS_RERANK__URL", server.url)
        with Services(load_settings({"data_dir": data}), command="test") as services:
            list(services.ingest([docs]))

        def stopped(after: int) -> Result:
            server.requests.clear()
            server.misbehave("hanging", after=after)

            def stop() -> None:
                until = time.monotonic() + 60
                while len(server.completions) <= after and time.monotonic() < until:
                    time.sleep(0.05)
                os.kill(os.getpid(), signal.SIGINT)

            stopper = threading.Thread(target=stop)
            stopper.start()
            done = eval_run(*args)
            stopper.join()
            server.behave()
            assert done.exit_code == 130, done.output
            assert not out.exists()
            return done

        other = tmp_path / "other.json"
        assert eval_run(*args[:-1], other).exit_code == 0
        whole = len(server.completions)
        each = whole // len(questions)
        done = stopped(0)
        assert "stopped before anything was done" in done.stderr
        assert not kept.exists()
        done = stopped(each)
        said = f"what is done is kept in {kept.name}: run the same command again to go on"
        assert said in " ".join(done.stderr.split())
        assert len(kept.read_bytes().splitlines()) == 2
        # As a crash would leave it.
        kept.write_bytes(kept.read_bytes() + b'{"name": "1", "pie')
        server.requests.clear()
        done = eval_run(*args)
        assert done.exit_code == 0, done.output
        assert "going on: 1 done already" in done.stderr
        assert len(server.completions) == whole - each
    assert not kept.exists()
    assert [one.case.id for one in read_run(out).outcomes] == ["0", "1", "2"]
    for one, same in zip(read_run(out).outcomes, read_run(other).outcomes, strict=True):
        assert one.rankings == same.rankings


def test_what_was_kept_of_another_run_is_not_taken_over(
    services: Services, docs: Path, tmp_path: Path
) -> None:
    list(services.ingest([docs]))
    file, keep = tmp_path / "cases.jsonl", tmp_path / "run.json.partial"
    file.write_text(case("a", "Why did the feed pump fail?", [1]))
    chosen, ids = cases_about(file, documents_here(services))
    resumed: list[int] = []

    def once(k: int) -> Run:
        return evaluate(
            services,
            chosen,
            ids,
            cases_file=file,
            scope="collection",
            k=k,
            answers=True,
            keep=keep,
            resumed=resumed.append,
        )

    first = once(5)
    assert once(5).outcomes == first.outcomes  # To the microsecond: it was not asked again.
    assert resumed == [1]
    assert once(4).outcomes != first.outcomes
    assert once(5).outcomes != first.outcomes
    assert resumed == [1]


def test_a_run_on_a_folder_leaves_other_documents_alone(docs: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "cases.jsonl", tmp_path / "run.json"
    file.write_text(case("a", "Why did the feed pump fail?", [1]))
    args = ["eval", "run", "--cases", file, "--docs", docs, "--out", out]
    done = eval_run(*args, "--answers", "--json")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["run"], result["cases"], result["k"]) == (str(out), 1, 5)
    (folder,) = Path(".evals").iterdir()
    assert (folder / "catalog.sqlite").exists()
    assert not (tmp_path / "xdg").exists()
    first = read_run(out)
    assert first.outcomes[0].answer is not None
    # The index is kept, but what is gone from the folder is not searched.
    (docs / "harbour.pdf").unlink()
    again = eval_run(*args, "--answers", "--force")
    assert "unchanged" in again.stderr
    second = read_run(out)
    assert [facts.name for facts in second.documents.values()] == ["log.pdf"]
    searched, before = (
        {document for document, _ in run.outcomes[0].rankings["search"]} for run in (second, first)
    )
    assert searched == {*second.documents}
    assert before == {*first.documents} > searched
    assert second.outcomes[0].answer is not None
    both = eval_run(*args, "--collection", "default")
    assert (both.exit_code, "leave --collection out" in both.stderr) == (2, True)


def test_a_file_of_cases_that_cannot_be_read_is_named(
    services: Services, docs: Path, tmp_path: Path
) -> None:
    list(services.ingest([docs]))
    with pytest.raises(CasesError, match=r"cannot read .*none\.jsonl"):
        cases_about(tmp_path / "none.jsonl", documents_here(services))


def test_a_page_of_a_document_that_is_gone_has_no_text(
    services: Services, docs: Path, tmp_path: Path
) -> None:
    """Pages of a document whose indexing stopped half way are pages nothing was read on."""
    list(services.ingest([docs]))
    file = tmp_path / "cases.jsonl"
    file.write_text(case("a", "How many lime trees?", [2]))
    chosen, ids = cases_about(file, documents_here(services))
    services.remove(ids["log.pdf"])
    assert services.catalog.pages([PageRef(ids["log.pdf"], 1)]) == {}
    run = evaluate(
        services,
        Cases(chosen.usable, ()),
        ids,
        cases_file=file,
        scope="collection",
        k=5,
        answers=False,
    )
    (miss,) = find_misses(run).cases
    assert (miss.cause, miss.document_found) == ("no text", False)
