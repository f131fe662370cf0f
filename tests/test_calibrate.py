"""A decline threshold is fitted, measured on what it was not fitted to, stored, used, forgotten."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from api.cli import app
from api.printing import calibration
from api.services import Services
from evals.calibrate import Rate, Supported, ask, declines, fewest_cases, fit, left_out, observed_in
from evals.cases import Case
from evals.runs import AnswerRecord, DocumentFacts, Outcome, Run, write_run
from ingest.thresholds import FittedThreshold
from pageglass.errors import StoreError, UsageError
from pageglass.settings import load_settings
from tests.openai_server import openai_server
from tests.tiny import pdf

# Few distinct values, so that ties are common.
_SUPPORT = st.integers(0, 12).map(lambda twelfths: twelfths / 12) | st.floats(0, 1)
_CASES = st.lists(
    st.builds(Supported, _SUPPORT, st.booleans(), st.sampled_from("abcdef")), max_size=80
)
_SOME = _SUPPORT.filter(bool)
# Enough of them for every one of the targets.
_FITTABLE = st.tuples(
    st.lists(st.builds(Supported, _SOME, st.just(True), st.sampled_from("abc")), min_size=33),
    st.lists(st.builds(Supported, _SUPPORT, st.just(False), st.sampled_from("bcd"))),
).map(lambda both: [*both[0], *both[1]])
_TARGETS = st.sampled_from([0.05, 0.07, 0.1, 0.25, 0.5]) | st.floats(0.03, 0.9)


def answerable(*supports: float, document: str = "a") -> list[Supported]:
    return [Supported(support, True, document) for support in supports]


@given(_FITTABLE, _TARGETS)
def test_of_the_fitted_cases_no_more_are_declined_falsely_than_allowed(
    cases: list[Supported], target: float
) -> None:
    threshold = fit(cases, target)
    found = declines(cases, threshold)
    assert 0 < threshold <= 1
    assert found.false.count <= target * found.false.total
    # And it is the largest: one step further declines more than the rank allows.
    further = declines(cases, math.nextafter(threshold, 2)).false.count
    assert further > target * (found.false.total + 1) - 1


@given(_FITTABLE, _TARGETS, _TARGETS)
def test_who_allows_more_gets_no_lower_threshold(
    cases: list[Supported], one: float, other: float
) -> None:
    less, more = sorted((one, other))
    assert fit(cases, less) <= fit(cases, more)


@given(_CASES, st.floats(0, 1), st.floats(0, 1))
def test_a_higher_threshold_declines_no_less(
    cases: list[Supported], one: float, other: float
) -> None:
    low, high = (declines(cases, at) for at in sorted((one, other)))
    assert low.false.count <= high.false.count
    assert low.right.count <= high.right.count


@given(st.lists(_SOME, min_size=2, max_size=60), _TARGETS)
def test_over_all_ways_to_leave_one_out_the_target_holds(
    supports: list[float], target: float
) -> None:
    """The promise for a case that was not seen, as an average over which one that is."""
    cases = [Supported(support, True, str(n)) for n, support in enumerate(supports)]
    found = left_out(cases, target)
    assert found.documents in (0, len(cases))
    assert found.documents + found.unfit == len(cases)
    assert found.declines.false.count <= target * len(cases) + 1e-9


@given(_FITTABLE, _TARGETS)
def test_neither_order_nor_unanswerable_cases_move_the_threshold(
    cases: list[Supported], target: float
) -> None:
    threshold = fit(cases, target)
    assert threshold == fit([case for case in reversed(cases) if case.answerable], target)


@pytest.mark.parametrize(
    ("target", "fewest"), [(0.05, 19), (0.1, 9), (0.5, 1), (0.01, 99), (0.3, 3)]
)
def test_too_few_cases_fit_nothing(target: float, fewest: int) -> None:
    assert fewest_cases(target) == fewest
    cases = answerable(*(0.5 + n / 1000 for n in range(fewest)))
    assert fit(cases, target) == 0.5
    with pytest.raises(UsageError, match=rf"^{fewest - 1} answerable cases .* {fewest} or more"):
        fit(cases[1:], target)


def test_cases_that_tie_are_declined_together_or_not_at_all() -> None:
    cases = answerable(*[0.4] * 30, *[0.8] * 10)
    assert fit(cases, 0.1) == 0.4
    assert declines(cases, 0.4).false == Rate(0, 40)
    assert declines(cases, 0.41).false == Rate(30, 40)


def test_what_has_no_support_is_declined_whatever_the_threshold() -> None:
    cases = answerable(0, 0, 0, *[0.9] * 37)
    assert declines(cases, 0.0).false == Rate(3, 40)
    assert fit(cases, 0.1) == 0.9
    with pytest.raises(UsageError, match="3 of 40 answerable cases get no answer at all"):
        fit(cases, 0.05)


@pytest.mark.parametrize("target", [0, 1, -0.1, 1.5, math.nan])
def test_a_target_that_is_no_share_is_refused(target: float) -> None:
    with pytest.raises(UsageError, match="a share between 0 and 1"):
        fit(answerable(*[0.5] * 50), target)


def test_a_document_unlike_the_others_shows_when_it_is_left_out() -> None:
    cases = answerable(*[0.9] * 30) + answerable(*[0.3] * 3, document="b")
    assert declines(cases, fit(cases, 0.2)).false == Rate(3, 33)
    found = left_out(cases, 0.2)
    # Without a nothing can be fitted; without b, all of b is declined.
    assert (found.documents, found.unfit) == (1, 1)
    assert found.declines.false == Rate(3, 3)


def test_a_rate_of_nothing_can_be_anything() -> None:
    assert Rate(0, 0).interval == (0, 1)
    assert Rate(5, 5).interval[1] == 1


# On a data folder

NAMES = (
    "Abelia Bryony Celandine Dittany Elecampane Fennel Gentian Hyssop Inula Juniper Knapweed Lovage"
    " Mallow Nigella Orache Primrose Quince Rampion Sorrel Tansy Umbel Vervain Woodruff Yarrow"
).split()


def facts() -> list[str]:
    return [
        f"The pump called {name} stands in hall {n} of the mill and was greased by {who}."
        for n, (name, who) in enumerate(zip(NAMES, reversed(NAMES), strict=True), start=1)
    ]


def cases_file(path: Path, *more: dict[str, Any]) -> Path:
    lines: list[dict[str, Any]] = [
        {
            "id": f"hall-{name}",
            "question": f"In which hall of the mill does the pump called {name} stand?",
            "document": f"mill-{n % 3}.pdf",
            "pages": [n // 3 + 1],
            "answer": str(n + 1),
        }
        for n, name in enumerate(NAMES)
    ]
    lines += [
        {
            "id": f"none-{n}",
            "question": question,
            "document": "mill-0.pdf",
            "answerable": False,
        }
        for n, question in enumerate(
            ("Who sponsors the regatta of Moravia?", "What does a quokka eat in winter?")
        )
    ]
    path.write_text("\n".join(json.dumps(line) for line in (*lines, *more)))
    return path


@pytest.fixture(scope="module")
def mill(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the collections `default` and `other`, which hold the same."""
    folder = tmp_path_factory.mktemp("mill")
    docs = [pdf(folder / f"mill-{n}.pdf", facts()[n::3]) for n in range(3)]
    with Services(load_settings({"data_dir": folder / "data"}), command="test") as services:
        for collection in ("default", "other"):
            reports = list(services.ingest(docs, collection=collection))
            assert {report.outcome for report in reports} == {"indexed"}
    return folder / "data"


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def calibrate(data: Path, *args: str | Path) -> Any:
    done = run("--data-dir", data, "eval", "calibrate", "--json", *args)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_fitted_threshold_is_stored_used_shown_and_forgotten(mill: Path, tmp_path: Path) -> None:
    broken = {"id": "x", "question": "Where?", "document": "mill-9.pdf", "pages": [1]}
    cases = cases_file(tmp_path / "cases.jsonl", broken)

    found = calibrate(mill, "--cases", cases, "--dry-run")
    assert found["stored"] is False
    assert found["model"] == "extractive-minilm"
    assert found["fitted"]["answerable"]["cases"] == len(NAMES)
    assert found["fitted"]["answerable"]["declined"] == 0
    assert found["fitted"]["unanswerable"] == {
        "declined": 2,
        "cases": 2,
        "interval": list(Rate(2, 2).interval),
    }
    assert found["left_out"]["documents"] + found["left_out"]["unfit"] == 3
    assert found["before"]["threshold"] == 0.5
    assert len(found["excluded"]) == 1
    assert "mill-9.pdf" in found["excluded"][0]
    settings = load_settings({"data_dir": mill})
    with Services(settings, command="test") as services:
        assert services.thresholds.list() == []

    again = calibrate(mill, "--cases", cases, "--collection", "other")
    assert again["stored"] is True
    assert again["threshold"] == found["threshold"]
    with Services(settings, command="test") as services:
        [kept] = services.thresholds.list()
        assert (kept.collection, kept.model) == ("other", services.answering_model)
        assert (kept.answerable, kept.false_declines) == (len(NAMES), 0)
        assert (kept.unanswerable, kept.declined) == (2, 2)
        assert kept.threshold == found["threshold"]
    shown = run("--data-dir", mill, "status")
    assert "calibrated   other, on 24 answerable and 2 unanswerable cases:" in shown.stdout
    status = json.loads(run("--data-dir", mill, "status", "--json").stdout)["status"]
    assert [one["collection"] for one in status["thresholds"]] == ["other"]
    told = calibrate(mill, "--cases", cases, "--collection", "other", "--dry-run")
    assert told["before"]["threshold"] == kept.threshold

    forgotten = calibrate(mill, "--forget", "--collection", "other")
    assert forgotten == {"collection": "other", "forgotten": 1}
    assert "calibrated" not in run("--data-dir", mill, "status").stdout


