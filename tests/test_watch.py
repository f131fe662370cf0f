"""The watcher against a registry that keeps what it is given, on real files."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from ingest.sources import FileState, Source
from ingest.watch import LeftOut, PlannedAction, Watcher, collection_name, files_in, is_remote
from pageglass.errors import FileChanged, NotADocument, SettingsError, StoreUnreachable
from pageglass.settings import WatchSettings
from pageglass.types import check_collection_name


class Kept:
    """A registry in memory: sources by collection and path, and every content it was given."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, str], Source] = {}
        self.folders: dict[tuple[str, str], str] = {}
        self.read: list[bytes] = []
        self.before_check: Callable[[], object] = lambda: None
        self.before_take: Callable[[str], object] = lambda path: None
        self.after_look: Callable[[], object] = lambda: None

    @property
    def paths(self) -> set[str]:
        return {Path(path).name for _, path in self.known}

    def sources(self, folder: str) -> list[Source]:
        self.after_look()
        return [s for key, s in self.known.items() if self.folders[key] == folder]

    def take(
        self,
        file: BinaryIO,
        *,
        collection: str,
        path: str,
        folder: str,
        state: FileState,
        unchanged: Callable[[], bool],
    ) -> bool:
        self.before_take(Path(path).name)
        data = file.read()
        self.before_check()
        if not unchanged():
            raise FileChanged("changed")
        if not data:
            raise NotADocument("the file is empty")
        self.read.append(data)
        self.known[collection, path] = Source(collection, path, data.hex(), state)
        self.folders[collection, path] = folder
        return True

    def renamed(self, source: Source, *, path: str, state: FileState) -> None:
        old, new = (source.collection, source.path), (source.collection, path)
        self.folders[new] = self.folders.pop(old)
        self.known[new] = replace(
            self.known.pop(old), path=path, state=state, missing_since=None, deletion=None
        )

    def missing(self, sources: Sequence[Source], since: float | None) -> None:
        for s in sources:
            key = s.collection, s.path
            self.known[key] = replace(self.known[key], missing_since=since, deletion=None)

    def hold(self, sources: Sequence[Source]) -> None:
        for s in sources:
            self.known[s.collection, s.path] = replace(s, deletion="held")

    def forget(self, sources: Sequence[Source]) -> None:
        for s in sources:
            del self.known[s.collection, s.path]


class Scene:
    """A folder, its watcher, and clocks to set. Settles after 2 seconds, removes after 60."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        folder.mkdir()
        self.folder = folder
        self.kept = Kept()
        self.now, self.wall = 100.0, 1e9
        self.done: list[PlannedAction] = []
        self.settings = WatchSettings(**settings)
        self.watcher = self.new_watcher()

    def new_watcher(self) -> Watcher:
        return Watcher(
            [self.folder],
            registry=self.kept,
            collection="c",
            settings=self.settings,
            told=self.done.append,
            clock=lambda: self.now,
            wall=lambda: self.wall,
        )

    def write(self, name: str | bytes, content: bytes = b"x") -> Path:
        path = self.folder / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def settle(self, seconds: float = 3) -> bool:
        """Scan, wait, scan."""
        self.watcher.scan()
        self.now += seconds
        self.wall += seconds
        return self.watcher.scan()

    def actions(self) -> list[str]:
        found = [f"{action.action} {Path(action.path).name}" for action in self.done]
        self.done.clear()
        return found


def raising(error: Exception) -> Callable[..., Any]:
    def answer(*arguments: object, **named: object) -> None:
        raise error

    return answer


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "inbox")


@pytest.fixture
def readable() -> Iterator[Scene]:
    """A scene whose actor is bound by permissions, even where root runs the tests."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        if os.geteuid() != 0:
            yield Scene(Path(folder) / "inbox")
            return
        os.chown(folder, 65534, -1)
        os.seteuid(65534)
        try:
            yield Scene(Path(folder) / "inbox")
        finally:
            os.seteuid(0)


def test_a_file_is_taken_once_it_stands_still(scene: Scene) -> None:
    path = scene.write("a.pdf", b"one")
    assert scene.watcher.scan()
    scene.now += 1
    path.write_bytes(b"one and a half")
    assert scene.watcher.scan()
    scene.now += 1.5
    assert scene.watcher.scan()
    assert scene.kept.read == []
    scene.now += 1
    assert not scene.watcher.scan()
    assert scene.kept.read == [b"one and a half"]


