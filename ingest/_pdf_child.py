"""The program that opens files: started by ``ingest.pdf`` in its own process, under limits.

It reads requests from its standard input, a socket, and writes replies to its standard output, each
a frame: the lengths of a JSON header and of raw bytes, then both. The first frame is the settings;
then come

    {"id": 1, "op": "open", "format": "PDF"} + the file's descriptor
                                         ->  {"id": 1, "kind": "opened", "pages": 9, ...}
    {"id": 2, "op": "page", "index": 0}  ->  {"id": 2, "kind": "page", ...} + JPEG bytes

and either may be answered by ``{"kind": "refused", "problem": ..., "detail": ...}``. It opens one
document at a time, and sees nothing else: files come as open descriptors, and before the first of
them it gives up, where the system lets it, all of the file system but its own libraries, the
network and other processes (``_confinement.py``). Scripts, attachments and links inside a PDF are
never touched. Nothing here is trusted by the parent, which checks every reply.

``format`` is PDF or one of Pillow's: PNG, JPEG, TIFF, WEBP. An image is a document whose pages are
pictures: every frame of a TIFF, the first one of all else.

This file is run, never imported, by the application: PyMuPDF stays out of the parent.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import mmap
import os
import re
import runpy
import signal
import socket
import struct
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any, BinaryIO, cast

import imagehash
import numpy as np
import pymupdf
from PIL import ExifTags, Image, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError
from pymupdf.mupdf import FzErrorBase

try:
    import resource
except ImportError:  # Windows has no limits for a process; the parent's clock is all there is.
    resource = None

Json = dict[str, Any]
_FoundWord = tuple[float, float, float, float, str, int, int, int]  # see Page.get_text("words")

_FRAME = struct.Struct(">II")
# Ligatures are expanded and text outside the page is dropped; words are never dehyphenated,
# because quotes are compared with the page letter by letter.
_TEXT_FLAGS = pymupdf.TEXT_PRESERVE_WHITESPACE | pymupdf.TEXT_MEDIABOX_CLIP
# What str.split() splits at, beyond the blank and the no-break space that MuPDF knows.
_DELIMITERS = "".join(
    chr(code) for code in range(0x3001) if chr(code).isspace() and chr(code) not in " \xa0"
)
_JPEG_SIDE = 65_000  # JPEG ends at 65,535 pixels a side
_UNSTATED_DPI = 150.0
_SENSIBLE_DPI = 50, 1200  # beyond it is a slide's scan or a slip: pages would be stamps or sheets
_ORIENTATION = ExifTags.Base.Orientation
_ON_ITS_SIDE = (5, 6, 7, 8)  # of its values: EXIF 2.3, 4.6.4
_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}  # a pixel decoded; others 4
_WEBP_BYTES = 16  # two canvases of 4, and as much again for what decodes into them
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_HEAD = 1024  # the header may come a little late: PDF Reference 1.7, appendix H, note 13


class Refusal(Exception):
    """The document or page cannot be had; ``problem`` is one of the parent's known words."""

    def __init__(self, problem: str, detail: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.detail = detail


def read_frame(stream: socket.socket) -> tuple[bytes, list[int]] | None:
    """One frame's JSON header and the descriptors that came with it; None at the end. Nobody sends
    bytes this way."""
    descriptors: list[int] = []
    prefix = _receive(stream, _FRAME.size, descriptors)
    if len(prefix) < _FRAME.size:
        return None
    header, _ = _FRAME.unpack(prefix)
    return _receive(stream, header, descriptors), descriptors


def _receive(stream: socket.socket, size: int, descriptors: list[int]) -> bytes:
    """``size`` bytes, fewer at the end of the stream."""
    data = b""
    while len(data) < size:
        part, received, _, _ = socket.recv_fds(stream, size - len(data), 1)
        descriptors += received
        if not part:
            break
        data += part
    return data


def write_frame(stream: BinaryIO, header: Json, blob: bytes = b"") -> None:
    """Write a frame, with the bytes of ``blob``."""
    head = json.dumps(header, ensure_ascii=False, allow_nan=False).encode()
    stream.write(_FRAME.pack(len(head), len(blob)))
    stream.write(head)
    stream.write(blob)
    stream.flush()


class Reader:
    """One open document at a time, and its pages."""

    def __init__(self, settings: Json) -> None:
        self._settings = settings
        self._document: _Pdf | _Picture | None = None

    def open(self, descriptor: int, format: str) -> Json:
        """Open the file behind ``descriptor``, which is closed, in place of the one open now."""
        if self._document is not None:
            self._document.close()
            self._document = None
        kind = _Pdf if format == "PDF" else _Picture
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(os.fdopen(descriptor, "rb"))
            document = kind(file, format, self._settings)
            if document.pages > self._settings["pages"]:
                raise Refusal("too-many-pages")
            self._document = document
            stack.pop_all()
        return {"kind": "opened", "pages": document.pages, "title": document.title}

    def page(self, index: int) -> tuple[Json, bytes]:
        """Page ``index`` of the open document: the reply's header and the JPEG."""
        if self._document is None:
            raise Refusal("damaged", "no document is open")
        if not 0 <= index < self._document.pages:
            raise Refusal("damaged", "the document has no such page")
        header, jpeg = self._document.page(index)
        return header | {"kind": "page", "index": index}, jpeg


class _Pdf:
    """An open PDF."""

    def __init__(self, file: BinaryIO, format: str, settings: Json) -> None:
        del format
        self._settings = settings
        self._file = file
        # MuPDF reads what it needs, and files may be large.
        try:
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except OSError:
            raise Refusal("memory") from None
        try:
            document = pymupdf.open(stream=content, filetype="pdf")
        except RuntimeError as error:  # pymupdf's file errors are RuntimeErrors
            raise self._open_refusal(error, bytes(content[:_HEAD])) from None
        if not document.is_pdf:  # MuPDF also looks at content: an e-book named .pdf opens
            raise Refusal("not-pdf")
        if document.needs_pass:
            raise Refusal("encrypted")
        self._document = document
        self.pages: int = document.page_count
        if self.pages < 1:
            raise Refusal("no-pages")
        self.title = _plain(str((document.metadata or {}).get("title") or ""), 1000)
        self._labels = _label_rules(document)

    def close(self) -> None:
        self._document.close()
        self._file.close()
        pymupdf.TOOLS.store_shrink(100)  # nothing of it stays for the next one

    def _open_refusal(self, error: Exception, head: bytes) -> Refusal:
        detail = _detail(error.__cause__ or error)
        if _is_memory(detail):
            return Refusal("memory")
        if "encrypt" in detail or "password" in detail:
            return Refusal("encrypted", detail)
        return Refusal("damaged" if b"%PDF" in head else "not-pdf", detail)

    def page(self, index: int) -> tuple[Json, bytes]:
        pymupdf.TOOLS.reset_mupdf_warnings()
        page = self._document.load_page(index)
        # One interpretation of the page serves picture and text, in the same coordinates: those
        # of the page as shown, with rotation and crop box applied.
        drawing = page.get_displaylist()
        area = drawing.rect
        words = self._words(drawing, area)
        header, jpeg = self._picture(drawing, area)
        # MuPDF draws on without an image it had no memory for. The page would look read, so it is
        # refused instead.
        if _is_memory(pymupdf.TOOLS.mupdf_warnings()):
            raise Refusal("memory")
        header |= {
            "label": _label(self._labels, index),
            "width": area.width,
            "height": area.height,
            "words": words,
        }
        return header, jpeg

    def _words(
        self, drawing: pymupdf.DisplayList, area: pymupdf.Rect
    ) -> list[tuple[str, int, float, float, float, float]]:
        """(text, line, x0, y0, x1, y1) in reading order, boxes as shares of the page."""
        # extractWORDS is a method of TextPage, which a display list does not give of itself.
        text_page = pymupdf.TextPage(drawing.get_textpage(_TEXT_FLAGS))
        found = cast(list[_FoundWord], text_page.extractWORDS(_DELIMITERS))
        characters_left = self._settings["characters"]
        words: list[tuple[str, int, float, float, float, float]] = []
        line, last = -1, None
        for x0, y0, x1, y1, text, block, line_of_block, _ in found[: self._settings["words"]]:
            left, right = _share(x0, area.x0, area.width), _share(x1, area.x0, area.width)
            top, bottom = _share(y0, area.y0, area.height), _share(y1, area.y0, area.height)
            if left >= right or top >= bottom:  # outside the page, or without any extent
                continue
            text = _plain(text, self._settings["word_characters"])
            characters_left -= len(text)
            if characters_left < 0:
                break
            if (block, line_of_block) != last:
                line, last = line + 1, (block, line_of_block)
            words.append((text, line, left, top, right, bottom))
        return words

    def _picture(self, drawing: pymupdf.DisplayList, area: pymupdf.Rect) -> tuple[Json, bytes]:
        dpi = _resolution(area.width / 72, area.height / 72, self._settings)
        pixmap = drawing.get_pixmap(pymupdf.Matrix(dpi / 72, dpi / 72), pymupdf.csRGB, alpha=0)
        # Pillow from here on: MuPDF's own JPEG writer and colour count take 15 times as long.
        image = Image.frombuffer(
            "RGB",
            (pixmap.width, pixmap.height),
            pixmap.samples_mv,
            "raw",
            "RGB",
            pixmap.stride,
            1,
        )
        return _page_image(image, pixmap.samples_mv, dpi, self._settings)


class _Picture:
    """An open image file; its frames are the pages."""

    title = ""

    def __init__(self, file: BinaryIO, format: str, settings: Json) -> None:
        self._file = file
        self._format = format
        self._settings = settings
        self._memory = settings["memory_mb"] * 2**20
        self._image = self._open()
        self.pages = self._count() if format == "TIFF" else 1
        self._only: tuple[Json, bytes] | None = None
        if self.pages == 1:  # what cannot be shown at all is no document
            self._only = self.page(0)
            self._image.close()

    def close(self) -> None:
        self._image.close()
        self._file.close()

    def _open(self) -> ImageFile.ImageFile:
        # WebP's decoder takes its memory on opening. Pillow looks before, and allows twice this.
        webp = self._memory // _WEBP_BYTES // 2
        Image.MAX_IMAGE_PIXELS = webp if self._format == "WEBP" else None
        try:
            # A file of its own: Pillow closes what it has read to the end.
            file = os.fdopen(os.dup(self._file.fileno()), "rb")
            file.seek(0)
            return Image.open(file, formats=[self._format])
        except Image.DecompressionBombError:
            raise Refusal("too-many-pixels", f"more than {webp * 2}") from None
        except MemoryError:
            raise
        except Exception as error:  # whatever a crafted header makes Pillow raise
            raise _image_refusal(error) from None

    def _count(self) -> int:
        """The frames of a TIFF, damaged ones included; one more than allowed is enough."""
        count = 1
        while count <= self._settings["pages"]:
            try:
                self._image.seek(count)
            except EOFError:
                break
            except MemoryError:
                raise
            except Exception:  # whatever a crafted frame makes Pillow raise
                if self._image.tell() != count:  # and there is no way past it
                    return count + 1
            count += 1
        return count

    def _load(self, index: int) -> tuple[Image.Image, float, float]:
        """Frame ``index`` the right way up, and its dots per inch across and down."""
        try:
            if index <= self._image.tell():  # Pillow decodes a frame once, then only later ones
                self._image.close()
                self._image = self._open()
            if index:
                self._image.info.clear()  # what the frame before said of itself
                self._image.seek(index)
            image = self._image
            if image.width * image.height * _BYTES.get(image.mode, 4) > self._memory:
                raise Refusal("too-many-pixels", f"{image.width} x {image.height}")
            # Of a TIFF, loading turns it and forgets that it did.
            is_tiff = isinstance(image, TiffImagePlugin.TiffImageFile)
            orientation = image.tag_v2.get(_ORIENTATION) if is_tiff else None
            image.load()
            orientation = orientation or image.getexif().get(_ORIENTATION)
            ImageOps.exif_transpose(image, in_place=True)
        except (Refusal, MemoryError):
            raise
        except Exception as error:  # whatever a crafted image makes Pillow raise
            raise _image_refusal(error) from None
        across, down = _stated_resolution(image)
        if orientation in _ON_ITS_SIDE:
            across, down = down, across
        return image, across, down

    def page(self, index: int) -> tuple[Json, bytes]:
        """Frame ``index``: the reply's header and the JPEG."""
        if self._only is not None:
            return self._only
        image, across, down = self._load(index)
        inches = image.width / across, image.height / down
        # The finer of the two, where they differ as in a fax; more would be invented.
        dpi = min(max(across, down), _resolution(*inches, self._settings))
        size = max(1, round(inches[0] * dpi)), max(1, round(inches[1] * dpi))
        image = _on_white(image)
        if image.size != size:
            image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
        image = image.convert("RGB")
        header, jpeg = _page_image(image, image.tobytes(), dpi, self._settings)
        header |= {
            "label": str(index + 1),
            "width": inches[0] * 72,
            "height": inches[1] * 72,
            "words": [],
        }
        return header, jpeg


def _stated_resolution(image: Image.Image) -> tuple[float, float]:
    """Dots per inch across and down as the file says, or 150 where it says nothing sensible."""
    try:
        across, down = (float(dots) for dots in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return _UNSTATED_DPI, _UNSTATED_DPI
    if all(_SENSIBLE_DPI[0] <= dots <= _SENSIBLE_DPI[1] for dots in (across, down)):
        return across, down
    return _UNSTATED_DPI, _UNSTATED_DPI


def _on_white(image: Image.Image) -> Image.Image:
    """The image in grey or RGB, 8 bits each, what is transparent on white."""
    if image.mode.startswith("I;16"):  # Pillow would take all above 255 for white
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):  # of no set range
        values = np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0, neginf=0)
        low, high = values.min(), values.max()
        shown = (values - low) * (255 / (high - low)) if high > low else values * 0 + 255
        image = Image.fromarray(shown.astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _image_refusal(error: Exception) -> Refusal:
    # Pillow names the path of what it does not know.
    detail = "" if isinstance(error, UnidentifiedImageError) else _detail(error)
    return Refusal("memory") if "memory" in detail else Refusal("bad-image", detail)


def _resolution(width: float, height: float, settings: Json) -> float:
    """The dots per inch at which a page of so many inches is drawn: fewer for a large one."""
    return min(
        settings["dpi"],
        math.sqrt(settings["pixels"] / (width * height)),
        _JPEG_SIDE / max(width, height),
    )


def _page_image(
    image: Image.Image, pixels: bytes | memoryview, dpi: float, settings: Json
) -> tuple[Json, bytes]:
    """What the reply says of a page's picture, and its JPEG; ``pixels`` are those of ``image``."""
    digest = hashlib.sha256(f"{image.width}x{image.height}:".encode())
    digest.update(pixels)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=settings["jpeg_quality"], dpi=(round(dpi), round(dpi)))
    # Averaged down while well above the 64 x 64 pixels that the hash looks at, for otherwise
    # most of the cost of the hash is in scaling the full image.
    small = image.reduce(max(1, min(image.size) // 256))
    header = {
        "pixel_width": image.width,
        "pixel_height": image.height,
        "render_hash": digest.hexdigest(),
        "perceptual_hash": _perceptual_hash(small),
        "blank": image.getcolors(1) is not None,
    }
    return header, file.getvalue()


def _perceptual_hash(image: Image.Image) -> str:
    """256 bits as hex: which of the 16 x 16 lowest frequencies lie above their median."""
    return str(imagehash.phash(image, hash_size=16))


def _share(value: float, start: float, extent: float) -> float:
    """``value`` as a share of the page, 0..1; five digits are below a hundredth of a point."""
    share = (value - start) / extent
    return round(min(1.0, max(0.0, share)), 5) if math.isfinite(share) else 0.0


def _plain(text: str, most: int) -> str:
    """``text`` cut to ``most`` characters and without lone surrogates: fit for UTF-8."""
    if text.isascii():
        return text[:most]
    # A pair of surrogates becomes its character on the way, a lone one U+FFFD.
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")[:most]


def _detail(error: BaseException) -> str:
    return _plain(" ".join(str(error).split()), 120)


def _is_memory(message: str) -> bool:
    """Whether MuPDF says that an allocation failed (source/fitz/memory.c)."""
    return "malloc" in message or "calloc" in message or "realloc" in message


def _label_rules(document: pymupdf.Document) -> list[tuple[int, str]]:
    """(first page, PDF dictionary) of each range of page labels, by first page."""
    try:
        # pymupdf's public readers of labels lose prefixes with "/" and break on odd rules.
        return sorted(cast(list[tuple[int, str]], document._get_page_labels()))
    except Exception:
        return []  # labels that cannot be read are as good as none


def _label(rules: list[tuple[int, str]], index: int) -> str:
    """The printed label of page ``index``, or its 1-based number where the PDF has none."""
    rule = next((rule for rule in reversed(rules) if rule[0] <= index), None)
    if rule is None:
        return str(index + 1)
    first, text = rule
    style = re.search(r"/S\s*/([DRrAa])", text)
    start = re.search(r"/St\s+(\d{1,9})\b", text)
    number = index - first + (int(start[1]) if start else 1)
    label = _label_prefix(text) + (_numeral(style[1], number) if style else "")
    return label[:64].strip() or str(index + 1)


def _label_prefix(rule: str) -> str:
    """The string under /P of a label rule, as MuPDF prints it: (literal) or <hex>."""
    if found := re.search(r"/P\s*<([0-9A-Fa-f]*)>", rule):
        data = bytes.fromhex(found[1] if len(found[1]) % 2 == 0 else found[1] + "0")
    elif found := re.search(r"/P\s*\(((?:[^\\()]|\\.|\([^()]*\))*)\)", rule, re.DOTALL):
        plain = re.sub(r"\\([0-7]{1,3})", lambda octal: chr(int(octal[1], 8) & 255), found[1])
        data = re.sub(r"\\(.)", r"\1", plain).encode("latin-1", "replace")
    else:
        return ""
    if data.startswith(b"\xfe\xff"):
        return data[2:].decode("utf-16-be", "replace")
    return data.decode("latin-1")


def _numeral(style: str, number: int) -> str:
    """``number`` in the style of a page label (PDF 32000-1, table 159); "" for absurd ones."""
    if style == "D":
        return str(number)
    if not 0 < number < 5000:  # roman and letter labels grow with the number itself
        return ""
    if style in "Aa":
        letters = chr(ord("A") + (number - 1) % 26) * ((number - 1) // 26 + 1)
        return letters if style == "A" else letters.lower()
    roman = ""
    for value, digits in zip(
        (1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1),
        ("M", "CM", "D", "CD", "C", "XC", "L", "XL", "X", "IX", "V", "IV", "I"),
        strict=True,
    ):
        roman += digits * (number // value)
        number %= value
    return roman if style == "R" else roman.lower()


def _die_with(parent: int) -> None:
    """Have Linux kill this process when the parent dies, even in the middle of a page."""
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)


def _address_space() -> int:
    """Bytes of address space in use now, mostly by libraries; 0 where /proc does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _limit(memory: int) -> None:
    """Hard limits for what follows: ``memory`` bytes of address space, no core dump, no file
    written."""
    if resource is None:
        return
    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        # macOS knows RLIMIT_AS and refuses to set it.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(what, (most, most))


def _allow_memory(memory: int) -> None:
    """Let this process have ``memory`` bytes of address space, within the hard limit."""
    if resource is not None:
        with contextlib.suppress(ValueError, OSError):
            _, most = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (min(memory, most), most))


def _confine() -> None:
    """Give up the file system but for libraries that are loaded late, the network, and other
    processes. Where the system does not let it, this goes on: what the libraries in use here read
    is the file they are given."""
    confinement = runpy.run_path(str(Path(__file__).with_name("_confinement.py")))
    own = (sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    confinement["confine"](read=[*own, "/usr/lib", "/usr/lib64", "/lib", "/lib64"])


def _allow_seconds(seconds: float) -> None:
    """Let this process use ``seconds`` more of CPU time; SIGXCPU ends it after that.

    Rounded up to the whole seconds that the kernel counts in.
    """
    if resource is not None:
        limit = math.ceil(time.process_time() + seconds) + 1
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))


def main() -> None:
    """Answer requests until the parent closes the pipe."""
    requests = socket.socket(fileno=0)
    # Replies go to a copy of standard output; the original is closed, so that nothing printed by
    # a library can end up between the frames.
    replies = os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123  (no Path needed for the null device)
        os.dup2(nowhere.fileno(), 1)
    first = read_frame(requests)
    if first is None:
        return
    settings = cast(Json, json.loads(first[0]))
    _die_with(settings["parent"])
    pymupdf.TOOLS.mupdf_display_errors(False)
    pymupdf.TOOLS.mupdf_display_warnings(False)
    # The hash and Pillow once on nothing: their libraries belong before the limits.
    _perceptual_hash(Image.new("L", (64, 64)))
    Image.init()
    memory = _address_space() + settings["memory_mb"] * 2**20  # /proc is there no more after this
    _confine()
    _limit(memory + settings["file_mb"] * 2**20)
    _allow_memory(memory)
    reader = Reader(settings)
    write_frame(replies, {"id": 0, "kind": "ready"})
    while (frame := read_frame(requests)) is not None:
        request = cast(Json, json.loads(frame[0]))
        _allow_seconds(settings["page_seconds"])
        blob = b""
        try:
            if request["op"] == "open":
                (descriptor,) = frame[1]
                _allow_memory(memory + os.fstat(descriptor).st_size)  # the file is mapped
                header = reader.open(descriptor, request["format"])
            else:
                header, blob = reader.page(request["index"])
        except Refusal as refusal:
            header = {"kind": "refused", "problem": refusal.problem, "detail": refusal.detail}
        except MemoryError:
            header = {"kind": "refused", "problem": "memory", "detail": ""}
        except (FzErrorBase, RuntimeError) as error:  # MuPDF's, and PyMuPDF's own
            detail = _detail(error)
            problem = "memory" if _is_memory(detail) else "damaged"
            header = {"kind": "refused", "problem": problem, "detail": detail}
        except Exception as error:  # ours or PyMuPDF's mistake, and to be reported as one
            detail = f"{type(error).__name__}: {_detail(error)}"
            header = {"kind": "refused", "problem": "defect", "detail": detail}
        write_frame(replies, header | {"id": request["id"]}, blob)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
