"""Question sets in the layouts that others publish; all made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evals.cases import Case, read_cases
from evals.layouts import LayoutError, fields_of

MM: dict[str, Any] = {
    "doc_id": "harbour.pdf",
    "doc_type": "Brochure",
    "question": "Which two piers have a crane?",
    "answer": "['North', 'East']",
    "evidence_pages": "[3, 5]",
    "evidence_sources": "['Chart', 'Pure-text (Plain-text)']",
    "answer_format": "List",
}
NONE = MM | {
    "question": "Which pier has two cranes?",
    "answer": "Not answerable",
    "evidence_pages": "[]",
    "evidence_sources": "[]",
    "answer_format": "None",
}
FB: dict[str, Any] = {
    "financebench_id": "financebench_id_1",
    "company": "Skiff",
    "doc_name": "SKIFF_2021_10K",
    "question_type": "metrics-generated",
    "question": "What were the harbour dues of FY2021?",
    "answer": "$12.5",
    "evidence": [
        {
            "evidence_text": "Harbour dues \n\n12.5",
            "doc_name": "SKIFF_2021_10K",
            "evidence_page_num": 7,
            "evidence_text_full_page": "...",
        },
        {"evidence_text": "Dues rose.", "doc_name": "SKIFF_2021_10K", "evidence_page_num": 2},
    ],
}
PAGES = {"harbour.pdf": 9, "SKIFF_2021_10K.pdf": 9}


def test_a_list_of_mmlongbench_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "samples.json"
    path.write_text(json.dumps([MM, NONE], indent=4))
    cases = read_cases(path, PAGES)
    assert cases.excluded == ()
    assert cases.usable == (
        Case(
            id="mmlongbench-1",
            question=MM["question"],
            document="harbour.pdf",
            pages=(3, 5),
            answer="['North', 'East']",
            sources=("Chart", "Pure-text (Plain-text)"),
            answer_format="List",
        ),
        Case(
            id="mmlongbench-2",
            question=NONE["question"],
            document="harbour.pdf",
            answerable=False,
            answer_format="None",
        ),
    )


def test_lines_of_financebench_are_read_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "financebench_open_source.jsonl"
    path.write_text(json.dumps(FB) + "\n")
    assert read_cases(path, PAGES).usable == (
        Case(
            id="financebench_id_1",
            question=FB["question"],
            document="SKIFF_2021_10K.pdf",
            pages=(3, 8),  # 0-based in the file
            answer="$12.5",
            sources=("metrics-generated",),
            quote="Harbour dues 12.5",
        ),
    )


def test_layouts_may_stand_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    ours = {"id": "a", "question": "Why?", "document": "harbour.pdf", "pages": [1]}
    path.write_text("\n".join(map(json.dumps, [ours, MM, FB])))
    ids = [case.id for case in read_cases(path, PAGES).usable]
    assert ids == ["a", "mmlongbench-2", "financebench_id_1"]


def test_a_bad_item_of_a_list_is_named_by_its_line_and_the_rest_goes_on(tmp_path: Path) -> None:
    items = [
        json.dumps(MM | {"evidence_pages": "[3, 5"}),
        json.dumps(MM),
        '{"doc_id": broken}',
        json.dumps(MM | {"doc_id": "unknown.pdf"}),
        json.dumps(MM | {"evidence_pages": "[10]"}),
        json.dumps(NONE),
    ]
    path = tmp_path / "samples.json"
    path.write_text("[\n" + ",\n".join(items) + "\n]\n{}\n")
    cases = read_cases(path, PAGES)
    assert [case.id for case in cases.usable] == ["mmlongbench-2", "mmlongbench-5"]
    reasons = dict(said.split(": ", 1) for said in cases.excluded)
    assert reasons.keys() == {"line 2", "line 4", "line 5", "line 6", "line 9"}
    assert reasons["line 2"] == "field 'evidence_pages' holds no list: '[3, 5'"
    assert reasons["line 4"].startswith("broken JSON: expecting value")
    assert reasons["line 5"] == "no document 'unknown.pdf'"
    assert reasons["line 6"] == "harbour.pdf has no page 10: it has 9 pages"


def test_a_list_without_an_end_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "samples.json"
    path.write_text("[" + json.dumps(MM) + ",\n")
    cases = read_cases(path, PAGES)
    assert len(cases.usable) == 1
    assert cases.excluded == ("line 2: broken JSON: the list has no end",)


def test_an_item_that_is_no_utf8_is_excluded_alone(tmp_path: Path) -> None:
    path = tmp_path / "samples.json"
    bad = json.dumps(MM | {"question": "Caf?"}).encode().replace(b"Caf?", b"Caf\xe9")
    path.write_bytes(b"[\n" + bad + b",\n" + json.dumps(NONE).encode() + b"]")
    cases = read_cases(path, PAGES)
    assert [case.id for case in cases.usable] == ["mmlongbench-1"]
    assert cases.excluded == ("line 2: not UTF-8",)


def test_answerable_without_pages_is_remarked(tmp_path: Path) -> None:
    path = tmp_path / "samples.json"
    path.write_text(json.dumps([MM | {"evidence_pages": "[]"}]))
    cases = read_cases(path, PAGES)
    assert len(cases.usable) == 1
    assert "no gold pages" in cases.remarks[0]


BAD: list[tuple[dict[str, Any], str]] = [
    (MM | {"evidence_pages": "__import__('os')"}, "'evidence_pages' holds no list"),
    (MM | {"evidence_pages": "(" * 5000}, "'evidence_pages' holds no list"),
    (MM | {"evidence_pages": "{3}"}, "'evidence_pages' holds no list"),
    (MM | {"evidence_pages": "['3']"}, "'evidence_pages' must be a list of whole numbers"),
    (MM | {"evidence_pages": "[True]"}, "'evidence_pages' must be a list of whole numbers"),
    (MM | {"evidence_sources": None}, "'evidence_sources' holds no list"),
    (MM | {"answer": None}, "'answer' must be text"),
    (FB | {"doc_name": None}, "'doc_name' must be text"),
    (FB | {"evidence": {}}, "'evidence' must be a list"),
    (FB | {"evidence": [{}]}, "'evidence.0.evidence_page_num' must be a whole number from 0"),
    (FB | {"evidence": [{"evidence_page_num": -1}]}, "must be a whole number from 0"),
    (
        FB | {"evidence": [{"evidence_page_num": 1, "doc_name": "OTHER"}]},
        "'evidence.0.doc_name' is not the question's document",
    ),
]


@pytest.mark.parametrize(("record", "reason"), BAD)
def test_a_record_that_is_not_as_its_layout_says_why(record: dict[str, Any], reason: str) -> None:
    with pytest.raises(LayoutError) as raised:
        fields_of(record, 1)
    assert reason in str(raised.value)


@pytest.mark.parametrize("answer", ["not answerable", "Not answerable.", " Not Answerable "])
def test_not_answerable_is_known_however_it_is_written(answer: str) -> None:
    fields = fields_of(MM | {"answer": answer}, 1)
    assert (fields["answerable"], fields["answer"]) == (False, None)


def test_an_answer_that_is_a_number_becomes_text_and_pages_may_be_a_list() -> None:
    fields = fields_of(MM | {"answer": 8, "evidence_pages": [3]}, 1)
    assert (fields["answer"], fields["pages"]) == ("8", [3])


def test_evidence_that_is_a_whole_page_is_no_quote() -> None:
    record = FB | {"evidence": [{"evidence_page_num": 1, "evidence_text": "x " * 3000}]}
    assert fields_of(record, 1)["quote"] == ""
