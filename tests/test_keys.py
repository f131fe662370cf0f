"""api.keys: what is kept of a key, what it may do, and when it ends."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.keys import Keys, KeyScope, check_origin
from pageglass.errors import KeyInvalid, StoreError, UsageError

ROOT = Path(__file__).parents[1]
SCOPES: tuple[KeyScope, ...] = get_args(KeyScope)


class Clock:
    """Unix seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "keys.sqlite"


@pytest.fixture
def keys(path: Path, clock: Clock) -> Iterator[Keys]:
    with Keys(path, clock=clock) as keys:
        yield keys


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    """One for every example of a property."""
    with Keys(tmp_path_factory.mktemp("keys") / "keys.sqlite") as keys:
        yield keys


def elsewhere(path: Path, code: str) -> str:
    """What another process prints that has the same ``keys`` open."""
    opening = (
        f"from pathlib import Path\nfrom api.keys import Keys\nkeys = Keys(Path({str(path)!r}))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", f"{opening}\n{code}\nkeys.close()"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


# What is kept


def test_no_text_of_a_key_is_kept(keys: Keys, path: Path) -> None:
    texts = [keys.add("web", ["search"])[1]]
    texts.append(keys.rotate(texts[0], keep_seconds=60)[1])
    for text in texts:
        keys.check(text)
        with pytest.raises(KeyInvalid):
            keys.check(f"{text[:-1]}{'A' if text[-1] != 'A' else 'B'}")
    files = list(path.parent.iterdir())
    assert path in files
    kept = b"".join(file.read_bytes() for file in files)
    for text in texts:
        _, id, secret = text.split("_", 2)
        assert id.encode() in kept
        assert secret.encode() not in kept
        assert base64.urlsafe_b64decode(f"{secret}=") not in kept
        assert text.encode() not in kept


def test_only_the_owner_can_read_the_file(keys: Keys, path: Path) -> None:
    keys.add("web", ["search"])
    files = list(path.parent.iterdir())
    assert len(files) > 1, "the journal, too"
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def test_a_file_that_is_none_says_so(tmp_path: Path) -> None:
    (tmp_path / "keys.sqlite").write_bytes(b"no database " * 100)
    with pytest.raises(StoreError, match="cannot open the API keys"):
        Keys(tmp_path / "keys.sqlite")
    with pytest.raises(StoreError, match="cannot open the API keys"):
        Keys(tmp_path / "keys.sqlite" / "below")


# What it may do


def test_a_key_is_told_once_and_known_by_its_text(keys: Keys) -> None:
    key, text = keys.add("intranet", ["ask"], collections=["a", "b", "a"])
    assert text.startswith(f"pgk_{key.id}_")
    assert len(text) == 4 + 12 + 1 + 43
    assert (key.name, key.collections) == ("intranet", ("a", "b"))
    known = keys.check(text)
    assert (known.id, known.scopes, known.collections) == (key.id, {"ask"}, ("a", "b"))
    assert keys.get(key.id) == keys.get(text)
    assert text not in repr(known)


@given(st.sets(st.sampled_from(SCOPES), min_size=1))
def test_scopes_reach_as_far_as_they_say(store: Keys, scopes: set[KeyScope]) -> None:
    key = store.get(store.add("x", scopes)[0].id)
    assert key.scopes == scopes
    allowed = {scope for scope in SCOPES if key.allows(scope)}
    assert scopes <= allowed
    assert ("search" in allowed) == bool(scopes & {"search", "ask", "admin"})
    assert ("ask" in allowed) == bool(scopes & {"ask", "admin"})
    assert ("ingest" in allowed) == bool(scopes & {"ingest", "admin"})
    assert ("admin" in allowed) == ("admin" in scopes)


@pytest.mark.parametrize(
    ("scopes", "more", "says"),
    [
        ([], {}, "scopes are search, ask, ingest, admin"),
        (["root"], {}, "scopes are"),
        (["search", "SEARCH"], {}, "scopes are"),
        (["search"], {"collections": []}, "name one"),
        (["search"], {"collections": ["../x"]}, "collection"),
        (["search"], {"origins": ["*"]}, "is no origin"),
        (["search"], {"requests_per_minute": 0}, "1 or more"),
        (["search"], {"requests_per_minute": -1}, "1 or more"),
    ],
)
def test_a_key_that_could_do_nothing_is_not_made(
    keys: Keys, scopes: list[str], more: dict[str, object], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        keys.add("x", scopes, **more)  # pyright: ignore[reportArgumentType]
    assert keys.list() == []


@given(st.text())
def test_any_name_is_kept_as_one_line_that_can_be_printed(store: Keys, name: str) -> None:
    kept = store.get(store.add(name, ["search"])[0].id).name
    assert kept
    assert len(kept) <= 100
    assert kept.isprintable()
    assert kept == kept.strip()
    if name.isprintable() and len(name) <= 100 and " ".join(name.split()) == name != "":
        assert kept == name


@pytest.mark.parametrize("name", ["\x1b[2Jgone", "caf\udce9", "a\nb", "\u202egnp.exe", ""])
def test_hostile_names_cannot_move_a_terminal(keys: Keys, name: str) -> None:
    kept = keys.get(keys.add(name, ["search"])[0].id).name
    assert kept
    assert kept.isprintable()
    assert kept.isascii()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://intranet.example", "https://intranet.example"),
        (" HTTPS://Intranet.Example/ ", "https://intranet.example"),
        ("https://intranet.example:443", "https://intranet.example"),
        ("http://intranet.example:80/", "http://intranet.example"),
        ("http://intranet.example:443", "http://intranet.example:443"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
    ],
)
def test_origins_are_kept_as_browsers_send_them(given: str, kept: str) -> None:
    assert check_origin(given) == kept
    assert check_origin(kept) == kept


@pytest.mark.parametrize(
    "origin",
    [
        *("", "null", "*", "https://", "intranet.example", "ftp://a.example", "file:///x"),
        *("https://*.example", "https://a.example/path", "https://a.example?x", "https://a#b"),
        *("https://me@a.example", "https://a.example:x", "https://a.example:99999"),
        *("http://[::1", "http://[1]2", "https://a b.example", "https://bücher.example"),
        *("javascript://a.example", "https://a.example,https://b.example"),
    ],
)
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(UsageError, match="is no origin") as caught:
        check_origin(origin)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=40))
