"""What is done of a long piece of work, kept as it is done: a command that was stopped goes on.

Beside the file that a command writes lies one that ends in ``.partial`` while it runs: JSON lines,
the first with the fingerprint of the work (the command, its cases, the settings), then a line for
each piece. A crash can cut the last line short; that piece is done again. Pieces of other work are
not taken over.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar

from pydantic import TypeAdapter

from pageglass.errors import StoreError

Piece = TypeVar("Piece")

Resumed = Callable[[int], None]
"""Is told how many pieces an earlier time has done already, where there are any."""


def say_nothing(pieces: int) -> None:
    """Hears of pieces and does nothing."""
    del pieces


def fingerprint(**parts: object) -> str:
    """A digest of whatever makes two pieces of work the same; all of it can be written as JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Partial(Generic[Piece]):
    """The pieces of one work by their names; ``path`` None keeps none of them.

    A context. It leaves the file behind for whoever does the same work again; who has written the
    result removes it.
    """

    def __init__(
        self, path: Path | None, kind: type[Piece], work: str, resumed: Resumed = say_nothing
    ) -> None:
        """``kind`` is a dataclass or a model; ``work`` is the fingerprint: a file of other work is
        begun anew."""
        self._path = path
        self._adapter = TypeAdapter(kind)
        self._work = work
        self._resumed = resumed
        self._done: dict[str, Piece] = {}
        self._file: BinaryIO | None = None

    def __enter__(self) -> Partial[Piece]:
        if self._path is not None:
            self._done = self._read(self._path)
            if self._done:
                self._resumed(len(self._done))
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def once(
        self, name: str, make: Callable[[], Piece], *, keep: Callable[[Piece], bool] | None = None
    ) -> Piece:
        """The piece of this name: as it was kept, or else made now, and kept unless ``keep`` says
        that another time may do better. StoreError where it cannot be kept."""
        if name in self._done:
            return self._done[name]
        piece = make()
        if self._path is not None and (keep is None or keep(piece)):
            try:
                if self._file is None:
                    self._file = self._begin(self._path)
                self._file.write(self._line(name, piece))
                self._file.flush()
            except OSError as error:
                raise StoreError(f"cannot write {self._path}: {error.strerror}") from None
        return piece

    def _begin(self, path: Path) -> BinaryIO:
        """Write the file anew, so that no line of it is cut short, and leave it open."""
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.new")
        file = new.open("wb")
        file.write(json.dumps({"work": self._work}).encode() + b"\n")
        file.writelines(self._line(name, piece) for name, piece in self._done.items())
        file.flush()
        new.replace(path)
        return file

    def _line(self, name: str, piece: Piece) -> bytes:
        written = self._adapter.dump_python(piece, mode="json")
        return json.dumps({"name": name, "piece": written}).encode() + b"\n"

    def _read(self, path: Path) -> dict[str, Piece]:
        try:
            first, *lines = path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror}") from None
        done: dict[str, Piece] = {}
        # What comes after a line that was cut short, or is none of ours, is done again.
        with suppress(ValueError, TypeError, KeyError):
            if json.loads(first) == {"work": self._work}:
                for line in lines:
                    one = json.loads(line)
                    done[one["name"]] = self._adapter.validate_python(one["piece"])
        return done
