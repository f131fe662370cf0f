"""PDFs and images into pages: words with boxes and an image of each, read in a child process.

Files come from anywhere and are parsed by large C libraries, so they are opened only in a child
(``_pdf_child.py``) that has limits for memory, CPU time and output, and whose every reply is
checked here. What goes wrong in there ends as a ``DocumentError`` or as one ``PageFailure``,
never as a crash or a hang of this process.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import queue
import re
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Annotated, Literal, NamedTuple, Self

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ingest.formats import sniff
from pageglass.errors import (
    DocumentError,
    EncryptedDocument,
    FormatUnsupported,
    LimitExceeded,
    NotADocument,
    PageglassError,
)
from pageglass.settings import IngestSettings
from pageglass.types import Word

_CHILD = Path(__file__).with_name("_pdf_child.py")
_FRAME = struct.Struct(">II")  # as in the child: length of the JSON header, length of the bytes
_START_SECONDS = 60.0
_WORD_CHARACTERS = 1000  # a longer "word" is cut
_CHARACTERS_PER_WORD = 16  # a page keeps this many characters for each word it may have
# Pillow's names of the images that the child opens, by the suffix that their content goes by.
_IMAGES = {".png": "PNG", ".jpg": "JPEG", ".tiff": "TIFF", ".webp": "WEBP"}
_LOST_IN_A_ROW = 5
_LOST_AT_MOST = 100
_ENVIRONMENT = re.compile(
    r"PATH|PYTHONPATH|PYTHONHOME|VIRTUAL_ENV|(DY)?LD_LIBRARY_PATH|HOME|LANG|LC_\w+|TMPDIR|TEMP|TMP"
    r"|SYSTEMROOT|WINDIR",
    re.IGNORECASE,
)
# Control characters, and those that show nothing or reorder what is shown around them.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff]")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class PdfInfo:
    """What a file says of itself; ``title`` is its metadata's, None where there is none."""

    pages: int
    title: str | None


@dataclass(frozen=True, slots=True)
class RawPage:
    """A page as the PDF gives it, or a frame of an image.

    ``index`` is its 0-based position, ``label`` the printed page label or the 1-based position.
    ``width`` and ``height`` are points, as the page is shown: rotated and cropped. ``words`` are
    in reading order, boxes as shares of the page as shown; letters are as printed (ligatures
    expanded, NFC, nothing dehyphenated); a frame has none. ``image`` is a JPEG, RGB on white, at
    the settings' dpi or as near as the pixel limit, or a frame's own pixels, let it.
    ``render_hash`` is the SHA-256 of its pixels and size,
    ``perceptual_hash`` 256 bits, both hex. ``blank`` says that all pixels have one colour.
    """

    index: int
    label: str
    width: float
    height: float
    words: tuple[Word, ...]
    image: bytes
    render_hash: str
    perceptual_hash: str
    blank: bool


@dataclass(frozen=True, slots=True)
class PageFailure:
    """A page that could not be read, and why in plain words; its document goes on."""

    index: int
    reason: str


