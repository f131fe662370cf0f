"""Pieces of work that are kept while it is under way."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.partial import Partial, fingerprint
from pageglass.errors import StoreError


@dataclass(frozen=True, slots=True)
class Piece:
    text: str
    pages: tuple[int, ...] = ()


names = st.lists(st.text(max_size=8), unique=True, min_size=1, max_size=6)


def work(path: Path | None, names: list[str], name_of_work: str = "w") -> tuple[list[str], int]:
    """Do the work to its end: the names that were made now, and how many were there already."""
    made: list[str] = []
    there: list[int] = []
    with Partial(path, Piece, name_of_work, there.append) as kept:
        for name in names:

            def make(name: str = name) -> Piece:
                made.append(name)
                return Piece(name, (len(name),))

            assert kept.once(name, make) == Piece(name, (len(name),))
    return made, sum(there)


@given(names, st.integers(0, 6), st.integers(0, 40))
def test_what_was_kept_is_not_made_again_wherever_it_was_cut(
    names: list[str], first: int, cut: int
) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "run.json.partial"
        work(path, names[:first])
        whole = path.read_bytes() if path.exists() else b""
        if whole:
            path.write_bytes(whole[: len(whole) - min(cut, len(whole))])
        lines = path.read_bytes().splitlines(keepends=True) if whole else []
        complete = sum(1 for line in lines[1:] if _is_whole(line))
        made, there = work(path, names)
        assert there == complete == len(names) - len(made)
        assert made == names[complete:]
        assert work(path, names) == ([], len(names))


def _is_whole(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def test_other_work_and_other_files_are_not_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run.json.partial"
    assert work(path, ["a", "b"]) == (["a", "b"], 0)
    assert work(path, ["a", "b"], "other") == (["a", "b"], 0)
    assert work(path, ["a"]) == (["a"], 0)
    for content in (b"", b"[]", b"\xff", b'{"work": "w"}\n[1]\n', b'{"work": "w"}\n{"name": "a"}'):
        path.write_bytes(content)
        assert work(path, ["a"]) == (["a"], 0)
    assert work(None, ["a"]) == (["a"], 0)


def test_what_another_time_may_do_better_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "run.json.partial"
    with Partial(path, Piece, "w") as kept:
        assert kept.once("a", lambda: Piece(""), keep=lambda one: bool(one.text)) == Piece("")
    assert not path.exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot read .*x\.partial"):
        work(tmp_path / "file" / "x.partial", ["a"])
    (tmp_path / "run.json.partial.new").mkdir()
    with pytest.raises(StoreError, match=r"cannot write .*run\.json\.partial"):
        work(tmp_path / "run.json.partial", ["a"])


def test_the_fingerprint_tells_work_apart_whatever_the_order_of_its_parts() -> None:
    assert fingerprint(a=1, b={"c": 2, "d": 3}) == fingerprint(b={"d": 3, "c": 2}, a=1)
    assert fingerprint(a=1) != fingerprint(a=2)
