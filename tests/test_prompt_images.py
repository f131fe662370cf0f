from __future__ import annotations

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from pageglass.errors import ImageError, StoreError
from pageglass.images import ImageStore
from pageglass.types import Page, PageRef
from retrieval.vlms import PromptImage
from retrieval.vlms.images import PromptImages, prompt_image, question_picture


def photo(width: int, height: int) -> Image.Image:
    """Smooth colours with grain, as cameras make them."""
    grain = np.random.default_rng(0).integers(0, 30, (height, width, 3))
    slope = np.linspace(0, 200, width)[None, :, None]
    return Image.fromarray((slope + grain).astype(np.uint8))


def drawing(width: int = 600, height: int = 400) -> Image.Image:
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for x in range(10, width, 40):
        draw.line((x, 10, width - x, height - 10), fill="black", width=2)
    return image


def file(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    written = io.BytesIO()
    image.save(written, format, **options)
    return written.getvalue()


def opened(image: PromptImage) -> Image.Image:
    decoded = Image.open(io.BytesIO(image.data))
    assert decoded.mode == "RGB"
    assert decoded.size == (image.width, image.height)
    assert f"image/{str(decoded.format).lower()}" == image.media_type
    return decoded


def test_an_image_is_scaled_down_in_its_shape_and_never_up() -> None:
    large = prompt_image(file(photo(900, 600), "JPEG"), longest_side=300)
    assert opened(large).size == (300, 200)
    small = prompt_image(file(photo(90, 60)), longest_side=300)
    assert opened(small).size == (90, 60)


@pytest.mark.parametrize("longest_side", [60, 1000])
def test_a_camera_s_orientation_is_applied_and_its_metadata_dropped(longest_side: int) -> None:
    image = Image.new("RGB", (200, 100), "blue")
    image.paste("red", (0, 0, 100, 100))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: left goes up
    exif[0x010E] = "taken at home"
    data = file(image, "JPEG", exif=exif, comment=b"secret", icc_profile=b"profile")
    shown = prompt_image(data, longest_side=longest_side)
    decoded = opened(shown)
    assert decoded.height == 2 * decoded.width
    top, bottom = decoded.getpixel((5, 5)), decoded.getpixel((5, decoded.height - 5))
    assert isinstance(top, tuple) and isinstance(bottom, tuple)
    assert top[0] > 200 > 50 > top[2] and bottom[2] > 200 > 50 > bottom[0]
    assert not decoded.getexif()
    for word in (b"taken at home", b"secret", b"profile"):
        assert word in data and word not in shown.data


def test_a_png_s_texts_are_dropped() -> None:
    info = PngInfo()
    info.add_text("Author", "somebody")
    data = file(drawing(), pnginfo=info, icc_profile=b"profile")
    shown = prompt_image(data, longest_side=1000)
    assert shown.media_type == "image/png"
    assert b"somebody" in data and b"somebody" not in shown.data
    assert not {"Author", "icc_profile", "exif"} & opened(shown).info.keys()


def test_line_art_stays_exact_and_photographs_become_jpeg() -> None:
    exact = prompt_image(file(drawing()), longest_side=1000)
    assert exact.media_type == "image/png"
    assert np.array_equal(np.asarray(opened(exact)), np.asarray(drawing()))
    assert prompt_image(file(photo(600, 400)), longest_side=1000).media_type == "image/jpeg"


def test_few_colours_in_noise_become_jpeg_for_png_would_be_much_larger() -> None:
    noise = np.random.default_rng(0).integers(0, 200, (400, 400), dtype=np.uint8)
    assert prompt_image(file(Image.fromarray(noise)), longest_side=1000).media_type == "image/jpeg"


def test_what_is_transparent_becomes_white() -> None:
    seen_through = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    assert opened(prompt_image(file(seen_through), longest_side=40)).getpixel((20, 20)) == (
        255,
        255,
        255,
    )


def test_sixteen_bits_of_grey_keep_their_shades() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None, :].repeat(64, axis=0)
    shown = opened(prompt_image(file(Image.fromarray(ramp)), longest_side=256))
    assert np.abs(np.asarray(shown)[32, :, 0].astype(int) - np.arange(256)).max() <= 6


