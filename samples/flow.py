"""Running text set on pages: headings, paragraphs, lists, notes, tables and figures.

A ``Flow`` takes blocks one after another and turns pages by itself. ``pour`` reads them from a
content file, written in a small dialect of Markdown::

    # Chapter            ## Section            ### Run-in heading
    Paragraph with **bold** words.
    - bullet             1. numbered step      > note in a tinted box
    ~ small print        --- (page break)      !name (a block drawn by the document's code)
    ^ Caption of the table that follows
    | head | head |
    |-----|--:|          dashes are relative widths, a colon at the end aligns right
    | cell | cell |      a row whose first cell starts with * is a bold total
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from samples.charts import Box
from samples.draw import BLACK, WHITE, Align, Canvas, Color, text_width, wrap

CONTENT = Path(__file__).parent / "content"

Run: TypeAlias = tuple[str, bool]  # words, bold or not
Block: TypeAlias = "Callable[[Flow], None]"


@dataclass(frozen=True, slots=True)
class Look:
    """How one document looks."""

    running: str  # the line at the head of each page
    foot: str  # the line at the foot, left of the page number
    accent: Color
    tint: Color
    body: str = "tiro"
    bold: str = "tibo"
    italic: str = "tiit"
    heading: str = "hebo"
    size: float = 10.2
    leading: float = 1.42
    width: float = 595
    height: float = 842
    margin: tuple[float, float, float, float] = (68, 78, 68, 72)  # left, top, right, bottom
    columns: int = 1
    gutter: float = 20
    chapter_breaks: bool = True
    roman: int = 0  # pages of front matter, numbered i, ii, iii
    bare: int = 1  # pages at the start without head and foot
    muted: Color = (0.38, 0.4, 0.44)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: its share of the width and its side."""

    weight: float
    align: Align = "left"


