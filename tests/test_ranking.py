from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from api.cli import app
from evals.cases import Case
from evals.ranking import (
    CaseScores,
    ablation,
    compare,
    differences,
    mean_by_document,
    ranking_tables,
    rankings_of,
    score_cases,
    score_rankings,
    unpaired_cases,
)
from evals.runs import DocumentFacts, GoldPage, Outcome, PageKey, Run, RunError, read_run, write_run

PAGES = [(document, number) for document in ("a", "b") for number in range(1, 13)]


def outcome(
    id: str, gold: Sequence[PageKey], rankings: Mapping[str, Sequence[PageKey]], **more: object
) -> Outcome:
    """A case about the document of its first gold page, and its rankings."""
    document = gold[0][0] if gold else "a"
    case = {
        "id": id,
        "question": f"What of {id}?",
        "document": f"{document}.pdf",
        "pages": [number for _, number in gold],
        **more,
    }
    return Outcome(
        case=Case.model_validate(case),
        gold=tuple(GoldPage(page=page, characters=9, text_source="layer") for page in gold),
        rankings={name: tuple(pages) for name, pages in rankings.items()},
        seconds=0.1,
    )


def run(outcomes: Sequence[Outcome], **more: object) -> Run:
    fields: dict[str, object] = {
        "version": "0",
        "made_at": "2026-01-01T00:00:00+00:00",
        "cases_file": "cases.jsonl",
        "cases_sha256": "0",
        "scope": "collection",
        "k": 5,
        "profile": "lite",
        "settings": {},
        "documents": {"a": DocumentFacts(name="a.pdf", pages=12, scanned=0)},
        "outcomes": tuple(outcomes),
    }
    return Run.model_validate(fields | more)


def by_hand(ranking: Sequence[PageKey], gold: set[PageKey], k: int) -> list[float]:
    """Hit, recall, reciprocal rank and nDCG, as their definitions have it."""
    right = [page in gold for page in ranking]
    gain = sum(1 / math.log2(n + 2) for n, there in enumerate(right[:k]) if there)
    ideal = sum(1 / math.log2(n + 2) for n in range(min(k, len(gold))))
    return [
        float(any(right[:k])),
        sum(right[:k]) / len(gold),
        1 / (right.index(True) + 1) if any(right) else 0.0,
        gain / ideal,
    ]


rankings_strategy = st.lists(
    st.tuples(
        st.lists(st.sampled_from(PAGES), unique=True),
        st.sets(st.sampled_from(PAGES), min_size=1, max_size=6),
    ),
    min_size=1,
    max_size=6,
)


@given(rankings_strategy, st.integers(1, 8))
def test_metrics_are_what_their_definitions_say(
    rankings: list[tuple[list[PageKey], set[PageKey]]], k: int
) -> None:
    for scores, (ranking, gold) in zip(score_rankings(rankings, k), rankings, strict=True):
        assert [*scores] == [f"hit@{k}", f"page-recall@{k}", "mrr", f"ndcg@{k}"]
        assert [*scores.values()] == pytest.approx(by_hand(ranking, gold, k))


def test_metrics_of_a_ranking_worked_out_on_paper() -> None:
    ranking = [("d", 7), ("d", 2), ("d", 9), ("d", 1)]
    gold = [("d", 1), ("d", 2)]
    (scores,) = score_rankings([(ranking, gold)], 3)
    assert scores["hit@3"] == 1
    assert scores["page-recall@3"] == 0.5
    assert scores["mrr"] == 0.5
    assert scores["ndcg@3"] == pytest.approx((1 / math.log2(3)) / (1 + 1 / math.log2(3)))
    (scores,) = score_rankings([([], gold)], 3)
    assert [*scores.values()] == [0, 0, 0, 0]
    # Pages of equal names in two documents are two pages, whatever the names hold.
    (scores,) = score_rankings([([("a/1", 2)], [("a", 12)])], 3)
    assert scores["hit@3"] == 0


