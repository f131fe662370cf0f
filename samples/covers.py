"""Cover pages: a field of colour, a drawn motif and the title."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from samples.charts import Box
from samples.draw import WHITE, Canvas, Color
from samples.flow import Flow

Motif: TypeAlias = Callable[[Canvas, Box], None]


def cover(flow: Flow, title: str, subtitle: str, lines: Sequence[str], motif: Motif) -> None:
    """Fill the page with the accent colour, the motif in its upper part, the words below."""
    canvas, look = flow.canvas, flow.look
    canvas.rect(0, 0, look.width, look.height, fill=look.accent)
    motif(canvas, Box(0, 0, look.width, look.height * 0.56))
    y = canvas.lines(
        64, look.height * 0.6, look.width - 128, title, "hebo", 34, WHITE, leading=1.15
    )
    y = canvas.lines(64, y + 8, look.width - 128, subtitle, "helv", 15, look.tint)
    canvas.rect(64, y + 14, 124, y + 17, fill=look.tint)
    y += 34
    for line in lines:
        y = canvas.lines(64, y, look.width - 128, line, "helv", 10, look.tint, leading=1.5)
    flow.new_page()


def mix(first: Color, second: Color, share: float) -> Color:
    """Blend two colours; ``share`` 0 gives the first, 1 the second."""
    red, green, blue = (a + (b - a) * share for a, b in zip(first, second, strict=True))
    return red, green, blue
