"""Folders kept indexed: files that appear, change, move or go are noticed and acted upon."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from watchfiles import watch
from watchfiles._rust_notify import WatchfilesRustInternalError

from ingest.formats import SUFFIXES
from ingest.ignore import IGNORE_FILE, Rules
from ingest.sources import FileState, Source, SourceRegistry, as_text
from pageglass.errors import DocumentError, FileChanged, PageglassError, SettingsError
from pageglass.settings import WatchSettings
from pageglass.types import check_collection_name

_log = logging.getLogger(__name__)

_STEP_MS = 200
_LONGEST_RETRY = 300.0
_REMOTE = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|9p|virtiofs|vboxsf|vmhgfs|prl_fs|drvfs|afs|ceph|glusterfs|lustre"
    r"|gpfs|beegfs|ncpfs|davfs|fuse\.(sshfs|rclone|s3fs|davfs2?|gcsfuse|glusterfs|ceph.*|vmhgfs.*"
    r"|juicefs|mergerfs)"
)

# What is in there was taken from somewhere already.
_DATA_FOLDER = {"owner.json", "catalog.sqlite"}

Action = Literal["take", "replace", "rename", "remove", "hold", "refuse"]


@dataclass(frozen=True, slots=True)
class PlannedAction:
    """What is to be done about one file: ``path`` as text, ``reason`` in plain words."""

    action: Action
    path: str
    collection: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _File:
    """A file that is there: where (as the system spells it), where to, and in what state."""

    path: str
    collection: str
    state: FileState

    @property
    def text(self) -> str:
        return as_text(self.path)


@dataclass(slots=True)
class _Look:
    """A folder as one scan saw it. What lies below ``unreadable`` folders is not known."""

    files: dict[str, _File] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class _Plan:
    """What one folder's files mean for what is known of them."""

    new: list[_File] = field(default_factory=list)
    renamed: list[tuple[Source, _File]] = field(default_factory=list)
    back: list[Source] = field(default_factory=list)
    gone: list[Source] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    known: dict[str, Source] = field(default_factory=dict)
    too_many: bool = False


@dataclass(slots=True)
class _Pause:
    """A file that could not be taken: in which state, and when to try again."""

    state: FileState
    until: float
    seconds: float


