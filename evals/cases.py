"""Questions with known pages, as JSON lines.

One object a line: ``id``, ``question``, ``document`` (one of its file names, or its id), ``pages``
(1-based positions in the PDF; empty where unanswerable), ``answer`` (text, a number, a list of
these, or null), ``answerable``, ``sources`` (kinds of evidence), ``answer_format``. Beside these,
where there is something to say: ``scale`` of a number ("thousand", "million", "billion",
"percent"), ``derivation`` (how it was computed), ``quote`` (the words on the gold page), ``origin``
("proposed" by `pageglass eval new`, "logged" by `pageglass eval save`) and ``reviewed`` (a person
has accepted it). Other fields are let be.

Files in the layouts of MMLongBench-Doc and FinanceBench are read as they are (evals.layouts).
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import shutil
import unicodedata
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel, ConfigDict, ValidationError

from evals.layouts import LayoutError, fields_of
from pageglass.errors import UsageError
from pageglass.types import Document

MAX_LINE_BYTES = 4 << 20
"""Longer lines are excluded: a question with its evidence is far shorter."""

MAX_LIST_BYTES = 256 << 20
"""A file that is one JSON list is read whole, up to this."""

_LINE = re.compile(rb"[^\n]*\n|[^\n]+")
_BOM = b"\xef\xbb\xbf"
_SHOWN = 80
# What some readers take for a line's end may stand bare in JSON.
_LINE_ENDS = {ord(char): f"\\u{ord(char):04x}" for char in "\x85\u2028\u2029"}


class CasesError(UsageError):
    """A file of cases cannot be read or written, or not in that way."""

    code = "cases"


class Case(BaseModel):
    """One question and where its answer stands."""

    model_config = ConfigDict(frozen=True)

    id: str
    question: str
    document: str
    pages: tuple[int, ...] = ()
    answer: str | tuple[str, ...] | None = None
    answerable: bool = True
    sources: tuple[str, ...] = ()
    answer_format: str = ""
    scale: str = ""
    derivation: str = ""
    quote: str = ""
    origin: str = ""
    reviewed: bool = False

    @property
    def gold(self) -> str:
        """The answer as one text, "" where there is none: a list as Python writes it, a number with
        its scale."""
        answer = self.answer or ""
        if not isinstance(answer, str):
            return answer[0].strip() if len(answer) == 1 else str(list(answer))
        answer, scale = answer.strip(), self.scale.strip().lower()
        if not scale or not answer or answer.lower().endswith((scale, "%")):
            return answer
        return f"{answer}%" if scale == "percent" else f"{answer} {scale}"

    @property
    def open(self) -> bool:
        """Whether a program made it and no person has looked at it yet."""
        return bool(self.origin) and not self.reviewed


@dataclass(frozen=True, slots=True)
class Cases:
    """The cases that can be used, a line on each that cannot, and ``remarks`` on what of the
    usable ones counts less than it seems: those without gold pages, which no ranking is scored by,
    and those that nobody has looked at."""

    usable: tuple[Case, ...]
    excluded: tuple[str, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Shelf:
    """The documents that cases may name, by every file name of theirs and by id.

    ``pages`` are page counts, ``ids`` the documents' ids, ``shared`` the ids of those that have a
    name in common, which names none of them.
    """

    pages: Mapping[str, int]
    ids: Mapping[str, str] = field(default_factory=dict[str, str])
    shared: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])

    @classmethod
    def of(cls, documents: Iterable[Document]) -> Shelf:
        """The shelf of an index's documents."""
        named: dict[str, dict[str, Document]] = {}
        for document in documents:
            for name in {document.id, document.name, *document.names}:
                named.setdefault(_normal(name), {})[document.id] = document
        one = {name: next(iter(found.values())) for name, found in named.items() if len(found) == 1}
        return cls(
            pages={name: document.pages for name, document in one.items()},
            ids={name: document.id for name, document in one.items()},
            shared={name: tuple(found) for name, found in named.items() if len(found) > 1},
        )

    def id_of(self, document: str) -> str:
        """The id of the document that a case names so; KeyError where none or several are."""
        return self.ids[_normal(document)]

    def count(self, document: str) -> int | None:
        """How many pages the document has; None where none or several are named so."""
        return self.pages.get(document, self.pages.get(_normal(document)))


