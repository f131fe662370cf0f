"""API keys: who may do what, in which collections, from which sites.

A key is shown once, when it is made; what is kept is a hash of it. SHA-256 will do: a key is 256
random bits, so nobody can guess ahead as with a password.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from pageglass.errors import KeyInvalid, StoreError, UsageError
from pageglass.private import private_folder
from pageglass.types import check_collection_name

KeyScope = Literal["search", "ask", "ingest", "admin"]
"""What a key may do: ``search`` (and look at pages), ``ask`` (that and answers), ``ingest`` (add,
change and remove documents), ``admin`` (everything)."""

_IMPLIED: dict[KeyScope, frozenset[KeyScope]] = {
    "search": frozenset(("search",)),
    "ask": frozenset(("ask", "search")),
    "ingest": frozenset(("ingest",)),
    "admin": frozenset(get_args(KeyScope)),
}
_FORM = re.compile(r"pgk_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
# As browsers spell it: lower case, names of other scripts as xn--. A pattern would match nothing.
_HOST = re.compile(r"[a-z0-9._:-]+")
_USED_EVERY_SECONDS = 60.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    hash BLOB NOT NULL,
    scopes TEXT NOT NULL,
    collections TEXT,
    origins TEXT NOT NULL,
    requests_per_minute INTEGER,
    created_at REAL NOT NULL,
    expires_at REAL,
    revoked_at REAL,
    last_used_at REAL
)
"""


@dataclass(frozen=True, slots=True)
class Key:
    """An API key without its secret. ``collections`` None means all, ``origins`` () any or none.

    Times are Unix seconds.
    """

    id: str
    name: str
    scopes: frozenset[KeyScope]
    collections: tuple[str, ...] | None
    origins: tuple[str, ...]
    requests_per_minute: int | None
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    last_used_at: float | None

    def allows(self, scope: KeyScope) -> bool:
        """Whether it may do what needs ``scope``."""
        return any(scope in _IMPLIED[own] for own in self.scopes)

    def described(self) -> dict[str, Any]:
        """What may be told of it, for ``--json``; times in UTC."""
        return {
            "id": self.id,
            "name": self.name,
            "scopes": sorted(self.scopes),
            "collections": None if self.collections is None else list(self.collections),
            "origins": list(self.origins),
            "requests_per_minute": self.requests_per_minute,
            "created_at": _utc(self.created_at),
            "expires_at": _utc(self.expires_at),
            "revoked_at": _utc(self.revoked_at),
            "last_used_at": _utc(self.last_used_at),
        }


