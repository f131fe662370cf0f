"""Files and names that outlast a power cut.

A file's bytes are on disk once the file is synced, and its name once the folder it is in is. What
is accepted from people is written like this; what can be made again need not be.
"""

from __future__ import annotations

import os
from pathlib import Path


def sync_folder(path: Path) -> None:
    """Have the names in a folder on disk; OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path, mode: int = 0o777) -> None:
    """Make a folder and those above it that are missing, for good; OSError."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    for folder in reversed(missing):
        sync_folder(folder.parent)


def put_in_place(written: Path, target: Path) -> None:
    """Give a file the name ``target``, for good and whole; one of that name is replaced.

    Both are on one file system. OSError.
    """
    with written.open("rb") as file:
        os.fsync(file.fileno())
    written.replace(target)
    sync_folder(target.parent)
