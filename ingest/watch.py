"""Folders kept indexed: files that appear, change, move or go are noticed and acted upon."""

from __future__ import annotations

import errno
import hashlib
import logging
import math
import os
import re
import stat
import threading
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from watchfiles import Change, watch

from ingest.formats import SUFFIXES
from ingest.ignore import IGNORE_FILE, Rules, is_left_behind, read_ignore_file
from ingest.sources import FileState, Source, SourceRegistry, as_text
from pageglass.errors import DocumentError, FileChanged, PageglassError, SettingsError
from pageglass.settings import WatchSettings
from pageglass.types import check_collection_name

_log = logging.getLogger(__name__)

_STEP_MS = 200
_LONGEST_RETRY = 300.0
# At most a fifth of the time goes into looking.
_REST = 4.0
_SHORTEST_REST = 0.2
_VANISHED = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
_REMOTE = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|9p|virtiofs|vboxsf|vmhgfs|prl_fs|drvfs|afs|ceph|glusterfs|lustre"
    r"|gpfs|beegfs|ncpfs|davfs|fuse\.(sshfs|rclone|s3fs|davfs2?|gcsfuse|glusterfs|ceph.*|vmhgfs.*"
    r"|juicefs|mergerfs|grpcfuse)"
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
    """A file that is there: where (as the system spells it, and as text), where to, and in what
    state."""

    path: str
    text: str
    collection: str
    state: FileState


class LeftOut(Counter[tuple[str, str]]):
    """How many files and folders are passed over: by why, and by suffix (or what else they are)."""

    def __str__(self) -> str:
        """In one line, the most frequent first: "9 .mp4, 3 .txt: not a kind that is taken; 2
        folder: hidden, temporary or of a tool"; "" for none."""
        reasons: dict[str, list[str]] = {}
        for (why, kind), number in self.most_common():
            reasons.setdefault(why, []).append(f"{number:,} {kind}")
        shown = (
            f"{', '.join(kinds[:_KINDS])}{' and others' if len(kinds) > _KINDS else ''}: {why}"
            for why, kinds in reasons.items()
        )
        return "; ".join(shown)


_KINDS = 5
_NO_KIND = "not a kind that is taken"
_HIDDEN = "hidden, temporary or of a tool"
_NAMED = "named by a pattern (.pageglassignore or watch.ignore)"
_LINK = "a link, which is not followed"
_OTHER = "neither file nor folder"
_OURS = "a data folder of Pageglass"


@dataclass(slots=True)
class _Look:
    """A folder as one scan saw it. What lies at or below ``unreadable`` paths is not known."""

    left_out: LeftOut = field(default_factory=LeftOut)
    files: dict[str, _File] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def cannot_tell(self, path: str) -> bool:
        return any(path == u or path.startswith(f"{u}/") for u in self.unreadable)


_Key = tuple[str, str]
"""A source within a folder: collection and path."""


@dataclass(slots=True)
class _Plan:
    """What one folder's files mean for what is known of them; nothing, where it is ``away``."""

    away: str | None = None
    new: list[_File] = field(default_factory=list)
    renamed: list[tuple[Source, _File]] = field(default_factory=list)
    back: list[Source] = field(default_factory=list)
    gone: list[Source] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)
    known: dict[_Key, Source] = field(default_factory=dict)
    too_many: bool = False


@dataclass(frozen=True, slots=True)
class _Pause:
    """A file that could not be taken: in which state, when to try again, and why."""

    state: FileState
    until: float
    seconds: float
    why: str


