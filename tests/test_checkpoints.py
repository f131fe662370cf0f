"""Where a model's files are found. The hub's cache is laid out by hand, as its client does it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from huggingface_hub import constants

from pageglass.errors import ModelError
from retrieval.checkpoints import Checkpoint, ModelName, find, fingerprint

NAME = "owner/model"
OLD, NEW = "a" * 40, "b" * 40
WHOLE = {"config.json": "{}", "model.safetensors": ""}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub. Its client reads the environment once, at import."""
    folder = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


def cached(
    cache: Path,
    commit: str,
    *,
    name: str = NAME,
    refs: tuple[str, ...] = (),
    files: Mapping[str, str] | None = None,
    listed: tuple[str, ...] = (),
) -> Path:
    """Lay out a commit that was fetched; ``listed`` is what the hub says it is made of."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for file, text in (WHOLE if files is None else files).items():
        (snapshot / file).write_text(text)
    for ref in refs:
        path = repository / "refs" / ref
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(commit)
    if listed:
        entries = {file: {"size": 2, "blob_id": "0" * 40} for file in listed}
        (repository / "trees").mkdir(exist_ok=True)
        tree = {"format_version": 1, "files": entries}
        (repository / "trees" / f"{commit}.json").write_text(json.dumps(tree))
    return snapshot


def folder(path: Path, files: Mapping[str, str] | None = None) -> Path:
    path.mkdir(parents=True)
    for name, text in ({"config.json": "{}"} if files is None else files).items():
        (path / name).write_text(text)
    return path


def adapter(base: object, revision: str | None = None) -> dict[str, str]:
    config = {"base_model_name_or_path": base, "revision": revision}
    return {"adapter_config.json": json.dumps(config), "adapter_model.safetensors": ""}


# Names


@pytest.mark.parametrize(
    ("text", "name", "revision"),
    [
        ("owner/model", "owner/model", None),
        ("owner/model@v2", "owner/model", "v2"),
        ("owner/model@refs/pr/3", "owner/model", "refs/pr/3"),
        ("owner/model@", "owner/model", None),
    ],
)
def test_a_name_may_carry_a_revision(text: str, name: str, revision: str | None) -> None:
    assert ModelName.parse(text) == ModelName(name, revision)
    assert str(ModelName.parse(text)) == text.rstrip("@")


def test_a_folder_s_path_may_hold_an_at_sign(tmp_path: Path) -> None:
    path = folder(tmp_path / "model@home")
    assert ModelName.parse(str(path)) == ModelName(str(path))
    assert find(str(path)).folder == path


@pytest.mark.parametrize(
    "wanted", ["model", "", "a/b/c", "./nowhere/here", "/no/such", "~/no/such"]
)
def test_what_is_neither_a_folder_nor_a_hub_name_is_refused(wanted: str, cache: Path) -> None:
    with pytest.raises(ModelError, match="give a folder that is there or a hub name"):
        find(wanted)


@pytest.mark.parametrize("wanted", ["owner/mo del", "owner/..", "owner/model--x"])
def test_a_name_that_the_hub_cannot_have_is_refused_in_one_line(wanted: str, cache: Path) -> None:
    with pytest.raises(ModelError, match="cannot use the model owner/") as caught:
        find(wanted)
    assert "\n" not in str(caught.value)


def test_a_folder_has_no_revisions(tmp_path: Path) -> None:
    path = folder(tmp_path / "model")
    with pytest.raises(ModelError, match="leave out the @"):
        find(f"{path}@v2")


# The hub's cache; the network is off, so whatever asks for it fails


def test_a_cached_model_is_found_at_the_commit_of_its_main_branch(cache: Path) -> None:
    cached(cache, OLD)
    snapshot = cached(cache, NEW, refs=("main",))
    assert find(NAME) == Checkpoint(NAME, NEW, snapshot)
    assert find(NAME, fetch="never") == find(NAME)


def test_a_revision_is_a_commit_a_branch_or_a_tag(cache: Path) -> None:
    cached(cache, OLD, refs=("v1", "refs/pr/3"))
    cached(cache, NEW, refs=("main",))
    for revision in (OLD, "v1", "refs/pr/3"):
        assert find(f"{NAME}@{revision}").revision == OLD
    assert find(f"{NAME}@{NEW}").revision == NEW


def test_the_commit_settled_on_earlier_stays_until_a_revision_is_named(cache: Path) -> None:
    cached(cache, OLD)
    cached(cache, NEW, refs=("main",))
    locked = {NAME: OLD, "owner/other": NEW}
    assert find(NAME, locked=locked).revision == OLD
    assert find(f"{NAME}@main", locked=locked).revision == NEW


def test_a_locked_commit_that_is_gone_is_not_replaced_by_a_newer_one(cache: Path) -> None:
    cached(cache, NEW, refs=("main",))
    with pytest.raises(ModelError, match=OLD):
        find(NAME, fetch="never", locked={NAME: OLD})


def test_files_that_are_never_fetched_do_not_make_a_model_incomplete(cache: Path) -> None:
    listed = (*WHOLE, "onnx/model.onnx", "onnx/model.onnx_data", "flax_model.msgpack")
    cached(cache, NEW, refs=("main",), listed=listed)
    assert find(NAME, fetch="never").revision == NEW
    assert find(NAME).revision == NEW


def test_a_download_cut_short_is_not_taken_for_a_model(cache: Path) -> None:
    cached(cache, NEW, refs=("main",), files={"config.json": "{}"}, listed=tuple(WHOLE))
    with pytest.raises(ModelError, match="not on this machine"):
        find(NAME, fetch="never")


def test_what_is_not_there_is_not_asked_for_where_that_is_forbidden(cache: Path) -> None:
    with pytest.raises(ModelError, match="pageglass models pull") as caught:
        find(f"{NAME}@v9", fetch="never")
    assert "owner/model@v9 is not on this machine" in str(caught.value)


@pytest.mark.parametrize("fetch", ["missing", "always"])
def test_a_hub_that_does_not_answer_is_said_in_one_line(
    cache: Path, monkeypatch: pytest.MonkeyPatch, fetch: str
) -> None:
    # Nobody listens at this port of this machine.
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match="cannot fetch the model owner/model") as caught:
        find(NAME, fetch="always" if fetch == "always" else "missing")
    assert "\n" not in str(caught.value)


def test_the_hub_s_cache_is_where_the_environment_says(tmp_path: Path) -> None:
    snapshot = cached(tmp_path / "home" / "hub", NEW, refs=("main",))
    code = (
        "import sys; from retrieval.checkpoints import find\n"
        f"print(find({NAME!r}).folder); print([m for m in ('torch', 'transformers')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": "http://127.0.0.1:9"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [str(snapshot), "[]"]


# Adapters


def test_an_adapter_brings_a_base_that_lies_beside_it(tmp_path: Path) -> None:
    base = folder(tmp_path / "base")
    found = find(str(folder(tmp_path / "lora", adapter("../base", "main"))))
    assert found.base is not None
    assert found.base.folder.resolve() == base
    assert found.base.revision == fingerprint(base)


def test_an_adapter_brings_a_base_from_the_hub_at_the_commit_it_was_trained_on(cache: Path) -> None:
    cached(cache, OLD, name="owner/base", refs=("v1",))
    cached(cache, NEW, name="owner/base", refs=("main",))
    cached(cache, "c" * 40, refs=("main",), files=adapter("owner/base", "v1"))
    found = find(NAME)
    assert found.base == find("owner/base@v1")
    assert found.manifest() == {
        "name": "model",
        "revision": "c" * 40,
        "base": {"name": "base", "revision": OLD},
    }


def test_an_adapter_s_base_stays_at_the_commit_settled_on_earlier(cache: Path) -> None:
    cached(cache, OLD, name="owner/base")
    cached(cache, NEW, name="owner/base", refs=("main",))
    cached(cache, "c" * 40, refs=("main",), files=adapter("owner/base"))
    for locked, revision in (({}, NEW), ({"owner/base": OLD}, OLD)):
        base = find(NAME, locked=locked).base
        assert base is not None
        assert base.revision == revision


def test_an_adapter_whose_base_is_missing_says_so(cache: Path) -> None:
    cached(cache, NEW, refs=("main",), files=adapter("owner/base"))
    with pytest.raises(ModelError, match="the model owner/base is not on this machine"):
        find(NAME, fetch="never")


@pytest.mark.parametrize("base", [None, "", 3])
def test_an_adapter_that_names_no_base_is_refused(base: object, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not name its base"):
        find(str(folder(tmp_path / "lora", adapter(base))))


def test_an_adapter_that_is_its_own_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is an adapter itself"):
        find(str(folder(tmp_path / "lora", adapter("."))))


# Fingerprints


def test_a_folder_is_known_by_its_content_not_its_place(tmp_path: Path) -> None:
    files = {"config.json": "{}", "vocab.txt": "a"}
    one, other = folder(tmp_path / "one", files), folder(tmp_path / "other", files)
    assert find(str(one)).revision == find(str(other)).revision == fingerprint(one)
    assert len(fingerprint(one)) == 40
    (other / "vocab.txt").write_text("b")
    assert fingerprint(one) != fingerprint(other)


def test_content_cannot_move_between_files_unnoticed(tmp_path: Path) -> None:
    one = folder(tmp_path / "one", {"a.txt": "xy", "b.txt": "z"})
    other = folder(tmp_path / "other", {"a.txt": "x", "b.txt": "yz"})
    renamed = folder(tmp_path / "renamed", {"a.txt": "xy", "c.txt": "z"})
    assert len({fingerprint(path) for path in (one, other, renamed)}) == 3


def test_what_belongs_to_no_model_does_not_change_it(tmp_path: Path) -> None:
    path = folder(tmp_path / "model")
    before = fingerprint(path)
    for name in ("README.md", ".gitattributes", ".cache/huggingface/trees/0.json"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("{}")
    assert fingerprint(path) == before


@pytest.mark.parametrize(("at", "noticed"), [(0, True), (9 << 20, False), (-1, True)])
def test_large_files_are_known_by_their_ends_and_size(
    at: int, noticed: bool, tmp_path: Path
) -> None:
    path = folder(tmp_path / "model", {})
    size = (16 << 20) + 1
    with (path / "model.safetensors").open("wb") as file:
        file.truncate(size)  # a hole: no blocks are written
    before = fingerprint(path)
    with (path / "model.safetensors").open("r+b") as file:
        file.seek(at % size)
        file.write(b"x")
    assert (fingerprint(path) != before) == noticed
    with (path / "model.safetensors").open("r+b") as file:
        file.truncate(size + 1)
    assert fingerprint(path) != before


# What a checkpoint says of itself


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("vidore/colqwen2.5-v0.2", "colqwen2.5-v0.2-bbbbbbbb"),
        ("/models/My Model/", "my-model-bbbbbbbb"),
        ("owner/" + "x" * 90, "x" * 48 + "-bbbbbbbb"),
    ],
)
def test_a_label_is_short_and_plain(name: str, label: str, tmp_path: Path) -> None:
    assert Checkpoint(name, NEW, tmp_path).label == label


def test_the_same_files_at_two_places_are_the_same_in_a_manifest(tmp_path: Path) -> None:
    one, other = folder(tmp_path / "one" / "model"), folder(tmp_path / "other" / "model")
    assert find(str(one)).manifest() == find(str(other)).manifest()


def test_a_config_is_read_as_it_stands(tmp_path: Path) -> None:
    path = folder(tmp_path / "model", {"config.json": '{"model_type": "qwen2_5_vl"}'})
    checkpoint = Checkpoint("model", NEW, path)
    assert checkpoint.has("config.json")
    assert not checkpoint.has("preprocessor_config.json")
    assert checkpoint.config() == {"model_type": "qwen2_5_vl"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "has no"),
        (b"{", "is damaged"),
        (b"\xff\xfe\xff", "is damaged"),
        (b"[1]", "not a JSON"),
    ],
)
def test_a_config_that_is_none_is_named(content: bytes | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "processor_config.json").write_bytes(content)
    with pytest.raises(ModelError, match=f"processor_config.json.*{said}|{said}.*processor_config"):
        Checkpoint("model", NEW, tmp_path).config("processor_config.json")


def test_tensor_shapes_come_from_every_file_without_reading_tensors(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    save_file(
        {"linear.weight": np.zeros((2, 3), np.float32)},
        tmp_path / "model-00001-of-00002.safetensors",
        metadata={"format": "pt"},
    )
    save_file({"scale": np.zeros((), np.float32)}, tmp_path / "model-00002-of-00002.safetensors")
    first = tmp_path / "model-00001-of-00002.safetensors"
    first.write_bytes(first.read_bytes()[:-24])  # all that is behind the header
    shapes = Checkpoint("model", NEW, tmp_path).tensor_shapes()
    assert shapes == {"linear.weight": (2, 3), "scale": ()}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"version https://git-lfs.github.com/spec/v1\n",
        (2).to_bytes(8, "little") + b"[]",
        (99).to_bytes(8, "little") + b'{"a": {"shape": [1]',
        (10).to_bytes(8, "little") + b'{"a": "b"}',
        (10).to_bytes(8, "little") + b'{"a": {}}\xff',
    ],
)
def test_a_damaged_safetensors_file_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(
        ModelError, match=r"model\.safetensors of the checkpoint owner/model is dam"
    ):
        Checkpoint(NAME, NEW, tmp_path).tensor_shapes()
