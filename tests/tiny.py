"""Tiny pages and PDFs made on the spot."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pymupdf

from pageglass.types import Page, PageRef, TextSource, Word


def words(text: str, *, top: float = 0.1, left: float = 0.1) -> tuple[Word, ...]:
    """Lay text out: a line of the text is a line of the page, 0.02 apart or closer, so that all
    fit, and 0.01 a character. A tab goes on at the next quarter of the page."""
    pitch = min(0.02, 0.8 / max(1, text.count("\n") + 1))
    laid: list[Word] = []
    for line, content in enumerate(text.splitlines()):
        x, y = left, top + pitch * line
        for word in content.replace("\t", " \t ").split(" "):
            if word == "\t":
                x = 0.25 * (x // 0.25 + 1)
            if not word.strip():
                continue
            width = 0.01 * len(word)
            laid.append(Word(word, (x, y, min(x + width, 1.0), min(y + 0.75 * pitch, 1.0)), line))
            x += width + 0.01
    return tuple(laid)


def page(
    text: str,
    *,
    document: str = "d0",
    index: int = 0,
    label: str | None = None,
    source: TextSource = "layer",
    render: str | None = None,
    perceptual: str | None = None,
) -> Page:
    """A page with this text; its hashes follow from the text unless they are given."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Page(
        ref=PageRef(document, index),
        label=label or str(index + 1),
        width=595,
        height=842,
        words=words(text),
        text_source=source if text else "none",
        image=f"{digest}.jpg",
        render_hash=render or digest,
        perceptual_hash=perceptual or digest,
    )


def pdf(path: Path, pages: Sequence[str], *, labels: str | None = None) -> Path:
    """Write a PDF with a text layer, one string a page; ``labels="r"`` numbers in roman."""
    document = pymupdf.open()
    for text in pages:
        sheet = document.new_page()
        sheet.insert_textbox(pymupdf.Rect(72, 72, 523, 770), text, fontsize=11)
    if labels:
        document.set_page_labels([{"startpage": 0, "style": labels, "firstpagenum": 1}])
    document.save(path)
    document.close()
    return path


def scanned_pdf(path: Path, pages: Sequence[str]) -> Path:
    """The same without a text layer: each page is one image."""
    drawn = pymupdf.open()
    for text in pages:
        drawn.new_page().insert_textbox(pymupdf.Rect(72, 72, 523, 770), text, fontsize=14)
    scans = pymupdf.open()
    for sheet in drawn:
        pixels = sheet.get_pixmap(dpi=150)
        scans.new_page().insert_image(sheet.rect, stream=pixels.tobytes("jpeg"))
    scans.save(path)
    return path
