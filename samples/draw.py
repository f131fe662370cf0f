"""Drawing on PDF pages: text, lines and shapes at exact places.

The one module (with ``scan``) that talks to PyMuPDF. Sizes and places are PDF points, the
origin is the upper left corner of the page. Everything here is deterministic: the same calls
give the same bytes.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pymupdf
from numpy.typing import NDArray

Page: TypeAlias = NDArray[np.uint8]
Color: TypeAlias = tuple[float, float, float]
Point: TypeAlias = tuple[float, float]
Align: TypeAlias = Literal["left", "center", "right"]

# PyMuPDF has no complete type stubs; what it returns is Any from here on.
_mupdf: Any = pymupdf

WHITE: Color = (1.0, 1.0, 1.0)
BLACK: Color = (0.1, 0.1, 0.12)

# Every document carries this date, so that making it again gives the same bytes.
FIXED_DATE = "D:20250106090000Z"


def rgb(code: str) -> Color:
    """Turn ``"1f4e79"`` into red, green and blue between 0 and 1."""
    red, green, blue = (int(code[i : i + 2], 16) / 255 for i in (0, 2, 4))
    return red, green, blue


@cache
def font(name: str) -> Any:
    """Give one of MuPDF's bundled base-14 faces: helv, hebo, heit, tiro, tibo, tiit, cour, cobo."""
    return _mupdf.Font(name)


def text_width(text: str, face: str, size: float) -> float:
    """Measure a line of text in points."""
    return float(font(face).text_length(text, fontsize=size))


