"""ingest.pdf, on real PDFs made on the spot and a real child process."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import imagehash
import numpy as np
import pymupdf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pymupdf.mupdf import PDF_ENCRYPT_AES_256

from ingest.pdf import PageFailure, PdfReader, RawPage, clean_text
from pageglass.errors import DocumentError, EncryptedDocument, LimitExceeded, NotADocument
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
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a PDF"),
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
    path = tmp_path / "picture.pdf"
    Image.new("RGB", (50, 50), "red").save(path, "PNG")
    with pytest.raises(NotADocument):
        reader.open(path)


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


def test_the_perceptual_hash_is_that_of_imagehash() -> None:
    from ingest._pdf_child import _perceptual_hash

    rng = np.random.default_rng(0)
    for side in (64, 300):
        noise = rng.integers(0, 256, (side, side + 40, 3), dtype=np.uint8)
        for picture in (Image.fromarray(noise), Image.radial_gradient("L").resize((side, side))):
            assert _perceptual_hash(picture) == str(imagehash.phash(picture, hash_size=16))


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


# Limits and losses


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
    for name in ("__init__.py", "pdf.py"):
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
