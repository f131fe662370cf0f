"""Files that commands write: whole or not at all, and never over what they were made of."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from pageglass.errors import StoreError, UsageError


def check_output(path: Path, *, inputs: Iterable[Path] = ()) -> None:
    """UsageError where ``path`` cannot be written to, or is one of the ``inputs``: better said
    before hours of work than after."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name a file")
    for given in inputs:
        if path.exists() and given.exists() and path.samefile(given):
            raise UsageError(f"{path} is what is read: choose another name for what is written")
    try:
        target = path.resolve()
    except RuntimeError:  # Links that lead to each other.
        raise UsageError(f"{path} cannot be written") from None
    special = target.exists() and not target.is_file()
    # A file is written beside the old one, so that its folder counts.
    there = target if special else next(one for one in target.parents if one.exists())
    if not os.access(there, os.W_OK) or not (special or there.is_dir()):
        raise UsageError(f"{path} cannot be written")


def replace_file(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, beside it first: a crash leaves the old file or the new one.

    Links are followed; a pipe or a device is written into. StoreError.
    """
    target = path.resolve()
    written = target.with_name(target.name + ".new")
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(data)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with written.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            written.replace(target)
        except BaseException:
            written.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from None
