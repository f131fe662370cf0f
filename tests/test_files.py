"""evals.files: what commands write is whole, and never takes the place of what they read."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from evals.files import check_output, replace_file
from pageglass.errors import StoreError, UsageError


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "new" / "run.json"
    replace_file(file, b"one")
    replace_file(file, b"two")
    assert file.read_bytes() == b"two"
    assert [*file.parent.iterdir()] == [file]


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("old")
    link = tmp_path / "link.json"
    link.symlink_to("real.json")
    replace_file(link, b"new")
    assert link.is_symlink()
    assert (tmp_path / "real.json").read_bytes() == b"new"


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    replace_file(pipe, b"through")
    reader.join(10)
    assert read == [b"through"]
    assert pipe.is_fifo()


def test_what_cannot_be_written_is_named_as_it_was_given(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "run.json"):
        with pytest.raises(UsageError, match=str(path)):
            check_output(path)
    with pytest.raises(StoreError, match=str(tmp_path / "file" / "run.json")):
        replace_file(tmp_path / "file" / "run.json", b"")
    check_output(tmp_path / "not" / "there" / "yet.json")


def test_the_folder_of_what_a_link_leads_to_must_take_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    lost, loop = tmp_path / "lost.json", tmp_path / "loop.json"
    lost.symlink_to(tmp_path / "file" / "run.json")
    loop.symlink_to(loop)
    for path in (lost, loop):
        with pytest.raises(UsageError, match=f"{path} cannot be written"):
            check_output(path)
    old = tmp_path / "shut" / "run.json"
    old.parent.mkdir()
    old.write_text("old")
    check_output(old)

    def access(path: Path, mode: int) -> bool:
        return path != old.parent

    # Whoever runs the tests as root may write anywhere.
    monkeypatch.setattr(os, "access", access)
    with pytest.raises(UsageError, match=f"{old} cannot be written"):
        check_output(old)


def test_what_is_read_is_not_written_over(tmp_path: Path) -> None:
    file, other = tmp_path / "cases.jsonl", tmp_path / "other.jsonl"
    file.write_text("{}")
    other.symlink_to(file)
    for path in (file, other):
        with pytest.raises(UsageError, match="choose another name"):
            check_output(path, inputs=[file])
    check_output(tmp_path / "run.json", inputs=[file])