class _Reply(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
    id: int


class _Ready(_Reply):
    kind: Literal["ready"]


class _Opened(_Reply):
    kind: Literal["opened"]
    pages: int = Field(ge=1)
    title: str = Field(max_length=1000)


_Share = Annotated[float, Field(ge=0, le=1)]


class _WordReply(NamedTuple):
    text: str
    line: Annotated[int, Field(ge=0)]
    x0: _Share
    y0: _Share
    x1: _Share
    y1: _Share


_Points = Annotated[float, Field(gt=0)]
_Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _PageReply(_Reply):
    kind: Literal["page"]
    index: int
    label: str = Field(max_length=64)
    width: _Points
    height: _Points
    words: list[_WordReply]
    pixel_width: int = Field(ge=1)
    pixel_height: int = Field(ge=1)
    render_hash: _Hash
    perceptual_hash: _Hash
    blank: bool


class _Refused(_Reply):
    kind: Literal["refused"]
    problem: Literal[
        "not-pdf",
        "damaged",
        "encrypted",
        "no-pages",
        "too-many-pages",
        "bad-image",
        "too-many-pixels",
        "memory",
        "defect",
    ]
    detail: str = Field(max_length=200)


_AnyReply = _Ready | _Opened | _PageReply | _Refused
_REPLY: TypeAdapter[_AnyReply] = TypeAdapter(Annotated[_AnyReply, Field(discriminator="kind")])


class _ChildLost(Exception):
    """The child is gone or was ended; ``again`` says that a fresh one may do better."""

    def __init__(self, reason: str, *, again: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.again = again


@dataclass(frozen=True, slots=True)
class _Frame:
    header: bytes
    blob: bytes
    arrived: float


@dataclass(frozen=True, slots=True)
class _Asked:
    id: int
    index: int | None  # None: the request to open
    at: float


_FileKey = tuple[str, int, int, int]


class _Child:
    """One running child process, and what was asked of it but not yet read.

    A thread starts the process and reads its replies: Linux ends a child of ours when the
    *thread* that started it ends, and this one lives as long as the child does.
    """

    def __init__(self, settings: IngestSettings) -> None:
        self._settings = settings
        limits = settings.limits
        self._most_header = 65_536 + limits.words * (_CHARACTERS_PER_WORD * 6 + 100)
        self._most_blob = 3 * limits.pixels + 65_536
        self._frames: queue.Queue[_Frame | None] = queue.Queue(maxsize=3)
        self._started: queue.Queue[tuple[subprocess.Popen[bytes], socket.socket] | OSError]
        self._started = queue.Queue()
        self._asked: deque[_Asked] = deque()
        self._last_id = 0
        self._last_arrival = 0.0
        self._timed_out = False
        self._oversized = False
        self.opened: tuple[_FileKey, PdfInfo] | None = None
        self._thread = threading.Thread(target=self._run, name="pdf-child", daemon=True)
        self._thread.start()
        process = self._started.get()
        if isinstance(process, OSError):
            raise PageglassError(f"the process that opens files does not start: {process}")
        self._process, self._requests = process
        self._greet()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _run(self) -> None:
        # A socket, since a pipe carries no descriptors.
        requests, its_end = socket.socketpair()
        try:
            process = subprocess.Popen(  # noqa: S603  (our own interpreter and our own file)
                [sys.executable, "-B", "-P", str(_CHILD)],
                stdin=its_end.fileno(),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                # One thread each, or numerical libraries reserve address space for many.
                env=child_environment() | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )
        except OSError as error:
            requests.close()
            self._started.put(error)
            return
        finally:
            its_end.close()
        replies = process.stdout
        if replies is None:
            raise AssertionError("Popen gives the pipe it was asked for")
        self._started.put((process, requests))
        with replies, contextlib.suppress(OSError):
            while (frame := self._read(replies)) is not None:
                self._frames.put(frame)
        self._frames.put(None)

    def _read(self, stream: IO[bytes]) -> _Frame | None:
        prefix = stream.read(_FRAME.size)
        if len(prefix) < _FRAME.size:
            return None
        header_size, blob_size = _FRAME.unpack(prefix)
        if header_size > self._most_header or blob_size > self._most_blob:
            self._oversized = True
            return None
        header, blob = stream.read(header_size), stream.read(blob_size)
        if len(header) < header_size or len(blob) < blob_size:
            return None
        return _Frame(header, blob, time.monotonic())

    def _greet(self) -> None:
        self._write({"parent": os.getpid()} | child_settings(self._settings))
        self._asked.append(_Asked(0, None, time.monotonic()))
        try:
            self._next_reply(_START_SECONDS)
        except _ChildLost as lost:
            self.end()
            raise PageglassError(
                "the process that opens files does not start: is PyMuPDF installed, and is"
                f" ingest.limits.memory_mb large enough? ({lost.reason})"
            ) from None

    def open(self, path: Path, key: _FileKey, format: str) -> PdfInfo | _Refused:
        """Open ``path`` in the child, which is given the open file and not its name; _ChildLost
        where it does not answer."""
        self.opened = None
        try:
            with path.open("rb") as file:
                self._ask("open", descriptor=file.fileno(), format=format)
        except OSError as error:
            raise _unreadable(error) from None
        while len(self._asked) > 1:  # replies that nobody waited for come first
            self._next_reply(self._settings.limits.page_seconds)
        reply, _ = self._next_reply(self._settings.limits.page_seconds)
        if isinstance(reply, _Refused):
            return reply
        if not isinstance(reply, _Opened):
            raise self._nonsense()
        info = PdfInfo(reply.pages, clean_text(" ".join(reply.title.split())) or None)
        self.opened = key, info
        return info

    def page(self, index: int, ahead: int | None) -> RawPage | _Refused:
        """Page ``index`` of the open document; ``ahead`` is prepared meanwhile."""
        while self._asked and self._asked[0].index != index:
            self._next_reply(self._settings.limits.page_seconds)
        if not self._asked:
            self._ask("page", index=index)
        if ahead is not None and len(self._asked) == 1:
            self._ask("page", index=ahead)
        reply, blob = self._next_reply(self._settings.limits.page_seconds)
        if isinstance(reply, _Refused):
            return reply
        if not isinstance(reply, _PageReply) or reply.index != index:
            raise self._nonsense()
        if not self._is_page_image(blob, reply.pixel_width, reply.pixel_height):
            raise self._nonsense()
        return RawPage(
            index=index,
            label=clean_text(" ".join(reply.label.split())) or str(index + 1),
            width=reply.width,
            height=reply.height,
            words=_words(reply.words[: self._settings.limits.words]),
            image=blob,
            render_hash=reply.render_hash,
            perceptual_hash=reply.perceptual_hash,
            blank=reply.blank,
        )

    def _is_page_image(self, blob: bytes, width: int, height: int) -> bool:
        """Whether ``blob`` is a JPEG of this size, by its header; its pixels are not decoded."""
        # Rounding to whole pixels may exceed the limit by a row and a column.
        if (width - 1) * (height - 1) > self._settings.limits.pixels:
            return False
        try:
            with Image.open(io.BytesIO(blob), formats=["JPEG"]) as image:
                return image.size == (width, height) and image.mode == "RGB"
        except Exception:  # whatever a crafted header makes Pillow raise
            return False

    def _ask(self, op: str, *, descriptor: int | None = None, **arguments: str | int) -> None:
        self._last_id += 1
        index = arguments.get("index")
        asked = _Asked(self._last_id, index if isinstance(index, int) else None, time.monotonic())
        self._asked.append(asked)
        self._write({"id": asked.id, "op": op, **arguments}, descriptor)

    def _write(self, message: dict[str, object], descriptor: int | None = None) -> None:
        head = json.dumps(message).encode()
        files = [] if descriptor is None else [descriptor]
        # A dead child is noticed where its reply is missing. At most two short messages are
        # unread at a time, less than a socket holds, so this never blocks.
        with contextlib.suppress(OSError):
            socket.send_fds(self._requests, [_FRAME.pack(len(head), 0) + head], files)

    def _next_reply(self, seconds: float) -> tuple[_AnyReply, bytes]:
        """The reply to the oldest request, which may take ``seconds`` from when it was begun."""
        asked = self._asked[0]
        deadline = max(asked.at, self._last_arrival) + seconds
        try:
            frame = self._frames.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            self._timed_out = True
            raise self._lost() from None
        if frame is None:
            raise self._lost()
        self._last_arrival = frame.arrived
        self._asked.popleft()
        try:
            reply = _REPLY.validate_json(frame.header)
        except ValidationError:
            raise self._nonsense() from None
        if reply.id != asked.id:
            raise self._nonsense()
        return reply, frame.blob

    def _nonsense(self) -> _ChildLost:
        return _ChildLost("the process that opens files gave an impossible reply", again=False)

    def _lost(self) -> _ChildLost:
        """Why no reply came, in plain words."""
        slow = _ChildLost(
            f"took more than {self._settings.limits.page_seconds:g} seconds"
            " (setting ingest.limits.page_seconds)",
            again=False,
        )
        if self._timed_out:
            return slow
        if self._oversized:
            return self._nonsense()
        self._process.kill()  # it closed its end of the pipe: it is ending, or pretends to
        code = self._process.wait()
        if code == -getattr(signal, "SIGXCPU", 0) != 0:
            return slow
        if code == -getattr(signal, "SIGKILL", 0) != 0:
            return _ChildLost(
                "the process that opens files was killed, as a system short of memory does",
                again=True,
            )
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        return _ChildLost(f"the process that opens files crashed ({how})", again=True)

    def end(self) -> None:
        """Kill the process and let the thread finish."""
        self._process.kill()
        self._process.wait()
        while self._thread.is_alive():  # it may be waiting for room
            with contextlib.suppress(queue.Empty):
                self._frames.get(timeout=0.01)
        self._requests.close()


def child_settings(settings: IngestSettings) -> dict[str, object]:
    """What the child must know of the settings."""
    limits = settings.limits
    return {
        "dpi": settings.dpi,
        "jpeg_quality": settings.jpeg_quality,
        "pixels": limits.pixels,
        "pages": limits.pages,
        "memory_mb": limits.memory_mb,
        "file_mb": limits.file_mb,
        "page_seconds": limits.page_seconds,
        "words": limits.words,
        "characters": limits.words * _CHARACTERS_PER_WORD,
        "word_characters": _WORD_CHARACTERS,
    }


def child_environment() -> dict[str, str]:
    """What programs need to start, and none of the keys and tokens an environment holds."""
    return {k: v for k, v in os.environ.items() if _ENVIRONMENT.fullmatch(k)}


class PdfReader:
    """Opens files in a child process that is started when needed and used for many documents.

    PDFs, and images as documents whose pages are pictures: each frame of a TIFF, the first one of
    PNG, JPEG and WebP. Which it is, their content says.

    For one thread at a time. Close it, or use it in a ``with`` statement.
    """

    def __init__(self, settings: IngestSettings) -> None:
        self._settings = settings
        self._child: _Child | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The child's process id; None while there is none."""
        return self._child.pid if self._child else None

    def close(self) -> None:
        """End the child process. A later call starts another."""
        if self._child is not None:
            child, self._child = self._child, None
            child.end()

    def open(self, path: Path) -> PdfInfo:
        """What the file at ``path`` says of itself.

        Raises NotADocument, FormatUnsupported, EncryptedDocument (a PDF whose user password is
        empty opens) or LimitExceeded.
        """
        _, info = self._child_with(path)
        return info

    def pages(self, path: Path, indices: Iterable[int]) -> Iterator[RawPage | PageFailure]:
        """The pages of ``path`` with these 0-based ``indices``, in this order, as they come.

        While the caller works on one page, the child prepares the next. A page that cannot be
        read is a PageFailure; DocumentError is raised where the document cannot go on.
        """
        order = deque(indices)
        lost = lost_in_a_row = output = 0
        most = self._settings.limits.output_mb
        while order:
            index = order.popleft()
            page, child_lost = self._page(path, index, order[0] if order else None)
            output += _output(page)
            if output > most * 2**20:
                raise LimitExceeded(
                    f"its pages come to more than {most} MB (setting ingest.limits.output_mb)"
                )
            yield page
            lost_in_a_row = lost_in_a_row + 1 if child_lost else 0
            lost += child_lost
            # Each loss may have cost the whole time of a page; ten thousand of them, a week.
            if order and (lost_in_a_row >= _LOST_IN_A_ROW or lost >= _LOST_AT_MOST):
                many = (
                    f"{lost} pages" if lost >= _LOST_AT_MOST else f"{lost_in_a_row} pages in a row"
                )
                last = f", at last: {page.reason}" if isinstance(page, PageFailure) else ""
                raise LimitExceeded(f"gave up after {many} failed{last}")

    def _page(
        self, path: Path, index: int, ahead: int | None
    ) -> tuple[RawPage | PageFailure, bool]:
        """One page, and whether it cost a child. A crash or a lack of memory may be due to what
        came before, or to the machine; so such a page gets a second, fresh child."""
        reason, child_lost = "", False
        for _ in range(2):
            child, _ = self._child_with(path)
            try:
                reply = child.page(index, ahead)
            except _ChildLost as lost:
                self.close()
                reason, child_lost = lost.reason, True
                if not lost.again:
                    break
                continue
            if isinstance(reply, RawPage):
                return reply, False
            reason, child_lost = self._refusal(reply).args[0], reply.problem == "memory"
            if not child_lost:
                break
            self.close()
        return PageFailure(index, reason), child_lost

    def _child_with(self, path: Path) -> tuple[_Child, PdfInfo]:
        """A child that has ``path`` open, as the file is now; else a DocumentError."""
        key = self._check_file(path)
        if self._child is not None and self._child.opened is not None:
            file, info = self._child.opened
            if file == key:
                return self._child, info
        try:
            return self._open(path, key)
        except _ChildLost as lost:
            if not lost.again:
                raise LimitExceeded(f"opening it {lost.reason}") from None
        try:
            return self._open(path, key)
        except _ChildLost as lost:
            raise NotADocument(f"cannot be opened: {lost.reason}") from None

    def _open(self, path: Path, key: _FileKey) -> tuple[_Child, PdfInfo]:
        format = _format(path)
        fresh = self._child is None
        if self._child is None:
            self._child = _Child(self._settings)
        try:
            opened = self._child.open(path.absolute(), key, format)
        except _ChildLost:
            self.close()
            raise
        if isinstance(opened, PdfInfo):
            return self._child, opened
        if opened.problem == "memory":
            self.close()
            if not fresh:  # memory may have gone to what came before
                return self._open(path, key)
        raise self._refusal(opened)

    def _check_file(self, path: Path) -> _FileKey:
        most = self._settings.limits.file_mb
        try:
            status = path.stat()
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise _unreadable(error) from None
        if not stat.S_ISREG(status.st_mode):
            raise NotADocument("not a file")
        if status.st_size == 0:
            raise NotADocument("the file is empty")
        if status.st_size > most * 2**20:
            raise LimitExceeded(f"larger than {most} MB (setting ingest.limits.file_mb)")
        return str(path.absolute()), status.st_size, status.st_mtime_ns, status.st_ino

    def _refusal(self, refused: _Refused) -> DocumentError:
        limits = self._settings.limits
        detail = clean_text(" ".join(refused.detail.split()))
        match refused.problem:
            case "not-pdf":
                return NotADocument("not a PDF")
            case "no-pages":
                return NotADocument("a PDF without pages")
            case "encrypted":
                return EncryptedDocument("needs a password: save a copy without one and add that")
            case "too-many-pages":
                return LimitExceeded(
                    f"more than {limits.pages} pages (setting ingest.limits.pages)"
                )
            case "bad-image":
                why = f" ({detail})" if detail else ""
                return NotADocument(f"an image that is truncated, damaged or of a rare kind{why}")
            case "memory" | "too-many-pixels":
                what = f"an image of {detail} pixels " if refused.problem != "memory" else ""
                return LimitExceeded(
                    f"{what}needs more than {limits.memory_mb} MB of memory"
                    " (setting ingest.limits.memory_mb)"
                )
            case "defect":
                return DocumentError(f"a defect in Pageglass, please report it: {detail}")
            case "damaged":
                return NotADocument("damaged beyond repair" + (f" ({detail})" if detail else ""))


def _unreadable(error: OSError | ValueError) -> NotADocument:
    why = error.strerror if isinstance(error, OSError) else None
    return NotADocument(f"cannot be read: {(why or 'no such file').lower()}")


def _format(path: Path) -> str:
    """What the child is to open the file as, by its content."""
    try:
        with path.open("rb") as file:
            found = sniff(file, path.name)
    except OSError as error:
        raise _unreadable(error) from None
    match found.kind:
        case "pdf":
            return "PDF"
        case "image":
            return _IMAGES[found.suffix]
        case "office":
            raise FormatUnsupported("an office file: save it as PDF")
        case "unknown":
            raise FormatUnsupported(
                "neither PDF, image (PNG, JPEG, TIFF, WebP) nor office file: save it as PDF"
            )


def _output(page: RawPage | PageFailure) -> int:
    """The bytes that a page takes: its image, its words' letters and their boxes."""
    if isinstance(page, PageFailure):
        return 0
    return len(page.image) + sum(len(word.text.encode()) + 32 for word in page.words)


def _words(replies: list[_WordReply]) -> tuple[Word, ...]:
    """The child's words, cleaned; those of which nothing is left are dropped, and lines are
    counted anew so that they increase."""
    words: list[Word] = []
    line, last = -1, -1
    for reply in replies:
        text = "".join(clean_text(reply.text[:_WORD_CHARACTERS]).split())
        # A font without a way back to letters gives only replacement characters. Without them
        # such a page has no text, and goes to OCR.
        if not text.strip("\ufffd") or reply.x0 >= reply.x1 or reply.y0 >= reply.y1:
            continue
        if reply.line != last:
            line, last = line + 1, reply.line
        words.append(Word(text, (reply.x0, reply.y0, reply.x1, reply.y1), line))
    return tuple(words)


def clean_text(text: str) -> str:
    """``text`` in NFC, without control characters and others that show nothing or reorder what
    stands around them; a lone surrogate becomes U+FFFD."""
    if text.isascii() and text.isprintable():
        return text
    return unicodedata.normalize("NFC", _SURROGATE.sub("\ufffd", _UNSEEN.sub("", text)))
