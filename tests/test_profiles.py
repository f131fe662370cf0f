"""Which models the settings choose, and that a data folder keeps to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from api.vision import VisionModels, load_vision_models
from pageglass.errors import ModelError, ModelServerError, SettingsError
from pageglass.settings import load_settings
from retrieval.profiles import Checkpoints, chosen_models
from retrieval.vlms import Message
from retrieval.vlms.local import LocalVlm
from retrieval.vlms.openai import OpenAIVlm
from tests import tiny_vlm

ANSWER, RERANK = "http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"


@pytest.fixture(scope="module")
def smolvlm(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_vlm.smolvlm(tmp_path_factory.mktemp("vlm") / "smolvlm"))


def vision(tmp_path: Path, **settings: Any) -> VisionModels:
    loaded = load_settings({"data_dir": tmp_path / "data", **settings})
    checkpoints = Checkpoints(lock=None, fetch="never")
    return load_vision_models(loaded, chosen_models(loaded), checkpoints)


def test_lite_looks_at_no_page_unless_it_is_told_where(tmp_path: Path) -> None:
    assert vision(tmp_path) == VisionModels(None, None)
    assert vision(tmp_path, answer={"url": ""}, rerank={"url": ""}) == VisionModels(None, None)
    answering = vision(tmp_path, answer={"url": ANSWER})
    assert isinstance(answering.answer, OpenAIVlm)
    assert answering.rerank is None
    reranking = vision(tmp_path, rerank={"url": RERANK})
    assert reranking.answer is None
    assert isinstance(reranking.rerank, OpenAIVlm)
    assert reranking.rerank.name == RERANK
    both = vision(tmp_path, answer={"url": ANSWER}, rerank={"url": RERANK})
    assert (both.answer and both.answer.name, both.rerank and both.rerank.name) == (ANSWER, RERANK)
    assert vision(tmp_path, rerank={"url": RERANK, "pages": 0}) == VisionModels(None, None)


def test_gpu_shares_one_model_unless_reranking_has_its_own(tmp_path: Path, smolvlm: str) -> None:
    one = vision(tmp_path, profile="gpu")
    assert isinstance(one.answer, OpenAIVlm)
    assert one.rerank is one.answer
    apart = vision(tmp_path, profile="gpu", rerank={"url": RERANK})
    assert isinstance(apart.rerank, OpenAIVlm)
    assert apart.rerank is not apart.answer
    here = vision(tmp_path, profile="gpu", models={"answer": smolvlm})
    assert isinstance(here.answer, LocalVlm)
    assert here.rerank is here.answer
    mixed = vision(tmp_path, profile="gpu", models={"rerank": smolvlm})
    assert isinstance(mixed.answer, OpenAIVlm)
    assert isinstance(mixed.rerank, LocalVlm)


@pytest.mark.parametrize("section", ["answer", "rerank"])
@pytest.mark.parametrize(
    "url",
    ["http://[bad/v1", "http://h/\0", "http://h:99999/v1", "localhost:8000/v1", "h", "http:///v1"],
)
def test_an_address_that_is_none_is_one_clear_line(tmp_path: Path, section: str, url: str) -> None:
    with pytest.raises(SettingsError, match=rf"setting {section}\.url"):
        vision(tmp_path, **{section: {"url": url}})


def test_an_address_may_have_a_path_and_credentials_and_keeps_these_to_itself(
    tmp_path: Path,
) -> None:
    url = "http://me:secret@127.0.0.1:1/behind/a/proxy/v1"
    model = vision(tmp_path, answer={"url": url}).answer
    assert model is not None
    with pytest.raises(ModelServerError) as caught:
        model.reply([Message("user", ("Hello?",))], tokens=5, seconds=1)
    assert "secret" not in model.name + str(caught.value)
    assert "/behind/a/proxy/v1" in str(caught.value)


def commit(cache: Path, name: str, revision: str) -> None:
    """A model in the hub's cache, at one commit."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "model.safetensors").write_bytes(b"")
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(revision)


def test_a_folder_keeps_to_the_commit_it_first_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    lock = tmp_path / "data" / "models.json"
    commit(tmp_path / "hub", "a/b", "1" * 40)
    assert Checkpoints(lock=lock, fetch="never").find("a/b").revision == "1" * 40
    commit(tmp_path / "hub", "a/b", "2" * 40)
    assert Checkpoints(lock=lock, fetch="never").find("a/b").revision == "1" * 40
    assert Checkpoints(lock=lock, fetch="never").find(f"a/b@{'2' * 40}").revision == "2" * 40
    assert json.loads(lock.read_text()) == {"a/b": "2" * 40}
    assert [path.name for path in lock.parent.iterdir()] == ["models.json"]


def test_a_lock_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the disk is full or the process dies in the middle."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    lock = tmp_path / "models.json"
    commit(tmp_path / "hub", "a/b", "1" * 40)
    Checkpoints(lock=lock, fetch="never").find("a/b")
    before = lock.read_text()
    (tmp_path / "models.new").symlink_to("/dev/full")
    commit(tmp_path / "hub", "c/d", "3" * 40)
    with pytest.raises(OSError, match="No space left"):
        Checkpoints(lock=lock, fetch="never").find("c/d")
    assert lock.read_text() == before


def test_a_damaged_lock_is_one_clear_line(tmp_path: Path) -> None:
    lock = tmp_path / "models.json"
    for text in ('{"a/b": ', "[]", "\xff"):
        lock.write_text(text, "latin-1")
        with pytest.raises(ModelError, match="damaged: remove it"):
            Checkpoints(lock=lock, fetch="never").find("a/b")
