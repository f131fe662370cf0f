"""Which files of a watched folder are passed over: what programs leave behind, and what people say.

A ``.pageglassignore`` in any folder holds patterns as in ``.gitignore``, for that folder and those
below it; the setting watch.ignore holds such patterns for all. A document whose file is newly
passed over goes like one whose file is gone: whoever hides a file wants no answers from it, and
grace period and guard stand between a slip and its consequences.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

import pathspec

IGNORE_FILE = ".pageglassignore"
_MOST_BYTES = 64 * 1024
_MOST_LINES = 1000
# Matching backtracks: each further one multiplies its time by the length of the path.
_MOST_WILDCARDS = 3
_MOST_DEEP_WILDCARDS = 2
# Conflict copies (of Dropbox, Syncthing, Nextcloud) are not among them: they are documents that
# somebody wrote, and perhaps the only place where it stands.
_LEFT_BEHIND = re.compile(
    r"\..*"  # hidden: also .DS_Store, rsync's .name.Xy12, .~lock.name#, .syncthing.name.tmp
    r"|~\$.*|~syncthing~.*"  # ~$name.docx while Word has it open
    r"|.*~|.*\.(part|partial|crdownload|download|opdownload|tmp|temp|swp|swx)"
    r"|Thumbs\.db|desktop\.ini"
    r"|\$RECYCLE\.BIN|System Volume Information|@eaDir|@Recycle|#recycle|#snapshot|lost\+found",
    re.IGNORECASE | re.DOTALL,
)


def is_left_behind(name: str) -> bool:
    """Whether a name is that of a hidden or temporary file, or one of a tool."""
    return _LEFT_BEHIND.fullmatch(name) is not None


class Rules:
    """The rules that hold in one folder."""

    def __init__(self, patterns: Sequence[str]) -> None:
        """``patterns`` are the setting's. ValueError where one is no pattern."""
        self._specs: tuple[tuple[str, pathspec.GitIgnoreSpec], ...] = ()
        if patterns:
            self._specs = (("", pathspec.GitIgnoreSpec.from_lines(patterns)),)

    def below(self, folder: str, ignore_file: bytes) -> tuple[Rules, list[str]]:
        """The rules in ``folder`` (relative to the watched one, ``""`` for that itself), which has
        an ignore file with this content; and what of the content does not count, in words."""
        wrong: list[str] = []
        whole = len(ignore_file) <= _MOST_BYTES
        if not whole:
            # A line cut short would say something else.
            ignore_file = ignore_file[:_MOST_BYTES].rpartition(b"\n")[0]
        # Bytes that are no UTF-8 become what they are in names of files.
        text = ignore_file.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
        if not text.isascii() and re.search("[\udc80-\udcff]", text):
            wrong.append("is not UTF-8")
        lines = [line.rstrip("\r") for line in text.split("\n")]
        if not whole or len(lines) > _MOST_LINES:
            wrong.append("counts up to 64 KB and 1,000 lines only")
        kept: list[str] = []
        for number, line in enumerate(lines[:_MOST_LINES], 1):
            wildcards = [] if line.startswith("#") else re.findall(r"\*+", line)
            deep = [wildcard for wildcard in wildcards if len(wildcard) > 1]
            if len(wildcards) > _MOST_WILDCARDS or len(deep) > _MOST_DEEP_WILDCARDS:
                wrong.append(f"line {number} has too many wildcards")
                continue
            try:
                pathspec.GitIgnoreSpec.from_lines([line])
            except ValueError:
                wrong.append(f"line {number} is no pattern")
            else:
                kept.append(line)
        rules = Rules(())
        rules._specs = (*self._specs, (folder, pathspec.GitIgnoreSpec.from_lines(kept)))
        return rules, wrong

    def ignores(self, path: str, *, folder: bool = False) -> bool:
        """Whether the file or folder at ``path`` (relative to the watched folder) is passed over.

        The rule of the nearest ignore file that says anything decides, its last line first.
        """
        if is_left_behind(path.rpartition("/")[2]):
            return True
        for base, spec in reversed(self._specs):
            if base and not path.startswith(f"{base}/"):
                continue
            below = path[len(base) + 1 :] if base else path
            said = spec.check_file(f"{below}/" if folder else below).include
            if said is not None:
                return said
        return False


def read_ignore_file(folder: str) -> bytes:
    """The ignore file of a folder, as much of it as may count; OSError, also where it is a link
    or no file."""
    path = os.path.join(folder, IGNORE_FILE)  # noqa: PTH118 - called for every folder
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        return os.read(descriptor, _MOST_BYTES + 1)
    finally:
        os.close(descriptor)
