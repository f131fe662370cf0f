"""Page images on disk, addressed by content."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

_INCOMING = ".incoming"


class ImageStore:
    """Image files under ``root``, named by the SHA-256 of their bytes.

    Writing the same bytes twice is one file. Whoever refers to a key keeps count of its use;
    the store does not.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, data: bytes, suffix: str) -> str:
        """Store ``data`` and return its key."""
        key = self.key(data, suffix)
        path = self.path(key)
        # An empty file is what a power loss left of one that was renamed but not written yet.
        if not path.exists() or path.stat().st_size != len(data):
            path.parent.mkdir(parents=True, exist_ok=True)
            incoming = self._root / _INCOMING
            incoming.mkdir(exist_ok=True)
            # Written elsewhere and renamed, so that a crash leaves no half image under a valid key.
            # Not flushed to the disk: that costs 5 ms a page on an SSD, and points are no safer.
            # What a power loss takes `pageglass check --repair` brings back.
            with tempfile.NamedTemporaryFile(dir=incoming, delete=False) as file:
                written = Path(file.name)
                try:
                    file.write(data)
                    file.flush()
                    written.replace(path)
                except BaseException:
                    written.unlink(missing_ok=True)
                    raise
        return key

    @staticmethod
    def key(data: bytes, suffix: str) -> str:
        """The key of ``data``: hex SHA-256 and ``suffix``, such as ``.jpg``."""
        return hashlib.sha256(data).hexdigest() + suffix

    def get(self, key: str) -> bytes:
        """The bytes of ``key``; KeyError where there is none."""
        try:
            return self.path(key).read_bytes()
        except FileNotFoundError:
            raise KeyError(key) from None

    def delete(self, key: str) -> None:
        """Remove ``key``; nothing happens where there is none."""
        self.path(key).unlink(missing_ok=True)

    def keys(self) -> Iterator[str]:
        """Every key in the store."""
        for path in self._root.glob("??/*"):
            if not path.name.startswith("."):
                yield path.name

    def unfinished(self) -> Iterator[Path]:
        """Files that a process killed while writing left behind."""
        yield from (self._root / _INCOMING).glob("*")

    def path(self, key: str) -> Path:
        """Where ``key`` is or would be stored."""
        return self._root / key[:2] / key
