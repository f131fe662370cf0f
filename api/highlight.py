"""Page images with words marked as by a yellow pen."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Literal

from PIL import Image, ImageChops, ImageDraw

from pageglass.types import Box

YELLOW = (255, 236, 64)
PADDING = 0.002
"""Share of the page's longer side by which a box grows on every side: letters keep a rim."""


def highlight(
    image: bytes, boxes: Sequence[Box], *, format: Literal["PNG", "JPEG"] = "PNG"
) -> bytes:
    """The page image with ``boxes`` (shares of the page) marked in yellow.

    The colour is multiplied in, as ink would be: white turns yellow, black letters stay black.
    Overlapping boxes are marked once. PNG leaves every pixel outside the boxes as it was.
    """
    with Image.open(io.BytesIO(image)) as opened:
        page = opened.convert("RGB")
    if boxes:
        marked = ImageChops.multiply(page, Image.new("RGB", page.size, YELLOW))
        page.paste(marked, mask=_mask(page.size, boxes))
    out = io.BytesIO()
    # JPEG at full colour resolution: subsampled, the yellow would bleed over the boxes' edges.
    options = {"quality": 90, "subsampling": 0} if format == "JPEG" else {}
    page.save(out, format, **options)
    return out.getvalue()


def pixel_box(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The padded box in pixels of an image of ``size``: x0, y0, x1, y1, all inclusive."""
    width, height = size
    padding = PADDING * max(size)
    return (
        max(0, round(box[0] * width - padding)),
        max(0, round(box[1] * height - padding)),
        min(width - 1, round(box[2] * width + padding)),
        min(height - 1, round(box[3] * height + padding)),
    )


def _mask(size: tuple[int, int], boxes: Sequence[Box]) -> Image.Image:
    mask = Image.new("L", size, 0)
    draw = ImageDraw.Draw(mask)
    for box in boxes:
        draw.rectangle(pixel_box(box, size), fill=255)
    return mask
