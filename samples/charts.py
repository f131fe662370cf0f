"""Charts with their values written at the marks: bars, lines and shares."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from samples.draw import BLACK, WHITE, Canvas, Color, text_width

GRID: Color = (0.86, 0.87, 0.89)
MUTED: Color = (0.4, 0.42, 0.45)


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle to draw in, in points."""

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def width(self) -> float:
        """From left to right."""
        return self.x1 - self.x0

    @property
    def height(self) -> float:
        """From top to bottom."""
        return self.y1 - self.y0


def plain(value: float) -> str:
    """Write a value as people do: 1,240 or 3.6."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def _nice_top(value: float) -> float:
    """Give a round number at or above ``value`` for the top of an axis."""
    power = 1.0
    while power * 10 <= value:
        power *= 10
    while power > value:
        power /= 10
    return next(
        power * step for step in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if power * step >= value
    )


def _legend(
    canvas: Canvas, box: Box, names: Sequence[str], colors: Sequence[Color], scale: float
) -> None:
    x = box.x0 + 30 * scale
    for name, color in zip(names, colors, strict=False):
        canvas.rect(x, box.y0 + scale, x + 8 * scale, box.y0 + 9 * scale, fill=color)
        x += 12 * scale
        x += canvas.text(x, box.y0 + 8.5 * scale, name, "helv", 8 * scale, MUTED) + 16 * scale


def _axis(canvas: Canvas, plot: Box, low: float, top: float, unit: str, scale: float) -> None:
    """Draw five grid lines with their values, and the unit above the axis."""
    for step in range(5):
        value = low + (top - low) * step / 4
        y = plot.y1 - plot.height * step / 4
        canvas.line((plot.x0, y), (plot.x1, y), GRID, 0.5)
        canvas.text(
            plot.x0 - 5,
            y + 2.5,
            f"{value:,.4g}" if value < 1000 else f"{value:,.0f}",
            "helv",
            7 * scale,
            MUTED,
            "right",
        )
    if unit:
        canvas.text(plot.x0 - 28 * scale, plot.y0 - 8 * scale, unit, "heit", 7.5 * scale, MUTED)


def bars(
    canvas: Canvas,
    box: Box,
    labels: Sequence[str],
    series: Mapping[str, Sequence[float]],
    colors: Sequence[Color],
    unit: str = "",
    show: Callable[[float], str] = plain,
    scale: float = 1,
) -> None:
    """Draw upright bars, side by side where there are several series.

    ``scale`` enlarges the lettering, for slides.
    """
    legend = 16 * scale if len(series) > 1 else 0
    if legend:
        _legend(canvas, box, list(series), colors, scale)
    plot = Box(box.x0 + 30 * scale, box.y0 + legend + 16 * scale, box.x1, box.y1 - 16 * scale)
    top = _nice_top(max(max(values) for values in series.values()) * 1.05)
    _axis(canvas, plot, 0, top, unit, scale)
    slot = plot.width / len(labels)
    thick = min(34 * scale, slot * 0.74 / len(series))
    for at, label in enumerate(labels):
        middle = plot.x0 + slot * (at + 0.5)
        canvas.text(middle, plot.y1 + 11 * scale, label, "helv", 7.5 * scale, BLACK, "center")
        for nth, values in enumerate(series.values()):
            x = middle + thick * (nth - len(series) / 2)
            y = plot.y1 - plot.height * values[at] / top
            canvas.rect(x + 0.8, y, x + thick - 0.8, plot.y1, fill=colors[nth])
            canvas.text(x + thick / 2, y - 3, show(values[at]), "hebo", 7 * scale, BLACK, "center")
    canvas.line((plot.x0, plot.y1), (plot.x1, plot.y1), MUTED, 0.8)


def rows(
    canvas: Canvas,
    box: Box,
    items: Mapping[str, float],
    color: Color,
    show: Callable[[float], str] = plain,
    scale: float = 1,
) -> None:
    """Draw lying bars, one a row, the name at the left and the value at the tip."""
    size = 8.5 * scale
    left = box.x0 + max(text_width(name, "helv", size) for name in items) + 8
    top = max(items.values())
    step = box.height / len(items)
    for at, (name, value) in enumerate(items.items()):
        y = box.y0 + step * at
        tip = left + (box.x1 - left - 44) * value / top
        canvas.text(left - 6, y + step / 2 + size / 3, name, "helv", size, BLACK, "right")
        canvas.rect(left, y + step * 0.18, tip, y + step * 0.82, fill=color)
        canvas.text(tip + 4, y + step / 2 + size / 3, show(value), "hebo", size, BLACK)


def lines(
    canvas: Canvas,
    box: Box,
    labels: Sequence[str],
    series: Mapping[str, Sequence[float]],
    colors: Sequence[Color],
    unit: str = "",
    low: float = 0,
    show: Callable[[float], str] = plain,
) -> None:
    """Draw one line a series over common labels, each mark with its value."""
    legend = 16 if len(series) > 1 else 0
    if legend:
        _legend(canvas, box, list(series), colors, 1)
    plot = Box(box.x0 + 30, box.y0 + legend + 16, box.x1, box.y1 - 16)
    peak = max(max(values) for values in series.values())
    top = low + _nice_top((peak - low) * 1.08)
    _axis(canvas, plot, low, top, unit, 1)
    slot = plot.width / len(labels)
    xs = [plot.x0 + slot * (at + 0.5) for at in range(len(labels))]
    for x, label in zip(xs, labels, strict=True):
        canvas.text(x, plot.y1 + 11, label, "helv", 7.5, BLACK, "center")
    for nth, values in enumerate(series.values()):
        ys = [plot.y1 - plot.height * (value - low) / (top - low) for value in values]
        marks = list(zip(xs, ys, strict=True))
        for start, end in pairwise(marks):
            canvas.line(start, end, colors[nth], 1.8)
        for (x, y), value in zip(marks, values, strict=True):
            canvas.circle((x, y), 2.6, fill=colors[nth], stroke=WHITE)
            # The second line is labelled below its marks, so that the figures do not meet.
            canvas.text(x, y + 12 if nth == 1 else y - 6, show(value), "hebo", 7, BLACK, "center")


def share(canvas: Canvas, box: Box, parts: Mapping[str, float], colors: Sequence[Color]) -> None:
    """Draw one band divided into percentages, with its key below."""
    total = sum(parts.values())
    x = box.x0
    for (_, value), color in zip(parts.items(), colors, strict=False):
        end = x + box.width * value / total
        canvas.rect(x, box.y0, end, box.y0 + 26, fill=color)
        if value / total > 0.04:
            canvas.text(
                (x + end) / 2,
                box.y0 + 16.5,
                f"{100 * value / total:.0f}%",
                "hebo",
                8.5,
                WHITE,
                "center",
            )
        x = end
    x, y = box.x0, box.y0 + 36
    for (name, value), color in zip(parts.items(), colors, strict=False):
        label = f"{name} {100 * value / total:.0f}%"
        if x + text_width(label, "helv", 8) + 14 > box.x1:
            x, y = box.x0, y + 13
        canvas.rect(x, y, x + 8, y + 8, fill=color)
        x += 12 + canvas.text(x + 12, y + 7.5, label, "helv", 8, MUTED) + 14