def wrap(text: str, face: str, size: float, width: float) -> list[str]:
    """Break text into lines no wider than ``width`` points (a longer single word stays whole)."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if line and text_width(longer, face, size) > width:
            lines.append(line)
            line = word
        else:
            line = longer
    return [*lines, line] if line else lines or [""]


class Canvas:
    """A PDF being drawn, page by page."""

    def __init__(self, width: float, height: float) -> None:
        self.width = width
        self.height = height
        self.pdf: Any = _mupdf.open()
        self._page: Any = None
        self._writer: Any = None
        self._ink: Color = BLACK

    @property
    def page_count(self) -> int:
        """How many pages there are so far."""
        return int(self.pdf.page_count)

    def new_page(self) -> None:
        """Add a page and go on there."""
        self._flush()
        self._page = self.pdf.new_page(width=self.width, height=self.height)

    def go_to(self, page: int) -> None:
        """Continue on an earlier page, by its 0-based position."""
        self._flush()
        self._page = self.pdf[page]

    def text(
        self,
        x: float,
        y: float,
        text: str,
        face: str = "helv",
        size: float = 10,
        color: Color = BLACK,
        align: Align = "left",
    ) -> float:
        """Write one line with its baseline at ``y``; return its width.

        Raises ValueError for a character that the face cannot show.
        """
        for char in text:
            if not font(face).has_glyph(ord(char)):
                raise ValueError(f"{face} has no glyph for {char!r} in {text!r}")
        width = text_width(text, face, size)
        left = x - {"left": 0.0, "center": width / 2, "right": width}[align]
        if self._writer is not None and color != self._ink:
            self._flush()
        if self._writer is None:
            self._writer = _mupdf.TextWriter(self._page.rect)
            self._ink = color
        if text:
            self._writer.append((left, y), text, font=font(face), fontsize=size)
        return width

    def lines(
        self,
        x: float,
        y: float,
        width: float,
        text: str,
        face: str = "helv",
        size: float = 10,
        color: Color = BLACK,
        align: Align = "left",
        leading: float = 1.3,
    ) -> float:
        """Write wrapped text below ``y`` (the top of the first line); return where it ends."""
        at = {"left": x, "center": x + width / 2, "right": x + width}[align]
        for line in wrap(text, face, size, width):
            self.text(at, y + size, line, face, size, color, align)
            y += size * leading
        return y

    def rect(
        self,
        x0: float,
        y0: float,
        x1: float,
        y1: float,
        fill: Color | None = None,
        stroke: Color | None = None,
        width: float = 0.6,
        radius: float | None = None,
    ) -> None:
        """Draw a rectangle; ``radius`` is a share (0 to 0.5) of its shorter side."""
        box = _mupdf.Rect(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
        shape = self._shape()
        shape.draw_rect(box, radius=radius)
        shape.finish(fill=fill, color=stroke, width=width if stroke else 0)
        shape.commit()

    def line(self, start: Point, end: Point, color: Color = BLACK, width: float = 0.6) -> None:
        """Draw one straight line."""
        self.path([start, end], stroke=color, width=width)

    def path(
        self,
        points: Sequence[Point],
        stroke: Color | None = BLACK,
        width: float = 0.8,
        fill: Color | None = None,
        closed: bool = False,
    ) -> None:
        """Draw a run of straight lines, or a filled polygon."""
        shape = self._shape()
        shape.draw_polyline([_mupdf.Point(*point) for point in points])
        shape.finish(
            color=stroke, fill=fill, width=width if stroke else 0, closePath=closed, lineJoin=1
        )
        shape.commit()

    def circle(
        self,
        center: Point,
        radius: float,
        fill: Color | None = None,
        stroke: Color | None = None,
        width: float = 0.8,
    ) -> None:
        """Draw a circle by its centre and radius."""
        shape = self._shape()
        shape.draw_circle(_mupdf.Point(*center), radius)
        shape.finish(fill=fill, color=stroke, width=width if stroke else 0)
        shape.commit()

    def arrow(self, start: Point, end: Point, color: Color = BLACK, width: float = 1.0) -> None:
        """Draw a line that ends in a small filled head."""
        dx, dy = end[0] - start[0], end[1] - start[1]
        length = (dx * dx + dy * dy) ** 0.5
        ux, uy = dx / length, dy / length
        base = (end[0] - 6 * ux, end[1] - 6 * uy)
        self.line(start, base, color, width)
        head = [end, (base[0] - 3 * uy, base[1] + 3 * ux), (base[0] + 3 * uy, base[1] - 3 * ux)]
        self.path(head, stroke=None, fill=color, closed=True)

    def image(self, jpeg: bytes) -> None:
        """Fill the page with one picture."""
        self._flush()
        self._page.insert_image(self._page.rect, stream=jpeg)

    def label_pages(self, roman: int) -> None:
        """Number the first ``roman`` pages i, ii, iii and the others 1, 2, 3."""
        rules = [{"startpage": roman, "prefix": "", "style": "D", "firstpagenum": 1}]
        if roman:
            rules.insert(0, {"startpage": 0, "prefix": "", "style": "r", "firstpagenum": 1})
        self.pdf.set_page_labels(rules)

    def outline(self, entries: Sequence[tuple[int, str, int]]) -> None:
        """Set the bookmarks: level (from 1), title, 1-based page."""
        self.pdf.set_toc([list(entry) for entry in entries])

    def save(self, path: Path, title: str, author: str) -> None:
        """Write the PDF: no random id, fixed dates, one content stream a page."""
        self._flush()
        for page in self.pdf:
            page.clean_contents()
        self.pdf.set_metadata(
            {
                "title": title,
                "author": author,
                "producer": "Pageglass samples",
                "creator": "samples/make.py",
                "creationDate": FIXED_DATE,
                "modDate": FIXED_DATE,
            }
        )
        self.pdf.save(path, garbage=3, deflate=True, use_objstms=1, no_new_id=True)
        self.pdf.close()

    def _shape(self) -> Any:
        self._flush()
        return self._page.new_shape()

    def _flush(self) -> None:
        """Put the pending text on its page, so that drawing order is calling order."""
        if self._writer is not None:
            self._writer.write_text(self._page, color=self._ink)
            self._writer = None


def render_gray(canvas: Canvas, page: int, dpi: int, turn: float) -> Page:
    """Render a page (0-based) as gray pixels of shape (height, width), turned by some degrees."""
    canvas.go_to(page)
    scale = dpi / 72
    width, height = round(canvas.width * scale), round(canvas.height * scale)
    matrix = _mupdf.Matrix(scale, scale).prerotate(turn)
    pixmap = canvas.pdf[page].get_pixmap(matrix=matrix, colorspace=_mupdf.csGRAY)
    pixels: Page = np.frombuffer(pixmap.samples, dtype=np.uint8).reshape(pixmap.h, pixmap.stride)
    top, left = (pixmap.h - height) // 2, (pixmap.w - width) // 2
    return pixels[top : top + height, left : left + width]


def as_jpeg(gray: Page, quality: int) -> bytes:
    """Pack gray pixels of shape (height, width) as a JPEG file."""
    height, width = gray.shape
    pixmap = _mupdf.Pixmap(_mupdf.csGRAY, width, height, gray.tobytes(), False)
    return bytes(pixmap.tobytes("jpeg", jpg_quality=quality))
