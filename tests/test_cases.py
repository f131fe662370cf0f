"""Files of cases, good and bad."""

from __future__ import annotations

import json
import os
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evals.cases import (
    MAX_LINE_BYTES,
    Case,
    Cases,
    CasesError,
    Shelf,
    append_case,
    append_cases,
    listed_cases,
    read_cases,
    replace_case,
    write_cases,
)
from pageglass.types import Document

PAGES = {"log.pdf": 2, "empty.pdf": 0}
GOOD = {"id": "a", "question": "Why did the pump fail?", "document": "log.pdf", "pages": [1]}


def line(**changed: object) -> str:
    return json.dumps(GOOD | changed)


def read(path: Path, content: bytes | str) -> Cases:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_cases(path, PAGES)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cases.jsonl"


def document(id: str, *names: str, pages: int = 3) -> Document:
    return Document(id, "default", id, names[0], names, pages, pages, "indexed", None, "2026-01-01")


BAD: dict[str, tuple[bytes | str, str]] = {
    "unknown document": (line(document="other.pdf"), "no document 'other.pdf'"),
    "page out of range": (line(pages=[1, 3]), "log.pdf has no page 3: it has 2 pages"),
    "page 0": (line(pages=[0]), "log.pdf has no page 0"),
    "page of many digits": (line(pages=[10**200]), "has no page 1000"),
    "nothing indexed": (line(document="empty.pdf"), "has no pages that can be searched"),
    "broken JSON": ('{"id": "x", "question"', "broken JSON: expecting ':' delimiter"),
    "no object": ("17", "not a JSON object"),
    "not UTF-8": (b'{"id": "caf\xe9"}', "not UTF-8 (byte 12 of the line)"),
    "half a character": (line(question="\ud800?"), "broken JSON"),
    "no question": ('{"id": "x", "document": "log.pdf"}', "field 'question' is missing"),
    "empty question": (line(question=" "), "the question is empty"),
    "empty id": (line(id=""), "the id is empty"),
    "id a number": (line(id=7), "field 'id' should be a valid string"),
    "pages as text": (line(pages=["1"]), "field 'pages.0' should be a valid integer"),
    "page a fraction": (line(pages=[1.5]), "field 'pages.0' should be a valid integer"),
    "page true": (line(pages=[True]), "field 'pages.0' should be a valid integer"),
    "page NaN": (line(pages=[float("nan")]), "field 'pages.0' should be a valid integer"),
    "pages no list": (line(pages=1), "field 'pages' should be a valid"),
    "answer NaN": (line(answer=float("nan")), "field 'answer' should be text, a number, a list"),
    "answer true": (line(answer=True), "field 'answer' should be text, a number, a list"),
    "answers in answers": (line(answer=["a", ["b"]]), "field 'answer' should be text, a number"),
    "answer an object": (line(answer={"value": 4}), "field 'answer' should be text, a number"),
    "answerable as text": (line(answerable="yes"), "field 'answerable' should be a valid boolean"),
    "too deep": ('{"id": ' + "[" * 100_000, "nested too deep"),
    "digits without end": ('{"pages": [' + "9" * 5000 + "]}", "broken JSON"),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_is_bad_is_named_with_its_line_and_the_rest_goes_on(path: Path, bad: str) -> None:
    content, reason = BAD[bad]
    content = content.encode() if isinstance(content, str) else content
    cases = read(path, b"\n".join([line(id="first").encode(), content, line(id="last").encode()]))
    assert [case.id for case in cases.usable] == ["first", "last"]
    (said,) = cases.excluded
    assert said.startswith("line 2: ")
    assert reason in said
    assert "\n" not in said
    assert len(said) < 300


def test_an_id_that_stands_twice_excludes_the_second(path: Path) -> None:
    cases = read(path, f"{line()}\n\n{line(question='Again?')}")
    assert [case.question for case in cases.usable] == [GOOD["question"]]
    assert cases.excluded == ("line 3: id 'a' stands twice",)


def test_without_gold_pages_a_case_is_used_for_answers_only_and_that_is_said(path: Path) -> None:
    nothing = line(id="b", pages=[], answerable=False)
    cases = read(path, f"{line(pages=[])}\n{nothing}")
    assert [case.id for case in cases.usable] == ["a", "b"]
    assert cases.excluded == ()
    assert cases.remarks == ("line 1: no gold pages: it is left out of the rankings",)


def test_what_nobody_looked_at_is_counted(path: Path) -> None:
    reviewed = line(id="b", origin="proposed", reviewed=True)
    cases = read(path, "\n".join([line(origin="proposed"), reviewed, line(id="c")]))
    assert len(cases.usable) == 3
    (remark,) = cases.remarks
    assert remark.startswith("1 case was made by a program")
    assert "pageglass eval review cases.jsonl" in remark


def test_files_of_others_may_have_a_mark_at_their_head_and_fields_of_their_own(path: Path) -> None:
    theirs = line(weight=float("nan"), notes={"by": "x"})
    assert [c.id for c in read(path, b"\xef\xbb\xbf" + theirs.encode() + b"\r\n").usable] == ["a"]


def test_a_bare_line_separator_in_a_text_ends_no_line(path: Path) -> None:
    (case,) = read(
        path, json.dumps(GOOD | {"question": "a\u2028b\x85c"}, ensure_ascii=False)
    ).usable
    assert case.question == "a\u2028b\x85c"


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_an_empty_file_says_so(path: Path, content: bytes) -> None:
    assert read(path, content) == Cases((), ("line 1: the file is empty",))


def test_a_file_in_another_encoding_says_so(path: Path) -> None:
    assert "UTF-16" in read(path, line().encode("utf-16")).excluded[0]


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CasesError, match="no such file"):
        read_cases(tmp_path / "none.jsonl", PAGES)
    with pytest.raises(CasesError, match="is a directory"):
        read_cases(tmp_path, PAGES)


