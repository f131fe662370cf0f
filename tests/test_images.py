from __future__ import annotations

import resource
from pathlib import Path

import pytest

from pageglass.images import ImageStore


def test_the_same_bytes_are_one_file(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    key = store.put(b"ink", ".jpg")
    assert store.put(b"ink", ".jpg") == key == ImageStore.key(b"ink", ".jpg")
    assert store.get(key) == b"ink"
    assert list(store.keys()) == [key]


def test_a_deleted_image_is_gone_and_deleting_twice_is_harmless(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    key = store.put(b"ink", ".jpg")
    store.delete(key)
    store.delete(key)
    with pytest.raises(KeyError):
        store.get(key)


def test_a_half_written_image_has_no_key(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    key = store.put(b"ink", ".jpg")
    (tmp_path / ".incoming" / "half").write_bytes(b"in")
    assert list(store.keys()) == [key]
    assert [path.name for path in store.unfinished()] == ["half"]


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Writing more fails as it does on a full disk, but with another number.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            store.put(b"ink" * 100_000, ".jpg")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(store.unfinished()) == []
    assert list(store.keys()) == []


def test_an_image_that_a_power_loss_emptied_is_written_again(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    key = store.put(b"ink", ".jpg")
    store.path(key).write_bytes(b"")
    assert store.put(b"ink", ".jpg") == key
    assert store.get(key) == b"ink"