@dataclass(slots=True)
class _Folder:
    """A watched folder, and what is kept of it from one look to the next: nothing of a file that
    is known and there."""

    path: Path
    still: dict[str, tuple[FileState, float]] = field(default_factory=dict)
    """New files: in which state, and since when."""
    gone: dict[_Key, float] = field(default_factory=dict)
    """Since when this watcher has found a source missing."""
    refused: dict[str, FileState] = field(default_factory=dict)
    pauses: dict[str, _Pause] = field(default_factory=dict)
    outage: str = ""
    """Why the registry takes no files, where that was its last word."""
    said: set[str] = field(default_factory=set)
    """What was logged of the last look."""
    left_out: set[tuple[str, str]] = field(default_factory=set)
    """Of what was left out so far: why, and which kinds."""


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
        paths = _separate([folder.resolve() for folder in folders])
        self._folders = {path: _Folder(path) for path in paths}
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
        self.left_out = LeftOut()
        self._stopping = threading.Event()
        self._due = self._rested = -math.inf
        self._trouble = ""
        self._no_events = False

    def stop(self) -> None:
        """End ``forever``."""
        self._stopping.set()

    # When to look

    def forever(self) -> None:
        """Scan at once, after every change, and every ``rescan_seconds``, until ``stop``."""
        polling = False
        while not self._stopping.is_set():
            there = self._there()
            polling = polling or self._settings.polling == "always" or not there
            events = not polling and not _on_network(there)
            polling = False
            try:
                self._follow(there, self._events(there) if events else self._intervals())
            except (OSError, RuntimeError, ValueError) as error:
                # More folders than inotify may watch, say, or a name that is no UTF-8; unless the
                # folder went while the watch was set up.
                polling = self._there() == there
                if polling and not self._no_events:
                    self._no_events = True
                    seconds = self._settings.poll_seconds
                    _log.warning("no events: folders are looked at every %g s: %s", seconds, error)

    def _follow(self, there: dict[Path, tuple[int, int]], ticks: Iterator[bool]) -> None:
        """Look whenever a tick says that something changed, and when that is due; return once a
        folder came or went, or was replaced."""
        changed, due = False, -math.inf
        for tick in ticks:
            changed = changed or tick
            now = self._clock()
            while (changed or now >= due) and now >= self._rested and not self._stopping.is_set():
                changed = False
                due = self._scan_safely()
                now = self._clock()
            if self._there() != there:
                return

    def _there(self) -> dict[Path, tuple[int, int]]:
        """The folders that are there, and which ones they are: device and inode."""
        there: dict[Path, tuple[int, int]] = {}
        for path in self._folders:
            try:
                status = path.stat()
            except OSError:
                continue
            if stat.S_ISDIR(status.st_mode):
                there[path] = status.st_dev, status.st_ino
        return there

    def _events(self, folders: Iterable[Path]) -> Iterator[bool]:
        """Whether something changed, every _STEP_MS at least; ends where that is to be set up
        anew. OSError, RuntimeError and ValueError where it cannot be."""
        paths = {str(folder) for folder in folders}
        set_up = False
        try:
            for changes in watch(
                *paths,
                watch_filter=None,
                stop_event=self._stopping,
                debounce=_STEP_MS,
                rust_timeout=_STEP_MS,
                yield_on_timeout=True,
                force_polling=False,
                # True would pass over any error, and with it all folders that come after.
                ignore_permission_denied=False,
            ):
                set_up = True
                yield bool(changes)
                # One of the same name may be there by now, which nobody watches.
                if any(change == Change.deleted and path in paths for change, path in changes):
                    return
        except RuntimeError:
            if not set_up:
                raise
            # The name of what changed is no UTF-8, which watchfiles cannot tell.

    def _intervals(self) -> Iterator[bool]:
        """As ``_events``, that something changed being assumed every ``poll_seconds``; ends when
        events are worth another try."""
        now = self._clock()
        until, look = now + self._settings.rescan_seconds, now
        while now < until:
            yield now >= look
            if now >= look:
                look = now + self._settings.poll_seconds
            if self._stopping.wait(_STEP_MS / 1000):
                return
            now = self._clock()

    def _scan_safely(self) -> float:
        """Scan; when to do so again if nothing changes before."""
        latest = self._clock() + self._settings.rescan_seconds
        try:
            self.scan()
        except Exception as error:
            if self._trouble != str(error):
                self._trouble = str(error)
                unexpected = None if isinstance(error, PageglassError) else error
                _log.warning("folders are looked at again later: %s", error, exc_info=unexpected)
            return min(latest, self._clock() + self._settings.poll_seconds)
        self._trouble = ""
        return min(latest, self._due)

    # What to do

    def plan(self) -> list[PlannedAction]:
        """What is to be done now, files that have not settled yet included; nothing is done. What
        is passed over is in ``left_out``."""
        actions: list[PlannedAction] = []
        self.left_out = LeftOut()
        for path in self._folders:
            plan = self._plan(path)
            self.left_out.update(plan.left_out)
            if plan.away is not None:
                reason = f"{plan.away}: its documents stay until it is back"
                actions.append(PlannedAction("refuse", as_text(path), self._collection, reason))
            for source, file in plan.renamed:
                if source.path != file.text:
                    was = f"was {source.path}"
                    actions.append(PlannedAction("rename", file.text, file.collection, was))
            for file in plan.new:
                actions.append(PlannedAction(_taking(file, plan), file.text, file.collection))
            for source in plan.gone:
                held = plan.too_many or source.deletion == "held"
                action, reason = ("hold", "too many are gone") if held else ("remove", "is gone")
                actions.append(PlannedAction(action, source.path, source.collection, reason))
            for path, reason in plan.refused:
                actions.append(PlannedAction("refuse", path, self._collection, reason))
        return actions

    def scan(self) -> bool:
        """Do what is to be done; true while something has not settled yet.

        PageglassError or OSError where the registry cannot be asked; what concerns one file only
        is logged, and the file tried again.
        """
        self._due = math.inf
        looked = 0.0
        for path, folder in self._folders.items():
            began = self._clock()
            plan = self._plan(path)
            now = self._clock()
            looked += now - began
            self._rested = now + max(_SHORTEST_REST, _REST * looked)
            self._say(folder, plan)
            if plan.away is None:
                self._do(path, plan)
        return self._due < math.inf

    def _plan(self, folder: Path) -> _Plan:
        """Compare a folder with what is known of it."""
        try:
            device = folder.stat().st_dev
            look = self._look(folder)
        except OSError as error:
            return _Plan(away=_why(error))
        sources = self._registry.sources(as_text(folder))
        devices = {source.state.device for source in sources}
        if device not in devices and sources and not any(s.path in look.files for s in sources):
            return _Plan(away="another disk is there")
        plan = _Plan(refused=look.refused, remarks=look.remarks, left_out=look.left_out)
        plan.known = {(source.collection, source.path): source for source in sources}
        by_state: dict[tuple[str, FileState], Source] = {}
        for source in sources:
            file = look.files.get(source.path)
            if file is not None and file.collection == source.collection:
                if source.missing_since is not None:
                    plan.back.append(source)
            elif not look.cannot_tell(source.path):
                plan.gone.append(source)
                by_state[source.collection, source.state] = source
        for file in look.files.values():
            source = plan.known.get((file.collection, file.text))
            if source is not None and source.state == file.state:
                continue
            moved = by_state.pop((file.collection, file.state), None)
            if moved is not None:
                plan.renamed.append((moved, file))
            elif source is not None and _on_renumbered_disk(source.state, file.state):
                plan.renamed.append((source, file))
            else:
                plan.new.append(file)
        moved_away = {source for source, _ in plan.renamed}
        plan.gone = [source for source in plan.gone if source not in moved_away]
        gone, share = len(plan.gone), self._settings.hold_share
        plan.too_many = gone >= self._settings.hold_files and gone > share * len(sources)
        return plan

    def _do(self, path: Path, plan: _Plan) -> None:
        folder = self._folders[path]
        for source, file in plan.renamed:
            try:
                self._registry.renamed(source, path=file.text, state=file.state)
            except PageglassError as error:
                self._try_later(folder, file, error)
                continue
            folder.pauses.pop(file.text, None)
            if source.path != file.text:
                was = f"was {source.path}"
                self._told_of(PlannedAction("rename", file.text, file.collection, was))
        if plan.back:
            self._registry.missing(plan.back, None)
        for file in plan.new:
            if folder.refused.get(file.text) == file.state:
                continue
            now = self._clock()
            state, since = folder.still.get(file.text, (None, now))
            if state != file.state:
                since = now
                folder.still[file.text] = file.state, now
            ready = since + self._settings.settle_seconds
            pause = folder.pauses.get(file.text)
            if pause is not None and pause.state == file.state:
                ready = max(ready, pause.until)
            # When it is time to look again, the rest of a backlog waits: a rename shall not.
            if ready <= now < self._rested and not self._stopping.is_set():
                if self._take(folder, file):
                    action = _taking(file, plan)
                    self._told_of(PlannedAction(action, file.text, file.collection))
            else:
                self._due = min(self._due, ready)
        there = {file.text for file in plan.new}
        folder.still = {p: v for p, v in folder.still.items() if p in there}
        folder.refused = {p: v for p, v in folder.refused.items() if p in there}
        there |= {file.text for _, file in plan.renamed}
        folder.pauses = {p: v for p, v in folder.pauses.items() if p in there}
        self._remove(folder, plan)

    def _remove(self, folder: _Folder, plan: _Plan) -> None:
        """Note what is gone, and let go of what has been for long enough, if that is not too much
        at once."""
        now = self._clock()
        if fresh := [source for source in plan.gone if source.missing_since is None]:
            self._registry.missing(fresh, self._wall())
        keys = [(source.collection, source.path) for source in plan.gone]
        folder.gone = {key: folder.gone.get(key, now) for key in keys}
        due: list[Source] = []
        for key, source in zip(keys, plan.gone, strict=True):
            if source.deletion == "held":
                continue
            at = folder.gone[key] + self._settings.grace_seconds
            if at <= now:
                due.append(source)
            else:
                self._due = min(self._due, at)
        if not due:
            return
        if plan.too_many:
            self._registry.hold(due)
            _log.warning(
                "%d of %d files are gone from %s: their documents stay until `pageglass deletions"
                " --remove` or `--keep` says what becomes of them",
                len(plan.gone),
                len(plan.known),
                _shown(as_text(folder.path)),
            )
        else:
            self._registry.forget(due)
        action, reason = ("hold", "too many are gone") if plan.too_many else ("remove", "is gone")
        for source in due:
            self._told_of(PlannedAction(action, source.path, source.collection, reason))

    def _take(self, folder: _Folder, file: _File) -> bool:
        """Hand a settled file over; false where that did not work."""
        try:
            descriptor = os.open(file.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno in _VANISHED:
                self._look_again(folder, file)
            else:
                self._try_later(folder, file, error)
            return False

        def unchanged() -> bool:
            try:
                here = os.stat(file.path, follow_symlinks=False)  # noqa: PTH116 - bytes in names
            except OSError:
                return False
            return FileState.of(os.fstat(descriptor)) == FileState.of(here) == file.state

        try:
            if not unchanged():
                raise FileChanged("changed since the last look")
            with os.fdopen(descriptor, "rb", closefd=False) as opened:
                self._registry.take(
                    opened,
                    collection=file.collection,
                    path=file.text,
                    folder=as_text(folder.path),
                    state=file.state,
                    unchanged=unchanged,
                )
        except FileChanged:
            self._look_again(folder, file)
            return False
        except DocumentError as error:
            _log.warning("%s is left out: %s", _shown(file.text), error)
            folder.refused[file.text] = file.state
            return False
        except PageglassError as error:
            self._try_later(folder, file, error)
            return False
        except Exception as error:
            self._try_later(folder, file, error)
            return False
        finally:
            os.close(descriptor)
        del folder.still[file.text]
        folder.pauses.pop(file.text, None)
        folder.outage = ""
        return True

    def _look_again(self, folder: _Folder, file: _File) -> None:
        """The file is not what it was: the next look tells what became of it."""
        del folder.still[file.text]
        self._due = min(self._due, self._clock())

    def _try_later(self, folder: _Folder, file: _File, error: Exception) -> None:
        """Try again, ever later. A trouble is logged once while it lasts: one of the file's own for
        each, one of the registry for all."""
        why = _why(error) if isinstance(error, OSError) else str(error)
        last = folder.pauses.get(file.text)
        if last is not None and last.state != file.state:
            last = None
        known = last is not None and last.why == why
        if isinstance(error, PageglassError):
            known = known or why == folder.outage
            folder.outage = why
        if not known:
            unexpected = None if isinstance(error, PageglassError | OSError) else error
            _log.warning("%s cannot be taken yet: %s", _shown(file.text), why, exc_info=unexpected)
        seconds = 1.0 if last is None else min(2 * last.seconds, _LONGEST_RETRY)
        until = self._clock() + seconds
        folder.pauses[file.text] = _Pause(file.state, until, seconds, why)
        self._due = min(self._due, until)

    def _say(self, folder: _Folder, plan: _Plan) -> None:
        """Log what was not so at the last look."""
        remarks = [f"{_shown(path)} is left out: {reason}" for path, reason in plan.refused]
        remarks += plan.remarks
        if plan.away is not None:
            path = _shown(as_text(folder.path))
            remarks = [f"{path}: {plan.away}: its documents stay until it is back"]
        for remark in remarks:
            if remark not in folder.said:
                _log.warning("%s", remark)
        folder.said = set(remarks)
        # Their numbers may change with every look: what is said again are new kinds and reasons.
        if plan.away is None and not plan.left_out.keys() <= folder.left_out:
            folder.left_out |= plan.left_out.keys()
            _log.warning("%s: left out: %s", _shown(as_text(folder.path)), plan.left_out)

    def _look(self, folder: Path) -> _Look:
        look = _Look()
        collections: dict[str, str] = {}
        for path, relative, status in _walk(folder, self._rules, look):
            collection = self._collection
            if self._settings.by_folder and "/" in relative:
                top = relative.partition("/")[0]
                if top not in collections:
                    collections[top] = collection_name(top)
                collection = collections[top]
            text = as_text(path)
            look.files[text] = _File(path, text, collection, FileState.of(status))
        return look


def _taking(file: _File, plan: _Plan) -> Action:
    return "replace" if (file.collection, file.text) in plan.known else "take"


def _on_renumbered_disk(known: FileState, now: FileState) -> bool:
    """Whether nothing about a file at its place changed but the number of its disk, as happens
    when a network disk is mounted again."""
    return replace(known, device=now.device) == now


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _shown(path: str) -> str:
    """A path for a line of the log, whatever is in its name."""
    return path if path.isprintable() else path.encode("unicode_escape").decode()


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


def _walk(root: Path, rules: Rules, look: _Look) -> Iterator[tuple[str, str, os.stat_result]]:
    """The files of a folder that count, in order of their names: path, path within the folder, and
    status. OSError where the folder itself cannot be read.

    No link is followed: what it points at within the folder is taken under its own name.
    """
    stack = [(str(root), "", rules)]
    while stack:
        path, relative, rules = stack.pop()
        try:
            with os.scandir(path) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            if not relative:
                raise
            _cannot_read(path, error, look)
            continue
        names = {entry.name for entry in entries}
        if names >= _DATA_FOLDER:
            look.left_out[_OURS, "folder"] += 1
            continue
        if IGNORE_FILE in names:
            try:
                rules, wrong = rules.below(relative, read_ignore_file(path))
            except OSError as error:
                look.unreadable.append(as_text(path))
                look.refused.append((as_text(path), f"its {IGNORE_FILE}: {_why(error)}"))
                continue
            shown = _shown(as_text(f"{path}/{IGNORE_FILE}"))
            look.remarks += [f"{shown} {what}" for what in wrong]
        folders: list[tuple[str, str, Rules]] = []
        for entry in entries:
            inside = f"{relative}/{entry.name}" if relative else entry.name
            try:
                if entry.is_dir(follow_symlinks=False):
                    if rules.ignores(inside, folder=True):
                        look.left_out[_why_ignored(entry.name), "folder"] += 1
                    else:
                        folders.append((entry.path, inside, rules))
                elif entry.is_symlink():
                    if _leads_out(entry, root) and not rules.ignores(inside):
                        look.refused.append((as_text(entry.path), "a link out of the folder"))
                    else:
                        look.left_out[_LINK, _kind(entry.name)] += 1
                elif entry.name == IGNORE_FILE:
                    continue
                elif rules.ignores(inside):
                    look.left_out[_why_ignored(entry.name), _kind(entry.name)] += 1
                elif not _counts(entry.name):
                    look.left_out[_NO_KIND, _kind(entry.name)] += 1
                else:
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode):
                        yield entry.path, inside, status
                    else:
                        look.left_out[_OTHER, _kind(entry.name)] += 1
            except OSError as error:
                _cannot_read(entry.path, error, look)
        stack += reversed(folders)