def roman(number: int) -> str:
    """Write 1 to 39 in small roman figures."""
    ones = ["", "i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix"]
    return "x" * (number // 10) + ones[number % 10]


def runs(text: str) -> list[Run]:
    """Split ``a **b** c`` into words with their weight."""
    parts = text.split("**")
    return [(word, bool(nth % 2)) for nth, part in enumerate(parts) for word in part.split()]


@dataclass(slots=True)
class Flow:
    """Sets blocks one below the other, column after column, page after page."""

    look: Look
    canvas: Canvas = field(init=False)
    y: float = field(init=False, default=0)
    _column: int = field(init=False, default=0)
    _tops: list[float] = field(init=False, default_factory=list[float])
    _chapters: list[str] = field(init=False, default_factory=list[str])
    _chapter: str = field(init=False, default="")
    _headings: list[tuple[int, str]] = field(init=False, default_factory=list[tuple[int, str]])
    _outline: list[tuple[int, str, int]] = field(
        init=False, default_factory=list[tuple[int, str, int]]
    )
    _contents: list[tuple[int, float, int]] = field(
        init=False, default_factory=list[tuple[int, float, int]]
    )

    def __post_init__(self) -> None:
        self.canvas = Canvas(self.look.width, self.look.height)
        self.new_page()

    # Places

    @property
    def column_width(self) -> float:
        """The width of one column."""
        look = self.look
        inner = look.width - look.margin[0] - look.margin[2]
        return (inner - look.gutter * (look.columns - 1)) / look.columns

    @property
    def left(self) -> float:
        """The left edge of the current column."""
        return self.look.margin[0] + self._column * (self.column_width + self.look.gutter)

    @property
    def right(self) -> float:
        """The right edge of the current column."""
        return self.left + self.column_width

    @property
    def bottom(self) -> float:
        """Where the text area ends."""
        return self.look.height - self.look.margin[3]

    @property
    def page(self) -> int:
        """The 1-based position of the current page."""
        return len(self._chapters)

    def label(self, page: int) -> str:
        """Give the printed number of a 1-based page position."""
        roman_pages = self.look.roman
        return roman(page) if page <= roman_pages else str(page - roman_pages)

    def new_page(self) -> None:
        """Go to a fresh page."""
        self.canvas.new_page()
        self._chapters.append(self._chapter)
        self._tops.append(self.look.margin[1])
        self._column = 0
        self.y = self.look.margin[1]

    def break_page(self) -> None:
        """Go to a fresh page, unless the current one is still empty."""
        if self._column or self.y > self._tops[-1]:
            self.new_page()

    def room(self, height: float) -> None:
        """Make sure that ``height`` points are free here, else go on in the next column.

        Headings wait until now, so that none stands alone at the foot of a page.
        """
        headings, self._headings = self._headings, []
        needed = height + sum(30.0 if level == 2 else 22.0 for level, _ in headings)
        if self.y + needed > self.bottom and self.y > self._tops[-1]:
            if self._column + 1 < self.look.columns:
                self._column += 1
                self.y = self._tops[-1]
            else:
                self.new_page()
        for level, title in headings:
            self._draw_heading(level, title)

    def space(self, height: float) -> None:
        """Leave a gap, except at the top of a page."""
        if self.y > self._tops[-1]:
            self.y += height

    def span(self, height: float) -> Box:
        """Take a strip over all columns; on a fresh page unless nothing stands here yet."""
        self.break_page()
        look = self.look
        box = Box(look.margin[0], self.y, look.width - look.margin[2], self.y + height)
        self._tops[-1] = self.y = self.y + height + 14
        return box

    # Blocks

    def chapter(self, title: str) -> None:
        """Start a chapter, on a page of its own where the look asks for it."""
        look = self.look
        if look.chapter_breaks:
            self.break_page()
        self._chapter = title
        if look.chapter_breaks:
            self._chapters[-1] = title
        size = 21 if look.columns == 1 else 12.5
        titles = wrap(title, look.heading, size, self.column_width)
        self.room(size * 2 * len(titles) + (40 if look.columns == 1 else 90))
        self.space(10)
        self._outline.append((1, title, self.page))
        for line in titles:
            self.canvas.text(self.left, self.y + size, line, look.heading, size, look.accent)
            self.y += size * 1.2
        if look.columns == 1:
            self.y += 6
            self.canvas.rect(self.left, self.y, self.left + 46, self.y + 2.4, fill=look.accent)
            self.y += 18
        else:
            self.y += 4

    def section(self, title: str) -> None:
        """Announce a section; it is drawn with the block that follows."""
        self._headings.append((2, title))

    def heading(self, title: str) -> None:
        """Announce a small heading; it is drawn with the block that follows."""
        self._headings.append((3, title))

    def paragraph(
        self,
        text: str,
        indent: float = 0,
        mark: str = "",
        gap: float = 6.5,
        size: float | None = None,
        color: Color = BLACK,
        face: str | None = None,
    ) -> None:
        """Set text with **bold** words; ``mark`` stands in the indent of the first line."""
        look = self.look
        size = size or look.size
        face = face or look.body
        step = size * look.leading
        set_lines = self._fill(runs(text), face, size, self.column_width - indent)
        if len(set_lines) > 2:
            self.room(step * 2)
        for nth, line in enumerate(set_lines):
            self.room(step)
            if mark and not nth:
                self.canvas.text(
                    self.left + indent - 6,
                    self.y + size,
                    mark,
                    look.bold,
                    size,
                    look.accent,
                    "right",
                )
            self._line(self.left + indent, self.y + size, line, face, size, color)
            self.y += step
        self.y += gap

    def note(self, text: str) -> None:
        """Set text in a tinted box with a coloured edge."""
        look = self.look
        size = look.size - 0.4
        step = size * look.leading
        set_lines = self._fill(runs(text), look.body, size, self.column_width - 28)
        height = step * len(set_lines) + 15
        self.room(height + 6)
        self.space(2)
        self.canvas.rect(self.left, self.y, self.right, self.y + height, fill=look.tint)
        self.canvas.rect(self.left, self.y, self.left + 3.5, self.y + height, fill=look.accent)
        y = self.y + 6
        for line in set_lines:
            self._line(self.left + 15, y + size, line, look.body, size, BLACK)
            y += step
        self.y += height + 11

    def table(
        self,
        head: Sequence[str],
        body: Sequence[Sequence[str]],
        columns: Sequence[Column] | None = None,
        caption: str = "",
        size: float | None = None,
    ) -> None:
        """Set a table; where it meets the end of the page it goes on under the same head."""
        look = self.look
        size = size or look.size - 1.2
        columns = columns or [Column(1)] * len(head)
        total = sum(column.weight for column in columns)
        widths = [self.column_width * column.weight / total for column in columns]
        step = size * 1.28
        pad = 3.4

        def row_lines(cells: Sequence[str], face: str) -> list[list[str]]:
            return [
                wrap(cell, face, size, width - 8) for cell, width in zip(cells, widths, strict=True)
            ]

        def put(lines: list[list[str]], face: str, color: Color) -> float:
            x = self.left
            for cell, column, width in zip(lines, columns, widths, strict=True):
                at = {"left": x + 4, "center": x + width / 2, "right": x + width - 4}[column.align]
                for nth, line in enumerate(cell):
                    y = self.y + pad + size * 0.95 + step * nth
                    self.canvas.text(at, y, line, face, size, color, column.align)
                x += width
            return max(len(cell) for cell in lines) * step + 2 * pad

        def open_table(title: str) -> None:
            if title:
                self.y = (
                    self.canvas.lines(
                        self.left, self.y, self.column_width, title, "hebo", size + 0.3, look.accent
                    )
                    + 2
                )
            lines = row_lines(head, "hebo")
            height = max(len(cell) for cell in lines) * step + 2 * pad
            self.canvas.rect(self.left, self.y, self.right, self.y + height, fill=look.accent)
            self.y += put(lines, "hebo", WHITE)

        tall = sum(
            max(len(cell) for cell in row_lines(row, "hebo")) * step + 2 * pad for row in body
        )
        if tall > 0.4 * look.height:  # only a long table may be divided
            tall = 3 * (step + 2 * pad)
        self.room(tall + 46)
        self.space(3)
        open_table(caption)
        for nth, cells in enumerate(body):
            strong = cells[0].startswith("*")
            face = "hebo" if strong else "helv"
            lines = row_lines([cells[0].lstrip("*"), *cells[1:]], face)
            height = max(len(cell) for cell in lines) * step + 2 * pad
            before = (self.page, self._column)
            self.room(height)
            if (self.page, self._column) != before:
                open_table(f"{caption} (continued)" if caption else "")
            if nth % 2 and not strong:
                self.canvas.rect(self.left, self.y, self.right, self.y + height, fill=look.tint)
            if strong:
                self.canvas.line((self.left, self.y), (self.right, self.y), look.accent, 0.8)
            put(lines, face, BLACK)
            self.y += height
        self.canvas.line((self.left, self.y), (self.right, self.y), look.accent, 0.8)
        self.y += 14

    def figure(self, height: float, draw: Callable[[Canvas, Box], None], caption: str = "") -> None:
        """Give ``draw`` a box of ``height`` points, with a caption below it."""
        look = self.look
        size = 8.6
        lines = wrap(caption, "heit", size, self.column_width)
        self.room(height + len(lines) * size * 1.3 + 14)
        self.space(4)
        draw(self.canvas, Box(self.left, self.y, self.right, self.y + height))
        self.y += height + 5
        if caption:
            self.y = self.canvas.lines(
                self.left, self.y, self.column_width, caption, "heit", size, look.muted
            )
        self.y += 12

    def contents(self, levels: int = 2) -> None:
        """Leave the rest of this page for the table of contents, filled in by ``finish``."""
        self._contents.append((self.page, self.y, levels))
        self.y = self.bottom

    # Whole documents

    def pour(self, name: str, blocks: Mapping[str, Block] | None = None) -> None:
        """Set a content file, with the document's own blocks where it says ``!name``."""
        text = (CONTENT / name).read_text(encoding="utf-8")
        caption = ""
        for block in re.split(r"\n\s*\n", text.strip()):
            caption = self._block(block.strip(), blocks or {}, caption)

    def finish(self, path: Path, title: str, author: str) -> None:
        """Furnish the pages, add bookmarks and page labels, and save."""
        self.furnish()
        self.canvas.outline(self._outline)
        self.canvas.label_pages(self.look.roman)
        self.canvas.save(path, title, author)

    def furnish(self) -> None:
        """Draw the table of contents, and head and foot of each page."""
        for page, y, levels in self._contents:
            self._draw_contents(page, y, levels)
        for page in range(self.look.bare + 1, self.page + 1):
            self._draw_furniture(page)

    def _draw_heading(self, level: int, title: str) -> None:
        look = self.look
        if level == 2:
            size, color, gap = (13.0 if look.columns == 1 else 10.5), look.accent, 8
            self._outline.append((2, title, self.page))
        else:
            size, color, gap = look.size + 0.3, BLACK, 3
        self.space(gap)
        self.y = self.canvas.lines(
            self.left, self.y, self.column_width, title, look.heading, size, color
        )
        self.y += 4 if level == 2 else 2

    def _block(self, block: str, blocks: Mapping[str, Block], caption: str) -> str:
        """Set one block of a content file; return the caption it leaves for the next."""
        first = block.split("\n", 1)[0]
        joined = " ".join(line.strip() for line in block.split("\n"))
        if first.startswith("^"):
            lines = block.split("\n")
            if len(lines) == 1:
                return first[1:].strip()
            return self._block("\n".join(lines[1:]), blocks, first[1:].strip())
        if first.startswith("|"):
            self._pour_table(block.split("\n"), caption)
        elif first.startswith("!"):
            blocks[first[1:].strip()](self)
        elif first == "---":
            self.break_page()
        elif first.startswith("### "):
            self.heading(joined[4:])
        elif first.startswith("## "):
            self.section(joined[3:])
        elif first.startswith("# "):
            self.chapter(joined[2:])
        elif first.startswith("> "):
            self.note(re.sub(r"\s*\n> ?", " ", block[2:]))
        elif first.startswith("~ "):
            self.paragraph(joined[2:], size=8.6, color=self.look.muted, face=self.look.italic)
        elif first.startswith("- "):
            for item in re.split(r"\n(?=- )", block):
                self.paragraph(item[2:], indent=16, mark="•", gap=2.5)
            self.y += 4
        elif re.match(r"\d+\. ", first):
            for item in re.split(r"\n(?=\d+\. )", block):
                mark, words = item.split(" ", 1)
                self.paragraph(words, indent=20, mark=mark, gap=3)
            self.y += 4
        else:
            self.paragraph(joined)
        return ""

    def _pour_table(self, lines: Sequence[str], caption: str) -> None:
        cells = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]
        columns = [
            Column(len(rule), "right" if rule.endswith(":") else "left") for rule in cells[1]
        ]
        self.table(cells[0], cells[2:], columns, caption)

    def _fill(self, words: Sequence[Run], face: str, size: float, width: float) -> list[list[Run]]:
        """Break words into lines; neighbours of one weight become one run."""
        blank = text_width(" ", face, size)
        lines: list[list[Run]] = [[]]
        used = 0.0
        for word, strong in words:
            wide = text_width(word, self.look.bold if strong else face, size)
            if lines[-1] and used + blank + wide > width:
                lines.append([])
                used = 0.0
            line = lines[-1]
            if line and line[-1][1] == strong:
                line[-1] = (f"{line[-1][0]} {word}", strong)
            else:
                line.append((word, strong))
            used += wide + (blank if used else 0)
        return lines

    def _line(
        self, x: float, y: float, line: Sequence[Run], face: str, size: float, color: Color
    ) -> None:
        for text, strong in line:
            used = self.look.bold if strong else face
            x += self.canvas.text(x, y, f"{text} ", used, size, color)

    def _draw_contents(self, page: int, y: float, levels: int) -> None:
        look, canvas = self.look, self.canvas
        canvas.go_to(page - 1)
        left, right = look.margin[0], look.width - look.margin[2]
        entries = [entry for entry in self._outline if entry[0] <= levels and entry[2] > page]
        needed = sum(19 if level == 1 else 14 for level, _, _ in entries)
        tight = min(1.0, (self.bottom - y) / max(needed, 1))
        for level, title, at in entries:
            face, size = (look.heading, 10.2) if level == 1 else (look.body, 9.6)
            y += tight * (19 if level == 1 else 14)
            start = left + 16 * (level - 1)
            end = start + canvas.text(start, y, title, face, size, BLACK) + 6
            label = self.label(at)
            canvas.line((end, y - 1), (right - 24, y - 1), look.tint, 0.8)
            canvas.text(right, y, label, face, size, BLACK, "right")

    def _draw_furniture(self, page: int) -> None:
        look, canvas = self.look, self.canvas
        canvas.go_to(page - 1)
        left, right = look.margin[0], look.width - look.margin[2]
        canvas.text(left, 44, look.running, "helv", 8, look.muted)
        canvas.text(right, 44, self._chapters[page - 1], "helv", 8, look.muted, "right")
        canvas.line((left, 51), (right, 51), look.accent, 0.6)
        foot = look.height - 38
        canvas.text(left, foot, look.foot, "helv", 8, look.muted)
        canvas.text(right, foot, self.label(page), "hebo", 9, look.accent, "right")
