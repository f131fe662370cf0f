"""ingest.formats, on files made on the spot."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ingest.formats import OLE2, SUFFIXES, Format, kind_of, sniff
from tests.tiny import pdf


def archive(*entries: tuple[str, str], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as zipped:
        for name, content in entries:
            zipped.writestr(name, content)
    return file.getvalue()


def picture(format: str, **options: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(file, format, **options)
    return file.getvalue()


def open_document(kind: str) -> bytes:
    return archive(
        ("mimetype", f"application/vnd.oasis.opendocument.{kind}"),
        ("content.xml", "<x/>"),
        ("META-INF/manifest.xml", "<x/>"),
        compression=zipfile.ZIP_STORED,
    )


def open_xml(part: str) -> bytes:
    return archive((part, "<x/>"), ("[Content_Types].xml", "<x/>"), ("_rels/.rels", "<x/>"))


CONTENT = {
    ".pdf": b"%PDF-1.7\n%",
    ".png": picture("PNG"),
    ".jpg": picture("JPEG"),
    ".tiff": picture("TIFF"),
    ".webp": picture("WEBP"),
    ".docx": open_xml("word/document.xml"),
    ".xlsx": open_xml("xl/workbook.xml"),
    ".pptx": open_xml("ppt/presentation.xml"),
    ".odt": open_document("text"),
    ".ods": open_document("spreadsheet"),
    ".odp": open_document("presentation"),
    ".rtf": rb"{\rtf1\ansi hello}",
}


@pytest.mark.parametrize("suffix", CONTENT)
@pytest.mark.parametrize("name", ["right", "file.bin", "wrong.pdf", "wrong.doc", "WRONG.PNG"])
def test_content_decides_whatever_the_name(suffix: str, name: str) -> None:
    name = f"file{suffix}" if name == "right" else name
    assert sniff(io.BytesIO(CONTENT[suffix]), name) == Format(suffix, kind_of(suffix))


@pytest.mark.parametrize(
    ("data", "suffix"),
    [
        (picture("TIFF", compression="tiff_lzw"), ".tiff"),
        (b"MM\0*" + bytes(20), ".tiff"),
        (b"II+\0" + bytes(20), ".tiff"),
        (b"GIF89a" + bytes(20), ".bin"),
        (b"RIFF\0\0\0\0WAVEfmt ", ".bin"),
        (archive(("notes.txt", "hello")), ".bin"),
        (archive(("[Content_Types].xml", "<x/>"), ("word\\document.xml", "<x/>")), ".docx"),
        (open_document("graphics"), ".bin"),
        (b"plain words", ".bin"),
        (b"", ".bin"),
    ],
)
def test_content_is_told_apart(data: bytes, suffix: str) -> None:
    assert sniff(io.BytesIO(data), "file") == Format(suffix, kind_of(suffix))


def test_a_real_pdf_is_one_also_when_its_header_comes_late(tmp_path: Path) -> None:
    data = pdf(tmp_path / "a.pdf", ["words"]).read_bytes()
    assert sniff(io.BytesIO(data), "upload").kind == "pdf"
    assert sniff(io.BytesIO(b"\n" * 1000 + data), "upload").kind == "pdf"
    assert sniff(io.BytesIO(b"\n" * 1100 + data), "upload").kind == "unknown"


def test_a_zip_with_a_pdf_in_it_is_no_pdf() -> None:
    data = archive(("paper.pdf", "%PDF-1.7"), compression=zipfile.ZIP_STORED)
    assert b"%PDF" in data[:1024]
    assert sniff(io.BytesIO(data), "papers.zip") == Format(".bin", "unknown")


def test_what_is_called_pdf_stays_one_where_content_says_nothing() -> None:
    assert sniff(io.BytesIO(b"plain words"), "letter.PDF") == Format(".pdf", "pdf")
    assert sniff(io.BytesIO(b""), "letter.pdf") == Format(".pdf", "pdf")
    assert sniff(io.BytesIO(b"plain words"), "letter.png") == Format(".bin", "unknown")


def test_names_tell_compound_files_apart() -> None:
    for suffix in (".doc", ".xls", ".ppt", ".docx"):  # the last: a later file with a password
        assert sniff(io.BytesIO(OLE2 + bytes(512)), f"file{suffix}") == Format(suffix, "office")
    assert sniff(io.BytesIO(OLE2 + bytes(512)), "setup.msi") == Format(".bin", "unknown")


def test_a_damaged_zip_is_what_its_name_says() -> None:
    for data in (CONTENT[".docx"][:-40], b"PK\3\4" + bytes(100)):
        assert sniff(io.BytesIO(data), "file.docx") == Format(".docx", "office")
        assert sniff(io.BytesIO(data), "file.zip") == Format(".bin", "unknown")


def test_an_open_document_packed_by_another_tool_goes_by_its_name() -> None:
    data = archive(("content.xml", "<x/>"), ("META-INF/manifest.xml", "<x/>"))
    assert sniff(io.BytesIO(data), "file.ods") == Format(".ods", "office")
    assert sniff(io.BytesIO(data), "file.zip") == Format(".bin", "unknown")


class Counted(io.BytesIO):
    """A file that counts what is read of it."""

    taken = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.taken += len(data)
        return data


def test_a_zip_that_lists_millions_of_files_is_not_read() -> None:
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", *[0] * 16)
    directory = entry * 200_000
    ending = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, len(directory), 4, 0)
    file = Counted(b"PK\3\4" + directory + ending)
    assert sniff(file, "bomb.zip") == Format(".bin", "unknown")
    assert file.taken < 100_000 < len(directory)


@given(
    base=st.sampled_from(sorted(CONTENT)),
    changes=st.lists(
        st.tuples(st.integers(0, 3000), st.binary(min_size=1, max_size=8)), max_size=8
    ),
    cut=st.integers(0, 300),
    name=st.sampled_from(["a.pdf", "a.docx", "a.ods", "a"]),
)
def test_damage_never_raises_and_leaves_the_file_at_its_beginning(
    base: str, changes: list[tuple[int, bytes]], cut: int, name: str
) -> None:
    data = bytearray(CONTENT[base])
    for position, new in changes:
        start = position % len(data)
        data[start : start + len(new)] = new
    file = io.BytesIO(bytes(data[: max(0, len(data) - cut)]))
    file.seek(min(5, len(data)))
    found = sniff(file, name)
    assert found.kind == kind_of(found.suffix)
    assert file.tell() == 0


def test_a_watched_folder_takes_what_can_be_sniffed() -> None:
    assert set(CONTENT) < SUFFIXES
    assert {".jpeg", ".tif", ".doc", ".xls", ".ppt"} < SUFFIXES
    assert {kind_of(suffix) for suffix in SUFFIXES} == {"pdf", "image", "office"}