def page(store: ImageStore, image: Image.Image, index: int = 0) -> Page:
    key = store.put(file(image, "JPEG", quality=90), ".jpg")
    return Page(PageRef("d0", index), "1", 595, 842, (), "none", key, "r", "0")


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images")


def test_a_page_is_encoded_once_for_all_threads(store: ImageStore) -> None:
    images = PromptImages(store, 500)
    one = page(store, photo(900, 600))
    together = Barrier(4)

    def look(_: int) -> PromptImage:
        together.wait()
        return images.of(one)

    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(look, range(4))
    assert all(other is first for other in others)
    store.delete(one.image)
    assert images.of(one) is first


def test_the_least_recently_used_pages_are_forgotten(store: ImageStore) -> None:
    pages = [page(store, photo(300, 200 + i), i) for i in range(3)]
    size = len(PromptImages(store, 300).of(pages[0]).data)
    images = PromptImages(store, 300, cache_bytes=int(2.5 * size))
    first = images.of(pages[0])
    second = images.of(pages[1])
    assert images.of(pages[0]) is first  # used again: the second is now the oldest
    images.of(pages[2])
    assert images.of(pages[0]) is first
    assert images.of(pages[1]) is not second


@pytest.mark.parametrize("damage", [None, b"", b"no image at all"])
def test_a_lost_or_damaged_page_image_is_the_store_s_error_and_can_be_repaired(
    store: ImageStore, damage: bytes | None
) -> None:
    one = page(store, photo(300, 200))
    whole = store.get(one.image)
    store.delete(one.image)
    if damage is not None:
        store.path(one.image).write_bytes(damage)
    images = PromptImages(store, 300)
    with pytest.raises(StoreError, match="page 1 of document d0 is missing or damaged"):
        images.of(one)
    store.path(one.image).write_bytes(whole)
    assert images.of(one).width == 300


def bomb(width: int, height: int) -> bytes:
    """A PNG that says it is this large and has no pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def moving() -> bytes:
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "green")]
    return file(frames[0], "GIF", save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no image that can be read"),
        (b"%PDF-1.7 and so on", "no image that can be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image that can be read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no image that can be read"),
        (file(photo(300, 200), "JPEG")[:4000], "damaged"),
        (file(photo(300, 200))[:4000], "damaged"),
        (bomb(6000, 7000), "6000 x 7000 pixels and may have 40,000,000"),
        (bomb(60000, 60000), "far too many pixels"),
        (moving(), "moves"),
        (file(Image.new("RGB", (20000, 100))), "strip of 20000 x 100"),
        (b"x" * (20 << 20) + b"x", "more than 20 MB"),
    ],
    ids=[
        "empty",
        "pdf",
        "eps",
        "svg",
        "cut jpeg",
        "cut png",
        "large",
        "bomb",
        "gif",
        "strip",
        "heavy",
    ],
)
def test_a_picture_that_cannot_be_used_is_refused_in_one_clear_line(data: bytes, said: str) -> None:
    with pytest.raises(ImageError, match=said) as caught:
        question_picture(data)
    assert "\n" not in str(caught.value)


def test_a_very_wide_picture_is_scaled_down() -> None:
    picture = question_picture(file(photo(20000, 300)))
    assert picture.size == (4096, 61)


def test_a_phone_s_picture_with_a_preview_inside_is_a_picture() -> None:
    preview = photo(30, 20)
    data = file(photo(300, 200), "MPO", save_all=True, append_images=[preview])
    assert question_picture(data).size == (300, 200)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_still_pictures_of_every_usual_kind_are_taken(format: str) -> None:
    picture = question_picture(file(drawing(), format))
    assert (picture.mode, picture.size) == ("RGB", (600, 400))