def test_an_enormous_line_is_named_and_never_held(path: Path) -> None:
    with path.open("wb") as file:
        file.write(line(id="first").encode() + b"\n")
        for _ in range(64):
            file.write(b"x" * (1 << 20))
        file.write(b"\n" + line(id="last").encode())
    tracemalloc.start()
    cases = read_cases(path, PAGES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [case.id for case in cases.usable] == ["first", "last"]
    assert cases.excluded == ("line 2: longer than 4 MB",)
    assert peak < 4 * MAX_LINE_BYTES


def test_the_longest_line_is_read(path: Path) -> None:
    empty = len(line(question=""))
    assert len(read(path, line(question="x" * (MAX_LINE_BYTES - empty))).usable) == 1
    assert read(path, line(question="x" * (MAX_LINE_BYTES - empty + 1))).usable == ()


def test_a_document_has_any_of_its_names_and_its_id(path: Path) -> None:
    shelf = Shelf.of([document("d0", "log.pdf", "old name.pdf"), document("d1", "tree.pdf")])
    names = ["log.pdf", "old name.pdf", "d0", "d2"]
    path.write_text("\n".join(line(id=name, document=name) for name in names))
    cases = read_cases(path, shelf)
    assert [shelf.id_of(case.document) for case in cases.usable] == ["d0"] * 3
    assert cases.excluded == ("line 4: no document 'd2'",)


def test_a_name_of_two_documents_names_neither(path: Path) -> None:
    shelf = Shelf.of([document("d0", "log.pdf"), document("d1", "tree.pdf", "log.pdf")])
    path.write_text(f"{line()}\n{line(id='b', document='tree.pdf')}")
    cases = read_cases(path, shelf)
    assert [case.id for case in cases.usable] == ["b"]
    assert cases.excluded == ("line 1: 2 documents are named 'log.pdf': give an id: d0, d1",)


def test_a_name_is_the_same_however_its_accents_are_written(path: Path) -> None:
    shelf = Shelf.of([document("d0", "Caf\u00e9.pdf")])
    path.write_text(line(document="Cafe\u0301.pdf"))
    (case,) = read_cases(path, shelf).usable
    assert shelf.id_of(case.document) == "d0"


@given(st.binary(max_size=400))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_read_without_a_crash(path: Path, content: bytes) -> None:
    cases = read(path, content)
    assert cases.usable or cases.excluded


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*GOOD, "x"]), inner)
    ),
    max_leaves=12,
)


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=20),
            st.fixed_dictionaries(dict.fromkeys(GOOD, JSON)).map(json.dumps).map(str.encode),
            JSON.map(json.dumps).map(str.encode),
            st.just(line().encode()),
        ),
        max_size=6,
    ),
    st.booleans(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_a_good_case_survives_whatever_stands_around_it(
    path: Path, lines: list[bytes], listed: bool
) -> None:
    """As lines; as a list, whatever is broken may take what follows it along."""
    lines = [each.replace(b"\n", b"") for each in lines]
    if listed:
        cases = read(path, b"[" + b",\n".join(lines))
        assert cases.usable or cases.excluded
        return
    cases = read(path, b"{}\n" + b"\n".join([*lines, line(id="mine").encode()]))
    assert "mine" in [case.id for case in cases.usable]
    assert "line 1: field 'id' is missing" in cases.excluded


CASES = st.builds(
    Case,
    id=st.text(min_size=1, max_size=8).filter(str.strip),
    question=st.text(min_size=1, max_size=20).filter(str.strip),
    document=st.just("log.pdf"),
    pages=st.lists(st.integers(1, 2), max_size=3).map(tuple),
    answer=st.none() | st.text(max_size=8),
    answerable=st.booleans(),
    sources=st.lists(st.text(max_size=5), max_size=2).map(tuple),
    quote=st.text(max_size=8),
    origin=st.sampled_from(["", "proposed"]),
    reviewed=st.booleans(),
)


@given(st.lists(CASES, max_size=4, unique_by=lambda case: case.id))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read_again(path: Path, cases: list[Case]) -> None:
    write_cases(path, cases)
    assert listed_cases(path) == cases
    assert len(path.read_text("utf-8").splitlines()) == len(cases)
    path.unlink()
    for case in cases:
        append_case(path, case)
    assert listed_cases(path) == cases


# Writing


def case(id: str, **more: object) -> Case:
    return Case.model_validate(GOOD | {"id": id, "pages": (1,)} | more)


def test_an_id_is_written_once(path: Path) -> None:
    with pytest.raises(CasesError, match="'a' stands twice"):
        write_cases(path, [case("a"), case("a")])
    assert not path.exists()
    append_case(path, case("a"))
    before = path.read_bytes()
    with pytest.raises(CasesError, match="the id 'a' already"):
        append_cases(path, [case("b"), case("a")])
    assert path.read_bytes() == before


def test_appending_leaves_every_byte_that_stands_there(path: Path) -> None:
    before = b'{broken\n\n{"id": "caf\xe9"}\r\n' + line(theirs=1).encode()
    path.write_bytes(before)
    append_case(path, case("b"))
    assert path.read_bytes().startswith(before + b"\n")
    assert [case.id for case in read_cases(path, PAGES).usable] == ["a", "b"]


def test_replacing_touches_one_line_and_keeps_fields_of_others(path: Path) -> None:
    path.write_text(f"{line(theirs=[1])}\n{{broken\n{line(id='b')}\n")
    replace_case(path, "a", case("a", question="Which bearing?", reviewed=True))
    first, second, third = path.read_text().splitlines()
    assert json.loads(first)["theirs"] == [1]
    assert json.loads(first)["question"] == "Which bearing?"
    assert (second, third) == ("{broken", line(id="b"))
    replace_case(path, "b", None)
    assert path.read_text().splitlines() == [first, second]
    with pytest.raises(CasesError, match="no case with the id 'b'"):
        replace_case(path, "b", None)


def test_of_two_lines_with_one_id_neither_is_replaced(path: Path) -> None:
    path.write_text(f"{line()}\n{line(id='b')}\n{line(question='Hidden?')}\n")
    before = path.read_bytes()
    for changed in (None, case("a", question="Which?")):
        with pytest.raises(CasesError, match=r"'a' stands on lines 1, 3 of .*: give each case"):
            replace_case(path, "a", changed)
    assert path.read_bytes() == before
    replace_case(path, "b", None)
    assert path.read_text().splitlines() == [line(), line(question="Hidden?")]


def test_many_who_append_at_once_lose_nothing(path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(partial(append_case, path), [case(str(n)) for n in range(40)]))
    assert {case.id for case in listed_cases(path)} == {str(n) for n in range(40)}


def test_a_file_keeps_its_mode_and_a_link_its_target(tmp_path: Path) -> None:
    target, link = tmp_path / "real.jsonl", tmp_path / "link.jsonl"
    write_cases(target, [case("a")])
    target.chmod(0o640)
    link.symlink_to(target)
    append_case(link, case("b"))
    assert link.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o640
    assert [case.id for case in listed_cases(target)] == ["a", "b"]
    assert sorted(tmp_path.iterdir()) == [link, target]


def test_a_pipe_is_written_into_and_stays_one(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path, write in ((pipe, write_cases), (link, write_cases), (pipe, append_cases)):
        with ThreadPoolExecutor(1) as pool:
            read = pool.submit(pipe.read_bytes)
            write(path, [case("a")])
            assert json.loads(read.result(timeout=10))["id"] == "a"
        assert pipe.is_fifo()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["link", "pipe"]


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CasesError, match="cannot write"):
        append_case(tmp_path / "file" / "cases.jsonl", case("a"))


def test_nothing_is_added_to_a_list(path: Path) -> None:
    path.write_text(f"[{line()}]")
    with pytest.raises(CasesError, match="pageglass eval convert"):
        append_case(path, case("b"))


@pytest.mark.parametrize(
    ("written", "answer", "gold"),
    [
        ({"answer": ["Operating Leases", "Finance Leases"]}, None, "['Operating Leases', "),
        ({"answer": ["2018"]}, None, "2018"),
        ({"answer": [2018, 2.5]}, ["2018", "2.5"], "['2018', '2.5']"),
        ({"answer": 12}, "12", "12"),
        ({"answer": 1e-7}, "0.0000001", "0.0000001"),
        ({"answer": 183.4, "scale": "million"}, "183.4", "183.4 million"),
        ({"answer": "0.98", "scale": "percent", "derivation": "12/1,283"}, None, "0.98%"),
        ({"answer": "4 million", "scale": "million"}, None, "4 million"),
        ({"answer": []}, "null", ""),
    ],
)
def test_lists_numbers_scales_and_derivations_are_read_and_written(
    path: Path, written: dict[str, object], answer: object, gold: str
) -> None:
    """What question sets over tables have; None: the answer is written as it was."""
    cases = read(path, line(**written))
    assert not cases.excluded
    (case,) = cases.usable
    assert case.gold.startswith(gold)
    write_cases(path, [case])
    fields = json.loads(path.read_text())
    wanted = written["answer"] if answer is None else None if answer == "null" else answer
    assert fields["answer"] == wanted
    assert {name: fields.get(name, "") for name in ("scale", "derivation")} == {
        name: written.get(name, "") for name in ("scale", "derivation")
    }
    assert read_cases(path, PAGES).usable == (case,)


@pytest.mark.parametrize("other", [None, 1000, ["divide", 1, 2]])
def test_fields_of_others_by_these_names_do_not_cost_a_case(path: Path, other: object) -> None:
    cases = read(path, line(answer="4", scale=other, derivation=other))
    assert [case.id for case in cases.usable] == ["a"]