def test_a_file_that_grows_while_it_is_read_is_taken_when_it_is_whole(scene: Scene) -> None:
    path = scene.write("a.pdf", b"half")
    scene.kept.before_check = lambda: path.write_bytes(b"half and half")
    assert scene.settle()
    assert scene.kept.read == []
    scene.kept.before_check = lambda: None
    assert not scene.settle()
    assert scene.kept.read == [b"half and half"]


def test_a_file_that_vanishes_while_it_is_read_is_nothing(scene: Scene) -> None:
    path = scene.write("a.pdf")
    scene.kept.before_check = path.unlink
    scene.settle()
    assert not scene.settle()
    assert scene.kept.known == {}


@pytest.mark.parametrize("becomes", ["nothing", "folder", "link", "fifo", "another file"])
def test_a_file_that_is_something_else_when_it_is_opened_is_not_taken(
    scene: Scene, becomes: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = scene.write("a.pdf")
    scene.write("b.pdf", b"b")
    secret = scene.folder.parent / "secret.pdf"
    secret.write_bytes(b"s")
    scene.watcher.scan()
    scene.now += 3

    def replaced() -> None:
        path.unlink()
        if becomes == "folder":
            path.mkdir()
        elif becomes == "link":
            path.symlink_to(secret)
        elif becomes == "fifo":
            os.mkfifo(path)
        elif becomes == "another file":
            path.write_bytes(b"half")
        scene.kept.after_look = lambda: None

    scene.kept.after_look = replaced
    assert scene.watcher.scan()
    assert scene.kept.read == [b"b"]
    assert scene.actions() == ["take b.pdf"]
    assert "cannot be taken" not in caplog.text
    assert not scene.settle()
    assert scene.kept.read == ([b"b", b"half"] if becomes == "another file" else [b"b"])


def test_a_file_from_the_future_is_taken_once(scene: Scene) -> None:
    os.utime(scene.write("a.pdf"), (4e9, 4e9))
    for _ in range(3):
        scene.settle()
    assert scene.kept.read == [b"x"]


def test_what_is_known_is_not_read_again_after_a_restart(scene: Scene) -> None:
    scene.write("a.pdf")
    scene.settle()
    scene.watcher = scene.new_watcher()
    assert not scene.settle()
    assert len(scene.kept.read) == 1
    scene.write("a.pdf", b"longer")
    scene.settle()
    assert scene.kept.read == [b"x", b"longer"]


def test_a_rename_is_seen_at_once_and_reads_nothing(scene: Scene) -> None:
    path = scene.write("a.pdf")
    scene.settle()
    scene.actions()
    path.rename(scene.folder / "b.pdf")
    scene.write("new/c.pdf", b"other")
    scene.watcher.scan()
    assert scene.actions() == ["rename b.pdf"]
    assert scene.kept.read == [b"x"]
    (scene.folder / "b.pdf").rename(scene.folder / "new" / "B.PDF")
    scene.watcher.scan()
    assert scene.actions() == ["rename B.PDF"]


def test_a_rename_over_another_file_and_a_swap_end_with_the_right_contents(scene: Scene) -> None:
    one, two = scene.write("1.pdf", b"one"), scene.write("2.pdf", b"two!")
    scene.settle()
    one.rename(scene.folder / "t")
    two.rename(one)
    (scene.folder / "t").rename(two)
    scene.settle()
    contents = {Path(p).name: bytes.fromhex(s.sha256) for (_, p), s in scene.kept.known.items()}
    assert contents == {"1.pdf": b"two!", "2.pdf": b"one"}
    two.rename(one)
    scene.settle(100)
    contents = {Path(p).name: bytes.fromhex(s.sha256) for (_, p), s in scene.kept.known.items()}
    assert contents == {"1.pdf": b"one"}


def test_what_is_gone_goes_after_a_grace_period(scene: Scene) -> None:
    path = scene.write("a.pdf")
    scene.settle()
    path.unlink()
    assert scene.settle(59)
    assert [s.missing_since for s in scene.kept.known.values()] == [scene.wall - 59]
    scene.now += 2
    scene.watcher.scan()
    assert scene.kept.known == {}
    assert scene.actions() == ["take a.pdf", "remove a.pdf"]


def test_what_comes_back_in_time_stays(scene: Scene) -> None:
    path = scene.write("a.pdf")
    scene.settle()
    away = scene.folder.parent / "away"
    path.rename(away)
    scene.settle(30)
    away.rename(path)
    scene.settle(100)
    assert [s.missing_since for s in scene.kept.known.values()] == [None]
    assert len(scene.kept.read) == 1


def test_setting_the_clock_removes_nothing_early_and_keeps_nothing_for_ever(scene: Scene) -> None:
    path = scene.write("a.pdf")
    scene.settle()
    path.unlink()
    scene.watcher.scan()
    scene.wall += 86_400
    scene.watcher.scan()
    assert scene.kept.paths == {"a.pdf"}
    scene.wall -= 5 * 86_400
    scene.settle(61)
    assert scene.kept.known == {}


def test_when_too_many_are_gone_at_once_a_person_is_asked(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [scene.write(f"{n}.pdf", bytes([n])) for n in range(40)]
    scene.settle()
    for path in paths[:10]:
        path.unlink()
    scene.settle(100)
    assert len(scene.kept.known) == 40
    assert sum(s.deletion == "held" for s in scene.kept.known.values()) == 10
    scene.settle(100)
    assert caplog.text.count("10 of 40 files are gone") == 1
    assert "pageglass deletions" in caplog.text
    # One at a time is no way around it.
    paths[11].unlink()
    scene.settle(100)
    assert len(scene.kept.known) == 40
    # What comes back is held no longer.
    scene.write("0.pdf", bytes([0]))
    scene.settle(3)
    assert sum(s.deletion == "held" for s in scene.kept.known.values()) == 10


def test_a_few_of_a_small_folder_may_go(scene: Scene) -> None:
    paths = [scene.write(f"{n}.pdf", bytes([n])) for n in range(9)]
    scene.settle()
    for path in paths:
        path.unlink()
    scene.settle(100)
    assert scene.kept.known == {}


def test_a_folder_that_disappears_takes_nothing_with_it(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.write("a.pdf")
    scene.settle()
    away = scene.folder.parent / "away"
    scene.folder.rename(away)
    scene.settle(500)
    scene.settle(500)
    assert scene.kept.paths == {"a.pdf"}
    assert caplog.text.count("its documents stay until it is back") == 1
    away.rename(scene.folder)
    scene.settle()
    assert [s.missing_since for s in scene.kept.known.values()] == [None]


def test_an_empty_folder_on_another_disk_is_an_unmounted_one(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    path = scene.write("a.pdf")
    scene.settle()
    (key,) = scene.kept.known
    known = scene.kept.known[key]
    scene.kept.known[key] = replace(known, state=replace(known.state, device=12345))
    path.unlink()
    scene.settle(500)
    assert scene.kept.paths == {"a.pdf"}
    assert "another disk" in caplog.text


def test_what_lies_where_a_disk_was_mounted_takes_nothing_with_it(scene: Scene) -> None:
    path = scene.write("a.pdf")
    scene.settle()
    (key,) = scene.kept.known
    known = scene.kept.known[key]
    scene.kept.known[key] = replace(known, state=replace(known.state, device=12345))
    path.unlink()
    scene.write("stray.pdf")
    scene.settle(500)
    assert scene.kept.paths == {"a.pdf"}
    assert [(a.action, a.path) for a in scene.watcher.plan()] == [("refuse", str(scene.folder))]


def test_a_disk_that_got_another_number_is_not_read_again(scene: Scene) -> None:
    path = scene.write("a.pdf")
    scene.settle()
    ((key, known),) = scene.kept.known.items()
    scene.kept.known[key] = replace(known, state=replace(known.state, device=12345))
    scene.actions()
    assert scene.watcher.plan() == []
    scene.settle()
    assert scene.kept.known[key] == known
    assert scene.actions() == []
    path.rename(scene.folder / "b.pdf")
    scene.watcher.scan()
    assert scene.actions() == ["rename b.pdf"]
    assert scene.kept.read == [b"x"]


def test_what_cannot_be_looked_at_is_not_gone(
    readable: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene = readable
    path = scene.write("sub/a.pdf")
    scene.settle()
    # Neither listed nor, where it may be listed, looked at.
    for mode in (0o000, 0o444):
        path.parent.chmod(mode)
        for _ in range(3):
            scene.settle(100)
        assert [s.missing_since for s in scene.kept.known.values()] == [None]
        path.parent.chmod(0o755)
        scene.settle(100)
    assert caplog.text.count("sub is left out: permission denied") == 1
    assert caplog.text.count("sub/a.pdf is left out: permission denied") == 1
    path.unlink()
    scene.settle(100)
    assert scene.kept.known == {}


def test_a_file_that_may_not_be_read_is_told_once_and_taken_once_it_may(
    readable: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene = readable
    path = scene.write("a.pdf")
    path.chmod(0)
    for _ in range(10):
        assert scene.settle()
    assert caplog.text.count("a.pdf cannot be taken yet: permission denied") == 1
    path.chmod(0o644)
    assert not scene.settle(301)
    assert scene.kept.read == [b"x"]


def test_an_ignore_file_that_cannot_be_read_leaves_its_folder_as_it_is(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.write("sub/a.pdf")
    scene.settle()
    outside = scene.folder.parent / "elsewhere"
    outside.write_text("*")
    ignore_file = scene.folder / "sub" / ".pageglassignore"
    ignore_file.symlink_to(outside)
    scene.write("sub/new.pdf")
    scene.write("b.pdf")
    for _ in range(3):
        scene.settle(100)
    assert scene.kept.paths == {"a.pdf", "b.pdf"}
    assert caplog.text.count("sub is left out: its .pageglassignore") == 1
    ignore_file.unlink()
    os.mkfifo(ignore_file)
    scene.settle(100)
    assert scene.kept.paths == {"a.pdf", "b.pdf", "new.pdf"}


def test_a_broken_ignore_file_is_told_once(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    (scene.folder / ".pageglassignore").write_text("!\n*b.pdf\n")
    for name in ("a.pdf", "b.pdf"):
        scene.write(name)
    for _ in range(3):
        scene.settle()
    assert scene.kept.paths == {"a.pdf"}
    assert caplog.text.count(".pageglassignore line 1 is no pattern") == 1


def test_a_tree_deeper_than_paths_may_be_long_does_not_hide_the_rest(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.write("z.pdf")
    here = os.open(scene.folder, os.O_RDONLY)
    for _ in range(25):
        name = "d" * 200
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    assert not scene.settle()
    assert scene.kept.paths == {"z.pdf"}
    assert caplog.text.count("is left out: file name too long") == 1


def test_links_out_of_the_folder_are_refused_and_others_not_followed(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    secret = scene.folder.parent / "secret.pdf"
    secret.write_bytes(b"secret")
    (scene.folder / "leak.pdf").symlink_to(secret)
    (scene.folder / "up").symlink_to(scene.folder.parent, target_is_directory=True)
    (scene.folder / "self.pdf").symlink_to(scene.folder / "self.pdf")
    path = scene.write("a.pdf")
    (scene.folder / "alias.pdf").symlink_to(path)
    scene.settle()
    scene.settle()
    assert scene.kept.read == [b"x"]
    assert caplog.text.count("leak.pdf is left out: a link out of the folder") == 1
    assert "alias.pdf" not in caplog.text


def test_a_link_to_a_folder_elsewhere_is_told_unless_it_is_passed_over(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    (scene.folder / "up").symlink_to(scene.folder.parent)
    (scene.folder / ".hidden").symlink_to(scene.folder.parent)
    (scene.folder / "notes.txt").symlink_to("/etc/hostname")
    for _ in range(3):
        scene.settle()
    assert caplog.text.count("is left out") == caplog.text.count("/up is left out: a link") == 1


def test_a_data_folder_within_is_not_taken_in(scene: Scene) -> None:
    for name in ("owner.json", "catalog.sqlite", "originals/a.pdf"):
        scene.write(f"data/{name}")
    scene.settle()
    assert scene.kept.known == {}


def test_what_is_no_plain_file_is_passed_over(scene: Scene) -> None:
    os.mkfifo(scene.folder / "pipe.pdf")
    (scene.folder / "folder.pdf").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(scene.folder / "s.pdf"))
        assert not scene.settle()
    assert scene.kept.read == []


def test_a_file_replaced_by_a_folder_is_gone(scene: Scene) -> None:
    path = scene.write("a.pdf")
    scene.settle()
    path.unlink()
    path.mkdir()
    (path / "inner.pdf").write_bytes(b"inner")
    scene.settle(100)
    assert scene.kept.paths == {"inner.pdf"}


def test_a_refused_file_is_told_once_and_tried_again_when_it_changes(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    path = scene.write("empty.pdf", b"")
    for _ in range(5):
        scene.settle()
    assert caplog.text.count("empty.pdf is left out: the file is empty") == 1
    path.write_bytes(b"now")
    scene.settle()
    assert scene.kept.read == [b"now"]


def test_a_store_that_is_away_is_waited_for_and_told_once(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.write("a.pdf")
    scene.write("b.pdf")
    scene.kept.before_take = raising(StoreUnreachable("no answer"))
    for _ in range(20):
        assert scene.settle(3)
    assert caplog.text.count("cannot be taken yet: no answer") == 1
    scene.kept.before_take = lambda path: None
    scene.settle(301)
    assert scene.kept.read == [b"x", b"x"]
    scene.kept.before_take = raising(StoreUnreachable("no answer"))
    scene.write("c.pdf")
    scene.settle()
    assert caplog.text.count("cannot be taken yet: no answer") == 2


def test_an_error_with_one_file_does_not_stop_the_others(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.pdf", "b.pdf", "c.pdf"):
        scene.write(name, name.encode())
    errors = {"a.pdf": ZeroDivisionError("of ours"), "b.pdf": OSError(5, "Input/output error")}
    scene.kept.before_take = lambda name: raising(errors[name])(name) if name in errors else None
    for _ in range(5):
        assert scene.settle()
    assert scene.kept.paths == {"c.pdf"}
    assert caplog.text.count("a.pdf cannot be taken yet: of ours") == 1
    assert caplog.text.count("b.pdf cannot be taken yet: input/output error") == 1


def test_a_rename_that_cannot_be_noted_is_noted_later(scene: Scene) -> None:
    path = scene.write("a.pdf", b"a")
    scene.settle()
    path.rename(scene.folder / "z.pdf")
    scene.write("b.pdf", b"b")
    renamed = scene.kept.renamed
    scene.kept.renamed = raising(StoreUnreachable("no answer"))
    assert scene.settle()
    assert scene.kept.paths == {"a.pdf", "b.pdf"}
    scene.kept.renamed = renamed
    assert not scene.settle()
    assert scene.kept.paths == {"z.pdf", "b.pdf"}
    assert scene.kept.read == [b"a", b"b"]


def test_a_backlog_does_not_keep_a_rename_waiting(scene: Scene) -> None:
    path = scene.write("known.pdf")
    scene.settle()
    for number in range(9):
        scene.write(f"{number}.pdf", bytes([number]))
    scene.watcher.scan()
    scene.now += 3

    def takes_a_second(name: str) -> None:
        scene.now += 1

    scene.kept.before_take = takes_a_second
    scene.actions()
    assert scene.watcher.scan()
    path.rename(scene.folder / "moved.pdf")
    assert scene.watcher.scan()
    assert scene.actions() == ["take 0.pdf", "rename moved.pdf", "take 1.pdf"]
    while scene.watcher.scan():
        pass
    assert len(scene.kept.known) == 10


@pytest.mark.parametrize(
    "name",
    [
        "a\nb.pdf",
        'it\'s "quoted".pdf',
        "ü" * 125 + "x.pdf",
        b"latin-\xe9.pdf",
        "-rf.pdf",
        "%s{}.pdf",
    ],
)
def test_any_name_the_system_allows_is_taken_and_renamed(scene: Scene, name: str | bytes) -> None:
    path = scene.write(name)
    scene.settle()
    assert scene.kept.read == [b"x"]
    ((_, known),) = scene.kept.known
    known.encode()
    path.rename(scene.folder / "plain.pdf")
    scene.watcher.scan()
    assert scene.kept.paths == {"plain.pdf"}
    assert scene.kept.read == [b"x"]


def test_a_name_cannot_write_lines_of_its_own_into_the_log(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.write("a\nCRITICAL all is lost.pdf", b"")
    scene.settle()
    assert "a\\nCRITICAL all is lost.pdf is left out" in caplog.text


def test_sub_folders_become_collections_if_asked(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "inbox", by_folder=True)
    for name in ("top.pdf", "birds/crane.pdf", "birds/deep/heron.pdf", "Verträge 2024/x.pdf"):
        scene.write(name, name.encode())
    scene.settle()
    where = {Path(path).name: collection for collection, path in scene.kept.known}
    odd = where.pop("x.pdf")
    assert where == {"top.pdf": "c", "crane.pdf": "birds", "heron.pdf": "birds"}
    assert odd.startswith("Vertrage-2024-")
    # Into another collection a move is no rename.
    (scene.folder / "birds" / "crane.pdf").rename(scene.folder / "crane.pdf")
    scene.settle(100)
    assert {c for c, path in scene.kept.known if path.endswith("crane.pdf")} == {"c"}


def test_asking_for_sub_folders_later_reads_each_file_once_more(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "inbox")
    scene.write("birds/crane.pdf")
    scene.settle()
    scene.settings = WatchSettings(by_folder=True)
    scene.watcher = scene.new_watcher()
    for _ in range(5):
        scene.settle(10)
    assert {collection for collection, _ in scene.kept.known} == {"c", "birds"}
    assert len(scene.kept.read) == 2
    scene.settle(60)
    assert {collection for collection, _ in scene.kept.known} == {"birds"}


@pytest.mark.parametrize("name", ["birds", "Q1 Reports", "日本", "..", "a" * 200, "ß/".strip("/")])
def test_every_folder_name_makes_a_collection_name(name: str) -> None:
    assert check_collection_name(collection_name(name))


def test_folder_names_that_look_alike_make_different_collections() -> None:
    assert len({collection_name(n) for n in ("a b", "a-b", "a_b", "a  b", "ä b")}) == 5


def test_ignore_files_take_effect_at_the_next_scan(scene: Scene) -> None:
    scene.write("a.pdf")
    scene.write("drafts/b.pdf", b"draft")
    scene.settle()
    assert scene.kept.paths == {"a.pdf", "b.pdf"}
    (scene.folder / ".pageglassignore").write_text("drafts/\n")
    scene.settle(100)
    assert scene.kept.paths == {"a.pdf"}


def test_the_plan_says_what_would_be_done_and_does_nothing(scene: Scene) -> None:
    paths = {name: scene.write(name, name.encode()) for name in ("a.pdf", "b.pdf", "c.pdf")}
    scene.settle()
    before = dict(scene.kept.known)
    paths["a.pdf"].rename(scene.folder / "z.pdf")
    paths["b.pdf"].unlink()
    paths["c.pdf"].write_bytes(b"changed")
    scene.write("new.pdf")
    (scene.folder / "leak.pdf").symlink_to("/etc/hostname")
    planned = sorted(f"{action.action} {Path(action.path).name}" for action in scene.watcher.plan())
    assert planned == [
        "refuse leak.pdf",
        "remove b.pdf",
        "rename z.pdf",
        "replace c.pdf",
        "take new.pdf",
    ]
    assert scene.kept.known == before


def test_two_watchers_of_one_folder_agree(scene: Scene) -> None:
    other = scene.new_watcher()
    scene.write("a.pdf")
    for _ in range(3):
        scene.settle()
        other.scan()
    assert scene.kept.paths == {"a.pdf"}
    (scene.folder / "a.pdf").rename(scene.folder / "b.pdf")
    scene.watcher.scan()
    other.scan()
    assert scene.kept.paths == {"b.pdf"}
    assert len(scene.kept.read) == 1


def test_folders_that_overlap_or_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "file").write_text("x")
    for folders in ([tmp_path, tmp_path / "in"], [tmp_path, tmp_path], [tmp_path / "file"]):
        with pytest.raises(SettingsError):
            Watcher(folders, registry=Kept(), collection="c", settings=WatchSettings())


MOUNTS = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 22 0:40 / /mnt/share rw - nfs4 server:/x rw
41 22 0:41 / /mnt/my\040disk rw - fuse.sshfs me@host: rw
42 40 254:1 / /mnt/share/local rw - xfs /dev/vdb rw
nonsense
"""


@pytest.mark.parametrize(
    ("folder", "remote"),
    [
        ("/home/me", False),
        ("/mnt/share", True),
        ("/mnt/share/deep", True),
        ("/mnt/shared", False),
        ("/mnt/my disk/in", True),
        ("/mnt/share/local/in", False),
    ],
)
def test_network_file_systems_are_told_by_the_mount_table(folder: str, remote: bool) -> None:
    assert is_remote(Path(folder), MOUNTS) is remote


@pytest.fixture(params=["auto", "always"])
def running(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Path, Kept]]:
    """A watcher at work on a real folder, by events or by polling."""
    folder, kept = tmp_path / "inbox", Kept()
    folder.mkdir()
    settings = WatchSettings(
        settle_seconds=0.1, grace_seconds=0.2, polling=request.param, poll_seconds=0.1
    )
    watcher = Watcher([folder], registry=kept, collection="c", settings=settings)
    thread = threading.Thread(target=watcher.forever)
    thread.start()
    yield folder, kept
    watcher.stop()
    thread.join(10)
    assert not thread.is_alive()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_a_watched_folder_is_followed(
    running: tuple[Path, Kept], caplog: pytest.LogCaptureFixture
) -> None:
    folder, kept = running
    (folder / "a.pdf").write_bytes(b"a")
    until(lambda: kept.paths == {"a.pdf"})
    (folder / "a.pdf").rename(folder / "b.pdf")
    until(lambda: kept.paths == {"b.pdf"})
    (folder / "b.pdf").unlink()
    until(lambda: kept.paths == set())
    # The folder itself goes and comes back.
    folder.rmdir()
    until(lambda: "its documents stay until it is back" in caplog.text)
    folder.mkdir()
    (folder / "c.pdf").write_bytes(b"c")
    until(lambda: kept.paths == {"c.pdf"})


def test_a_folder_replaced_between_two_looks_is_followed(running: tuple[Path, Kept]) -> None:
    folder, kept = running
    (folder / "a.pdf").write_bytes(b"a")
    until(lambda: kept.paths == {"a.pdf"})
    shutil.rmtree(folder)
    folder.mkdir()
    until(lambda: kept.paths == set())
    (folder / "b.pdf").write_bytes(b"b")
    until(lambda: kept.paths == {"b.pdf"})
    folder.rename(folder.parent / "away")
    folder.mkdir()
    until(lambda: kept.paths == set())
    (folder / "c.pdf").write_bytes(b"c")
    until(lambda: kept.paths == {"c.pdf"})


def test_names_that_are_no_utf8_do_not_end_the_watching(running: tuple[Path, Kept]) -> None:
    folder, kept = running
    for number in range(3):
        name = b"caf\xe9 %d.pdf" % number
        Path(folder, os.fsdecode(name)).write_bytes(name)
        until(lambda name=name: name in kept.read)
    (folder / "plain.pdf").write_bytes(b"plain")
    until(lambda: b"plain" in kept.read)


def test_a_registry_that_is_away_is_told_once_and_asked_again(
    running: tuple[Path, Kept], caplog: pytest.LogCaptureFixture
) -> None:
    folder, kept = running
    asked = 0

    def away() -> None:
        nonlocal asked
        asked += 1
        raise StoreUnreachable("no answer")

    kept.after_look = away
    (folder / "a.pdf").write_bytes(b"a")
    until(lambda: asked >= 3)
    assert caplog.text.count("folders are looked at again later: no answer") == 1
    kept.after_look = lambda: None
    until(lambda: kept.paths == {"a.pdf"})


def test_a_watcher_that_only_waits_does_not_look(tmp_path: Path) -> None:
    folder, kept = tmp_path / "inbox", Kept()
    folder.mkdir()
    for name in ("a.pdf", "b.pdf"):
        (folder / name).write_bytes(b"x")
    looks = 0

    def count() -> None:
        nonlocal looks
        looks += 1

    kept.after_look = count
    kept.before_take = lambda name: raising(StoreUnreachable("away"))() if name == "b.pdf" else None
    settings = WatchSettings(settle_seconds=0, grace_seconds=30)
    watcher = Watcher([folder], registry=kept, collection="c", settings=settings)
    thread = threading.Thread(target=watcher.forever)
    thread.start()
    until(lambda: kept.paths == {"a.pdf"})
    (folder / "a.pdf").unlink()
    until(lambda: all(source.missing_since for source in kept.known.values()))
    # One look for the start, one or two for the event, those for b.pdf after 1, 2 and 4 seconds.
    thread.join(4)
    watcher.stop()
    thread.join(10)
    assert looks <= 6


WATCH = """
import os, sys
from pathlib import Path
from ingest.watch import Watcher
from pageglass.settings import WatchSettings
from tests.test_watch import Kept

class Telling(Kept):
    def take(self, file, *, path, **rest):
        print("took", Path(path).name, flush=True)
        return super().take(file, path=path, **rest)

for limit in sys.argv[2:]:
    name, _, value = limit.partition("=")
    Path("/proc/sys/user", name).write_text(value)
settings = WatchSettings(settle_seconds=0, poll_seconds=0.1)
Watcher([Path(sys.argv[1])], registry=Telling(), collection="c", settings=settings).forever()
"""


@contextmanager
def watching(folder: Path, *limits: str) -> Generator[subprocess.Popen[str]]:
    """A watcher in a process of its own; ``limits`` of inotify hold for nobody else."""
    command = [sys.executable, "-c", WATCH, str(folder), *limits]
    if limits:
        command = ["unshare", "--user", "--map-root-user", *command]
    with subprocess.Popen(
        command,
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        too_long = threading.Timer(30, process.kill)
        too_long.start()
        try:
            yield process
        finally:
            too_long.cancel()
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def may_unshare() -> bool:
    tool = shutil.which("unshare")
    command = [tool or "", "--user", "--map-root-user", "true"]
    return (
        tool is not None
        and not subprocess.run(command, capture_output=True, check=False).returncode
    )


@pytest.mark.skipif(not may_unshare(), reason="needs a user namespace to lower the limits in")
@pytest.mark.parametrize("limit", ["max_inotify_watches=2", "max_inotify_instances=0"])
def test_where_inotify_has_no_room_the_folder_is_polled(tmp_path: Path, limit: str) -> None:
    for number in range(5):
        (tmp_path / str(number)).mkdir()
    (tmp_path / "a.pdf").write_bytes(b"a")
    with watching(tmp_path, limit) as process:
        assert line(process) == "took a.pdf"
        (tmp_path / "4" / "b.pdf").write_bytes(b"b")
        assert line(process) == "took b.pdf"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
        assert errors.count("no events: folders are looked at every 0.1 s") == 1


def test_an_interrupt_ends_the_watching(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"a")
    with watching(tmp_path) as process:
        assert line(process) == "took a.pdf"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
        assert process.returncode
        assert "KeyboardInterrupt" in errors


def test_files_are_listed_by_the_same_rules(tmp_path: Path) -> None:
    for name in ("b.pdf", "a.PNG", "notes.txt", ".hidden.pdf", "in/c.docx", "in/~$c.docx"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    listed = [path.relative_to(tmp_path).as_posix() for path in files_in([tmp_path])]
    assert listed == ["a.PNG", "b.pdf", "in/c.docx"]
    assert list(files_in([tmp_path / "notes.txt"])) == [tmp_path / "notes.txt"]


def test_what_is_left_out_is_counted_and_said_why(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("a.pdf", "b.mp4", "c.MP4", "d.txt", ".hidden.pdf", "~$e.docx", "old/f.pdf", "g"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    (root / ".pageglassignore").write_text("old/\n")
    (root / "link.pdf").symlink_to(root / "a.pdf")
    (root / ".git").mkdir()
    os.mkfifo(root / "pipe.pdf")
    left_out = LeftOut()
    assert [path.name for path in files_in([root], left_out=left_out)] == ["a.pdf"]
    kinds, hidden = "not a kind that is taken", "hidden, temporary or of a tool"
    assert left_out == {
        (kinds, ".mp4"): 2,
        (kinds, ".txt"): 1,
        (kinds, "without a suffix"): 1,
        (hidden, ".pdf"): 1,
        (hidden, ".docx"): 1,
        (hidden, "folder"): 1,
        ("named by a pattern (.pageglassignore or watch.ignore)", "folder"): 1,
        ("a link, which is not followed", ".pdf"): 1,
        ("neither file nor folder", ".pdf"): 1,
    }
    said = str(left_out)
    assert said.startswith("2 .mp4, 1 .txt, 1 without a suffix: not a kind that is taken; ")
    assert str(LeftOut()) == ""


def test_a_watcher_says_once_what_it_leaves_out(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.pdf", "b.mp4", "c.mp4"):
        scene.write(name)
    scene.settle()
    scene.write("d.mp4")
    scene.settle()
    assert caplog.text.count("left out: ") == 1
    assert "left out: 2 .mp4: not a kind that is taken" in caplog.text
    scene.write("e.txt")
    scene.settle()
    assert caplog.text.count("left out: 3 .mp4, 1 .txt: not a kind") == 1
    scene.watcher.plan()
    assert sum(scene.watcher.left_out.values()) == 4
