"""One process at a time owns a data folder; a lock file says which, and where it answers."""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from pageglass.errors import FolderInUse, NoDataFolder, StoreError
from pageglass.private import private_folder


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that owns a data folder; ``address`` (http://host:port) if it is a server.

    ``token`` lets whoever can read the folder do everything there, as without a server.
    """

    pid: int
    command: str
    address: str | None
    token: str = ""


class OwnerLock:
    """Holds a data folder for this process.

    The lock is the operating system's: it ends with the process, however that ends, and nothing
    has to be cleaned up. What the file says is only for people and for finding the server.
    """

    def __init__(self, data_dir: Path, owner: Owner) -> None:
        """Take the folder; FolderInUse names who has it, StoreError where it cannot be made."""
        try:
            private_folder(data_dir)
            self._file: IO[str] = _path(data_dir).open("a+")
            # It will hold a token.
            _path(data_dir).chmod(0o600)
        except OSError as error:
            raise StoreError(
                f"cannot use the data folder {data_dir}: {error.strerror or error}"
                " (setting data_dir)"
            ) from None
        if not self._acquire():
            other = _read(self._file)
            self._file.close()
            who = f"`pageglass {other.command}` (process {other.pid})" if other else "a process"
            where = f" at {other.address}" if other and other.address else ""
            raise FolderInUse(
                f"the data folder {data_dir} is in use by {who}{where}: wait for it, stop it, or"
                " choose another folder with --data-dir"
            )
        try:
            self._write(owner)
        except OSError as error:
            with suppress(OSError):  # Closing tries to write once more.
                self._file.close()
            raise StoreError(
                f"cannot write in the data folder {data_dir}: {error.strerror or error}"
            ) from None

    def release(self) -> None:
        """Let the next owner in."""
        if not self._file.closed:
            self._file.truncate(0)
            self._file.close()

    def _acquire(self) -> bool:
        # `owner_of` in another process holds the lock for the blink of an eye, too.
        for pause in (0.05, 0.2, None):
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if pause is not None:
                    time.sleep(pause)
        return False

    def _write(self, owner: Owner) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._file.write(json.dumps(asdict(owner)))
        self._file.flush()
        os.fsync(self._file.fileno())


def require_data_folder(data_dir: Path) -> None:
    """NoDataFolder where nothing of ours is in the folder: what only reads must not make one."""
    ours = (data_dir / "catalog.sqlite", data_dir / "keys.sqlite", _path(data_dir))
    if not any(path.exists() for path in ours):
        raise NoDataFolder.of(data_dir)


def owner_of(data_dir: Path) -> Owner | None:
    """Who owns the folder now, or None."""
    try:
        with _path(data_dir).open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _read(file)
    except OSError:
        return None
    return None


def _path(data_dir: Path) -> Path:
    return data_dir / "owner.json"


def _read(file: IO[str]) -> Owner | None:
    file.seek(0)
    try:
        return Owner(**json.loads(file.read()))
    except (ValueError, TypeError):
        # The owner is just writing it, or has let go between our two looks.
        return None