def read_cases(path: Path, pages: Mapping[str, int] | Shelf | None) -> Cases:
    """Read a file of cases, in our format or one of evals.layouts.

    ``pages`` is the page count of every known document by name, or a shelf; with None documents are
    not looked for. Whatever is wrong with a record excludes that record, named by its line, and the
    rest goes on. CasesError where the file itself cannot be read.
    """
    shelf = pages if isinstance(pages, Shelf) or pages is None else Shelf(pages)
    usable: dict[str, Case] = {}
    excluded: list[str] = []
    remarks: list[str] = []
    for line, case in _records(path):
        if isinstance(case, str):
            excluded.append(f"line {line}: {case}")
        elif problem := _problem(case, shelf, usable):
            excluded.append(f"line {line}: {problem}")
        else:
            usable[case.id] = case
            if case.answerable and not case.pages:
                remarks.append(f"line {line}: no gold pages: it is left out of the rankings")
    if not usable and not excluded:
        excluded.append("line 1: the file is empty")
    if unseen := sum(case.open for case in usable.values()):
        are = "case was" if unseen == 1 else "cases were"
        remarks.append(
            f"{unseen} {are} made by a program and nobody has looked at them:"
            f" `pageglass eval review {path.name}`"
        )
    return Cases(tuple(usable.values()), tuple(excluded), tuple(remarks))


def write_cases(path: Path, cases: Sequence[Case]) -> None:
    """Write the file anew, at once or not at all; CasesError where an id stands twice."""
    ids: set[str] = set()
    for case in cases:
        if case.id in ids:
            raise CasesError(f"id {_short(case.id)} stands twice: give each case an id of its own")
        ids.add(case.id)
    with alone(path):
        _replace(path, b"".join(map(_line_of, cases)))


def append_cases(path: Path, cases: Sequence[Case]) -> None:
    """Add cases at the end of the file, or begin it; what stands there already stays as it is.
    All or none: CasesError where an id stands there already, or twice among ``cases``."""
    with alone(path):
        lines = _lines_of(path)
        ids = {case.id for _, case in lines if case is not None}
        for case in cases:
            if case.id in ids:
                raise CasesError(f"{path} has a case with the id {_short(case.id)} already")
            ids.add(case.id)
        _replace(path, _joined(lines) + b"".join(map(_line_of, cases)))


def append_case(path: Path, case: Case) -> None:
    """Add one case at the end of the file, or begin it; CasesError."""
    append_cases(path, [case])


def replace_case(path: Path, id: str, case: Case | None) -> None:
    """Put ``case`` in the place of the one with this id, or with None take that out. Other lines,
    and fields of the line that are not ours, stay. CasesError where there is none with this
    id, or more than one."""
    with alone(path):
        lines = _lines_of(path)
        place = _place(path, lines, id)
        if place is None:
            raise CasesError(f"{path} has no case with the id {_short(id)}")
        _replace(path, _replaced(lines, place, case))


def move_case(case: Case, to: Path, away: Path) -> None:
    """Put the case into one file, over the one with its id or at the end, and out of the other, in
    this order: a crash loses nothing. The caller is `alone` with both, which share a folder.
    CasesError, and nothing changed, where its id stands twice in one."""
    lines, others = _lines_of(to), _lines_of(away)
    place, other = _place(to, lines, case.id), _place(away, others, case.id)
    if place is not None:
        _replace(to, _replaced(lines, place, case))
    else:
        _replace(to, _joined(lines) + _line_of(case))
    if other is not None:
        _replace(away, _replaced(others, other, None))


@contextmanager
def alone(path: Path) -> Generator[None]:
    """Hold off others, in this process or another, that change files of cases in this folder.
    CasesError where there can be no such folder."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise CasesError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def listed_cases(path: Path) -> list[Case]:
    """The cases of a file in order, without a look at documents: none where there is no file, and
    without the records that are none."""
    if not path.exists():
        return []
    return list(read_cases(path, None).usable)


# Reading


def _records(path: Path) -> Iterator[tuple[int, Case | str]]:
    """Each record's line and the case it is, or what is wrong with it."""
    number = 0
    for line, record in _parsed_records(path):
        if isinstance(record, str):
            yield line, record
            continue
        number += 1
        yield line, _case(record.value, number)


@dataclass(frozen=True, slots=True)
class _Parsed:
    value: Any


def _parsed_records(path: Path) -> Iterator[tuple[int, _Parsed | str]]:
    """Each record's line and what it is as JSON, or why it is none."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
            if head.startswith((b"\xff\xfe", b"\xfe\xff")):
                yield 1, "not UTF-8 but UTF-16: save the file as UTF-8"
                return
            if head.removeprefix(_BOM).lstrip().startswith(b"["):
                data = head + file.read(MAX_LIST_BYTES + 1)
                if len(data) > MAX_LIST_BYTES:
                    yield 1, f"the list is longer than {MAX_LIST_BYTES >> 20} MB"
                    return
                yield from _listed_records(data.removeprefix(_BOM))
                return
            file.seek(0)
            for number, line in _bounded(file):
                if line is None:
                    yield number, f"longer than {MAX_LINE_BYTES >> 20} MB"
                elif line.strip():
                    yield number, _json(line)
    except OSError as error:
        raise CasesError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None


def _bounded(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """The file's lines; None for one that is too long, which is never held as a whole."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if number == 1:
            line = line.removeprefix(_BOM)
        if len(line) > MAX_LINE_BYTES:
            while not line.endswith(b"\n") and (line := file.readline(MAX_LINE_BYTES)):
                pass
            yield number, None
        else:
            yield number, line