def test_people_get_a_table_and_are_told_what_was_left_aside(mill: Path, tmp_path: Path) -> None:
    cases = cases_file(tmp_path / "cases.jsonl", {"id": "b", "question": "Why?", "document": "no"})
    done = run("--data-dir", mill, "eval", "calibrate", "--cases", cases, "--dry-run")
    assert done.exit_code == 0, done.output
    assert "0 of 24" in done.stdout
    assert "2 of 2" in done.stdout
    assert "excluded: line 27: no document 'no'" in done.stderr
    assert "fitted to 24 answerable and 2 unanswerable cases" in done.stdout
    assert done.stdout.rstrip().endswith("nothing was stored (--dry-run)")


def test_what_cannot_be_fitted_is_one_line(mill: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text("\n".join(cases_file(tmp_path / "cases.jsonl").read_text().splitlines()[:5]))
    for args, message in (
        (("--cases", few), "5 answerable cases do not tell a threshold"),
        (("--cases", few, "--forget"), "name one of --cases, --run and --forget"),
        ((), "name one of --cases, --run and --forget"),
        (("--cases", few, "--false-declines", "0"), "a share between 0 and 1"),
    ):
        done = run("--data-dir", mill, "eval", "calibrate", *args)
        assert done.exit_code == 2
        [line] = [line for line in done.stderr.splitlines() if line.startswith("pageglass: ")]
        assert message in line
    args = ("--cases", few, "--collection", "nobody")
    empty = run("--data-dir", mill, "eval", "calibrate", *args)
    assert empty.exit_code == 2
    assert "no collection 'nobody'" in empty.stderr
    gone = run("--data-dir", mill, "eval", "calibrate", "--cases", tmp_path / "none.jsonl")
    assert gone.exit_code == 2
    assert "none.jsonl" in gone.stderr


def keep(services: Services, collection: str, model: str, threshold: float) -> None:
    services.thresholds.put(
        FittedThreshold(
            collection, model, threshold, 20, 5, 1, 4, "0" * 64, "2026-01-01T00:00:00+00:00"
        )
    )


def test_an_answer_keeps_to_the_threshold_of_the_collection_it_quotes(
    services: Services, tmp_path: Path
) -> None:
    pages = facts()
    list(services.ingest([pdf(tmp_path / "a.pdf", pages[:12])], collection="strict"))
    list(services.ingest([pdf(tmp_path / "b.pdf", pages[12:])], collection="plain"))
    abelia, yarrow = (
        f"In which hall of the mill does the pump called {name} stand?"
        for name in ("Abelia", "Yarrow")
    )
    support = services.ask(abelia).support
    assert support is not None
    assert 0.5 < support < 1
    keep(services, "strict", services.answering_model, math.nextafter(support, 2))
    # Fitted for a model that does not answer here, so it is not used.
    keep(services, "plain", "another-model", 1.0)
    for collection in ("strict", None):
        declined = services.ask(abelia, collection=collection)
        assert (declined.status, declined.citations) == ("not_found", ())
        assert (declined.support, bool(declined.draft)) == (support, True)
    for collection in ("plain", None):
        assert services.ask(yarrow, collection=collection).status == "answered"
    keep(services, "strict", services.answering_model, support)
    assert services.ask(abelia).status == "answered"
    # One below the setting lets more through.
    weak = "Which regatta did the keeper of the mill row in 1987?"
    assert services.ask(weak, collection="plain").status == "not_found"
    keep(services, "plain", services.answering_model, 1e-9)
    assert services.ask(weak, collection="plain").status == "answered"
    assert services.ask(weak, collection="strict").status == "not_found"


def test_a_threshold_outlives_the_documents_and_is_in_backups(
    services: Services, tmp_path: Path
) -> None:
    list(services.ingest([pdf(tmp_path / "a.pdf", facts()[:2])]))
    keep(services, "default", services.answering_model, 0.25)
    services.backup(tmp_path / "copy")
    for document in services.documents():
        services.remove(document.id)
    assert services.check(deep=True) == []
    assert [kept.threshold for kept in services.thresholds.list()] == [0.25]
    assert services.ask("Where does the pump called Abelia stand?").status == "not_found"
    settings = load_settings({"data_dir": tmp_path / "copy"})
    with Services(settings, command="test") as restored:
        assert restored.thresholds.list() == services.thresholds.list()
        assert restored.check(deep=True) == []


def test_a_threshold_that_is_none_is_not_kept(services: Services) -> None:
    for impossible in (-0.1, 1.5, math.nan):
        with pytest.raises(StoreError, match="from 0 to 1"):
            keep(services, "default", "m", impossible)
    assert services.thresholds.list() == []


def test_another_answering_model_is_not_calibrated_by_it(mill: Path, tmp_path: Path) -> None:
    cases = cases_file(tmp_path / "cases.jsonl")
    calibrate(mill, "--cases", cases)
    with openai_server() as server:
        settings = load_settings(
            {"data_dir": mill, "answer": {"url": server.url}, "models": {"answer": server.model}}
        )
        with Services(settings, command="test") as services:
            assert services.answering_model == services.status().answering_model == server.model
            assert calibration(services.status().thresholds[0], server.model) == (
                "default, on 24 answerable and 2 unanswerable cases, for extractive-minilm:"
                f" not used, since {server.model} answers (`pageglass eval calibrate` fits it, too)"
            )
            found = ask(services, cases, collection="default")
            assert (found.model, found.excluded) == (server.model, ())
            assert {case.support for case in found.cases} <= {0.0, 1.0}
            # Where the model cannot be read, quotes stand in: they say nothing about it.
            server.misbehave("no_choices")
            found = ask(services, cases, collection="default")
            assert found.cases == ()
            assert "answered by extractive-minilm" in found.excluded[0]
    calibrate(mill, "--forget")


# From a run


def answered(id: str, support: float | None, *, ok: bool = True, model: str = "m") -> Outcome:
    return Outcome(
        case=Case(id=id, question="?", document=f"{id[-1]}.pdf", answerable=ok),
        gold=(),
        rankings={},
        seconds=0.1,
        answer=AnswerRecord(
            text="x",
            status="answered",
            citations=(),
            support=support,
            draft="x" if support else "",
            model=model,
            extractive=True,
            seconds=0.2,
        ),
    )


def made(*outcomes: Outcome, documents: Sequence[str] = ()) -> Run:
    return Run(
        version="0",
        made_at="2026-01-01T00:00:00+00:00",
        cases_file="cases.jsonl",
        cases_sha256="0" * 64,
        scope="collection",
        k=5,
        profile="lite",
        settings={},
        documents={id: DocumentFacts(name=f"{id}.pdf", pages=1, scanned=0) for id in documents},
        outcomes=outcomes,
        excluded=("line 7: no document 'x.pdf'",),
        remarks=("line 3: no gold pages",),
    )


def test_a_run_s_answers_are_as_good_and_its_odd_ones_are_counted() -> None:
    run = made(
        *(answered(f"a{n}", 0.5 + n / 100) for n in range(20)),
        answered("b0", 0.2, ok=False),
        answered("b1", None, ok=False),
        answered("c0", 0.9, model="another"),
        answered("c1", 0.9).model_copy(update={"answer": None}),
    )
    found = observed_in(run)
    assert found.model == "m"
    assert len(found.cases) == 22
    assert [line.split(":")[0] for line in found.excluded] == ["line 7", "c0", "c1"]
    assert found.remarks == ("line 3: no gold pages",)
    assert fit(found.cases, 0.05) == 0.5
    assert declines(found.cases, 0.5).right == Rate(2, 2)
    with pytest.raises(UsageError, match="no answers"):
        observed_in(made())


def test_a_run_calibrates_the_collection_it_was_made_on_and_no_other(
    mill: Path, tmp_path: Path
) -> None:
    with Services(load_settings({"data_dir": mill}), command="test") as services:
        ids = [document.id for document in services.documents(collection="other")]
    path = tmp_path / "run.json"
    write_run(made(*(answered(f"a{n}", 0.6 + n / 100) for n in range(20)), documents=ids), path)
    done = run("--data-dir", mill, "eval", "calibrate", "--run", path)
    assert done.exit_code == 2
    assert "3 of the run's 3 documents are not in the collection default" in done.stderr
    dry = calibrate(tmp_path / "nothing-here", "--run", path, "--dry-run")
    assert (dry["threshold"], dry["model"], dry["stored"]) == (0.6, "m", False)
    assert not (tmp_path / "nothing-here").exists()
    kept = calibrate(mill, "--run", path, "--collection", "other")
    assert (kept["threshold"], kept["stored"]) == (0.6, True)
    assert calibrate(mill, "--forget", "--collection", "other")["forgotten"] == 1
