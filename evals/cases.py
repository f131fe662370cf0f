"""Questions with known pages, as JSON lines.

One object a line: ``id``, ``question``, ``document`` (file name), ``pages`` (1-based positions in
the PDF; empty where unanswerable), ``answer`` (text or null), ``answerable``, ``sources`` (kinds
of evidence), ``answer_format``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError


class Case(BaseModel):
    """One question and where its answer stands."""

    model_config = ConfigDict(frozen=True)

    id: str
    question: str
    document: str
    pages: tuple[int, ...] = ()
    answer: str | None = None
    answerable: bool = True
    sources: tuple[str, ...] = ()
    answer_format: str = ""


@dataclass(frozen=True, slots=True)
class Cases:
    """The cases that can be used, and a line on each that cannot."""

    usable: tuple[Case, ...]
    excluded: tuple[str, ...]


def read_cases(path: Path, pages: Mapping[str, int]) -> Cases:
    """Read a file of cases; ``pages`` is the page count of every known document by name."""
    usable: dict[str, Case] = {}
    excluded: list[str] = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            case = Case.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            excluded.append(f"line {number}: {where} {first['msg']}".replace("  ", " "))
            continue
        if problem := _problem(case, pages, usable):
            excluded.append(f"line {number}: {problem}")
        else:
            usable[case.id] = case
    return Cases(tuple(usable.values()), tuple(excluded))


def _problem(case: Case, pages: Mapping[str, int], usable: Mapping[str, Case]) -> str | None:
    if case.id in usable:
        return f"id {case.id!r} stands twice"
    if case.document not in pages:
        return f"no document {case.document!r}"
    outside = [page for page in case.pages if not 1 <= page <= pages[case.document]]
    if outside:
        return f"{case.document} has no page {outside[0]}"
    if not case.question.strip():
        return "the question is empty"
    return None