class Watcher:
    """Compares folders with what is known of them and acts on the difference.

    Events only say when to look; what to do follows from a scan, so that a lost event costs
    nothing but time. A file is taken once its size, time and inode stood still. Whatever counts
    seconds here goes by the monotonic clock: setting the system's clock changes nothing.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        *,
        registry: SourceRegistry,
        collection: str,
        settings: WatchSettings,
        told: Callable[[PlannedAction], None] = lambda action: None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """SettingsError where a folder is none, or lies within another. ``told`` is called with
        whatever was done; ``clock`` is monotonic, ``wall`` gives Unix seconds, for people."""
        self._folders = _separate([folder.resolve() for folder in folders])
        self._registry = registry
        self._collection = collection
        self._settings = settings
        self._told_of = told
        self._clock = clock
        self._wall = wall
        try:
            self._rules = Rules(settings.ignore)
        except ValueError as error:
            raise SettingsError(f"setting watch.ignore: {error}") from None
        self._stopping = threading.Event()
        self._seen: dict[str, tuple[FileState, float]] = {}
        self._gone: dict[str, float] = {}
        self._refused: dict[str, FileState] = {}
        self._pauses: dict[str, _Pause] = {}
        self._told: set[str] = set()
        self._away: set[Path] = set()

    def stop(self) -> None:
        """End ``forever``."""
        self._stopping.set()

    # When to look

    def forever(self) -> None:
        """Scan at once, after every change, and every ``rescan_seconds``, until ``stop``."""
        polling = self._settings.polling == "always" or _on_network(self._folders)
        while not self._stopping.is_set():
            there = [folder for folder in self._folders if folder.is_dir()]
            try:
                self._follow(there, polling=polling)
            except OSError as error:
                if polling:
                    raise
                # Most likely there are more folders than inotify may watch.
                _log.warning("folders are looked at by intervals from now on: %s", error)
                polling = True
            except WatchfilesRustInternalError:
                # An event about a name that is no UTF-8 cannot be told; a look tells as much.
                self._stopping.wait(_STEP_MS / 1000)

    def _follow(self, there: Sequence[Path], *, polling: bool) -> None:
        """Look whenever the folders change; return once one of them came or went, or to stop."""
        rescan = next_look = 0.0
        dirty = True
        if not there:
            self._guarded_scan()
            self._stopping.wait(self._settings.poll_seconds)
            return
        for changes in watch(
            *there,
            watch_filter=None,
            stop_event=self._stopping,
            debounce=_STEP_MS,
            rust_timeout=_STEP_MS,
            yield_on_timeout=True,
            raise_interrupt=False,
            force_polling=polling,
            poll_delay_ms=int(1000 * self._settings.poll_seconds),
            ignore_permission_denied=True,
        ):
            now = self._clock()
            dirty = dirty or bool(changes) or now >= rescan
            if dirty and now >= next_look:
                if now >= rescan:
                    rescan = now + self._settings.rescan_seconds
                dirty = self._guarded_scan()
                # A look at very many files must not follow upon the other.
                next_look = self._clock() + 4 * (self._clock() - now)
            if [folder for folder in self._folders if folder.is_dir()] != list(there):
                return

    def _guarded_scan(self) -> bool:
        try:
            return self.scan()
        except PageglassError as error:
            self._tell_once(str(error))
        except Exception:
            _log.exception("the watcher goes on after an error")
        self._stopping.wait(self._settings.poll_seconds)
        return True

    # What to do

    def plan(self) -> list[PlannedAction]:
        """What is to be done now, files that have not settled yet included; nothing is done."""
        actions: list[PlannedAction] = []
        for folder in self._folders:
            plan = self._plan(folder)
            if plan is None:
                continue
            for source, file in plan.renamed:
                was = f"was {source.path}"
                actions.append(PlannedAction("rename", file.text, file.collection, was))
            for file in plan.new:
                action = "replace" if file.text in plan.known else "take"
                actions.append(PlannedAction(action, file.text, file.collection))
            for source in plan.gone:
                held = plan.too_many or source.deletion == "held"
                action, reason = ("hold", "too many are gone") if held else ("remove", "is gone")
                actions.append(PlannedAction(action, source.path, source.collection, reason))
            for path, reason in plan.refused:
                actions.append(PlannedAction("refuse", path, self._collection, reason))
        return actions

    def scan(self) -> bool:
        """Do what is to be done; true while something has not settled yet."""
        unsettled = False
        for folder in self._folders:
            plan = self._plan(folder)
            if plan is not None:
                unsettled |= self._do(folder, plan)
        return unsettled

    def _plan(self, folder: Path) -> _Plan | None:
        """Compare a folder with what is known of it; None where it cannot be looked at."""
        try:
            device = folder.stat().st_dev
            look = self._look(folder)
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            self._tell_away(folder, why)
            return None
        sources = self._registry.sources(as_text(folder))
        if not look.files and sources and device not in {s.state.device for s in sources}:
            self._tell_away(folder, "another disk is there")
            return None
        self._away.discard(folder)
        plan = _Plan(refused=look.refused, known={source.path: source for source in sources})
        by_state: dict[tuple[str, FileState], Source] = {}
        for source in sources:
            file = look.files.get(source.path)
            if file is not None and file.collection == source.collection:
                if source.missing_since is not None:
                    plan.back.append(source)
            elif not any(source.path.startswith(f"{u}/") for u in look.unreadable):
                plan.gone.append(source)
                by_state[source.collection, source.state] = source
        for file in look.files.values():
            source = plan.known.get(file.text)
            here = source is not None and source.collection == file.collection
            if source is not None and here and source.state == file.state:
                continue
            moved = by_state.pop((file.collection, file.state), None)
            if moved is not None:
                plan.renamed.append((moved, file))
            else:
                plan.new.append(file)
        moved_away = {source for source, _ in plan.renamed}
        plan.gone = [source for source in plan.gone if source not in moved_away]
        gone, share = len(plan.gone), self._settings.hold_share
        plan.too_many = gone >= self._settings.hold_files and gone > share * len(sources)
        return plan

    def _do(self, folder: Path, plan: _Plan) -> bool:
        for path, reason in plan.refused:
            self._tell_once(f"{folder}: {path} is left out: {reason}")
        for source, file in plan.renamed:
            self._registry.renamed(source, path=file.text, state=file.state)
            was = f"was {source.path}"
            self._told_of(PlannedAction("rename", file.text, file.collection, was))
            self._gone.pop(source.path, None)
        if plan.back:
            self._registry.missing(plan.back, None)
        unsettled = self._remove(folder, plan)
        now = self._clock()
        there: set[str] = set()
        for file in plan.new:
            there.add(file.text)
            if self._stopping.is_set():
                return True
            if self._refused.get(file.text) == file.state:
                continue
            pause = self._pauses.get(file.text)
            if pause is not None and pause.state == file.state and now < pause.until:
                unsettled = True
                continue
            seen = self._seen.get(file.text)
            if seen is None or seen[0] != file.state:
                seen = self._seen[file.text] = (file.state, now)
            if now - seen[1] < self._settings.settle_seconds or not self._take(folder, file):
                unsettled = True
            elif file.text not in self._refused:
                action = "replace" if file.text in plan.known else "take"
                self._told_of(PlannedAction(action, file.text, file.collection))
        prefix = f"{as_text(folder)}/"
        for known in (self._seen, self._refused, self._pauses):
            for path in [p for p in known if p.startswith(prefix) and p not in there]:
                del known[path]
        return unsettled

    def _remove(self, folder: Path, plan: _Plan) -> bool:
        """Note what is gone, and let go of what has been for long enough, if that is not too much
        at once; whether some may still come back."""
        now = self._clock()
        if fresh := [source for source in plan.gone if source.missing_since is None]:
            self._registry.missing(fresh, self._wall())
        gone = {source.path for source in plan.gone}
        prefix = f"{as_text(folder)}/"
        for path in [p for p in self._gone if p.startswith(prefix) and p not in gone]:
            del self._gone[path]
        due: list[Source] = []
        waiting = False
        for source in plan.gone:
            since = self._gone.setdefault(source.path, now)
            if source.deletion == "held":
                continue
            if now - since >= self._settings.grace_seconds:
                due.append(source)
            else:
                waiting = True
        if due and plan.too_many:
            self._registry.hold(due)
            for source in due:
                reason = "too many are gone"
                self._told_of(PlannedAction("hold", source.path, source.collection, reason))
            _log.warning(
                "%d of %d files are gone from %s: their documents stay until `pageglass deletions"
                " --remove` or `--keep` says what becomes of them",
                len(plan.gone),
                len(plan.known),
                folder,
            )
        elif due:
            self._registry.forget(due)
            for source in due:
                reason = "is gone"
                self._told_of(PlannedAction("remove", source.path, source.collection, reason))
                self._gone.pop(source.path, None)
        return waiting

    def _take(self, folder: Path, file: _File) -> bool:
        """Hand a settled file over; false where that is to be tried again."""
        try:
            descriptor = os.open(file.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        except FileNotFoundError:
            return True  # The next look tells what became of it.
        except OSError as error:
            return self._later(file, (error.strerror or str(error)).lower())
        with os.fdopen(descriptor, "rb") as opened:

            def unchanged() -> bool:
                try:
                    here = os.stat(file.path, follow_symlinks=False)  # noqa: PTH116 - bytes in names
                except OSError:
                    return False
                return FileState.of(os.fstat(descriptor)) == FileState.of(here) == file.state

            try:
                if not unchanged():
                    raise FileChanged("changed since the last look")
                self._registry.take(
                    opened,
                    collection=file.collection,
                    path=file.text,
                    folder=as_text(folder),
                    state=file.state,
                    unchanged=unchanged,
                )
            except FileChanged:
                self._seen.pop(file.text, None)
                return False
            except DocumentError as error:
                _log.warning("%s is left out: %s", file.text, error)
                self._refused[file.text] = file.state
            except PageglassError as error:
                return self._later(file, str(error))
            except OSError as error:
                return self._later(file, (error.strerror or str(error)).lower())
        self._seen.pop(file.text, None)
        self._pauses.pop(file.text, None)
        return True

    def _later(self, file: _File, why: str) -> bool:
        """Try again, ever later; said once."""
        pause = self._pauses.get(file.text)
        if pause is None or pause.state != file.state:
            _log.warning("%s cannot be taken yet: %s", file.text, why)
            pause = _Pause(file.state, 0.0, 0.5)
        pause.seconds = min(2 * pause.seconds, _LONGEST_RETRY)
        pause.until = self._clock() + pause.seconds
        self._pauses[file.text] = pause
        return False

    def _tell_away(self, folder: Path, why: str) -> None:
        if folder not in self._away:
            self._away.add(folder)
            _log.warning("%s: %s: its documents stay until it is back", folder, why)

    def _tell_once(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            _log.warning("%s", message)

    def _look(self, folder: Path) -> _Look:
        look = _Look()
        for found in _walk(folder, self._rules, look):
            collection = self._collection
            if self._settings.by_folder and "/" in found.relative:
                collection = collection_name(found.relative.partition("/")[0])
            file = _File(found.path, collection, found.state)
            look.files[file.text] = file
        return look


def collection_name(folder: str) -> str:
    """The collection of a sub-folder: its name, if that is a plain one, else what is plain of it
    and a hash, so that no two folders share a collection."""
    try:
        return check_collection_name(folder)
    except PageglassError:
        pass
    plain = unicodedata.normalize("NFKD", folder).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9]+", "-", plain).strip("-")[:48] or "folder"
    return f"{plain}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:6]}"


@dataclass(frozen=True, slots=True)
class _Found:
    path: str
    relative: str
    state: FileState


def _walk(root: Path, rules: Rules, look: _Look) -> Iterator[_Found]:
    """The files of a folder that count, in order of their names; OSError where the folder itself
    cannot be read.

    No link is followed: what it points at within the folder is taken under its own name.
    """
    stack = [(str(root), "", rules)]
    while stack:
        path, relative, rules = stack.pop()
        try:
            with os.scandir(path) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
            names = {entry.name for entry in entries}
            if names >= _DATA_FOLDER:
                continue
            if IGNORE_FILE in names:
                ignore_file = Path(path, IGNORE_FILE)
                if ignore_file.is_file():
                    rules = rules.below(relative, ignore_file.read_bytes())
        except OSError:
            if not relative:
                raise
            look.unreadable.append(as_text(path))
            continue
        folders: list[tuple[str, str, Rules]] = []
        for entry in entries:
            inside = f"{relative}/{entry.name}" if relative else entry.name
            try:
                if entry.is_symlink():
                    outside = not Path(entry.path).resolve().is_relative_to(root)
                    if outside and _counts(inside) and not rules.ignores(inside):
                        look.refused.append((as_text(entry.path), "a link out of the folder"))
                elif entry.is_dir(follow_symlinks=False):
                    if not rules.ignores(inside, folder=True):
                        folders.append((entry.path, inside, rules))
                elif _counts(inside) and not rules.ignores(inside):
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode):
                        yield _Found(entry.path, inside, FileState.of(status))
            except (OSError, RuntimeError):  # gone meanwhile, or a link to itself
                continue
        stack += reversed(folders)


def _counts(path: str) -> bool:
    return PurePosixPath(path).suffix.lower() in SUFFIXES


def _separate(folders: Sequence[Path]) -> list[Path]:
    for number, folder in enumerate(folders):
        if folder.exists() and not folder.is_dir():
            raise SettingsError(f"cannot watch {folder}: it is a file")
        for other in folders[:number]:
            if folder.is_relative_to(other) or other.is_relative_to(folder):
                raise SettingsError(f"{folder} and {other} overlap: watch one of them")
    return list(folders)


def _on_network(folders: Sequence[Path]) -> bool:
    try:
        mounts = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
    except OSError:
        return False
    return any(is_remote(folder, mounts) for folder in folders)


def is_remote(folder: Path, mountinfo: str) -> bool:
    """Whether ``folder`` lies on a file system of another machine, which gives no events; by the
    text of /proc/self/mountinfo."""
    best, remote = -1, False
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        # Spaces and the like are octal escapes there (proc(5)).
        point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), fields[4])
        if folder.is_relative_to(point) and len(point) >= best:
            best, remote = len(point), bool(_REMOTE.fullmatch(after.split(" ")[0]))
    return remote


def files_in(paths: Sequence[Path], rules: Rules | None = None) -> Iterator[Path]:
    """Files as given, and in folders those that count, in order of their names.

    What a watched folder passes over is passed over here, too.
    """
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        try:
            for found in _walk(path.resolve(), rules or Rules(()), _Look()):
                yield Path(found.path)
        except OSError as error:
            _log.warning("%s cannot be read: %s", path, error.strerror)
