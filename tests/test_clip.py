from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import tiny_text
from PIL import Image, ImageDraw
from tiny import page
from tiny_text import Connections

from pageglass.errors import ModelError
from pageglass.settings import ModelSettings
from retrieval.checkpoints import find
from retrieval.encoders import Encoder, ImageEncoder, PageInput, Vectors
from retrieval.encoders.clip import ClipEncoder
from retrieval.torch_runtime import library


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library("torch").set_num_threads(1)
    return tiny_text.clip(tmp_path_factory.mktemp("clip") / "vit")


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_text.siglip(tmp_path_factory.mktemp("siglip") / "vit")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> ClipEncoder:
    return _encoder(folder, batch_pages=2)


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return copytree(folder, tmp_path / "own")


def _encoder(folder: Path, **settings: Any) -> ClipEncoder:
    return ClipEncoder(find(str(folder)), ModelSettings(**settings))


def _image(seed: int, size: tuple[int, int] = (124, 175), *, top: str = "white") -> Image.Image:
    """A page of random bars; ``top`` is the colour of its first tenth."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for y in range(size[1] // 5, size[1], 12):
        colour = tuple(int(c) for c in random.integers(0, 200, 3))
        draw.rectangle((10, y, int(random.integers(30, size[0])), y + 6), fill=colour)
    draw.rectangle((0, 0, size[0], size[1] // 10), fill=top)
    return image


def _file(image: Image.Image, format: str = "PNG") -> bytes:
    data = BytesIO()
    image.save(data, format)
    return data.getvalue()


def _inputs(images: list[bytes]) -> list[PageInput]:
    return [PageInput(page("text", index=i), "title", image) for i, image in enumerate(images)]


def _vector(vectors: Vectors) -> np.ndarray[Any, Any]:
    return np.asarray(vectors["clip"])


def _open_clip(folder: Path) -> tuple[Any, Any, Any]:
    open_clip = library("open_clip")
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    return model.eval(), preprocess, open_clip.get_tokenizer(f"local-dir:{folder}")


def _fitted(image: Image.Image, size: int, preprocess: Mapping[str, Any]) -> Any:
    """The image whole, in the middle of a white square, normalised: (1, 3, size, size)."""
    scale = size / max(image.size)
    small = image.resize(
        (round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC
    )
    square = Image.new("RGB", (size, size), "white")
    square.paste(small, ((size - small.width) // 2, (size - small.height) // 2))
    pixels = np.asarray(square, np.float32) / 255
    pixels = (pixels - preprocess["mean"]) / preprocess["std"]
    return library("torch").tensor(pixels.transpose(2, 0, 1)[None], dtype=library("torch").float32)


def test_a_page_is_what_open_clip_says_of_the_whole_page(
    encoder: ClipEncoder, folder: Path
) -> None:
    model, _, _ = _open_clip(folder)
    for size in ((124, 175), (175, 124), (50, 50)):
        image = _image(1, size, top="navy")
        with library("torch").no_grad():
            pixels = _fitted(image, 32, encoder.model["preprocess"])
            expected = model.encode_image(pixels, normalize=True)[0].numpy()
        found = _vector(encoder.encode_pages(_inputs([_file(image)]))[0])
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert found.dtype == np.float32
        assert found @ found == pytest.approx(1)


def test_the_top_of_a_page_counts(encoder: ClipEncoder, folder: Path) -> None:
    plain, titled = _image(1), _image(1, top="black")
    # With open_clip's own preprocessing it does not: it is cropped.
    model, preprocess, _ = _open_clip(folder)
    with library("torch").no_grad():
        cropped = [model.encode_image(preprocess(i)[None])[0] for i in (plain, titled)]
    np.testing.assert_allclose(cropped[0], cropped[1], atol=1e-5)
    whole = [_vector(v) for v in encoder.encode_pages(_inputs([_file(plain), _file(titled)]))]
    assert np.abs(whole[0] - whole[1]).max() > 0.01


def test_a_question_is_what_open_clip_says_of_it(encoder: ClipEncoder, folder: Path) -> None:
    model, _, tokenizer = _open_clip(folder)
    for text in ("a bar chart of revenue by region", "Où est la pompe ? 水泵", "pumps " * 300):
        with library("torch").no_grad():
            expected = model.encode_text(tokenizer([text]), normalize=True)[0].numpy()
        np.testing.assert_allclose(_vector(encoder.encode_question(text)), expected, atol=1e-5)
    assert encoder.encode_question(" \n") == {}


def test_words_past_the_context_length_are_not_read(encoder: ClipEncoder) -> None:
    long = _vector(encoder.encode_question("pump " * 75 + "valve"))
    np.testing.assert_allclose(long, _vector(encoder.encode_question("pump " * 90)), atol=1e-6)
    short = _vector(encoder.encode_question("pump " * 70 + "valve"))
    assert np.abs(long - short).max() > 1e-3


def test_a_page_encodes_the_same_alone_or_among_others(encoder: ClipEncoder, folder: Path) -> None:
    sizes = [(124, 175), (300, 90), (60, 60), (124, 175), (40, 400)]
    files = [_file(_image(i, size), "JPEG") for i, size in enumerate(sizes)]
    together = _encoder(folder, batch_pages=64).encode_pages(_inputs(files))
    for file, among in zip(files, together, strict=True):
        alone = encoder.encode_pages(_inputs([file]))[0]
        np.testing.assert_allclose(_vector(alone), _vector(among), atol=1e-5)


def test_a_page_without_an_image_has_no_vector_and_shifts_no_other(encoder: ClipEncoder) -> None:
    files = [_file(_image(i, top=colour)) for i, colour in enumerate(("red", "blue"))]
    found = encoder.encode_pages(_inputs([b"", files[0], b"", files[1]]))
    assert [set(of) for of in found] == [set(), {"clip"}, set(), {"clip"}]
    for file, of in zip(files, found[1::2], strict=True):
        alone = encoder.encode_pages(_inputs([file]))[0]
        np.testing.assert_allclose(_vector(alone), _vector(of), atol=1e-5)
    assert encoder.encode_pages([]) == []


def test_a_picture_finds_the_page_it_is_of(encoder: ClipEncoder) -> None:
    assert isinstance(encoder, ImageEncoder)
    images = [_image(i, top=colour) for i, colour in enumerate(("white", "red", "teal"))]
    pages = encoder.encode_pages(_inputs([_file(image) for image in images]))
    for i, image in enumerate(images):
        picture = _vector(encoder.encode_image(image))
        np.testing.assert_allclose(picture, _vector(pages[i]), atol=1e-5)
        assert int(np.argmax([picture @ _vector(of) for of in pages])) == i


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_a_picture_of_any_mode_is_taken_for_its_colours(encoder: ClipEncoder, mode: str) -> None:
    picture = _image(0, top="red").convert(mode)
    found, expected = encoder.encode_image(picture), encoder.encode_image(picture.convert("RGB"))
    np.testing.assert_allclose(_vector(found), _vector(expected), atol=1e-6)


def test_siglip_squashes_as_it_was_trained_and_reads_its_own_tokenizer(siglip: Path) -> None:
    encoder = _encoder(siglip)
    assert encoder.vectors["clip"].size == 64
    assert encoder.model["preprocess"]["resize_mode"] == "squash"
    model, preprocess, tokenizer = _open_clip(siglip)
    image = _image(3, top="green")
    with library("torch").no_grad():
        of_image = model.encode_image(preprocess(image)[None], normalize=True)[0].numpy()
        of_text = model.encode_text(tokenizer(["Pumps!"]), normalize=True)[0].numpy()
    np.testing.assert_allclose(_vector(encoder.encode_image(image)), of_image, atol=1e-5)
    np.testing.assert_allclose(_vector(encoder.encode_question("Pumps!")), of_text, atol=1e-5)


def test_a_tokenizer_that_is_not_in_the_folder_is_missed(siglip: Path, tmp_path: Path) -> None:
    bare = copytree(siglip, tmp_path / "bare")
    for file in bare.glob("*token*"):
        file.unlink()
    with pytest.raises(ModelError, match=r"cannot load .*bare"):
        _encoder(bare).encode_question("pumps")
    # Without the tokenizer's name CLIP's own would be taken, whose ids mean other words.
    config = json.loads((bare / "open_clip_config.json").read_text())
    del config["model_cfg"]["text_cfg"]["hf_tokenizer_name"]
    del config["model_cfg"]["text_cfg"]["tokenizer_kwargs"]
    (bare / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="does not name its tokenizer"):
        _encoder(bare).encode_question("pumps")


def test_building_one_reads_no_weights_and_random_ones_are_never_used(own: Path) -> None:
    (own / "open_clip_model.safetensors").unlink()
    encoder: Encoder = _encoder(own)
    assert encoder.vectors["clip"].size == 24
    assert json.loads(json.dumps(encoder.model)) == encoder.model
    with pytest.raises(ModelError, match=r"cannot load .*own") as caught:
        encoder.encode_question("pumps")
    assert "\n" not in str(caught.value)


def test_half_the_weights_are_none(own: Path) -> None:
    safetensors = library("safetensors.torch")
    path = own / "open_clip_model.safetensors"
    tensors = safetensors.load_file(path)
    del tensors["visual.conv1.weight"]
    safetensors.save_file(tensors, path)
    with pytest.raises(ModelError, match=r"visual\.conv1\.weight"):
        _encoder(own).encode_image(_image(0))
    path.write_bytes(b"\0" * 64)
    with pytest.raises(ModelError, match="cannot load"):
        _encoder(own).encode_image(_image(0))


def test_pickled_weights_load_too(encoder: ClipEncoder, tmp_path: Path) -> None:
    pickled = tiny_text.clip(tmp_path / "bin", weights="open_clip_pytorch_model.bin")
    found = _encoder(pickled).encode_question("pumps")
    np.testing.assert_allclose(_vector(found), _vector(encoder.encode_question("pumps")), atol=1e-5)


def test_other_families_are_refused(own: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no open_clip model"):
        _encoder(tiny_text.bge_m3(tmp_path / "bge"))
    config = json.loads((own / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] = {"hf_model_name": "xlm-roberta-base"}
    (own / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"text model of .* not part of it"):
        _encoder(own)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("{", "damaged"),
        ("[]", "not a JSON object"),
        ("{}", r"no model_cfg\.text_cfg"),
        ('{"model_cfg": {"text_cfg": {}, "vision_cfg": {}}}', r"no model_cfg\.embed_dim"),
        ('{"model_cfg": {"text_cfg": {}, "embed_dim": 24}}', r"no model_cfg\.vision_cfg"),
        (
            '{"model_cfg": {"text_cfg": {}, "vision_cfg": {}, "embed_dim": 24},'
            ' "preprocess_cfg": [1]}',
            "preprocess_cfg",
        ),
    ],
)
def test_a_damaged_config_is_named(own: Path, config: str, says: str) -> None:
    (own / "open_clip_config.json").write_text(config)
    with pytest.raises(ModelError, match=says):
        _encoder(own)


def test_several_threads_share_one_encoder(folder: Path, encoder: ClipEncoder) -> None:
    fresh = _encoder(folder)
    questions = [f"part {n}" for n in range(12)]
    with ThreadPoolExecutor(4) as pool:
        asked = list(pool.map(fresh.encode_question, questions))
    for question, found in zip(questions, asked, strict=True):
        expected = _vector(encoder.encode_question(question))
        np.testing.assert_allclose(_vector(found), expected, atol=1e-5)


def test_half_precision_says_nearly_the_same(
    folder: Path, siglip: Path, encoder: ClipEncoder
) -> None:
    for of, exact in ((folder, encoder), (siglip, _encoder(siglip))):
        half = _encoder(of, dtype="bfloat16")
        for found, expected in (
            (half.encode_image(_image(1)), exact.encode_image(_image(1))),
            (half.encode_question("pumps"), exact.encode_question("pumps")),
        ):
            assert _vector(found).dtype == np.float32
            assert np.linalg.norm(_vector(found)) == pytest.approx(1, abs=1e-6)
            assert _vector(found) @ _vector(expected) > 0.98


def test_no_host_is_asked_for_anything(folder: Path, siglip: Path) -> None:
    with Connections() as connections:
        for of in (folder, siglip):
            encoder = _encoder(of)
            assert encoder.encode_question("pumps")
            assert encoder.encode_pages(_inputs([_file(_image(0))]))
        assert connections.hosts == []
