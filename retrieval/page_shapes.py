"""Shapes of pages that models can take."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

MOST = 20
"""How many times as long as wide an image may be. Qwen's processor refuses more than 200 to 1,
others round the shorter side away; a receipt is 10 to 1."""

_LONGEST_SIDE = 4096


def on_paper(image: Image.Image) -> Image.Image:
    """``image``, or where it is a strip of more than MOST to 1, the strip (at most 4096 pixels
    long) at the top left of a white sheet that is not."""
    if max(image.size) <= MOST * min(image.size):
        return image
    from PIL import Image

    strip = image.convert("RGB")
    strip.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    least = math.ceil(max(strip.size) / MOST)
    sheet = Image.new("RGB", (max(strip.width, least), max(strip.height, least)), "white")
    sheet.paste(strip, (0, 0))
    return sheet
