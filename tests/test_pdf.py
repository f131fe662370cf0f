"""ingest.pdf, on real PDFs and images made on the spot and a real child process."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pymupdf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms, TiffImagePlugin
from pymupdf.mupdf import PDF_ENCRYPT_AES_256

from ingest.pdf import PageFailure, PdfReader, RawPage, clean_text
from pageglass.errors import (
    DocumentError,
    EncryptedDocument,
    FormatUnsupported,
    LimitExceeded,
    NotADocument,
)
from pageglass.settings import IngestSettings

DEFAULTS = IngestSettings.model_validate({})


@pytest.fixture(scope="module")
def reader() -> Iterator[PdfReader]:
    with PdfReader(DEFAULTS) as reader:
        yield reader


def limited(**limits: float) -> PdfReader:
    return PdfReader(IngestSettings.model_validate({"limits": limits}))


def text_pdf(path: Path, *texts: str) -> Path:
    with pymupdf.open() as document:
        for text in texts:
            document.new_page().insert_text((72, 100), text)
        document.save(path)
    return path


def read(reader: PdfReader, path: Path) -> list[RawPage | PageFailure]:
    return list(reader.pages(path, range(reader.open(path).pages)))


def only_page(reader: PdfReader, path: Path) -> RawPage:
    (page,) = read(reader, path)
    assert isinstance(page, RawPage)
    return page


def texts_of(page: RawPage | PageFailure) -> list[str]:
    assert isinstance(page, RawPage), page
    return [word.text for word in page.words]


def pixels(page: RawPage) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(page.image)))


def stream(entries: str, data: bytes) -> bytes:
    return f"<<{entries}/Length {len(data)}>>stream\n".encode() + data + b"\nendstream"


def pdf_around(path: Path, content: bytes, *objects: bytes, font: str = "") -> Path:
    """Three pages, of which the middle one shows ``content``; ``objects`` are numbered from 8, and
    the first of them is the XObject /X."""
    fonts = f"/F<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>{font}"
    resources = f"<</Font<<{fonts}>>/XObject<</X 8 0 R>>>>"
    page = "<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Contents {} 0 R/Resources{}>>"
    bodies = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Count 3/Kids[3 0 R 4 0 R 5 0 R]>>",
        *(page.format(contents, resources).encode() for contents in (6, 7, 6)),
        stream("", b"BT /F 12 Tf 72 700 Td (quiet page) Tj ET"),
        stream("", content),
        *objects,
    ]
    data, offsets = b"%PDF-1.7\n", []
    for number, body in enumerate(bodies, 1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%b\nendobj\n" % (number, body)
    size, start = len(bodies) + 1, len(data)
    data += b"xref\n0 %d\n0000000000 65535 f \n" % size
    data += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    data += b"trailer<</Size %d/Root 1 0 R>>startxref\n%d\n%%%%EOF" % (size, start)
    path.write_bytes(data)
    return path


def endless(path: Path) -> Path:
    """Forms within forms, ten of each in the one above: 10^12 rectangles."""
    form = "/Type/XObject/Subtype/Form/BBox[0 0 595 842]"
    forms = [
        stream(f"{form}/Resources<</XObject<</X {9 + level} 0 R>>>>", b"/X Do " * 10)
        for level in range(12)
    ]
    return pdf_around(path, b"/X Do", *forms, stream(form, b"0 0 10 10 re f"))


# What is not a PDF, or cannot be opened


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"just some text, nothing like a document\n" * 20, "not a PDF"),
        (b"%PDF-1.7\n" + b"x" * 500, "damaged|without pages"),
    ],
)
def test_what_is_no_pdf_is_refused(
    reader: PdfReader, tmp_path: Path, data: bytes, message: str
) -> None:
    path = tmp_path / "file.pdf"
    path.write_bytes(data)
    with pytest.raises(NotADocument, match=message) as error:
        reader.open(path)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_are_refused(reader: PdfReader, tmp_path: Path) -> None:
    with pytest.raises(NotADocument, match="no such file"):
        reader.open(tmp_path / "missing.pdf")
    with pytest.raises(NotADocument, match="not a file"):
        reader.open(tmp_path)


def test_another_format_named_pdf_is_refused(reader: PdfReader, tmp_path: Path) -> None:
    path = tmp_path / "drawing.pdf"
    path.write_text("<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>")
    with pytest.raises(NotADocument, match="not a PDF"):
        reader.open(path)


def test_a_file_of_no_known_kind_is_told_what_would_do(reader: PdfReader, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("plain words")
    with pytest.raises(FormatUnsupported, match=r"neither PDF, image .* nor office file: "):
        reader.open(path)
    with zipfile.ZipFile(tmp_path / "letter.pdf", "w") as archive:
        for part in ("[Content_Types].xml", "word/document.xml"):
            archive.writestr(part, "<x/>")
    with pytest.raises(FormatUnsupported, match="office file: save it as PDF"):
        reader.open(tmp_path / "letter.pdf")


def test_a_pdf_without_pages_is_refused(reader: PdfReader, tmp_path: Path) -> None:
    path = tmp_path / "none.pdf"
    path.write_bytes(
        b"%PDF-1.7\n1 0 obj\n<</Type/Catalog/Pages 2 0 R>>\nendobj\n"
        b"2 0 obj\n<</Type/Pages/Count 0/Kids[]>>\nendobj\ntrailer<</Root 1 0 R/Size 3>>\n%%EOF"
    )
    with pytest.raises(NotADocument, match="without pages"):
        reader.open(path)


def test_a_truncated_pdf_gives_the_pages_that_are_left(reader: PdfReader, tmp_path: Path) -> None:
    path = text_pdf(tmp_path / "whole.pdf", *(f"page {n}" for n in range(20)))
    path.write_bytes(path.read_bytes()[:-2000])
    try:
        pages = read(reader, path)
    except DocumentError:
        return
    assert 0 < len(pages) <= 20


def test_only_a_password_that_someone_must_know_is_refused(
    reader: PdfReader, tmp_path: Path
) -> None:
    for name, password in (("closed.pdf", "secret"), ("open.pdf", "")):
        with pymupdf.open() as document:
            document.new_page().insert_text((72, 100), "for your eyes")
            document.save(
                tmp_path / name,
                encryption=PDF_ENCRYPT_AES_256,
                owner_pw="owner",
                user_pw=password,
            )
    with pytest.raises(EncryptedDocument, match="password"):
        reader.open(tmp_path / "closed.pdf")
    assert texts_of(only_page(reader, tmp_path / "open.pdf")) == ["for", "your", "eyes"]


def test_size_and_length_have_limits(tmp_path: Path) -> None:
    long = text_pdf(tmp_path / "long.pdf", "one", "two", "three")
    large = tmp_path / "large.pdf"
    with large.open("wb") as file:
        file.truncate(2 * 2**20)
    with limited(pages=2, file_mb=1) as reader:
        with pytest.raises(LimitExceeded, match=r"more than 2 pages \(setting ingest.limits.pages"):
            reader.open(long)
        with pytest.raises(LimitExceeded, match=r"larger than 1 MB .*ingest.limits.file_mb"):
            reader.open(large)


# What a page is


def test_title_labels_and_order_of_pages(reader: PdfReader, tmp_path: Path) -> None:
    path = tmp_path / "labels.pdf"
    with pymupdf.open() as document:
        for number in range(6):
            document.new_page().insert_text((72, 100), f"page{number}")
        document.set_page_labels(
            [
                {"startpage": 0, "prefix": "", "style": "r", "firstpagenum": 3},
                {"startpage": 2, "prefix": "A-", "style": "D", "firstpagenum": 1},
                {"startpage": 4, "prefix": "", "style": "a", "firstpagenum": 27},
            ]
        )
        document.set_metadata({"title": "  A\nTitle "})
        document.save(path)
    info = reader.open(path)
    assert (info.pages, info.title) == (6, "A Title")
    assert [p.label for p in read(reader, path) if isinstance(p, RawPage)] == [
        "iii", "iv", "A-1", "A-2", "aa", "bb",
    ]  # fmt: skip
    assert [texts_of(page) for page in reader.pages(path, [4, 1])] == [["page4"], ["page1"]]


def test_without_labels_the_label_is_the_number(reader: PdfReader, tmp_path: Path) -> None:
    path = text_pdf(tmp_path / "two.pdf", "one", "two")
    assert reader.open(path).title is None
    assert [p.label for p in read(reader, path) if isinstance(p, RawPage)] == ["1", "2"]


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("cropped", [False, True])
def test_boxes_lie_on_the_ink_of_the_page_as_shown(
    reader: PdfReader, tmp_path: Path, rotation: int, cropped: bool
) -> None:
    path = tmp_path / "page.pdf"
    with pymupdf.open() as document:
        page = document.new_page(width=400, height=600)
        page.insert_text((110, 150), "Widely")
        page.insert_text((220, 320), "scattered")
        page.insert_text((5, 590), "outside")
        if cropped:
            page.set_cropbox(pymupdf.Rect(100, 100, 350, 500))
        page.set_rotation(rotation)
        document.save(path)
    page = only_page(reader, path)
    size = (250, 400) if cropped else (400, 600)
    assert (page.width, page.height) == (size if rotation % 180 == 0 else size[::-1])
    expected = ["Widely", "scattered"] if cropped else ["Widely", "scattered", "outside"]
    assert [word.text for word in page.words] == expected
    ink = pixels(page).min(axis=2) < 128
    outside = ink.copy()
    height, width = ink.shape
    for word in page.words:
        x0, y0, x1, y1 = word.box
        area = np.s_[int(y0 * height) : int(y1 * height) + 1, int(x0 * width) : int(x1 * width) + 1]
        assert ink[area].mean() > 0.05, word
        outside[area] = False
    assert not outside.any()


def test_words_are_verbatim_and_lines_count_up(reader: PdfReader, tmp_path: Path) -> None:
    path = tmp_path / "words.pdf"
    with pymupdf.open() as document:
        page = document.new_page()
        page.insert_text((72, 100), "state-of-the-art infor-")
        page.insert_text((72, 115), "mation naïve Zürich")
        page.insert_text((72, 130), "图表 収入", fontname="china-s")
        document.save(path)
    page = only_page(reader, path)
    assert [(word.text, word.line) for word in page.words] == [
        ("state-of-the-art", 0), ("infor-", 0), ("mation", 1), ("naïve", 1), ("Zürich", 1),
        ("图表", 2), ("収入", 2),
    ]  # fmt: skip


def test_clean_text_keeps_letters_and_drops_what_is_unseen() -> None:
    assert clean_text("plain") == "plain"
    assert clean_text("a\x00b\u200bc\u202ed\ufeff") == "abcd"
    assert clean_text("cafe\u0301") == "café"
    assert clean_text("lone \ud800 surrogate") == "lone \ufffd surrogate"


def test_words_have_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "many.pdf"
    with pymupdf.open() as document:
        page = document.new_page()
        for line in range(60):
            page.insert_text((20, 20 + line * 12), "a b c d e f g h i j")
        document.save(path)
    with limited(words=100) as reader:
        assert len(only_page(reader, path).words) == 100


def test_perceptual_hashes_of_old_data_folders_hold() -> None:
    """What releases before imagehash computed: pages are compared with those of older folders."""
    from ingest._pdf_child import _perceptual_hash

    bars = Image.new("L", (300, 200), 255)
    for i in range(9):
        bars.paste(0, (20, 15 + 20 * i, 41 + 25 * i, 23 + 20 * i))
    assert (_perceptual_hash(Image.radial_gradient("L")), _perceptual_hash(bars)) == (
        "eeea8c9d9990223aa6669de999993767f626cca999f93303c26e888e998e6151",
        "bffec2f5e00a32f5d90a2cb4d6482f3cd4982f4bd4a62f43d4892f34d60a2cb4",
    )


def test_image_and_hashes(reader: PdfReader, tmp_path: Path) -> None:
    one, same, other = (
        only_page(reader, text_pdf(tmp_path / f"{name}.pdf", text))
        for name, text in (("1", "Some words"), ("2", "Some words"), ("3", "Some words."))
    )
    with Image.open(io.BytesIO(one.image)) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (1240, 1755))
        assert image.getpixel((0, 0)) == (255, 255, 255)
        distance = imagehash.phash(image, hash_size=16) - imagehash.hex_to_hash(one.perceptual_hash)
    assert distance <= 8  # of the JPEG, against that of the pixels before
    assert (one.render_hash, one.perceptual_hash) == (same.render_hash, same.perceptual_hash)
    assert one.render_hash != other.render_hash
    assert not one.blank


def test_an_empty_page_is_blank(reader: PdfReader, tmp_path: Path) -> None:
    page = only_page(reader, text_pdf(tmp_path / "blank.pdf", ""))
    assert page.blank
    assert page.words == ()


def test_a_huge_page_is_scaled_to_the_pixel_limit(tmp_path: Path) -> None:
    path = tmp_path / "huge.pdf"
    with pymupdf.open() as document:
        document.new_page(width=14_400, height=7_200)
        document.new_page(width=14_400, height=3)
        document.save(path)
    with limited(pixels=1_000_000) as reader:
        wide, strip = read(reader, path)
    assert isinstance(wide, RawPage)
    assert isinstance(strip, RawPage)
    assert pixels(wide).size / 3 <= 1_003_000
    assert (wide.width, wide.height) == (14_400, 7_200)
    assert 0 < pixels(strip).size / 3 <= 1_003_000


# Images


def save(path: Path, image: Image.Image, *more: Image.Image, **options: Any) -> Path:
    if more:
        options |= {"save_all": True, "append_images": list(more)}
    image.save(path, **options)
    return path


def quarters(size: tuple[int, int] = (400, 200)) -> Image.Image:
    """Red and lime above, blue and white below: any turn shows."""
    image = Image.new("RGB", size, "white")
    width, height = size[0] // 2, size[1] // 2
    image.paste("red", (0, 0, width, height))
    image.paste("lime", (width, 0, size[0], height))
    image.paste("blue", (0, height, width, size[1]))
    return image


def colours_of(page: RawPage) -> list[tuple[int, int, int]]:
    """The colours amid the page's quarters, rounded to what a JPEG keeps of them."""
    array = pixels(page)
    height, width, _ = array.shape
    return [
        tuple(int(round(int(value) / 51) * 51) for value in array[y, x])
        for y in (height // 4, 3 * height // 4)
        for x in (width // 4, 3 * width // 4)
    ]  # type: ignore[return-value]


RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tiff", "a.webp", "wrongly.pdf"])
def test_an_image_is_a_document_of_one_page(reader: PdfReader, tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, quarters(), format="PNG" if name == "wrongly.pdf" else None)
    assert (reader.open(path).pages, reader.open(path).title) == (1, None)
    page = only_page(reader, path)
    assert (page.index, page.label, page.words, page.blank) == (0, "1", (), False)
    assert (page.width, page.height) == (192, 96)  # 400 x 200 pixels at 150 to the inch
    assert pixels(page).shape == (200, 400, 3)
    assert colours_of(page) == [RED, GREEN, BLUE, WHITE]
    assert list(reader.pages(path, [0, 0])) == [page, page]


def test_a_plain_image_is_a_blank_page(reader: PdfReader, tmp_path: Path) -> None:
    assert only_page(reader, save(tmp_path / "a.png", Image.new("L", (90, 90), 255))).blank


@pytest.mark.parametrize(
    ("dpi", "points", "size"),
    [
        ((300, 300), (96, 48), (200, 100)),  # finer than wanted: scaled down
        ((100, 100), (288, 144), (400, 200)),  # coarser: left alone
        ((200, 100), (144, 144), (300, 300)),  # a fax: its pixels are not square
        ((1, 1), (192, 96), (400, 200)),  # absurd
        ((40_000, 40_000), (192, 96), (400, 200)),
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tiff"])
def test_the_page_is_as_large_as_the_image_says(
    reader: PdfReader,
    tmp_path: Path,
    suffix: str,
    dpi: tuple[int, int],
    points: tuple[int, int],
    size: tuple[int, int],
) -> None:
    page = only_page(reader, save(tmp_path / f"a{suffix}", quarters(), dpi=dpi))
    assert (page.width, page.height) == pytest.approx(points, rel=1e-3)
    assert pixels(page).shape == (size[1], size[0], 3)
    assert colours_of(page) == [RED, GREEN, BLUE, WHITE]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tiff", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_stands_upright(
    reader: PdfReader, tmp_path: Path, suffix: str, orientation: int
) -> None:
    turned = {
        1: [RED, GREEN, BLUE, WHITE],
        2: [GREEN, RED, WHITE, BLUE],
        3: [WHITE, BLUE, GREEN, RED],
        4: [BLUE, WHITE, RED, GREEN],
        5: [RED, BLUE, GREEN, WHITE],
        6: [BLUE, RED, WHITE, GREEN],
        7: [WHITE, GREEN, BLUE, RED],
        8: [GREEN, WHITE, RED, BLUE],
    }
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = save(tmp_path / f"a{suffix}", quarters(), exif=exif, dpi=(200, 100))
    page = only_page(reader, path)
    assert colours_of(page) == turned[orientation]
    points = (192, 96) if suffix == ".webp" else (144, 144)
    assert (page.width, page.height) == pytest.approx(
        points if orientation < 5 else points[::-1], rel=1e-3
    )


def test_broken_metadata_do_not_spoil_a_photograph(reader: PdfReader, tmp_path: Path) -> None:
    for exif in (b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff"):
        path = save(tmp_path / "a.jpg", quarters(), exif=exif)
        assert colours_of(only_page(reader, path)) == [RED, GREEN, BLUE, WHITE]


def test_every_kind_of_pixel_is_shown(reader: PdfReader, tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 255, 256), (40, 1))
    grey = Image.fromarray(ramp.astype(np.uint8))
    deep = Image.fromarray((ramp * 257).astype(np.uint16))
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    lab = ImageCms.applyTransform(grey.convert("RGB"), to_lab)
    assert lab is not None
    kinds = {
        "grey.png": grey,
        "16.png": deep,
        "16.tiff": deep,
        "palette.png": grey.convert("P"),
        "cmyk.jpg": grey.convert("RGB").convert("CMYK"),
        "cmyk.tiff": grey.convert("RGB").convert("CMYK"),
        "lab.tiff": lab,
        "float.tiff": Image.fromarray(ramp.astype(np.float32) / 255),
        "32.tiff": Image.fromarray((ramp * 1000).astype(np.int32)),
        "alpha.png": grey.convert("LA"),
        "alpha.webp": grey.convert("RGBA"),
    }
    for name, image in kinds.items():
        shown = pixels(only_page(reader, save(tmp_path / name, image))).astype(int)
        assert np.abs(shown - ramp[:, :, None]).max() <= 12, name
    dithered = Image.linear_gradient("L").resize((1024, 1024)).convert("1")
    shown = pixels(only_page(reader, save(tmp_path / "1.tiff", dithered, dpi=(600, 600))))
    assert np.abs(shown[8:-8, :, 0].mean(axis=1) - np.arange(8, 248)).max() <= 12


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1", "L", "RGB"])
def test_what_is_transparent_lies_on_white(reader: PdfReader, tmp_path: Path, mode: str) -> None:
    image = Image.new("L", (80, 80), 0)
    image.paste(255, (40, 0, 80, 80))
    image = image.convert(mode)
    options: dict[str, Any] = {}
    if mode.endswith("A"):
        alpha = Image.new("L", (80, 80), 0)
        alpha.paste(255, (0, 40, 80, 80))
        image.putalpha(alpha)
    else:  # one colour of the image is called transparent
        options["transparency"] = image.getpixel((0, 0))
    shown = pixels(only_page(reader, save(tmp_path / "a.png", image, **options)))
    assert shown[5, 5].min() > 250  # black, and transparent
    assert shown[70, 70].min() > 250  # white
    if mode.endswith("A"):
        assert shown[70, 5].max() < 5  # black, and opaque


def test_a_large_image_is_scaled_to_the_pixel_limit(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", quarters((4000, 2000)))
    with limited(pixels=20_000) as reader:
        page = only_page(reader, path)
    assert pixels(page).shape == (100, 200, 3)
    assert (page.width, page.height) == (1920, 960)
    assert colours_of(page) == [RED, GREEN, BLUE, WHITE]


def test_every_frame_of_a_tiff_is_a_page(reader: PdfReader, tmp_path: Path) -> None:
    frames = [quarters((200 + 40 * n, 100)) for n in range(4)]
    frames[2] = frames[2].convert("1")
    path = save(tmp_path / "a.tiff", *frames)
    assert reader.open(path).pages == 4
    in_order = read(reader, path)
    assert [(p.index, p.label, pixels(p).shape[1]) for p in in_order if isinstance(p, RawPage)] == [
        (n, str(n + 1), 200 + 40 * n) for n in range(4)
    ]
    mixed = [3, 0, 0, 2, 1, 3]
    assert list(reader.pages(path, mixed)) == [in_order[n] for n in mixed]


def test_a_frame_says_for_itself_how_large_it_is(reader: PdfReader, tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    with TiffImagePlugin.AppendingTiffWriter(path, new=True) as file:
        quarters().save(file, "TIFF", dpi=(300, 300))
        file.newFrame()
        quarters().save(file, "TIFF", tiffinfo={TiffImagePlugin.RESOLUTION_UNIT: 1})
        file.newFrame()
    assert [page.width for page in read(reader, path) if isinstance(page, RawPage)] == [96, 192]


def test_of_an_animation_the_first_frame_is_the_page(reader: PdfReader, tmp_path: Path) -> None:
    red, blue = Image.new("RGB", (60, 60), "red"), Image.new("RGB", (60, 60), "blue")
    for name, format in (("a.webp", "WEBP"), ("a.png", "PNG"), ("a.jpg", "MPO")):
        path = save(tmp_path / name, red, blue, format=format)
        with Image.open(path) as image:
            assert getattr(image, "n_frames", 1) == 2
        assert colours_of(only_page(reader, path)) == [RED] * 4


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tiff", ".webp"])
def test_a_damaged_image_is_no_document(reader: PdfReader, tmp_path: Path, suffix: str) -> None:
    noise = Image.effect_noise((300, 300), 90).convert("RGB")
    options = {"compression": "tiff_lzw"} if suffix == ".tiff" else {}
    path = save(tmp_path / f"a{suffix}", noise, **options)
    whole = path.read_bytes()
    for length in (len(whole) // 2, 20):
        path.write_bytes(whole[:length])
        with pytest.raises(NotADocument, match="image that is truncated, damaged") as error:
            reader.open(path)
        assert "PDF" not in str(error.value)
        assert str(tmp_path) not in str(error.value)


def test_a_damaged_frame_fails_alone(reader: PdfReader, tmp_path: Path) -> None:
    noise = [Image.effect_noise((100 + n, 100), 90) for n in range(5)]
    path = save(tmp_path / "a.tiff", *noise, compression="tiff_adobe_deflate")
    with Image.open(path) as image:
        offsets = []
        for n in (1, 3):
            image.seek(n)
            assert isinstance(image, TiffImagePlugin.TiffImageFile)
            offsets.append((image.tag_v2[TiffImagePlugin.STRIPOFFSETS][0], image.tag_v2.offset))
    data = bytearray(path.read_bytes())
    strip, _ = offsets[0]
    data[strip : strip + 300] = b"\xff" * 300  # its pixels
    _, tags = offsets[1]
    at = data.index(struct.pack("<HHI", TiffImagePlugin.BITSPERSAMPLE, 3, 1), tags)
    data[at + 8] = 77  # what it says of its pixels
    path.write_bytes(data)
    for order in (range(5), [1, 1, 2], [3, 3, 4], [4, 3, 2, 1, 0]):
        for index, page in zip(order, reader.pages(path, order), strict=True):
            assert isinstance(page, PageFailure if index in (1, 3) else RawPage), (order, index)
            if isinstance(page, PageFailure):
                assert "image that is truncated, damaged or of a rare kind" in page.reason
            else:
                assert pixels(page).shape == (100, 100 + index, 3)


def tiff_of_many_frames(path: Path, count: int, *, endless: bool = False) -> Path:
    """Frames of one pixel, each with tags of its own; ``endless``: the last leads to the first."""
    values = {256: 1, 257: 1, 258: 8, 259: 1, 262: 1, 273: 0, 277: 1, 278: 1, 279: 1}
    tags = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items())
    size = 2 + len(tags) + 4
    following = [8 + number * size for number in range(1, count)] + [8 if endless else 0]
    frames = (struct.pack("<H", len(values)) + tags + struct.pack("<I", at) for at in following)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8) + b"".join(frames))
    return path


def test_frames_count_as_pages_and_end(tmp_path: Path) -> None:
    with limited(pages=3000) as reader:
        assert reader.open(tiff_of_many_frames(tmp_path / "a.tiff", 3000)).pages == 3000
        assert reader.open(tiff_of_many_frames(tmp_path / "b.tiff", 9, endless=True)).pages == 9
        with pytest.raises(LimitExceeded, match=r"more than 3000 pages .*ingest.limits.pages"):
            reader.open(tiff_of_many_frames(tmp_path / "c.tiff", 50_000))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bomb(width: int, height: int) -> bytes:
    """A PNG that claims to be this large, with little in it."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(2**20))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    png, webp = tmp_path / "bomb.png", tmp_path / "bomb.webp"
    png.write_bytes(png_bomb(60_000, 50_000))
    webp.write_bytes(
        b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0"
        + bytes(4) + (16_382).to_bytes(3, "little") * 2 + b"VP8L\0\0\0\0"
    )  # fmt: skip
    with limited(memory_mb=512) as reader:
        pid = None
        for path, what in ((png, "60000 x 50000"), (webp, "more than 33554432")):
            start = time.perf_counter()
            with pytest.raises(LimitExceeded) as error:
                reader.open(path)
            assert str(error.value) == (
                f"an image of {what} pixels needs more than 512 MB of memory"
                " (setting ingest.limits.memory_mb)"
            )
            assert time.perf_counter() - start < 5
            assert pid in (None, reader.pid)  # refused, not run into
            pid = reader.pid


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere memory may have no limit")
def test_an_image_that_wants_too_much_memory_is_refused(tmp_path: Path) -> None:
    # 242 MB of 16-bit greys fit below the limit, but not together with what is made of them.
    path = tmp_path / "a.tiff"
    Image.new("I;16", (11_000, 11_000), 40_000).save(path, compression="tiff_adobe_deflate")
    after = save(tmp_path / "b.png", quarters())
    with limited(memory_mb=256) as reader:
        with pytest.raises(LimitExceeded, match=r"needs more than 256 MB .*limits.memory_mb"):
            reader.open(path)
        assert colours_of(only_page(reader, after)) == [RED, GREEN, BLUE, WHITE]


# Limits and losses


def test_what_a_document_gives_has_a_limit_for_each_pass(tmp_path: Path) -> None:
    noise = [Image.effect_noise((600, 600), 90) for _ in range(6)]
    path = save(tmp_path / "a.tiff", *noise, compression="tiff_lzw")
    with limited(output_mb=1) as reader:
        pages = reader.pages(path, range(6))
        given: list[RawPage] = []
        with pytest.raises(
            LimitExceeded, match=r"more than 1 MB \(setting ingest.limits.output_mb"
        ):
            given.extend(page for page in pages if isinstance(page, RawPage))
        output = sum(len(page.image) for page in given)
        assert output <= 2**20 < output + max(len(page.image) for page in given)
        for _ in range(2):  # each pass begins anew
            assert list(reader.pages(path, range(len(given)))) == given


def test_pymupdf_is_not_imported_by_the_parent() -> None:
    code = "import sys, ingest.pdf; assert not {'pymupdf', 'fitz'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_many_documents_share_one_child(reader: PdfReader, tmp_path: Path) -> None:
    paths = [text_pdf(tmp_path / f"{n}.pdf", f"document{n}") for n in range(30)]
    reader.open(paths[0])
    pid = reader.pid
    start = time.perf_counter()
    for number, path in enumerate(paths):
        assert texts_of(only_page(reader, path)) == [f"document{number}"]
    assert reader.pid == pid
    assert time.perf_counter() - start < 10


def test_a_changed_file_is_read_anew(reader: PdfReader, tmp_path: Path) -> None:
    path = text_pdf(tmp_path / "file.pdf", "before")
    assert texts_of(only_page(reader, path)) == ["before"]
    text_pdf(path, "afterwards", "and more")
    assert [texts_of(page) for page in read(reader, path)] == [["afterwards"], ["and", "more"]]


def test_two_readings_may_be_mixed_or_given_up(reader: PdfReader, tmp_path: Path) -> None:
    a = text_pdf(tmp_path / "a.pdf", *(f"a{n}" for n in range(5)))
    b = text_pdf(tmp_path / "b.pdf", *(f"b{n}" for n in range(5)))
    of_a, of_b = reader.pages(a, range(5)), reader.pages(b, range(5))
    mixed = [texts_of(page)[0] for pair in zip(of_a, of_b, strict=False) for page in pair]
    assert mixed == ["a0", "b0", "a1", "b1", "a2", "b2", "a3", "b3", "a4", "b4"]
    given_up = reader.pages(a, range(5))
    next(given_up)
    del given_up
    assert [texts_of(page) for page in reader.pages(a, [4])] == [["a4"]]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
def test_pages_go_on_after_the_child_is_killed(reader: PdfReader, tmp_path: Path) -> None:
    path = text_pdf(tmp_path / "long.pdf", *(f"page{n}" for n in range(8)))
    seen: list[str] = []
    pids: set[int] = set()
    for page in reader.pages(path, range(8)):
        seen += texts_of(page)
        assert reader.pid is not None
        pids.add(reader.pid)
        if len(seen) in (3, 5):
            os.kill(reader.pid, signal.SIGKILL)
    assert seen == [f"page{n}" for n in range(8)]
    assert len(pids) == 3


def test_a_slow_page_fails_alone(tmp_path: Path) -> None:
    path = endless(tmp_path / "slow.pdf")
    with limited(page_seconds=1) as reader:
        start = time.perf_counter()
        first, slow, last = read(reader, path)
    assert time.perf_counter() - start < 15
    assert isinstance(slow, PageFailure)
    assert slow.reason == "took more than 1 seconds (setting ingest.limits.page_seconds)"
    assert texts_of(first) == texts_of(last) == ["quiet", "page"]


def test_a_document_of_slow_pages_is_given_up(tmp_path: Path) -> None:
    path = endless(tmp_path / "slow.pdf")
    with limited(page_seconds=0.3) as reader:
        pages = reader.pages(path, [1] * 50)
        failures = [next(pages) for _ in range(5)]
        assert all(isinstance(page, PageFailure) for page in failures)
        with pytest.raises(LimitExceeded, match="5 pages in a row"):
            next(pages)


def test_a_page_that_wants_too_much_memory_fails_alone(tmp_path: Path) -> None:
    # A font of 400 MB: MuPDF would go on without it, and the page would look read.
    path = pdf_around(
        tmp_path / "memory.pdf",
        b"BT /B 12 Tf 72 700 Td (a heavy font) Tj ET",
        b"<</Type/Font/Subtype/TrueType/BaseFont/B/FontDescriptor 9 0 R>>",
        b"<</Type/FontDescriptor/FontName/B/Flags 4/FontFile2 10 0 R>>",
        stream("/Filter/RunLengthDecode", b"\x81\x55" * (400 * 8192)),
        font="/B 8 0 R",
    )
    with limited(memory_mb=256) as reader:
        first, heavy, last = read(reader, path)
    assert texts_of(first) == texts_of(last) == ["quiet", "page"]
    if sys.platform == "linux":  # elsewhere the address space of a process may have no limit
        assert isinstance(heavy, PageFailure)
        assert "more than 256 MB of memory (setting ingest.limits.memory_mb)" in heavy.reason


def test_a_giant_image_is_shown_small_or_fails_alone(tmp_path: Path) -> None:
    raw = zlib.compress(b"\x55" * (30_000 * 30_000 // 8), 1)
    image = "/Type/XObject/Subtype/Image/Width 30000/Height 30000/BitsPerComponent 1"
    path = pdf_around(
        tmp_path / "image.pdf",
        b"q 400 0 0 400 50 50 cm /X Do Q",
        stream(f"{image}/ColorSpace/DeviceGray/Filter/FlateDecode", raw),
    )
    with limited(memory_mb=256) as reader:
        first, giant, last = read(reader, path)
    assert texts_of(first) == texts_of(last) == ["quiet", "page"]
    assert isinstance(giant, PageFailure) or not giant.blank


def test_a_form_that_draws_itself_ends(reader: PdfReader, tmp_path: Path) -> None:
    form = "/Type/XObject/Subtype/Form/BBox[0 0 595 842]/Resources<</XObject<</X 8 0 R>>>>"
    path = pdf_around(tmp_path / "self.pdf", b"/X Do", stream(form, b"/X Do"))
    assert len(read(reader, path)) == 3


# A child that a crafted PDF has taken over can send anything. This one takes the real one's place
# in a copy of the package, and answers each page with what the line below it says.
TAKEN_OVER = """
import io, json, struct, sys, time
from PIL import Image
def read():
    head, blob = struct.unpack(">II", sys.stdin.buffer.read(8))
    return json.loads(sys.stdin.buffer.read(head))
def send(header, blob=b""):
    head = json.dumps(header).encode()
    sys.stdout.buffer.write(struct.pack(">II", len(head), len(blob)) + head + blob)
    sys.stdout.buffer.flush()
file = io.BytesIO()
Image.new("RGB", (20, 30)).save(file, "JPEG")
jpeg = file.getvalue()
read()
send({"id": 0, "kind": "ready"})
while True:
    request = read()
    if request["op"] == "open":
        send({"id": request["id"], "kind": "opened", "pages": 1, "title": ""})
        continue
    page = {"id": request["id"], "kind": "page", "index": request["index"], "label": "1",
            "width": 20.0, "height": 30.0, "words": [["a\\x00\\u202eb c", 0, .1, .1, .2, .2]],
            "pixel_width": 20, "pixel_height": 30, "blank": False,
            "render_hash": "0" * 64, "perceptual_hash": "0" * 64}
    ANSWER
"""
ANSWERS = {
    "send(page, jpeg)": "fine",
    "send(page | {'id': 99}, jpeg)": "impossible reply",
    "send(page | {'index': 7}, jpeg)": "impossible reply",
    "send(page | {'more': 1}, jpeg)": "impossible reply",
    "send(page | {'width': -1.0}, jpeg)": "impossible reply",
    "send(page | {'words': [['a', 0, 0.0, 0.0, 1e999, 1.0]]}, jpeg)": "impossible reply",
    "send(page | {'render_hash': '../../etc'}, jpeg)": "impossible reply",
    "send(page | {'pixel_width': 60000, 'pixel_height': 60000}, jpeg)": "impossible reply",
    "send(page, b'<svg onload=alert(1)>')": "impossible reply",
    "sys.stdout.buffer.write(struct.pack('>II', 2, 2**31)); sys.stdout.flush()": "impossible",
    "sys.stdout.buffer.write(struct.pack('>II', 2**31, 2)); sys.stdout.flush()": "impossible",
    "sys.stdout.buffer.write(b'\\xff' * 100); sys.stdout.flush()": "impossible reply",
    "sys.stdout.buffer.write(struct.pack('>II', 2, 0) + b'[]'); sys.stdout.flush()": "impossible",
    "while True: send({'id': 0, 'kind': 'ready'})": "impossible reply",
    "time.sleep(60)": "took more than 2 seconds",
    "sys.exit(3)": "crashed (exit status 3)",
}


def test_whatever_a_child_sends_the_parent_stands(tmp_path: Path) -> None:
    package = tmp_path / "ingest"
    package.mkdir()
    root = Path(__file__).parents[1]
    for name in ("__init__.py", "pdf.py", "formats.py"):
        shutil.copy(root / "ingest" / name, package / name)
    path = text_pdf(tmp_path / "file.pdf", "text")
    code = (
        "import json, sys\nfrom pathlib import Path\n"
        "from ingest.pdf import PdfReader, RawPage\n"
        "from pageglass.settings import IngestSettings\n"
        "settings = IngestSettings.model_validate({'limits': {'page_seconds': 2}})\n"
        "results = []\n"
        "for text in json.load(sys.stdin):\n"
        "    (Path(sys.argv[1]) / '_pdf_child.py').write_text(text)\n"
        "    with PdfReader(settings) as reader:\n"
        "        (page,) = reader.pages(Path(sys.argv[2]), [0])\n"
        "    fine = isinstance(page, RawPage)\n"
        "    results.append(f'fine {page.words[0].text}' if fine else page.reason)\n"
        "print(json.dumps(results))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(package), str(path)],
        input=json.dumps([TAKEN_OVER.replace("ANSWER", answer) for answer in ANSWERS]),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(root)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = dict(zip(ANSWERS, json.loads(done.stdout), strict=True))
    assert results.pop("send(page, jpeg)") == "fine abc"
    for answer, result in results.items():
        assert ANSWERS[answer] in result, answer


@pytest.mark.skipif(sys.platform != "linux", reason="prctl and /proc are Linux's")
def test_the_child_has_limits_and_no_secrets_and_dies_with_its_parent(tmp_path: Path) -> None:
    path = text_pdf(tmp_path / "file.pdf", "text")
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from ingest.pdf import PdfReader\nfrom pageglass.settings import IngestSettings\n"
        "reader = PdfReader(IngestSettings())\nreader.open(Path(sys.argv[1]))\n"
        "print(reader.pid, flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
        env=os.environ | {"SOME_API_KEY": "hunter2"},
    ) as parent:
        assert parent.stdout is not None
        child = Path("/proc") / parent.stdout.readline().strip()
        limits = (child / "limits").read_text()
        assert b"hunter2" not in (child / "environ").read_bytes()
        parent.kill()
    assert any(line.startswith("Max file size") and " 0 " in line for line in limits.splitlines())
    assert "unlimited" not in next(
        line for line in limits.splitlines() if line.startswith("Max address space")
    )
    until = time.monotonic() + 10
    while child.exists() and "State:\tZ" not in (child / "status").read_text():
        assert time.monotonic() < until, "the child outlived its parent"
        time.sleep(0.02)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    changes=st.lists(st.tuples(st.integers(0, 5000), st.binary(max_size=8)), max_size=12),
    tail=st.binary(max_size=200),
    cut=st.integers(0, 400),
)
def test_damage_ends_in_pages_or_a_document_error(
    reader: PdfReader,
    tmp_path: Path,
    changes: list[tuple[int, bytes]],
    tail: bytes,
    cut: int,
) -> None:
    form = stream("/Type/XObject/Subtype/Form/BBox[0 0 9 9]", b"0 0 5 5 re f")
    content = b"1 0 0 RG 9 9 m 99 99 l S /X Do"
    data = bytearray(pdf_around(tmp_path / "whole.pdf", content, form).read_bytes())
    for position, new in changes:
        start = position % len(data)
        data[start : start + len(new)] = new
    path = tmp_path / "damaged.pdf"
    path.write_bytes(bytes(data[: max(1, len(data) - cut)]) + tail)
    try:
        for page in reader.pages(path, range(min(reader.open(path).pages, 5))):
            assert isinstance(page, RawPage | PageFailure)
    except DocumentError as error:
        assert "\n" not in str(error)


def image_bytes(format: str, *more: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    if more:
        options |= {"save_all": True, "append_images": list(more)}
    quarters((60, 40)).save(file, format, exif=Image.Exif(), **options)
    return file.getvalue()


IMAGES = [
    image_bytes("PNG"),
    image_bytes("JPEG", dpi=(200, 200)),
    image_bytes("WEBP"),
    image_bytes("TIFF", quarters((30, 60)), Image.new("1", (9, 9))),
    image_bytes("TIFF", quarters((30, 60)), compression="tiff_lzw"),
    image_bytes("TIFF", Image.new("1", (50, 9)), compression="tiff_adobe_deflate"),
]


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    whole=st.sampled_from(IMAGES),
    changes=st.lists(st.tuples(st.integers(8, 5000), st.binary(max_size=4)), max_size=6),
    cut=st.integers(0, 60),
)
def test_a_damaged_image_ends_in_pages_or_a_document_error(
    reader: PdfReader, tmp_path: Path, whole: bytes, changes: list[tuple[int, bytes]], cut: int
) -> None:
    data = bytearray(whole)
    for position, new in changes:
        start = position % len(data)
        data[start : start + len(new)] = new
    path = tmp_path / "damaged"
    path.write_bytes(bytes(data[: len(data) - cut]))
    try:
        for page in reader.pages(path, range(min(reader.open(path).pages, 5))):
            if isinstance(page, PageFailure):
                assert "defect" not in page.reason
    except DocumentError as error:
        assert "\n" not in str(error)
        assert "defect" not in str(error)
