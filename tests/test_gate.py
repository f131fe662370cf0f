"""A continuous integration fails where a metric is worse by more than its noise, and only there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from api.cli import app
from evals.gate import ANSWERS, Change, gate
from evals.runs import Run, RunError, write_run
from pageglass.errors import UsageError
from tests.made_runs import Asked, run

GOOD, BAD = (1, 2, 3), (7, 8, 9)


def ranked(hits: list[bool], *, documents: int = 10, k: int = 5) -> Run:
    """A run in which search found these cases' pages, and no others."""
    cases = {
        f"c{n}": Asked(f"d{n % documents}.pdf", found=GOOD if hit else BAD, support=None)
        for n, hit in enumerate(hits)
    }
    return run(cases, k=k)


def only(changes: tuple[list[Change], object], metric: str) -> Change:
    [change] = [change for change in changes[0] if change.metric == metric]
    return change


def test_a_real_drop_fails_and_the_way_back_does_not() -> None:
    old, new = ranked([True] * 40), ranked([False] * 12 + [True] * 28)
    worse = only(gate(new, old), "page-recall@5")
    assert worse.dropped
    assert (worse.old, worse.new, worse.cases, worse.documents) == (1.0, 0.7, 40, 10)
    assert worse.gain == pytest.approx(-0.3)
    assert worse.low <= worse.gain <= worse.high < 0
    better = only(gate(old, new), "page-recall@5")
    assert not better.dropped
    assert better.low > 0


def test_what_is_within_the_noise_passes() -> None:
    # Three lost, two won: a mean of -1/40.
    old = ranked([False] * 2 + [True] * 38)
    new = ranked([True] * 2 + [False] * 3 + [True] * 35)
    change = only(gate(new, old), "hit@5")
    assert change.gain < 0
    assert change.low < 0 < change.high
    assert not change.dropped


def test_cases_of_one_document_count_as_one() -> None:
    """Ten cases lost in a single document are less sure a sign than ten in ten documents."""
    old = ranked([True] * 100)
    one = ranked([n % 10 != 0 for n in range(100)], documents=10)
    all_ = ranked([n >= 10 for n in range(100)], documents=10)
    in_one, in_all = (only(gate(new, old), "hit@5") for new in (one, all_))
    assert in_one.gain == in_all.gain == pytest.approx(-0.1)
    assert not in_one.dropped
    assert in_all.dropped


@given(st.lists(st.booleans(), min_size=5, max_size=40))
def test_a_run_never_falls_behind_itself(hits: list[bool]) -> None:
    same = ranked(hits)
    changes, _ = gate(same, same)
    assert changes
    assert all((c.gain, c.low, c.high, c.dropped) == (0, 0, 0, False) for c in changes)


@pytest.mark.parametrize("documents", [2, 4, 5])
def test_an_interval_of_few_documents_fails_no_build(documents: int) -> None:
    """Four coins that fall alike are no sign, and yet all draws of them are alike."""
    old, new = (
        run(
            {
                **{f"n{n}": Asked(f"n{n}.pdf", answerable=False) for n in range(9)},
                **{
                    f"c{n}": Asked(f"d{n % documents}.pdf", found=found, support=None)
                    for n in range(20)
                },
            }
        )
        for found in (GOOD, BAD)
    )
    changes, unchecked = gate(new, old)
    assert "declined_unanswerable" in {change.metric for change in changes}
    dropped = {change.metric for change in changes if change.dropped}
    few = {one.metric for one in unchecked if one.lacking == "documents"}
    ranked = {"hit@5", "page-recall@5", "ndcg@5"}
    assert (dropped, few) == (((set[str](), ranked)) if documents < 5 else (ranked, set[str]()))
    if few:
        [reason] = {one.reason for one in unchecked if one.lacking == "documents"}
        assert (
            reason
            == f"its cases are of {documents} documents: it takes 5 to tell a drop from noise"
        )
        with pytest.raises(
            RunError, match=f"hit@5 cannot be compared: its cases are of {documents}"
        ):
            gate(new, old, ["hit"])


def test_one_document_tells_nothing_of_the_noise() -> None:
    one = ranked([True] * 9, documents=1)
    with pytest.raises(
        RunError, match="compared: hit, page-recall, ndcg: its cases are of one doc"
    ):
        gate(one, one)
    # Where only some metrics are of one document, the others are compared all the same.
    more = run(
        {**{f"c{n}": Asked(f"d{n}.pdf") for n in range(9)}, "x": Asked("d.pdf", answerable=False)}
    )
    changes, unchecked = gate(more, more)
    assert "hit@5" in {change.metric for change in changes}
    assert ("declined_unanswerable", "documents") in {(u.metric, u.lacking) for u in unchecked}
    with pytest.raises(RunError, match="declined_unanswerable cannot be compared"):
        gate(more, more, ["declined_unanswerable"])


