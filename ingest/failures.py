"""Which failures are worth another try: told apart here and nowhere else."""

from __future__ import annotations

import errno
import sqlite3
from dataclasses import dataclass
from typing import Literal

from pageglass.errors import DocumentError, StoreError

_DISK = {
    errno.ENOSPC: "no space left on the data folder's disk: free some",
    errno.EDQUOT: "the disk quota is used up: free some space",
    errno.EROFS: "the data folder's disk is read-only",
    errno.EIO: "the data folder's disk has errors",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt ended, in plain words.

    ``permanent``: the file is at fault, another attempt would end alike. ``transient``: it may go
    better, a few times. ``outage``: what is around the document fails (disk, store), so it is kept
    and tried for as long as that takes.
    """

    kind: Literal["permanent", "transient", "outage"]
    reason: str


def classify(error: BaseException) -> Failure:
    """What an error during an attempt means for the attempt's document."""
    if isinstance(error, DocumentError):
        return Failure("permanent", str(error))
    if isinstance(error, StoreError):
        return Failure("outage", str(error))
    if isinstance(error, OSError) and error.errno in _DISK:
        return Failure("outage", _DISK[error.errno])
    if isinstance(error, sqlite3.DatabaseError):
        return Failure("outage", f"the catalog cannot be written: {error}")
    if isinstance(error, MemoryError):
        return Failure("transient", "not enough memory: close other programs or use fewer workers")
    reason = " ".join(str(error).split())[:300]
    return Failure("transient", reason or type(error).__name__)
