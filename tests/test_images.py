from __future__ import annotations

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
