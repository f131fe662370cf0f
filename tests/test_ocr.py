"""ingest.ocr: the real models on pages drawn on the spot; reading order as pure functions."""

from __future__ import annotations

import importlib.util
import io
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pymupdf
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from ingest.ocr import Ocr, line_words, reading_order
from pageglass.errors import ModelError
from pageglass.types import Word

SENTENCE = (
    "Revenue rose to $4,215.7 million in fiscal 2022 (up 8%), driven by state-of-the-art"
    " manufacturing and subscription growth."
)


@pytest.fixture(scope="module")
def ocr() -> Ocr:
    return Ocr(threads=2)


def picture(page: pymupdf.Page) -> bytes:
    return page.get_pixmap(dpi=150).tobytes("jpg", jpg_quality=85)


def lines_of(words: tuple[Word, ...]) -> list[str]:
    return [
        " ".join(word.text for word in words if word.line == line)
        for line in range(max((word.line for word in words), default=-1) + 1)
    ]


def test_words_of_a_page_with_their_boxes(ocr: Ocr) -> None:
    with pymupdf.open() as document:
        page = document.new_page(width=420, height=300)  # not square
        page.insert_textbox((40, 40, 380, 280), " ".join([SENTENCE] * 3), fontsize=12)
        words = ocr.read(picture(page))
        printed = page.get_text("words")
    truth = Counter(word[4] for word in printed)
    found = Counter(word.text for word in words)
    assert sum((truth & found).values()) >= 0.97 * sum(truth.values())
    assert [word.line for word in words] == sorted(word.line for word in words)
    unique = {text for text in truth if truth[text] == 1 == found[text]}
    for x0, y0, x1, y1, text, *_ in printed:
        if text in unique:
            box = next(word.box for word in words if word.text == text)
            assert box[0] < (float(x0) + float(x1)) / 2 / 420 < box[2], text
            assert box[1] < (float(y0) + float(y1)) / 2 / 300 < box[3], text


def test_columns_are_read_one_after_the_other_and_tables_by_row(ocr: Ocr) -> None:
    with pymupdf.open() as document:
        page = document.new_page(width=500, height=330)
        page.insert_text((40, 40), "A heading that spans the page and both of its columns")
        for row in range(4):
            page.insert_text((40, 70 + row * 16), f"left line {row} of plain prose")
            page.insert_text((280, 70 + row * 16), f"right line {row} of plain prose")
            page.insert_text((40, 200 + row * 20), f"Net sales in region {row}")
            page.insert_text((400, 200 + row * 20), f"{row + 1},315")
        lines = lines_of(ocr.read(picture(page)))
    assert lines == [
        "A heading that spans the page and both of its columns",
        *(f"left line {row} of plain prose" for row in range(4)),
        *(f"right line {row} of plain prose" for row in range(4)),
        *(f"Net sales in region {row} {row + 1},315" for row in range(4)),
    ]


def test_a_run_of_chinese_is_one_word(ocr: Ocr) -> None:
    with pymupdf.open() as document:
        page = document.new_page(width=400, height=100)
        page.insert_text((40, 50), "图表显示收入增长", fontname="china-s", fontsize=16)
        (word,) = ocr.read(picture(page))
    assert word.text == "图表显示收入增长"
    assert word.box[0] < 0.15
    assert word.box[2] > 0.35


def test_a_page_without_text_has_no_words(ocr: Ocr) -> None:
    with pymupdf.open() as document:
        assert ocr.read(picture(document.new_page(width=300, height=200))) == ()


def test_nothing_heavy_is_imported_and_nothing_logged() -> None:
    code = (
        "import sys, io, socket, ingest.ocr\n"
        "assert not {'rapidocr', 'onnxruntime', 'cv2'} & set(sys.modules)\n"
        "def refuse(*_): raise AssertionError('network')\n"
        "socket.socket.connect = refuse\nsocket.getaddrinfo = refuse\n"
        "from PIL import Image\nfile = io.BytesIO()\n"
        "Image.new('RGB', (200, 100), 'white').save(file, 'JPEG')\n"
        "assert ingest.ocr.Ocr().read(file.getvalue()) == ()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_missing_models_are_named(tmp_path: Path) -> None:
    # A copy of the installed package without one of its models, found before the real one.
    spec = importlib.util.find_spec("rapidocr")
    assert spec is not None
    assert spec.origin is not None
    shutil.copytree(
        Path(spec.origin).parent,
        tmp_path / "rapidocr",
        ignore=shutil.ignore_patterns("*rec_small.onnx", "__pycache__"),
    )
    code = (
        "import io, sys\nsys.path.insert(0, sys.argv[1])\nfrom PIL import Image\n"
        "from ingest.ocr import Ocr\nfrom pageglass.errors import ModelError\n"
        "file = io.BytesIO()\nImage.new('RGB', (200, 100)).save(file, 'JPEG')\n"
        "try:\n    Ocr().read(file.getvalue())\nexcept ModelError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        check=True,
    )
    assert done.stdout.count("\n") == 1
    assert "PP-OCRv6_rec_small.onnx is missing" in done.stdout
    assert ModelError.code == "model-unusable"


def test_pieces_make_words() -> None:
    box = (0.0, 0.0, 1.0, 0.1)
    letters = [(letter, (i / 10, 0.0, (i + 1) / 10, 0.1)) for i, letter in enumerate("收入2021")]
    assert line_words("收入 2021", box, letters) == [
        ("收入", (0.0, 0.0, 0.2, 0.1)),
        ("2021", (0.2, 0.0, 0.6, 0.1)),
    ]
    # No pieces, or others than the text: the line is shared out.
    assert line_words("ab cd", box, []) == [
        ("ab", (0.0, 0.0, 0.4, 0.1)),
        ("cd", (pytest.approx(0.6), 0.0, pytest.approx(1.0), 0.1)),
    ]


shares = st.floats(0, 1)
boxes = st.tuples(shares, shares, shares, shares).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)


@given(st.lists(boxes, max_size=40))
def test_every_box_is_read_exactly_once(page: list[tuple[float, float, float, float]]) -> None:
    order = [i for line in reading_order(page) for i in line]
    assert sorted(order) == list(range(len(page)))


@pytest.mark.parametrize("size", [(2, 1667), (1667, 2), (1, 1), (12, 4000), (4000, 12)])
def test_strips_take_no_more_than_pages_do(ocr: Ocr, size: tuple[int, int]) -> None:
    """RapidOCR made 450 million pixels of a page one point wide, and the worker was killed."""
    file = io.BytesIO()
    Image.new("RGB", size, "white").save(file, "JPEG")
    began = time.monotonic()
    assert ocr.read(file.getvalue()) == ()
    assert time.monotonic() - began < 30


def test_a_line_across_a_long_strip_is_read_where_it_stands(ocr: Ocr) -> None:
    strip = Image.new("RGB", (3000, 60), "white")
    font = ImageFont.load_default(size=36)
    ImageDraw.Draw(strip).text((1500, 8), "pressure valve", fill="black", font=font)
    file = io.BytesIO()
    strip.save(file, "JPEG", quality=95)
    words = ocr.read(file.getvalue())
    assert [word.text for word in words] == ["pressure", "valve"]
    x0, y0, x1, y1 = words[0].box
    assert 0.45 < x0 < x1 < 0.65
    assert 0 <= y0 < y1 <= 1
    assert y1 - y0 > 0.3
