from __future__ import annotations

import json
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import tiny_text
from tiny import page
from tiny_text import Connections

from pageglass.errors import ModelError
from pageglass.settings import ModelSettings
from pageglass.types import PageRef
from retrieval.checkpoints import find
from retrieval.encoders import Encoder, PageInput, SparseVector, Vectors
from retrieval.encoders.bge_m3 import MAX_TOKENS, BgeM3Encoder
from retrieval.headings import heading
from retrieval.index import CollectionSpec, PagePoint, Scope
from retrieval.index.edge import EdgeIndex
from retrieval.torch_runtime import library

PAGES = [
    "Revenue by region and quarter\nin millions of euro",
    "",
    "Spare parts\npumps, valves and seals, with numbers and weights",
    "Prices\n" + "\n".join(f"part {n}: {n * 7} euro" for n in range(40)),
    "12",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library("torch").set_num_threads(1)
    return tiny_text.bge_m3(tmp_path_factory.mktemp("bge") / "m3")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> BgeM3Encoder:
    return _encoder(folder, batch_pages=2)


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return copytree(folder, tmp_path / "own")


def _encoder(folder: Path, **settings: Any) -> BgeM3Encoder:
    return BgeM3Encoder(find(str(folder)), ModelSettings(**settings))


def _inputs(texts: list[str] = PAGES, title: str = "annual report 2023") -> list[PageInput]:
    return [PageInput(page(text, index=i), title) for i, text in enumerate(texts)]


class Reference:
    """The paper's formulas over transformers' hidden states: one text at a time, no padding."""

    def __init__(self, folder: Path) -> None:
        torch, transformers = library("torch"), library("transformers")
        self._model = transformers.AutoModel.from_pretrained(folder).eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self._sparse, self._tokens = (
            {name: tensor.numpy() for name, tensor in torch.load(folder / file).items()}
            for file in ("sparse_linear.pt", "colbert_linear.pt")
        )

    def read(self, text: str, max_tokens: int = 128) -> tuple[Any, dict[int, float], Any]:
        """Dense vector, lexical weights, and a row for every token but the first."""
        with library("torch").no_grad():
            tokens = self.tokenizer(
                text, return_tensors="pt", truncation=True, max_length=max_tokens
            )
            hidden = self._model(**tokens).last_hidden_state[0].numpy()
        lexical: dict[int, float] = {}
        for token, state in zip(tokens["input_ids"][0].tolist(), hidden, strict=True):
            weight = float(self._sparse["weight"][0] @ state + self._sparse["bias"][0])
            if token not in self.tokenizer.all_special_ids:
                lexical[token] = max(0.0, weight, lexical.get(token, 0.0))
        rows = hidden[1:] @ self._tokens["weight"].T + self._tokens["bias"]
        return (
            hidden[0] / np.linalg.norm(hidden[0]),
            {token: weight for token, weight in lexical.items() if weight > 0},
            rows / np.linalg.norm(rows, axis=1, keepdims=True),
        )


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return Reference(folder)


def _sparse(vectors: Vectors) -> dict[int, float]:
    sparse = vectors["sparse"]
    assert isinstance(sparse, SparseVector)
    return dict(zip(sparse.indices, sparse.values, strict=True))


def _rows(vectors: Vectors, name: str) -> np.ndarray[Any, Any]:
    return np.asarray(vectors[name])


def _close(one: Vectors, other: Vectors, tolerance: float = 1e-5) -> None:
    assert one.keys() == other.keys()
    if one:
        assert _sparse(one) == pytest.approx(_sparse(other), abs=10 * tolerance)
        for name in ("dense", "tokens"):
            np.testing.assert_allclose(_rows(one, name), _rows(other, name), atol=tolerance)


def test_a_question_is_what_the_papers_formulas_say(
    encoder: BgeM3Encoder, reference: Reference
) -> None:
    text = "How many pumps, valves and pumps in 2023?"
    dense, lexical, rows = reference.read(text)
    found = encoder.encode_question(text)
    np.testing.assert_allclose(_rows(found, "dense"), dense, atol=1e-5)
    assert _sparse(found) == pytest.approx(lexical, abs=1e-4)
    np.testing.assert_allclose(_rows(found, "tokens"), rows, atol=1e-5)


def test_a_page_is_read_with_its_title_and_heading_and_keeps_rows_of_its_own_words(
    encoder: BgeM3Encoder, reference: Reference
) -> None:
    inputs = _inputs()
    for of, found in zip(inputs, encoder.encode_pages(inputs), strict=True):
        if not of.page.text:
            continue
        context = f"annual report 2023 . {heading(of.page)} .\n"
        dense, lexical, rows = reference.read(context + of.page.text)
        np.testing.assert_allclose(_rows(found, "dense"), dense, atol=1e-5)
        assert _sparse(found) == pytest.approx(lexical, abs=1e-4)
        before = len(reference.tokenizer(context.strip(), add_special_tokens=False)["input_ids"])
        assert 0 < len(_rows(found, "tokens")) == len(rows) - before
        np.testing.assert_allclose(_rows(found, "tokens"), rows[before:], atol=1e-5)


def test_a_page_encodes_the_same_alone_or_among_others(encoder: BgeM3Encoder, folder: Path) -> None:
    together = _encoder(folder, batch_pages=64).encode_pages(_inputs())
    for alone, among in zip(_inputs(), together, strict=True):
        _close(encoder.encode_pages([alone])[0], among)


def test_an_empty_page_or_question_has_no_vectors(encoder: BgeM3Encoder) -> None:
    assert encoder.encode_pages(_inputs(["", " \n "])) == [{}, {}]
    assert encoder.encode_question("  ") == {}
    assert encoder.encode_pages([]) == []


def test_vectors_have_the_sizes_and_lengths_they_are_said_to(encoder: BgeM3Encoder) -> None:
    specs = encoder.vectors
    assert {name: (of.kind, of.size) for name, of in specs.items()} == {
        "dense": ("dense", 32),
        "sparse": ("sparse", 0),
        "tokens": ("multi", 16),
    }
    for found in encoder.encode_pages(_inputs()):
        if found:
            assert _rows(found, "dense").shape == (32,)
            assert _rows(found, "tokens").shape[1] == 16
            for name in ("dense", "tokens"):
                lengths = np.linalg.norm(np.atleast_2d(_rows(found, name)), axis=1)
                np.testing.assert_allclose(lengths, 1, atol=1e-6)
            assert min(_sparse(found).values()) > 0


def test_what_is_past_the_models_reach_is_not_read(
    encoder: BgeM3Encoder,
) -> None:
    start = "\n".join(f"row {n} of the table" for n in range(60))
    cut, longer = encoder.encode_pages(_inputs([start, start + " and more prices"], title="a"))
    _close(cut, longer)
    # 128 tokens, less the first mark and the rows of "a . " and of a heading of 14 words.
    assert encoder.model["max_tokens"] == 128
    assert 60 < len(_rows(cut, "tokens")) < 127


def test_a_checkpoint_of_long_reach_is_read_up_to_our_own_limit(tmp_path: Path) -> None:
    encoder = _encoder(tiny_text.bge_m3(tmp_path / "long", positions=MAX_TOKENS + 100))
    assert encoder.model["max_tokens"] == MAX_TOKENS


def test_the_index_finds_pages_by_each_of_the_three(encoder: BgeM3Encoder, tmp_path: Path) -> None:
    index = EdgeIndex(tmp_path, CollectionSpec("text", encoder.vectors, encoder.model))
    vectors = encoder.encode_pages(_inputs())
    index.upsert(
        [PagePoint(PageRef("d", i), "default", found) for i, found in enumerate(vectors) if found]
    )
    question = encoder.encode_question("pumps, valves and seals")
    asked = _rows(question, "tokens")
    brute: dict[str, Callable[[Vectors], float]] = {
        "dense": lambda found: float(_rows(question, "dense") @ _rows(found, "dense")),
        "sparse": lambda found: sum(
            weight * _sparse(found).get(token, 0.0) for token, weight in _sparse(question).items()
        ),
        "tokens": lambda found: float((asked @ _rows(found, "tokens").T).max(axis=1).sum()),
    }
    for name, score in brute.items():
        expected = {i: score(found) for i, found in enumerate(vectors) if found}
        hits = index.query(name, question[name], limit=10, scope=Scope())
        assert [ref.index for ref, _ in hits] == sorted(expected, key=lambda i: -expected[i])
        assert {ref.index: s for ref, s in hits} == pytest.approx(expected, rel=2e-3)
    index.close()


def test_building_one_reads_no_weights_and_says_so_when_they_are_missing(own: Path) -> None:
    (own / "model.safetensors").unlink()
    encoder: Encoder = _encoder(own)
    assert encoder.vectors["dense"].size == 32
    assert json.loads(json.dumps(encoder.model)) == encoder.model
    with pytest.raises(ModelError, match=r"cannot load .*own") as caught:
        encoder.encode_question("pumps")
    assert "\n" not in str(caught.value)


def test_weights_as_the_hub_keeps_them_load_too(folder: Path, tmp_path: Path) -> None:
    pickled = tiny_text.bge_m3(tmp_path / "bin", safetensors=False)
    _close(
        _encoder(pickled).encode_question("pumps and valves"),
        _encoder(folder).encode_question("pumps and valves"),
    )


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_weight_that_is_missing_is_never_made_up(tmp_path: Path, file: str) -> None:
    folder = tiny_text.bge_m3(tmp_path / "m3", safetensors=file.endswith("tensors"))
    torch, safetensors = library("torch"), library("safetensors.torch")
    path, name = folder / file, "encoder.layer.1.output.dense.weight"
    if file.endswith("tensors"):
        tensors = safetensors.load_file(path)
        del tensors[name]
        safetensors.save_file(tensors, path, {"format": "pt"})
    else:
        tensors = torch.load(path)
        del tensors[name]
        torch.save(tensors, path)
    with pytest.raises(ModelError, match=f"lack {name}"):
        _encoder(folder).encode_question("pumps")


def test_missing_heads_and_other_families_are_refused(own: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no sparse_linear\.pt"):
        _encoder(tiny_text.clip(tmp_path / "clip"))
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps(config | {"model_type": "clip"}))
    with pytest.raises(ModelError, match="no BGE-M3"):
        _encoder(own)
    (own / "colbert_linear.pt").unlink()
    with pytest.raises(ModelError, match=r"no colbert_linear\.pt"):
        _encoder(own)


def test_damaged_files_are_named(own: Path) -> None:
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps(config | {"hidden_size": "wide"}))
    with pytest.raises(ModelError, match="no hidden_size"):
        _encoder(own)
    (own / "config.json").write_text(json.dumps(config)[:-20])
    with pytest.raises(ModelError, match=r"config\.json .* damaged"):
        _encoder(own)
    (own / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    with pytest.raises(ModelError, match="for another model"):
        assert _encoder(own).vectors
    (own / "config.json").write_text(json.dumps(config))
    (own / "colbert_linear.pt").write_bytes(b"no zip file")
    with pytest.raises(ModelError, match=r"colbert_linear\.pt .* damaged"):
        assert _encoder(own).vectors
    (own / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(ModelError, match="cannot load"):
        _encoder(own).encode_question("pumps")


def test_several_threads_share_one_encoder(folder: Path, encoder: BgeM3Encoder) -> None:
    fresh = _encoder(folder)
    with ThreadPoolExecutor(4) as pool:
        asked = list(pool.map(fresh.encode_question, [f"part {n} of 2023" for n in range(12)]))
    for n, found in enumerate(asked):
        _close(found, encoder.encode_question(f"part {n} of 2023"))


def test_half_precision_says_nearly_the_same(folder: Path, encoder: BgeM3Encoder) -> None:
    found = _encoder(folder, dtype="bfloat16").encode_question("revenue by region")
    exact = encoder.encode_question("revenue by region")
    assert _rows(found, "dense").dtype == np.float32
    assert _rows(found, "dense") @ _rows(exact, "dense") > 0.99


def test_no_host_is_asked_for_anything(folder: Path) -> None:
    with Connections() as connections:
        encoder = _encoder(folder)
        assert encoder.encode_question("pumps")
        assert encoder.encode_pages(_inputs())
        assert connections.hosts == []
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", 1))
        assert len(connections.hosts) > 0  # it does hear
