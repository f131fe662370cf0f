"""Text for pages that have none: RapidOCR's PP-OCR models, which come inside its wheel.

Nothing heavy is imported before the first page is read, and nothing is ever downloaded: RapidOCR
gets sessions made here from the files of its wheel, so its downloader has no part in it.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import os
import statistics
import threading
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from PIL import Image

from pageglass.errors import ModelError
from pageglass.types import Box, Word

if TYPE_CHECKING:
    import onnxruntime
    from rapidocr import RapidOCR

_DETECTION = "PP-OCRv6_det_small.onnx"
_RECOGNITION = "PP-OCRv6_rec_small.onnx"
_SURE = 0.5  # lines that the recogniser is less sure of are dropped (RapidOCR's own default)
# A gap between columns of prose, as against one between the columns of a table: at least so many
# lines on either side, at least so wide in the middle, as a share of the page's width.
_COLUMN_LINES = 3
_COLUMN_WIDTH = 0.2

_Piece = tuple[str, Box]
_Quad = Sequence[Sequence[float]]  # four corners (x, y) in pixels


class _Found:
    """What RapidOCR gives, as far as it is used: parallel lists of lines, or None for none.

    ``boxes`` are four corners in pixels; ``word_results`` are (text, score, corners) by line: of
    words in lines of Latin letters and digits, of single characters in all others.
    """

    boxes: Sequence[_Quad] | None
    txts: Sequence[str] | None
    scores: Sequence[float]
    word_results: Sequence[Sequence[tuple[str, float, _Quad]]]


_SMALLEST = 8
"""Pixels: nobody can read a letter that is not as high."""
_NARROWEST = 8
"""How many times as long as wide an image may be; a narrower one is put on white."""


class Ocr:
    """Reads words from page images, on ``threads`` threads; the models load at the first page.

    Safe to share between threads.
    """

    def __init__(self, threads: int = 1) -> None:
        self._threads = max(1, min(threads, os.cpu_count() or 1))
        self._engine: RapidOCR | None = None
        self._loading = threading.Lock()

    def read(self, image_jpeg: bytes) -> tuple[Word, ...]:
        """The words on the page, in reading order; () where there are none.

        Boxes are shares of the image's width and height. A word has no spaces; a run of Chinese
        or Japanese is one word, as in a PDF's text layer. Raises ModelError where the models are
        missing or do not load.
        """
        with Image.open(io.BytesIO(image_jpeg)) as image:
            width, height = image.size
            if min(width, height) < _SMALLEST:
                return ()
            # RapidOCR enlarges the shorter side to hundreds of pixels, the longer one with it.
            least = max(width, height) // _NARROWEST
            if min(width, height) < least:
                canvas = Image.new("RGB", (max(width, least), max(height, least)), "white")
                canvas.paste(image, (0, 0))
                file = io.BytesIO()
                canvas.save(file, "JPEG", quality=90)
                image_jpeg = file.getvalue()
        found = self._load()(image_jpeg)
        if found.txts is None or found.boxes is None:
            return ()
        texts = found.txts
        boxes = [_bounds(quad, width, height) for quad in found.boxes]
        # RapidOCR leaves out lines without a word box, and then the lists no longer match.
        pieces: list[list[_Piece]] = [[] for _ in texts]
        if len(found.word_results) == len(texts):
            pieces = [
                [(text, _bounds(quad, width, height)) for text, _, quad in line]
                for line in found.word_results
            ]
        sure = [i for i, score in enumerate(found.scores) if score >= _SURE]
        words: list[Word] = []
        for number, line in enumerate(reading_order([boxes[i] for i in sure])):
            for i in line:
                of_line = line_words(texts[sure[i]], boxes[sure[i]], pieces[sure[i]])
                words += [Word(text, box, number) for text, box in of_line]
        return tuple(words)

    def _load(self) -> Callable[[bytes], _Found]:
        with self._loading:
            if self._engine is None:
                self._engine = _engine(self._threads)
            return cast(Callable[[bytes], _Found], self._engine)


def _engine(threads: int) -> RapidOCR:
    spec = importlib.util.find_spec("rapidocr")
    if spec is None or spec.origin is None:
        raise ModelError("OCR needs rapidocr: install it with `pip install rapidocr`")
    models = Path(spec.origin).parent / "models"
    for name in (_DETECTION, _RECOGNITION):
        if not (models / name).is_file():
            raise ModelError(
                f"OCR model {name} is missing: reinstall rapidocr, whose wheel holds it"
                " (`pip install --force-reinstall rapidocr`)"
            )
    # RapidOCR logs to a handler of its own at INFO from import on.
    logging.getLogger("RapidOCR").setLevel(logging.CRITICAL)
    from rapidocr import RapidOCR

    try:
        engine = RapidOCR(
            params={
                "Global.log_level": "critical",
                "Global.use_cls": False,  # pages are upright; PDF rotation is applied already
                "Global.return_word_box": True,
                "Global.text_score": 0.0,  # filtered here: its own filter mixes up word boxes
                "Rec.rec_batch_num": 1,  # lines differ in length; batches pad them all
            }
        )
        for part, name in ((engine.cfg.Det, _DETECTION), (engine.cfg.Rec, _RECOGNITION)):
            part._set_flag("allow_objects", True)
            part.session = _session(models / name, threads)
        # RapidOCR itself loads at the first page.
        engine._load_det_model()
        engine._load_rec_model()
    except Exception as error:  # onnxruntime and RapidOCR raise many kinds
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"the OCR models do not load, reinstall rapidocr: {reason}") from error
    return engine


def _session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = False  # pages and lines differ in size; an arena keeps it all
    # Waiting threads sleep. RapidOCR's own sessions let them spin, which on two threads is a third
    # slower, and slower than one thread where other work wants the cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _bounds(quad: _Quad, width: int, height: int) -> Box:
    xs = [min(1.0, max(0.0, float(point[0]) / width)) for point in quad]
    ys = [min(1.0, max(0.0, float(point[1]) / height)) for point in quad]
    return min(xs), min(ys), max(xs), max(ys)


def line_words(text: str, box: Box, pieces: Sequence[_Piece]) -> list[_Piece]:
    """The words of a line with their boxes.

    ``text`` is the line with its spaces, ``pieces`` are its words or characters without them, each
    with a box. Where the two do not match, the line's ``box`` is shared out by characters.
    """
    text = unicodedata.normalize("NFC", text)
    pieces = [(unicodedata.normalize("NFC", piece), where) for piece, where in pieces]
    words = text.split()
    ends: dict[int, int] = {0: 0}  # characters so far -> pieces so far
    count = 0
    for number, (piece, _) in enumerate(pieces, 1):
        count += len(piece)
        ends[count] = number
    matches = "".join(words) == "".join(piece for piece, _ in pieces)
    result: list[_Piece] = []
    begin = column = 0
    for word in words:
        end = begin + len(word)
        column = text.index(word, column)
        if matches and begin in ends and end in ends:
            result.append((word, _union([b for _, b in pieces[ends[begin] : ends[end]]])))
        else:
            x0, y0, x1, y1 = box
            share = (x1 - x0) / len(text)
            left, right = x0 + column * share, x0 + (column + len(word)) * share
            result.append((word, (left, y0, right, y1)))
        begin = end
        column += len(word)
    return result


def _union(boxes: Sequence[Box]) -> Box:
    return (
        min(b[0] for b in boxes),
        min(b[1] for b in boxes),
        max(b[2] for b in boxes),
        max(b[3] for b in boxes),
    )


def reading_order(boxes: Sequence[Box]) -> list[list[int]]:
    """The indices of ``boxes`` as lines of the page, each from left to right.

    A recursive XY cut (Nagy and Seth, 1984): a region is cut between columns of prose where it
    can be, else at its widest horizontal gap. Cells side by side that are too narrow for columns
    of prose are rows of a table, and one line.
    """
    # The detector's boxes are taller than their letters and overlap between lines.
    boxes = [(x0, y0 + (y1 - y0) / 4, x1, y1 - (y1 - y0) / 4) for x0, y0, x1, y1 in boxes]
    lines: list[list[int]] = []
    regions = [list(range(len(boxes)))]
    while regions:
        region = regions.pop()
        if not region:
            continue
        parts = _columns(boxes, region) or _bands(boxes, region)
        if parts is None:
            lines += _rows(boxes, region)
        else:
            regions += [parts[1], parts[0]]  # a stack: the first part comes off first
    return lines


def _columns(boxes: Sequence[Box], region: list[int]) -> tuple[list[int], list[int]] | None:
    cuts = _gaps(boxes, region, 0)
    for left, right in cuts:
        if all(
            len(part) >= _COLUMN_LINES
            and statistics.median(boxes[i][2] - boxes[i][0] for i in part) >= _COLUMN_WIDTH
            for part in (left, right)
        ):
            return left, right
    return None


def _bands(boxes: Sequence[Box], region: list[int]) -> tuple[list[int], list[int]] | None:
    return next(iter(_gaps(boxes, region, 1)), None)


def _gaps(boxes: Sequence[Box], region: list[int], axis: int) -> list[tuple[list[int], list[int]]]:
    """The two parts of ``region`` around each gap along ``axis`` (0 across, 1 down) that no box
    reaches into, widest gap first."""
    ordered = sorted(region, key=lambda i: boxes[i][axis])
    found: list[tuple[float, int]] = []
    reached = -1.0
    for position, i in enumerate(ordered):
        if position and boxes[i][axis] >= reached:
            found.append((reached - boxes[i][axis], position))
        reached = max(reached, boxes[i][axis + 2])
    return [(ordered[:position], ordered[position:]) for _, position in sorted(found)]


def _rows(boxes: Sequence[Box], region: list[int]) -> list[list[int]]:
    """Boxes without any gap between them, such as lines of a scan that is not quite straight: a
    row are those whose middle is within the first one's height."""
    rows: list[list[int]] = []
    for i in sorted(region, key=lambda i: boxes[i][1] + boxes[i][3]):
        middle = (boxes[i][1] + boxes[i][3]) / 2
        if rows and boxes[rows[-1][0]][1] <= middle <= boxes[rows[-1][0]][3]:
            rows[-1].append(i)
        else:
            rows.append([i])
    return [sorted(row, key=lambda i: boxes[i][0]) for row in rows]