class Keys:
    """The keys of a data folder, in a database of their own. Thread-safe.

    Several processes may use it: the command line changes keys while a server checks them.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Open or create; StoreError where that cannot be. ``clock`` gives Unix seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        try:
            private_folder(path.parent)
            self._db = sqlite3.connect(
                path, check_same_thread=False, isolation_level=None, timeout=10
            )
            path.chmod(0o600)
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode = WAL")
            # A key that is revoked stays so, after a power cut too.
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute(_SCHEMA)
        except sqlite3.OperationalError as error:
            raise StoreError(f"cannot open the API keys {path.name}: {error}") from None
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"cannot open the API keys {path}: {error}. Put the file back from a backup, or"
                " remove it and make new keys (`pageglass keys add`)"
            ) from None

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> Keys:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(
        self,
        name: str,
        scopes: Iterable[str],
        *,
        collections: Sequence[str] | None = None,
        origins: Sequence[str] = (),
        requests_per_minute: int | None = None,
        seconds: float | None = None,
    ) -> tuple[Key, str]:
        """Make a key that is good for ``seconds`` (None: until it is revoked); it, and its text,
        which is told this once. UsageError where the rights are none."""
        wanted = _checked_scopes(scopes)
        if requests_per_minute is not None and requests_per_minute < 1:
            raise UsageError("a key without any request a minute can do nothing: give 1 or more")
        if collections is not None:
            if not collections:
                raise UsageError("a key without any collection can do nothing: name one")
            collections = tuple(dict.fromkeys(map(check_collection_name, collections)))
        now = self._clock()
        key = Key(
            id=secrets.token_hex(6),
            name=_plain(name) or "unnamed",
            scopes=wanted,
            collections=None if collections is None else tuple(collections),
            origins=tuple(dict.fromkeys(map(check_origin, origins))),
            requests_per_minute=requests_per_minute,
            created_at=now,
            expires_at=None if seconds is None else now + seconds,
            revoked_at=None,
            last_used_at=None,
        )
        return key, self._insert(key)

    def rotate(self, id: str, *, keep_seconds: float) -> tuple[Key, str]:
        """A new key with the rights of ``id``, which itself ends in ``keep_seconds``."""
        old = self.get(id)
        now = self._clock()
        if not _good(old, now):
            raise UsageError(f"key {old.id} is revoked or expired already: make a new one")
        key = Key(
            id=secrets.token_hex(6),
            name=old.name,
            scopes=old.scopes,
            collections=old.collections,
            origins=old.origins,
            requests_per_minute=old.requests_per_minute,
            created_at=now,
            expires_at=None if old.expires_at is None else now + old.expires_at - old.created_at,
            revoked_at=None,
            last_used_at=None,
        )
        text = self._insert(key)
        ends = now + keep_seconds
        with self._lock:
            self._db.execute(
                "UPDATE keys SET expires_at = MIN(COALESCE(expires_at, ?1), ?1) WHERE id = ?2",
                (ends, old.id),
            )
        return key, text

    def revoke(self, id: str) -> Key:
        """End a key at once; revoking it again changes nothing."""
        key = self.get(id)
        with self._lock:
            self._db.execute(
                "UPDATE keys SET revoked_at = COALESCE(revoked_at, ?) WHERE id = ?",
                (self._clock(), key.id),
            )
        return self.get(key.id)

    def get(self, id: str) -> Key:
        """One key, by its id or the beginning of its text; UsageError where there is none."""
        plain = id.removeprefix("pgk_").partition("_")[0]
        found = self._select("WHERE id = ?", (plain,))
        if not found:
            raise UsageError(f"no key {plain[:20]!r}: `pageglass keys list` lists them")
        return found[0]

    def list(self) -> list[Key]:
        """Every key there ever was, oldest first."""
        return self._select("ORDER BY created_at, id")

    def check(self, text: str) -> Key:
        """The key whose text this is, noting its use; KeyInvalid where it is none, or no more."""
        match = _FORM.fullmatch(text)
        now = self._clock()
        row = None
        if match is not None:
            with self._lock:
                row = self._db.execute("SELECT * FROM keys WHERE id = ?", (match[1],)).fetchone()
        # As much work for a key that is unknown as for a wrong one.
        same = hmac.compare_digest(_hash(text), row["hash"] if row is not None else b"\0" * 32)
        if row is None or not same:
            raise KeyInvalid("this API key is unknown: ask whoever runs the server for another")
        key = _key(row)
        if not _good(key, now):
            what = "revoked" if key.revoked_at is not None else "expired"
            raise KeyInvalid(f"this API key is {what}: ask whoever runs the server for another")
        if now - (key.last_used_at or 0) > _USED_EVERY_SECONDS:
            with self._lock:
                self._db.execute("UPDATE keys SET last_used_at = ? WHERE id = ?", (now, key.id))
        return key

    def holds(self, id: str) -> bool:
        """Whether a key is still good; its use is not noted."""
        found = self._select("WHERE id = ?", (id,))
        return bool(found) and _good(found[0], self._clock())

    def _insert(self, key: Key) -> str:
        text = f"pgk_{key.id}_{secrets.token_urlsafe(32)}"
        with self._lock:
            self._db.execute(
                "INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    key.id,
                    key.name,
                    _hash(text),
                    json.dumps(sorted(key.scopes)),
                    None if key.collections is None else json.dumps(key.collections),
                    json.dumps(key.origins),
                    key.requests_per_minute,
                    key.created_at,
                    key.expires_at,
                    key.revoked_at,
                    key.last_used_at,
                ),
            )
        return text

    def _select(self, where: str, values: tuple[str, ...] = ()) -> list[Key]:
        with self._lock:
            rows = self._db.execute(f"SELECT * FROM keys {where}", values).fetchall()  # noqa: S608
        return [_key(row) for row in rows]


def open_keys(data_dir: Path) -> Keys:
    """The keys of a data folder; StoreError where they cannot be opened."""
    return Keys(data_dir / "keys.sqlite")


def check_origin(origin: str) -> str:
    """``origin`` as browsers send it (scheme, host, port unless the usual one); UsageError."""
    wrong = UsageError(
        f"{origin[:200]!r} is no origin: give scheme, host and port, such as"
        " https://intranet.example"
    )
    try:
        parts = urlsplit(origin.strip().rstrip("/"))
        port, host = parts.port, parts.hostname or ""
    except ValueError:
        raise wrong from None
    if (
        parts.scheme not in ("http", "https")
        or not _HOST.fullmatch(host)
        or parts.path
        or parts.query
        or parts.fragment
        or "@" in parts.netloc
    ):
        raise wrong
    if ":" in host:
        host = f"[{host}]"
    usual = {"http": 80, "https": 443}[parts.scheme]
    return f"{parts.scheme}://{host}" + ("" if port in (None, usual) else f":{port}")


def _checked_scopes(scopes: Iterable[str]) -> frozenset[KeyScope]:
    known = get_args(KeyScope)
    wanted = frozenset(scopes)
    if not wanted or not wanted <= set(known):
        raise UsageError(f"scopes are {', '.join(known)}: give one or more of them")
    return frozenset(scope for scope in known if scope in wanted)


def _plain(name: str) -> str:
    """A name that a terminal and a database can take."""
    printable = "".join(letter if letter.isprintable() else " " for letter in name)
    return " ".join(printable.split())[:100].strip()


def _good(key: Key, now: float) -> bool:
    return key.revoked_at is None and (key.expires_at is None or now < key.expires_at)


def _utc(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _key(row: sqlite3.Row) -> Key:
    return Key(
        id=row["id"],
        name=row["name"],
        scopes=_checked_scopes(json.loads(row["scopes"])),
        collections=None if row["collections"] is None else tuple(json.loads(row["collections"])),
        origins=tuple(json.loads(row["origins"])),
        requests_per_minute=row["requests_per_minute"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        last_used_at=row["last_used_at"],
    )