def test_an_origin_is_refused_or_stands(text: str) -> None:
    try:
        kept = check_origin(text)
    except UsageError:
        return
    assert check_origin(kept) == kept


# What is no key


@given(st.text(max_size=80) | st.text(max_size=80).map(lambda text: f"pgk_{text}"))
def test_no_other_text_is_a_key(store: Keys, text: str) -> None:
    with pytest.raises(KeyInvalid, match="unknown"):
        store.check(text)


def test_a_key_must_be_whole(keys: Keys) -> None:
    (_, one), (key, other) = keys.add("one", ["admin"]), keys.add("other", ["search"])
    mixed = f"pgk_{key.id}_{one.split('_', 2)[2]}"
    for wrong in (mixed, f" {other}", f"{other}\n", other[:-1], f"{other}A", other.upper(), key.id):
        with pytest.raises(KeyInvalid, match="unknown"):
            keys.check(wrong)
    assert keys.get(key.id).last_used_at is None
    for wrong in ("", "x" * 300, "pgk_", "' OR 1=1 --"):
        with pytest.raises(UsageError, match="`pageglass keys list`") as caught:
            keys.get(wrong)
        assert len(str(caught.value)) < 100


# When it ends


def test_a_key_expires(keys: Keys, clock: Clock) -> None:
    _, text = keys.add("x", ["search"], seconds=60)
    clock.now += 59.9
    keys.check(text)
    clock.now += 0.1
    with pytest.raises(KeyInvalid, match="expired"):
        keys.check(text)


def test_a_revoked_key_ends_at_once_and_stays_listed(keys: Keys, clock: Clock) -> None:
    key, text = keys.add("x", ["search"])
    keys.check(text)
    first = keys.revoke(key.id)
    assert first.revoked_at == clock.now
    clock.now += 5
    assert keys.revoke(text) == first
    with pytest.raises(KeyInvalid, match="revoked"):
        keys.check(text)
    assert keys.list() == [first]
    with pytest.raises(UsageError, match="revoked or expired"):
        keys.rotate(key.id, keep_seconds=60)


def test_a_rotated_key_goes_on_a_while_beside_the_new_one(keys: Keys, clock: Clock) -> None:
    old, before = keys.add(
        "x",
        ["ask", "ingest"],
        collections=["a"],
        origins=["https://a.example"],
        requests_per_minute=7,
        seconds=1000,
    )
    clock.now += 100
    new, after = keys.rotate(old.id, keep_seconds=60)
    assert new.id != old.id
    assert after != before
    for right in ("name", "scopes", "collections", "origins", "requests_per_minute"):
        assert getattr(new, right) == getattr(old, right)
    # As long as the old one was good for, from now.
    assert new.expires_at == clock.now + 1000
    clock.now += 59
    assert (keys.check(before).id, keys.check(after).id) == (old.id, new.id)
    clock.now += 1
    with pytest.raises(KeyInvalid, match="expired"):
        keys.check(before)
    assert keys.check(after).id == new.id


def test_rotating_prolongs_nothing(keys: Keys, clock: Clock) -> None:
    old, text = keys.add("x", ["search"], seconds=10)
    keys.rotate(old.id, keep_seconds=3600)
    assert keys.get(old.id).expires_at == clock.now + 10
    clock.now += 10
    with pytest.raises(KeyInvalid, match="expired"):
        keys.check(text)
    lasting, text = keys.add("y", ["search"])
    keys.rotate(lasting.id, keep_seconds=0)
    with pytest.raises(KeyInvalid, match="expired"):
        keys.check(text)


def test_its_use_is_noted_at_most_once_a_minute(keys: Keys, clock: Clock) -> None:
    key, text = keys.add("x", ["search"])
    assert keys.get(key.id).last_used_at is None
    first = clock.now
    noted: list[float | None] = []
    for _ in range(4):
        keys.check(text)
        noted.append(keys.get(key.id).last_used_at)
        clock.now += 30
    assert noted == [first, first, first, first + 90]


def test_another_process_s_changes_are_seen_at_once(keys: Keys, path: Path) -> None:
    text = elsewhere(path, "print(keys.add('cli', ['search'], collections=['a'])[1])")
    assert keys.check(text).collections == ("a",)
    key, own = keys.add("here", ["search"])
    assert elsewhere(path, f"print(keys.get({own!r}).name); keys.revoke({own!r})") == "here"
    with pytest.raises(KeyInvalid, match="revoked"):
        keys.check(own)
    assert keys.get(key.id).revoked_at is not None