def _cannot_read(path: str, error: OSError, look: _Look) -> None:
    if error.errno not in _VANISHED:
        look.unreadable.append(as_text(path))
        look.refused.append((as_text(path), f"{_why(error)}: its documents stay"))


def _leads_out(link: os.DirEntry[str], root: Path) -> bool:
    """Whether a link to a folder, or to a file that would count, leaves the watched folder."""
    target = Path(os.path.realpath(link.path))
    return not target.is_relative_to(root) and (_counts(link.name) or target.is_dir())


def _why_ignored(name: str) -> str:
    return _HIDDEN if is_left_behind(name) else _NAMED


def _kind(name: str) -> str:
    """What a file that is left out is called: by its suffix, if that is one."""
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - called for every file
    return suffix if 1 < len(suffix) <= 10 and suffix.isprintable() else "without a suffix"


def _counts(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122 - called for every file


def _separate(folders: Sequence[Path]) -> list[Path]:
    for number, folder in enumerate(folders):
        if folder.exists() and not folder.is_dir():
            raise SettingsError(f"cannot watch {folder}: it is a file")
        for other in folders[:number]:
            if folder.is_relative_to(other) or other.is_relative_to(folder):
                raise SettingsError(f"{folder} and {other} overlap: watch one of them")
    return list(folders)


def _on_network(folders: Iterable[Path]) -> bool:
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


def files_in(
    paths: Sequence[Path], rules: Rules | None = None, left_out: LeftOut | None = None
) -> Iterator[Path]:
    """Files as given, and in folders those that count, in order of their names.

    What a watched folder passes over is passed over here, too, and counted in ``left_out``.
    """
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        look = _Look()
        try:
            for found, _, _ in _walk(path.resolve(), rules or Rules(()), look):
                yield Path(found)
        except OSError as error:
            _log.warning("%s cannot be read: %s", path, _why(error))
        for refused, reason in look.refused:
            _log.warning("%s is left out: %s", _shown(refused), reason)
        for remark in look.remarks:
            _log.warning("%s", remark)
        if left_out is not None:
            left_out.update(look.left_out)