def _json(line: bytes) -> _Parsed | str:
    try:
        return _Parsed(json.loads(line.decode("utf-8")))
    except UnicodeDecodeError as error:
        return f"not UTF-8 (byte {error.start + 1} of the line)"
    except json.JSONDecodeError as error:
        return f"broken JSON: {error.msg.lower()} (character {error.pos + 1} of the line)"
    except (ValueError, RecursionError) as error:
        return f"broken JSON: {_reason(error)}"


def _listed_records(data: bytes) -> Iterator[tuple[int, _Parsed | str]]:
    """The items of a JSON list, each with the line it begins on, and what lines follow the list.

    After an item that is broken, what next begins a line with a brace is taken for the next one.
    """
    # Bytes that are no UTF-8 become lone surrogates, which no case may have.
    text = data.decode("utf-8", "surrogateescape")
    dirty = not _is_utf8(data)
    decoder = json.JSONDecoder()
    at = text.index("[") + 1
    line, counted = 1, 0
    while True:
        at = _skip(text, at, " \t\r\n,")
        line, counted = line + text.count("\n", counted, at), at
        if at >= len(text):
            yield line, "broken JSON: the list has no end"
            return
        if text[at] == "]":
            break
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            yield line, f"broken JSON: {_reason(error)}"
            at = _next_item(text, at)
            continue
        if dirty and any("\udc80" <= char <= "\udcff" for char in text[at:end]):
            yield line, "not UTF-8"
        else:
            yield line, _Parsed(value)
        at = end
    for more, rest in enumerate(text[at + 1 :].split("\n")):
        if rest.strip():
            yield line + more, _json(rest.encode("utf-8", "surrogateescape"))


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _skip(text: str, at: int, what: str) -> int:
    while at < len(text) and text[at] in what:
        at += 1
    return at


def _next_item(text: str, at: int) -> int:
    """Where the next line begins with a brace; the end of the text where none does."""
    while (at := text.find("\n", at)) >= 0:
        at = _skip(text, at, " \t\r\n,")
        if text[at : at + 1] == "{":
            return at
    return len(text)


def _reason(error: BaseException) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg.lower()} (line {error.lineno}, character {error.colno})"
    if isinstance(error, RecursionError):
        return "nested too deep"
    return str(error)[:_SHOWN]


def _case(record: object, number: int) -> Case | str:
    """The case that the file's ``number``-th record is, or what is wrong with it."""
    if not isinstance(record, dict):
        return "not a JSON object"
    try:
        fields = fields_of(record, number)
        known = {name: fields[name] for name in Case.model_fields if name in fields}
        known |= {name: _texts(fields[name]) for name in ("answer",) if name in fields}
        known |= {name: _text(fields[name]) for name in ("scale", "derivation") if name in fields}
        # As JSON, so that its types are taken strictly: "3" is no page and "yes" no answerable.
        return Case.model_validate_json(json.dumps(known), strict=True)
    except LayoutError as error:
        return str(error)
    except RecursionError:
        return "nested too deep"
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["loc"][:1] == ("answer",):
            return "field 'answer' should be text, a number, a list of these, or null"
        if first["type"] == "missing":
            return f"field {where!r} is missing"
        if first["type"] == "json_invalid":
            return f"broken JSON: {first['msg'].removeprefix('Invalid JSON: ')}"
        return f"field {where!r} {first['msg'].replace('Input should', 'should', 1)}"


def _texts(answer: Any) -> Any:
    """An answer with its numbers as text; what is no answer stays as it is, to be refused."""
    if isinstance(answer, list):
        return [_texts(one) if not isinstance(one, list) else one for one in answer] or None
    if isinstance(answer, int | float) and not isinstance(answer, bool) and math.isfinite(answer):
        return format(Decimal(repr(answer)), "f")
    return answer


