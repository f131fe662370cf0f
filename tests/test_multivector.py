from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pageglass.errors import ModelError
from retrieval.encoders import Encoder, ImageEncoder, PageInput, PatchEncoder
from retrieval.encoders.colpali import ColPaliEncoder
from retrieval.encoders.multivector import MultiVectorPageEncoder, is_multivector, word_windows
from retrieval.index import VectorSpec
from retrieval.similarity import maxsim
from retrieval.torch_runtime import library
from tests.tiny import page
from tests.tiny_visual import (
    CPU,
    FAMILIES,
    LANDSCAPE,
    PORTRAIT,
    byte_tokenizer,
    checkpoint,
    native_checkpoint,
    page_input,
    picture,
    rows_of,
    sentence_transformers_checkpoint,
)

PAGES = [
    page_input(picture(PORTRAIT, [(10, 20, 80, 90), (100, 200, 160, 260)])),
    page_input(picture(LANDSCAPE, [(150, 10, 260, 60)]), index=1),
    page_input(None, "no image", index=2),
]
LETTER = "Net sales rose, by four percent.\nThe board proposes a dividend of two euros a share."


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Such models are too small to share out.
    library("torch").set_num_threads(1)
    return tmp_path_factory.mktemp("multivector")


@pytest.fixture(scope="session")
def saved(root: Path) -> Callable[[str], Path]:
    """A family's tiny checkpoint as sentence-transformers saves it; colpali-engine's is beside it,
    in ``own``."""

    def made(family: str) -> Path:
        folder = root / family / "saved"
        return (
            folder if folder.exists() else sentence_transformers_checkpoint(family, root / family)
        )

    return made


@pytest.fixture(scope="session")
def colbert(root: Path) -> Path:
    """A tiny ColBERT: windows of 24 tokens, questions filled up to 16, no punctuation."""
    transformers, torch = library("transformers"), library("torch")
    modules = library("sentence_transformers.base.modules")
    multi = library("sentence_transformers.multi_vector_encoder")
    torch.manual_seed(1)
    tokenizer = byte_tokenizer(
        ("[PAD]", "[MASK]", "[Q]", "[D]"), pad_token="[PAD]", mask_token="[MASK]"
    )
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    transformers.BertModel(config).save_pretrained(root / "bert")
    tokenizer.save_pretrained(root / "bert")
    encoder = multi.MultiVectorEncoder(
        modules=[
            modules.Transformer(
                str(root / "bert"),
                document_length=24,
                query_expansion={"strategy": "fixed", "attend": False, "length": 16},
            ),
            modules.Dense(
                32,
                20,
                bias=False,
                activation_function=torch.nn.Identity(),
                module_input_name="token_embeddings",
            ),
            multi.modules.MultiVectorMask(skiplist_words=[",", "."]),
            modules.Normalize(module_input_name="token_embeddings"),
        ],
        prompts={"query": "[Q]", "document": "[D]"},
        device="cpu",
    )
    encoder.save_pretrained(str(root / "colbert"))
    return root / "colbert"


@pytest.mark.parametrize("family", FAMILIES)
def test_both_libraries_make_the_same_of_the_same_weights(
    family: str, saved: Callable[[str], Path]
) -> None:
    found = checkpoint(saved(family))
    assert is_multivector(found)
    assert not is_multivector(checkpoint(saved(family).parent / "own"))
    ours: Encoder = MultiVectorPageEncoder(found, CPU)
    theirs = ColPaliEncoder(checkpoint(saved(family).parent / "own"), CPU)
    assert ours.vectors == theirs.vectors
    for one, other in zip(ours.encode_pages(PAGES), theirs.encode_pages(PAGES), strict=True):
        assert set(one) == set(other)
        for name in one:
            np.testing.assert_allclose(rows_of(one, name), rows_of(other, name), atol=1e-5)
    question = "How much is the dividend?"
    for name in ("patches", "pooled"):
        np.testing.assert_allclose(
            rows_of(ours.encode_question(question), name),
            rows_of(theirs.encode_question(question), name),
            atol=1e-5,
        )
    assert isinstance(ours, PatchEncoder)
    assert isinstance(ours, ImageEncoder)
    assert ours.question_tokens(question) == theirs.question_tokens(question)
    image = picture(LANDSCAPE, [(150, 10, 260, 60)])
    np.testing.assert_array_equal(
        ours.patch_grid(image).positions, theirs.patch_grid(image).positions
    )
    np.testing.assert_allclose(
        rows_of(ours.encode_image(image)), rows_of(theirs.encode_image(image)), atol=1e-5
    )