def test_cases_that_cannot_be_right_are_left_out() -> None:
    there = outcome("a", [("a", 1)], {"search": [("a", 1)]})
    nowhere = outcome("b", [], {"search": [("a", 1)]})
    none = outcome("c", [], {"search": [("a", 1)]}, answerable=False)
    without = outcome("d", [("a", 1)], {})
    scored = score_cases([there, nowhere, none, without], 5)
    assert [(one.id, one.scores["hit@5"]) for one in scored] == [("a", 1), ("d", 0)]
    tables = ranking_tables(run([there, nowhere, none, without]))
    assert (tables.cases, tables.documents) == (2, 1)


values = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.floats(0, 1, allow_subnormal=False)),
    min_size=1,
    max_size=60,
)


@given(values)
def test_an_interval_is_around_the_mean_and_within_the_documents(
    values: list[tuple[str, float]],
) -> None:
    mean = mean_by_document(values)
    assert mean is not None
    assert mean.value == pytest.approx(sum(value for _, value in values) / len(values))
    assert mean.cases == len(values)
    documents = {document for document, _ in values}
    assert mean.documents == len(documents)
    if len(documents) == 1:
        assert (mean.low, mean.high) == (None, None)
        return
    assert mean.low is not None
    assert mean.high is not None
    assert mean.low <= mean.value <= mean.high
    # No draw of documents has a mean beyond those of single documents.
    means = [
        sum(v for d, v in values if d == one) / sum(d == one for d, _ in values)
        for one in documents
    ]
    assert min(means) - 1e-9 <= mean.low
    assert mean.high <= max(means) + 1e-9
    assert mean_by_document(values) == mean


def test_an_interval_widens_where_cases_of_a_document_fall_together() -> None:
    assert mean_by_document([]) is None
    together = mean_by_document([(f"d{n % 10}", float(n % 10 < 5)) for n in range(100)])
    apart = mean_by_document([(f"d{n}", float(n % 10 < 5)) for n in range(100)])
    assert together is not None
    assert apart is not None
    assert together.value == apart.value == 0.5
    widths = [(one.high or 0) - (one.low or 0) for one in (together, apart)]
    # Ten clusters instead of a hundred cases: about the square root of ten.
    assert 2.5 < widths[0] / widths[1] < 4


def scores(id: str, document: str, value: float) -> CaseScores:
    return CaseScores(id, document, {"hit@5": value})


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans(), st.booleans()), min_size=1))
def test_wins_losses_and_ties_are_all_cases(cases: list[tuple[str, bool, bool]]) -> None:
    pairs = [
        (scores(str(n), document, float(a)), scores(str(n), document, float(b)))
        for n, (document, a, b) in enumerate(cases)
    ]
    (one,) = differences(pairs)
    assert (one.wins, one.losses) == (
        sum(b > a for _, a, b in cases),
        sum(b < a for _, a, b in cases),
    )
    assert one.cases == len(cases)
    assert one.difference == pytest.approx(one.second - one.first)
    assert one.difference == pytest.approx((one.wins - one.losses) / len(cases))
    (back,) = differences([(b, a) for a, b in pairs])
    assert (back.wins, back.losses, back.ties) == (one.losses, one.wins, one.ties)
    assert back.difference == pytest.approx(-one.difference)


def searched(hits: Sequence[bool], documents: int = 10, **more: object) -> Run:
    """A run over cases of so many documents, in which search found these."""
    return run(
        [
            outcome(
                f"c{n}",
                [(f"d{n % documents}", 1)],
                {"search": [(f"d{n % documents}", 1 if hit else 2)]},
            )
            for n, hit in enumerate(hits)
        ],
        **more,
    )


def test_runs_are_compared_case_by_case() -> None:
    old, new = searched([False] * 12 + [True] * 28), searched([True] * 39 + [False])
    hit, *_ = compare(old, new)
    assert (hit.metric, hit.first, hit.second) == ("hit@5", 0.7, 39 / 40)
    assert (hit.wins, hit.losses, hit.ties, hit.documents) == (12, 1, 27, 10)
    assert hit.sure
    assert hit.low is not None
    assert 0 < hit.low < hit.difference
    same = compare(old, old)
    assert all((one.difference, one.low, one.high, one.sure) == (0, 0, 0, False) for one in same)
    alone = compare(searched([False] * 40, documents=1), searched([True] * 40, documents=1))
    assert alone[0].difference == 1
    assert (alone[0].low, alone[0].high, alone[0].sure) == (None, None, False)
    # At another cut-off than the runs': the found pages are all first.
    assert compare(old, new, 1)[0].metric == "hit@1"