def _text(value: Any) -> str:
    """Any JSON value as text: it was another's field before it was ours."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _problem(case: Case, shelf: Shelf | None, usable: Mapping[str, Case]) -> str | None:
    if not case.id.strip():
        return "the id is empty"
    if case.id in usable:
        return f"id {_short(case.id)} stands twice"
    return problem_of(case, shelf)


def problem_of(case: Case, shelf: Shelf | None) -> str | None:
    """Why a case cannot be used with the documents of ``shelf`` (None: with any); None where it
    can."""
    if not case.question.strip():
        return "the question is empty"
    if shelf is not None:
        return _misplaced(case, shelf)
    outside = [page for page in case.pages if page < 1]
    return (
        f"pages count from 1, and there is no page {str(outside[0])[:_SHOWN]}" if outside else None
    )


def _misplaced(case: Case, shelf: Shelf) -> str | None:
    if ids := shelf.shared.get(_normal(case.document)):
        return f"{len(ids)} documents are named {_short(case.document)}: give an id: " + ", ".join(
            ids[:5]
        )
    count = shelf.count(case.document)
    if count is None:
        return f"no document {_short(case.document)}"
    if count == 0:
        return f"document {_short(case.document)} has no pages that can be searched"
    outside = [page for page in case.pages if not 1 <= page <= count]
    if outside:
        pages = "1 page" if count == 1 else f"{count} pages"
        return f"{case.document[:_SHOWN]} has no page {str(outside[0])[:_SHOWN]}: it has {pages}"
    return None


def _normal(name: str) -> str:
    """A file name whose letters are composed: file systems differ in that."""
    return unicodedata.normalize("NFC", name)


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…")


# Writing


def _line_of(case: Case, old: Mapping[str, Any] | None = None) -> bytes:
    """The case's line; ``old`` are the fields that stood there."""
    fields = case.model_dump(mode="json")
    for name in ("scale", "derivation", "quote", "origin", "reviewed"):
        if not fields[name]:
            del fields[name]
    others = {name: value for name, value in (old or {}).items() if name not in Case.model_fields}
    line = json.dumps(fields | others, ensure_ascii=False).translate(_LINE_ENDS)
    return f"{line}\n".encode("utf-8", "backslashreplace")


def _lines_of(path: Path) -> list[tuple[bytes, Case | None]]:
    """The file's lines as they stand, each with the case it is; nothing where there is no file,
    or a pipe or device."""
    if _is_special(path):
        return []
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CasesError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    if data.removeprefix(_BOM).lstrip().startswith(b"["):
        raise CasesError(
            f"{path} is one JSON list, to which nothing is added:"
            f" `pageglass eval convert {path.name} --out cases.jsonl` makes lines of it"
        )
    found: list[tuple[bytes, Case | None]] = []
    number = 0
    for line in _LINE.findall(data):
        record = _json(line.removeprefix(_BOM)) if line.strip() else ""
        number += not isinstance(record, str)
        case = _case(record.value, number) if not isinstance(record, str) else None
        found.append((line, case if isinstance(case, Case) else None))
    return found


def _joined(lines: Sequence[tuple[bytes, Case | None]]) -> bytes:
    """The lines as they stand, the last one ended."""
    data = b"".join(line for line, _ in lines)
    return data + b"\n" if data and not data.endswith(b"\n") else data


def _place(path: Path, lines: Sequence[tuple[bytes, Case | None]], id: str) -> int | None:
    """Which of the file's lines is the case with this id; CasesError where several are: with one
    of them gone, another that nobody was shown would take its place."""
    places = [n for n, (_, old) in enumerate(lines) if old is not None and old.id == id]
    if len(places) > 1:
        raise CasesError(
            f"id {_short(id)} stands on lines {', '.join(str(n + 1) for n in places[:5])} of"
            f" {path.name}: give each case an id of its own"
        )
    return places[0] if places else None


def _replaced(lines: Sequence[tuple[bytes, Case | None]], place: int, case: Case | None) -> bytes:
    """The lines with ``case`` in one's place, or without that one."""
    kept = [line for line, _ in lines]
    kept[place : place + 1] = [] if case is None else [_line_of(case, _parsed(kept[place]))]
    return b"".join(kept)


def _parsed(line: bytes) -> Mapping[str, Any]:
    record = _json(line.removeprefix(_BOM))
    return record.value if not isinstance(record, str) else {}


def _is_special(path: Path) -> bool:
    # Not of the resolved path: what /dev/stdout leads to may have no name.
    return path.exists() and not path.is_file() and not path.is_dir()


def _replace(path: Path, data: bytes) -> None:
    """Write the file beside itself first: a crash leaves the old one or the new one. A device or
    a pipe is no file that another could take the place of: it is written into."""
    if _is_special(path):
        try:
            with path.open("wb") as file:
                file.write(data)
        except OSError as error:
            raise CasesError(
                f"cannot write {path}: {(error.strerror or str(error)).lower()}"
            ) from None
        return
    path = path.resolve()
    new = path.with_name(f".{path.name}.new")
    try:
        with new.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, new)
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise CasesError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from None