@pytest.mark.parametrize("family", ["ColPali", "ColQwen2"])
def test_retrievers_of_transformers_itself_are_loaded(family: str, tmp_path: Path) -> None:
    found = checkpoint(native_checkpoint(family, tmp_path))
    assert is_multivector(found)
    encoder = MultiVectorPageEncoder(found, CPU)
    assert encoder.vectors["patches"] == VectorSpec("multi", 24, "float16")
    together = encoder.encode_pages(PAGES[:2])
    for one, beside in zip(PAGES, together, strict=False):
        (alone,) = encoder.encode_pages([one])
        for name in alone:
            np.testing.assert_allclose(rows_of(alone, name), rows_of(beside, name), atol=1e-5)
    grid = encoder.patch_grid(picture(PORTRAIT))
    assert grid.shape == ((4, 4) if family == "ColPali" else (10, 6))
    asked = encoder.question_tokens("Who signed?")
    assert "Who signed?" in "".join(asked)
    assert len(asked) == len(rows_of(encoder.encode_question("Who signed?")))


def test_a_processor_that_puts_no_prompt_around_images_is_refused(tmp_path: Path) -> None:
    encoder = MultiVectorPageEncoder(checkpoint(native_checkpoint("ColModernVBert", tmp_path)), CPU)
    with pytest.raises(ModelError, match="puts no prompt around a page image"):
        encoder.encode_pages(PAGES[:1])


def test_a_text_model_encodes_the_text_of_pages_and_no_image(colbert: Path) -> None:
    found = checkpoint(colbert)
    assert is_multivector(found)
    encoder = MultiVectorPageEncoder(found, CPU, quantization="binary")
    assert encoder.vectors == {"tokens": VectorSpec("multi", 20, "float16", quantization="binary")}
    full, empty, imaged = encoder.encode_pages(
        [_text(LETTER), _text(""), page_input(picture(), "")]
    )
    assert empty == imaged == {}
    assert set(full) == {"tokens"}
    np.testing.assert_allclose(np.linalg.norm(rows_of(full, "tokens"), axis=1), 1, atol=1e-5)
    assert encoder.encode_image(picture()) == {}
    with pytest.raises(ModelError, match="encodes text"):
        encoder.patch_grid(picture())


def test_no_word_of_a_page_is_cut_off_by_the_length_of_the_model(colbert: Path) -> None:
    encoder = MultiVectorPageEncoder(checkpoint(colbert), CPU)
    (found,) = encoder.encode_pages([_text(LETTER)])
    text = f"A title\n{LETTER}"
    # Of 24 tokens one is the marker and two are to spare; a byte is a token.
    windows = word_windows(text, range(len(text)), 21)
    assert len(windows) > 4
    counted = [character for character in text if character not in ",."]
    assert len(rows_of(found, "tokens")) == len(counted) + len(windows)
    model = library("sentence_transformers").MultiVectorEncoder(str(colbert), device="cpu")
    last = model.encode_document(windows[-1], convert_to_numpy=True)
    np.testing.assert_allclose(rows_of(found, "tokens")[-len(last) :], last, atol=1e-5)


def test_windows_of_a_page_do_not_depend_on_other_pages(colbert: Path) -> None:
    encoder = MultiVectorPageEncoder(checkpoint(colbert), CPU)
    pages = [_text(LETTER), _text("Short."), _text(LETTER[::-1])]
    for of, beside in zip(pages, encoder.encode_pages(pages), strict=True):
        (alone,) = encoder.encode_pages([of])
        np.testing.assert_allclose(rows_of(alone, "tokens"), rows_of(beside, "tokens"), atol=1e-5)


def test_a_question_is_filled_up_and_every_row_named(colbert: Path) -> None:
    encoder = MultiVectorPageEncoder(checkpoint(colbert), CPU)
    question = encoder.encode_question("Sales?")
    tokens = encoder.question_tokens("Sales?")
    assert rows_of(question, "tokens").shape == (16, 20)
    assert tokens == ["[Q]", *"Sales?", *["[MASK]"] * 9]
    assert encoder.encode_question(" ") == {}
    assert encoder.question_tokens("") == []
    model = library("sentence_transformers").MultiVectorEncoder(str(colbert), device="cpu")
    np.testing.assert_allclose(
        rows_of(question, "tokens"),
        model.encode_query("Sales?", convert_to_numpy=True),
        atol=1e-5,
    )


