"""Which files of a watched folder are passed over: what programs leave behind, and what people say.

A ``.pageglassignore`` in any folder holds patterns as in ``.gitignore``, for that folder and those
below it; the setting watch.ignore holds such patterns for all.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

import pathspec

_log = logging.getLogger(__name__)

IGNORE_FILE = ".pageglassignore"
_MOST_BYTES = 64 * 1024
# Conflict copies (of Dropbox, Syncthing, Nextcloud) are not among them: they are documents that
# somebody wrote, and perhaps the only place where it stands.
_LEFT_BEHIND = re.compile(
    r"\..*"  # hidden: also .DS_Store, rsync's .name.Xy12, .~lock.name#, .syncthing.name.tmp
    r"|~.*"  # ~$name.docx while Word has it open; ~syncthing~name.tmp
    r"|.*~|.*\.(part|partial|crdownload|download|opdownload|tmp|temp|swp|swx)"
    r"|.*\.part\.[^.]+|.*\.tmp\.[^.]+"
    r"|Thumbs\.db|desktop\.ini"
    r"|\$RECYCLE\.BIN|System Volume Information|@eaDir|#recycle|#snapshot|lost\+found",
    re.IGNORECASE | re.DOTALL,
)


class Rules:
    """The rules that hold in one folder."""

    def __init__(self, patterns: Sequence[str]) -> None:
        """``patterns`` are the setting's. ValueError where one is no pattern."""
        spec = pathspec.GitIgnoreSpec.from_lines(patterns)
        self._specs: tuple[tuple[str, pathspec.GitIgnoreSpec], ...] = (("", spec),)

    def below(self, folder: str, ignore_file: bytes) -> Rules:
        """The rules in ``folder`` (relative to the watched one, ``""`` for that itself), which has
        an ignore file with this content."""
        lines = ignore_file[:_MOST_BYTES].decode("utf-8", "replace").splitlines()
        if len(ignore_file) > _MOST_BYTES:
            _log.warning("%s/%s: only its first 64 KB count", folder, IGNORE_FILE)
        kept: list[str] = []
        for line in lines:
            try:
                pathspec.GitIgnoreSpec.from_lines([line])
            except ValueError:
                _log.warning("%s/%s: no pattern: %s", folder, IGNORE_FILE, line[:100])
            else:
                kept.append(line)
        rules = Rules(())
        rules._specs = (*self._specs, (folder, pathspec.GitIgnoreSpec.from_lines(kept)))
        return rules

    def ignores(self, path: str, *, folder: bool = False) -> bool:
        """Whether the file or folder at ``path`` (relative to the watched folder) is passed over.

        The rule of the nearest ignore file that says anything decides, its last line first.
        """
        if _LEFT_BEHIND.fullmatch(PurePosixPath(path).name):
            return True
        for base, spec in reversed(self._specs):
            if base and not path.startswith(f"{base}/"):
                continue
            below = path[len(base) + 1 :] if base else path
            said = spec.check_file(f"{below}/" if folder else below).include
            if said is not None:
                return said
        return False