def test_a_ranking_that_neither_run_has_is_no_ranking_of_nothing(tmp_path: Path) -> None:
    one = searched([True] * 4)
    with pytest.raises(RunError, match="no ranking 'serach': there are search"):
        compare(one, one, ranking="serach")


def test_a_run_of_another_version_is_named_so(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    for change, said in (({"format": 99}, "another version"), ({"k": 0}, "is not a run")):
        plain = searched([True] * 4).model_dump(mode="json")
        file.write_text(json.dumps(plain | change))
        with pytest.raises(RunError, match=said):
            read_run(file)


def test_a_run_with_a_case_twice_is_refused(tmp_path: Path) -> None:
    one = outcome("same", [("a", 1)], {"search": [("a", 1)]})
    write_run(run([one, one]), tmp_path / "run.json")
    with pytest.raises(RunError, match="more than one case 'same'"):
        read_run(tmp_path / "run.json")


def test_cases_without_their_like_are_named_and_not_compared() -> None:
    a = outcome("same", [("a", 1)], {"search": [("a", 1)]})
    old = outcome("moved", [("a", 1)], {"search": [("a", 1)]})
    new = outcome("moved", [("a", 2)], {"search": [("a", 1)]})
    first, second = (outcome(id, [("a", 1)], {"search": []}) for id in ("first", "second"))
    one, other = run([a, old, first]), run([a, new, second])
    found = unpaired_cases(one, other)
    assert (found.only_first, found.only_second, found.changed) == (
        ("first",),
        ("second",),
        ("moved",),
    )
    assert compare(one, other)[0].cases == 1
    with pytest.raises(RunError, match="no case with gold pages is in both"):
        compare(run([first]), run([second]))
    with pytest.raises(RunError, match="scope collection and scope document"):
        compare(one, run([a], scope="document"))


def test_the_ablation_has_every_ranking_beside_search_on_the_same_cases() -> None:
    gold = [("a", 1)]
    other = [("b", 1)]
    rankings = {
        "without:dense": [*other, *gold],
        "retriever:dense": other,
        "search": gold,
        "grouped": gold,
        "ungrouped": [*other, *gold],
        "fusion:rrf": gold,
    }
    ran = run(
        [
            outcome("c", gold, rankings),
            # Pages are named in one question only: that list is compared there alone.
            outcome("d", gold, {"search": other, "retriever:page-number": gold}),
        ]
    )
    assert rankings_of(ran) == [
        "search",
        "grouped",
        "ungrouped",
        "fusion:rrf",
        "retriever:dense",
        "retriever:page-number",
        "without:dense",
    ]
    variants = {variant.ranking: variant for variant in ablation(ran, 1)}
    assert variants["search"].scores["hit@1"].value == 0.5
    assert variants["search"].differences == []
    dense, named = variants["retriever:dense"], variants["retriever:page-number"]
    assert (dense.scores["hit@1"].value, dense.differences[0].difference) == (0, -1)
    assert (named.scores["hit@1"].cases, named.differences[0].difference) == (1, 1)
    reciprocal = {one.metric: one for one in variants["ungrouped"].differences}["mrr"]
    assert (reciprocal.first, reciprocal.second, reciprocal.losses) == (1, 0.5, 1)


def test_groups_tell_kinds_of_cases_apart() -> None:
    found = {"search": [("a", 1)]}
    plain = outcome("p", [("a", 1)], found, sources=["Table", "Text"], answer="7")
    scanned = outcome("s", [("b", 2), ("b", 3)], found, answer="red").model_copy(
        update={
            "gold": (
                GoldPage(page=("b", 2), characters=9, text_source="ocr"),
                GoldPage(page=("b", 3), characters=9, text_source="layer"),
            )
        }
    )
    facts = {
        name: DocumentFacts(name=name, pages=pages, scanned=0)
        for name, pages in (("a", 20), ("b", 101))
    }
    groups = ranking_tables(run([plain, scanned], documents=facts)).groups
    hits = {
        kind: {name: row["hit@5"].value for name, row in rows.items()}
        for kind, rows in groups.items()
    }
    assert hits == {
        "evidence": {"Table": 1, "Text": 1},
        "document": {"up to 20 pages": 1, "101 to 250 pages": 0},
        "text": {"text layer": 1, "scanned or none": 0},
        "gold pages": {"one": 1, "several": 0},
        "answer": {"Int": 1, "Str": 0},
    }


def ask(*args: str | Path) -> Result:
    return CliRunner().invoke(app, ["eval", *map(str, args)])


def test_tables_fit_into_80_columns(tmp_path: Path) -> None:
    rankings = ("ungrouped", "grouped", "fusion:minmax", "retriever:page-number", "without:tokens")
    sources = ("Generalized-text (Layout)", "Pure-text (Plain-text)")
    wide = [
        one.model_copy(
            update={
                "case": one.case.model_copy(update={"sources": sources}),
                "rankings": dict.fromkeys(("search", *rankings), one.rankings["search"]),
            }
        )
        for one in searched([False] * 12 + [True] * 28).outcomes
    ]
    write_run(run(wide, k=50), tmp_path / "run.json")
    write_run(run(wide, k=50), tmp_path / "other.json")
    for args in (("table",), ("compare", tmp_path / "other.json"), ("misses",)):
        done = ask(args[0], tmp_path / "run.json", *args[1:])
        assert done.exit_code == 0, done.stderr
        shown = done.stdout.split("cases failed")[0]
        assert max(len(line.rstrip()) for line in shown.splitlines()) <= 80
    table = ask("table", tmp_path / "run.json").stdout
    for name in (*rankings, "hit", "ndcg", "@50", "(Plain-text)"):
        assert name in table


def test_tables_and_comparisons_are_printed_and_are_json(tmp_path: Path) -> None:
    old, new, none = (tmp_path / f"{name}.json" for name in ("old", "new", "none"))
    write_run(searched([False] * 12 + [True] * 28, excluded=("line 3: no document 'x'",)), old)
    write_run(searched([True] * 40), new)
    write_run(run([outcome("n", [], {"search": []})]), none)
    table = ask("table", old)
    assert table.exit_code == 0, table.stderr
    assert "0.700" in table.stdout
    assert "40 cases of 10 documents" in table.stdout
    assert "narrow" not in table.stdout
    assert "excluded: 1\n  line 3: no document 'x'" in table.stderr
    read = json.loads(ask("table", old, "--json", "-k", "1").stdout)
    assert (read["k"], read["variants"][0]["scores"]["hit@1"]["documents"]) == (1, 10)
    nothing = ask("table", none)
    assert nothing.exit_code == 0
    assert "no case can be scored" in nothing.stdout
    for documents, caution in ((1, "no intervals"), (4, "fewer than 5 documents are too narrow")):
        write_run(searched([True, False] * 10, documents=documents), none)
        for args in (("table", none), ("compare", none, none)):
            assert caution in ask(*args).stdout
    write_run(run([outcome("n", [], {"search": []})]), none)
    compared = ask("compare", old, new)
    assert "+0.300 [+0." in compared.stdout
    assert "] *" in compared.stdout
    (hit, *_) = json.loads(ask("compare", old, new, "--json").stdout)["differences"]
    assert (hit["wins"], hit["cases"], hit["sure"]) == (12, 40, True)
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    for args, message in (
        (("compare", old, none), "no case with gold pages is in both"),
        (("table", broken), "is not a run of `pageglass eval run`"),
    ):
        failed = ask(*args)
        assert (failed.exit_code, message in failed.stderr) == (1, True), failed.stderr