def test_token_pooling_merges_rows_of_text(colbert: Path) -> None:
    (whole,) = MultiVectorPageEncoder(checkpoint(colbert), CPU).encode_pages([_text(LETTER)])
    merging = MultiVectorPageEncoder(checkpoint(colbert), CPU, token_pooling=4)
    (merged,) = merging.encode_pages([_text(LETTER)])
    assert len(rows_of(merged, "tokens")) <= len(rows_of(whole, "tokens")) // 4
    question = rows_of(merging.encode_question("Sales?"), "tokens")
    assert len(question) == 16
    close = maxsim(question, rows_of(merged, "tokens")) / maxsim(question, rows_of(whole, "tokens"))
    assert 0.5 < close <= 1.0001


def test_what_pylate_saved_is_told_by_its_own_name(colbert: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(colbert, tmp_path / "pylate")
    settings = folder / "config_sentence_transformers.json"
    kept = json.loads(settings.read_text())
    settings.write_text(json.dumps(kept | {"model_type": "ColBERT", "skiplist_words": [",", "."]}))
    modules = json.loads((folder / "modules.json").read_text())[:2]
    modules[1]["type"] = "pylate.models.Dense.Dense"
    (folder / "modules.json").write_text(json.dumps(modules))
    assert is_multivector(checkpoint(folder))
    (one,) = MultiVectorPageEncoder(checkpoint(folder), CPU).encode_pages([_text(LETTER)])
    (other,) = MultiVectorPageEncoder(checkpoint(colbert), CPU).encode_pages([_text(LETTER)])
    np.testing.assert_allclose(rows_of(one, "tokens"), rows_of(other, "tokens"), atol=1e-5)


def test_stanfords_colbert_is_told_by_its_architecture(colbert: Path, tmp_path: Path) -> None:
    safetensors, torch = library("safetensors.torch"), library("torch")
    folder = shutil.copytree(colbert.parent / "bert", tmp_path / "stanford")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["HF_ColBERT"]}))
    weights = safetensors.load_file(folder / "model.safetensors")
    projected = {f"bert.{name}": tensor for name, tensor in weights.items()}
    projected["linear.weight"] = torch.randn(12, 32)
    safetensors.save_file(projected, folder / "model.safetensors", metadata={"format": "pt"})
    encoder = MultiVectorPageEncoder(checkpoint(folder), CPU)
    assert encoder.vectors == {"tokens": VectorSpec("multi", 12, "float16")}
    (found,) = encoder.encode_pages([_text(LETTER)])
    assert rows_of(found, "tokens").shape[1] == 12


@pytest.mark.parametrize("family", ["ColQwen2_5", "ColIdefics3"])
def test_weights_that_are_missing_are_an_error_and_not_random(
    family: str, saved: Callable[[str], Path], tmp_path: Path
) -> None:
    safetensors = library("safetensors.torch")
    folder = shutil.copytree(saved(family), tmp_path / "bare")
    weights = safetensors.load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "q_proj" not in name}
    safetensors.save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks [\d,]+ of the model's [\d,]+ weights"):
        MultiVectorPageEncoder(checkpoint(folder), CPU).encode_question("Sales?")


def test_a_projection_that_is_missing_is_an_error(colbert: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(colbert, tmp_path / "bare")
    (folder / "1_Dense" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="does not load") as raised:
        MultiVectorPageEncoder(checkpoint(folder), CPU).encode_question("Sales?")
    assert "\n" not in str(raised.value)


def test_a_bare_backbone_is_refused_since_its_projection_would_be_random(colbert: Path) -> None:
    with pytest.raises(ModelError, match="is no checkpoint of sentence-transformers"):
        MultiVectorPageEncoder(checkpoint(colbert.parent / "bert"), CPU)


def test_building_one_imports_no_torch(colbert: Path) -> None:
    program = f"""
import sys
from pageglass.settings import ModelSettings
from retrieval.checkpoints import find
from retrieval.encoders.multivector import MultiVectorPageEncoder

encoder = MultiVectorPageEncoder(find({str(colbert)!r}), ModelSettings(device="cpu"))
assert encoder.vectors["tokens"].size == 20 and encoder.model
assert not {{"torch", "transformers", "sentence_transformers"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parent.parent, check=True)


@given(st.text("ab \n", max_size=60), st.integers(1, 12))
def test_windows_hold_every_token_once_and_no_more_than_fit(text: str, room: int) -> None:
    starts = [n for n, c in enumerate(text) if not c.isspace()]
    pieces = word_windows(text, starts, room)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(0 < len("".join(piece.split())) <= room for piece in pieces)
    words = text.split()
    if all(len(word) <= room for word in words):
        assert [word for piece in pieces for word in piece.split()] == words


def _text(text: str) -> PageInput:
    return PageInput(page(text), "A title")
