"""Page images on disk, addressed by content."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path


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
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Written beside and renamed, so that a crash leaves no half image under a valid key.
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
                file.write(data)
            Path(file.name).replace(path)
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

    def path(self, key: str) -> Path:
        """Where ``key`` is or would be stored."""
        return self._root / key[:2] / key
