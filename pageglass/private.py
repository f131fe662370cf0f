"""What Pageglass keeps is its user's alone: documents, what they say, keys and questions.

Commands set ``UMASK``, so that every file they and their children write is closed to others, those
of libraries (the vector engine's, LibreOffice's) included. ``private_folder`` closes what is there
already: below a closed folder nothing can be reached.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from pageglass.durable import make_folder

UMASK = 0o077


def private_folder(path: Path) -> Path:
    """``path``, made where it is not there, and closed to other users (0700).

    A folder of somebody else's stays as it is. Raises OSError where it cannot be made.
    """
    make_folder(path, 0o700)
    if path.stat().st_mode & 0o077:
        with suppress(PermissionError):
            path.chmod(0o700)
    return path