def test_more_false_declines_are_a_drop_and_more_right_ones_are_none() -> None:
    def declining(answerable: bool, unanswerable: bool) -> Run:
        cases = {
            f"c{n}": Asked(
                f"d{n}.pdf", answerable=n < 15, declined=answerable if n < 15 else unanswerable
            )
            for n in range(30)
        }
        return run(cases)

    names = ("declined_answerable", "declined_unanswerable")
    more, less = declining(True, True), declining(False, False)
    falsely, rightly = gate(more, less, names)[0]
    assert (falsely.dropped, falsely.gain, falsely.old, falsely.new) == (True, -1, 0, 1)
    assert (rightly.dropped, rightly.gain) == (False, 1)
    falsely, rightly = gate(less, more, names)[0]
    assert (falsely.dropped, rightly.dropped) == (False, True)


def test_what_the_judge_could_not_say_is_left_aside() -> None:
    def judged(*verdicts: bool | None) -> Run:
        return run({f"c{n}": Asked(f"d{n}.pdf", correct=v) for n, v in enumerate(verdicts)})

    yes, no = (True,) * 6, (None,) * 6
    change = only(gate(judged(*yes, None, False), judged(*yes[1:], None, True, None)), "judged")
    assert (change.cases, change.old, change.new) == (5, 1, 1)
    with pytest.raises(RunError, match="judged cannot be compared: the run has no value"):
        gate(judged(*no), judged(*yes))
    # The baseline was not judged, so there is nothing to fall behind, unless somebody insists.
    changes, unchecked = gate(judged(*yes), judged(*no))
    assert "judged" not in {change.metric for change in changes}
    assert [one.metric for one in unchecked] == ["judged", "declined_unanswerable"]
    with pytest.raises(RunError, match="the baseline has no value"):
        gate(judged(*yes), judged(*no), ["judged"])


def test_runs_that_cannot_be_compared_are_refused() -> None:
    both = ranked([True] * 4)
    for other, message in (
        (run({"z": Asked("d0.pdf")}), "no case in common"),
        (ranked([True] * 3), "1 of the run's not in the baseline, such as 'c3'"),
        (ranked([True] * 4, k=3), "differ in k: 5 and, in the baseline, 3"),
        (both.model_copy(update={"scope": "document"}), "differ in scope"),
        (
            run({f"c{n}": Asked(f"d{n}.pdf", support=None, gold=(2,)) for n in range(4)}),
            "4 cases were changed since",
        ),
        (
            run({f"c{n}": Asked(f"d{n}.pdf", support=None, answer="8") for n in range(4)}),
            "4 cases were changed since",
        ),
    ):
        with pytest.raises(RunError, match=message):
            gate(both, other)
    with pytest.raises(RunError, match="1 of the baseline's are not in the run"):
        gate(ranked([True] * 3), both)
    with pytest.raises(UsageError, match="no metric recall: there are hit, page-recall"):
        gate(both, both, ["recall"])
    nothing = run({"a": Asked("d.pdf", answerable=False, support=None)})
    with pytest.raises(RunError, match="nothing can be compared"):
        gate(nothing, nothing)


def gated(*args: str | Path) -> Result:
    return CliRunner().invoke(app, ["eval", "gate", *map(str, args)])


def test_exit_codes_tell_a_drop_from_what_cannot_be_compared(tmp_path: Path) -> None:
    old, new, other = (tmp_path / f"{name}.json" for name in ("old", "new", "other"))
    write_run(ranked([True] * 40), old)
    write_run(ranked([False] * 12 + [True] * 28), new)
    write_run(run({"z": Asked("d.pdf")}), other)
    failed = gated(new, "--baseline", old)
    assert failed.exit_code == 1
    lines = failed.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [
        *(["DROPPED", name] for name in ("hit@5", "page-recall@5", "ndcg@5")),
        *(["-", name] for name in ("judged", "declined_unanswerable", "declined_answerable")),
    ]
    assert "1.000 -> 0.700  -0.300 [-0." in lines[0]
    assert gated(old, "--baseline", new).exit_code == 0
    named = gated(new, "--baseline", old, "--metric", "mrr", "--metric", "hit", "--json")
    assert named.exit_code == 1
    rows = json.loads(named.stdout)["changes"]
    assert [(row["metric"], row["dropped"]) for row in rows] == [("mrr", True), ("hit@5", True)]
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    for args, message in (
        ((new, "--baseline", other), "no case in common"),
        ((new, "--baseline", tmp_path / "none.json"), "cannot read"),
        ((broken, "--baseline", old), "is not a run of"),
        ((new, "--baseline", old, "--metric", "judged"), "the baseline has no value"),
        ((new, "--baseline", old, "--metric", "wit"), "no metric wit"),
        ((new,), "baseline"),
    ):
        done = gated(*args)
        assert (done.exit_code, message in done.stderr) == (2, True), done.stderr
        assert done.stdout == ""


def test_every_figure_of_a_whole_answer_can_be_gated() -> None:
    from evals.answers import FIGURES

    # Verified quotes count citations, of which two runs need not have the same.
    assert {*FIGURES} - {"verified_quotes"} == ANSWERS.keys()
