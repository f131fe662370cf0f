"""Records of other question sets, as the fields of a case.

MMLongBench-Doc publishes one JSON list (``samples.json``) with ``doc_id``, ``question``,
``answer`` ("Not answerable" where it is), ``answer_format``, and ``evidence_pages`` (1-based) and
``evidence_sources`` written as Python lists in a string. FinanceBench publishes JSON lines
(``financebench_open_source.jsonl``) with ``financebench_id``, ``doc_name`` without its ending,
``question``, ``answer``, ``question_type``, and ``evidence``: a list of objects with
``evidence_text`` and ``evidence_page_num``, 0-based. Pure functions.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any, Literal

Layout = Literal["cases", "mmlongbench", "financebench"]

NOT_ANSWERABLE = "not answerable"
"""The answer of MMLongBench-Doc's questions without one, in lower case."""

# FinanceBench often gives a whole page as evidence, which is no quote.
_QUOTE_CHARACTERS = 1000


class LayoutError(ValueError):
    """A record is not as its layout has it; the message says which field."""


def layout_of(record: Mapping[str, Any]) -> Layout:
    """Whose record it is, told by the names of its fields."""
    if "financebench_id" in record:
        return "financebench"
    if "doc_id" in record and "evidence_pages" in record:
        return "mmlongbench"
    return "cases"


def fields_of(record: Mapping[str, Any], number: int) -> Mapping[str, Any]:
    """The record as the fields of a case, whatever its layout; ``number`` is its 1-based place
    among the file's records. Fields that need no change are not checked. LayoutError."""
    match layout_of(record):
        case "mmlongbench":
            return _mmlongbench(record, number)
        case "financebench":
            return _financebench(record)
        case "cases":
            return record


def _mmlongbench(record: Mapping[str, Any], number: int) -> dict[str, Any]:
    answer = record.get("answer")
    if not isinstance(answer, str | int | float):
        raise LayoutError("field 'answer' must be text or a number")
    answerable = str(answer).strip().rstrip(".").lower() != NOT_ANSWERABLE
    pages = _listed(record, "evidence_pages")
    if not all(isinstance(page, int) and not isinstance(page, bool) for page in pages):
        raise LayoutError("field 'evidence_pages' must be a list of whole numbers")
    return {
        "id": f"mmlongbench-{number}",
        "question": record.get("question"),
        "document": record["doc_id"],
        "pages": pages,
        "answer": str(answer) if answerable else None,
        "answerable": answerable,
        "sources": _listed(record, "evidence_sources"),
        "answer_format": record.get("answer_format", ""),
    }


def _financebench(record: Mapping[str, Any]) -> dict[str, Any]:
    name = record.get("doc_name")
    if not isinstance(name, str) or not name:
        raise LayoutError("field 'doc_name' must be text")
    evidence = record.get("evidence")
    if not isinstance(evidence, list):
        raise LayoutError("field 'evidence' must be a list")
    pages: set[int] = set()
    texts: list[str] = []
    for place, one in enumerate(evidence):
        index = one.get("evidence_page_num") if isinstance(one, dict) else None
        if not isinstance(index, int) or isinstance(index, bool) or index < 0:
            raise LayoutError(
                f"field 'evidence.{place}.evidence_page_num' must be a whole number from 0"
            )
        if one.get("doc_name", name) != name:
            raise LayoutError(f"field 'evidence.{place}.doc_name' is not the question's document")
        pages.add(index + 1)
        text = one.get("evidence_text")
        texts += [" ".join(text.split())] if isinstance(text, str) else []
    kind = record.get("question_type")
    return {
        "id": record["financebench_id"],
        "question": record.get("question"),
        "document": name if name.lower().endswith(".pdf") else f"{name}.pdf",
        "pages": sorted(pages),
        "answer": record.get("answer"),
        "answerable": True,
        "sources": [kind] if kind else [],
        "answer_format": "",
        "quote": texts[0] if texts and len(texts[0]) <= _QUOTE_CHARACTERS else "",
    }


def _listed(record: Mapping[str, Any], name: str) -> list[Any]:
    """A list, or the Python list that a string holds."""
    value = record.get(name, [])
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value.strip() or "[]")
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise LayoutError(f"field {name!r} holds no list: {value[:60]!r}") from None
    if not isinstance(value, list):
        raise LayoutError(f"field {name!r} holds no list: {str(value)[:60]!r}")
    return value
