"""What kind of file this is, by its content; the name decides only what content leaves open."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import PurePath
from typing import BinaryIO, Literal

Kind = Literal["pdf", "image", "office", "unknown"]

_OPEN_DOCUMENT = {".odt": b"text", ".ods": b"spreadsheet", ".odp": b"presentation"}
_OPEN_XML = {".docx": "word/", ".xlsx": "xl/", ".pptx": "ppt/"}
_OFFICE = {*_OPEN_DOCUMENT, *_OPEN_XML, ".doc", ".xls", ".ppt", ".rtf"}
_IMAGES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp"}

SUFFIXES = frozenset({".pdf", *_IMAGES, *_OFFICE})
"""The suffixes, in lower case, of the files that a watched folder takes."""

_HEAD = 1024  # a PDF's header may come this late: PDF Reference 1.7, appendix H, note 13
_DIRECTORY = 2**20  # an office file's zip lists a few hundred names; a hostile one, millions
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"\xff\xd8\xff", ".jpg"),
    (b"II*\0", ".tiff"),
    (b"MM\0*", ".tiff"),
    (b"II+\0", ".tiff"),  # BigTIFF
    (b"MM\0+", ".tiff"),
    (b"{\\rtf", ".rtf"),
)
_ZIP = (b"PK\3\4", b"PK\5\6")  # with entries, and without
OLE2 = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
"""How a compound file begins: Office before 2007, and later files with a password."""


@dataclass(frozen=True, slots=True)
class Format:
    """A file's kind, and the suffix its content goes by; ``.bin`` where that is unknown."""

    suffix: str
    kind: Kind


def kind_of(suffix: str) -> Kind:
    """The kind of the files that have this suffix (lower case, with its dot)."""
    if suffix == ".pdf":
        return "pdf"
    if suffix in _IMAGES:
        return "image"
    return "office" if suffix in _OFFICE else "unknown"


def sniff(file: BinaryIO, name: str) -> Format:
    """The format of ``file``, which is left at its beginning; ``name`` is what it is called.

    Nothing is decompressed, and little more than a megabyte read, whatever the file claims.
    """
    named = PurePath(name).suffix.lower()
    file.seek(0)
    try:
        suffix = _suffix(file, named)
    finally:
        file.seek(0)
    return Format(suffix, kind_of(suffix))


def _suffix(file: BinaryIO, named: str) -> str:
    head = file.read(_HEAD)
    for magic, suffix in _MAGIC:
        if head.startswith(magic):
            return suffix
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return ".webp"
    if head.startswith(_ZIP):
        return _zip_suffix(file, head, named)
    if head.startswith(OLE2):
        return named if named in _OFFICE else ".bin"
    if b"%PDF" in head or named == ".pdf":
        return ".pdf"
    return ".bin"


def _zip_suffix(file: BinaryIO, head: bytes, named: str) -> str:
    # OpenDocument puts its media type, uncompressed, at the very beginning for readers like this.
    if head[30:38] == b"mimetype":
        content = head[38 + int.from_bytes(head[28:30], "little") :]
        for suffix, kind in _OPEN_DOCUMENT.items():
            if content.startswith(b"application/vnd.oasis.opendocument." + kind):
                return suffix
    try:
        with open_zip(file) as archive:
            names = {name.replace("\\", "/") for name in archive.namelist()}
    except (zipfile.BadZipFile, ValueError, NotImplementedError):  # damaged, or no office file
        return named if named in _OFFICE else ".bin"
    if "[Content_Types].xml" in names:
        for suffix, folder in _OPEN_XML.items():
            if any(name.startswith(folder) for name in names):
                return suffix
    # Packed anew by a general tool: which one it was is in there, but compressed.
    if {"META-INF/manifest.xml", "content.xml"} <= names and named in _OPEN_DOCUMENT:
        return named
    return ".bin"


class _Frugal(io.RawIOBase):
    """A zip file whose list of entries is not read where it is longer than any honest one."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1, /) -> bytes:
        if size > _DIRECTORY:
            raise zipfile.BadZipFile("its list of entries is too long")
        return self._file.read(size)


def open_zip(file: BinaryIO) -> zipfile.ZipFile:
    """``file`` as a zip archive whose list of entries is of a reasonable length.

    Raises zipfile.BadZipFile, or ValueError or NotImplementedError for a crafted one. Closing the
    archive leaves ``file`` open.
    """
    return zipfile.ZipFile(_Frugal(file))
