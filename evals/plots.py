"""Plots of a report, as SVG that takes its colours and its font from the page it stands in."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pageglass.errors import MissingExtra

try:
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
    from matplotlib.typing import RcKeyType
except ImportError:
    raise MissingExtra(
        "matplotlib is not installed: run pip install -e '.[evals]' -c constraints.txt in"
        " Pageglass's folder"
    ) from None

# Matplotlib knows no CSS variables: these stand for them until the SVG is written.
_INK, _MUTED, _LINE, _ONE, _TWO = "#010203", "#020304", "#030405", "#040506", "#050607"
_VARIABLES = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _LINE: "var(--line)",
    _ONE: "var(--one)",
    _TWO: "var(--two)",
}
_STYLE: dict[RcKeyType, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "pageglass",
    "text.parse_math": False,
    "text.color": _INK,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelsize": 10,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "font.size": 10,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "butt",
}
_WIDTH = 5.6
_LONGEST_LABEL = 34


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with the ends of its interval, each 0..1, where it has one, and what it is of."""

    label: str
    value: float
    low: float | None
    high: float | None
    cases: int


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers of like support: its middle, the share that is right with its interval, how many."""

    support: float
    share: float
    low: float
    high: float
    cases: int


def intervals(rows: Sequence[Interval], *, name: str, label: str) -> str:
    """A dot with whiskers for each row, the first on top."""

    def draw(axes: Axes) -> None:
        for y, row in enumerate(reversed(rows)):
            if row.low is not None and row.high is not None:
                axes.plot([row.low, row.high], [y, y], color=_ONE, linewidth=5, alpha=0.25)
            axes.plot([row.value], [y], "o", color=_ONE, markersize=6)
        axes.set_yticks(
            range(len(rows)), [f"{_short(row.label)} ({row.cases})" for row in reversed(rows)]
        )
        axes.set_ylim(-0.7, len(rows) - 0.3)
        axes.set_xlim(-0.02, 1.02)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(label)
        axes.tick_params(axis="y", labelcolor=_INK)

    return _svg(draw, name=name, height=0.7 + 0.3 * len(rows))


def bars(rows: Sequence[tuple[str, int]], *, name: str, label: str) -> str:
    """A bar with its count for each row, the first on top."""

    def draw(axes: Axes) -> None:
        counts = [count for _, count in reversed(rows)]
        drawn = axes.barh(range(len(rows)), counts, color=_ONE, height=0.62)
        axes.bar_label(drawn, padding=4, color=_INK)
        axes.set_yticks(range(len(rows)), [_short(name) for name, _ in reversed(rows)])
        axes.set_xlim(0, 1.12 * max(counts))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(label)
        axes.tick_params(axis="y", labelcolor=_INK)

    return _svg(draw, name=name, height=0.7 + 0.32 * len(rows))


def declines(
    answerable: Sequence[float],
    unanswerable: Sequence[float],
    threshold: float | None,
    *,
    name: str,
) -> str:
    """Which share of cases a threshold declines, for every threshold; the one in use is marked."""

    def draw(axes: Axes) -> None:
        kinds = (
            (unanswerable, _ONE, "unanswerable, rightly"),
            (answerable, _TWO, "answerable, falsely"),
        )
        for supports, colour, what in kinds:
            if supports:
                xs = [0.0, *sorted(supports), 1.0]
                ys = [*(n / len(supports) for n in range(len(supports) + 1)), 1.0]
                ys[-1] = ys[-2]
                axes.step(xs, ys, where="post", color=colour, label=what)
        _mark(axes, threshold)
        axes.set_xlim(0, 1)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("threshold of support")
        axes.set_ylabel("share declined")
        axes.legend(loc="upper left")

    return _svg(draw, name=name, height=2.9)


def reliability(bins: Sequence[Bin], threshold: float | None, *, name: str) -> str:
    """How many drafts are right, against how surely they were given; on the diagonal, support is
    the probability of being right."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=_MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
        for bin in bins:
            axes.plot([bin.support] * 2, [bin.low, bin.high], color=_ONE, linewidth=5, alpha=0.25)
        axes.plot([b.support for b in bins], [b.share for b in bins], color=_ONE, alpha=0.5)
        most = max((bin.cases for bin in bins), default=1)
        axes.scatter(
            [bin.support for bin in bins],
            [bin.share for bin in bins],
            s=[20 + 100 * bin.cases / most for bin in bins],
            color=_ONE,
            zorder=3,
        )
        _mark(axes, threshold)
        axes.set_xlim(0, 1)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("support")
        axes.set_ylabel("share right")

    return _svg(draw, name=name, height=2.9)


def distribution(seconds: Sequence[float], marks: Sequence[tuple[str, float]], *, name: str) -> str:
    """How many answers took how long; ``marks`` are lines with a name."""

    def draw(axes: Axes) -> None:
        axes.hist(seconds, bins=min(40, max(8, len(seconds) // 3)), color=_ONE, alpha=0.85)
        top = axes.get_ylim()[1]
        axes.set_ylim(0, 1.2 * top)
        for n, (what, at) in enumerate(marks):
            axes.axvline(at, color=_TWO, linewidth=1.2)
            axes.annotate(
                what,
                (at, (1.14 - 0.09 * n) * top),
                xytext=(4, 0),
                textcoords="offset points",
                color=_INK,
            )
        axes.set_xlim(left=0)
        axes.margins(x=0.12)
        axes.set_xlabel("seconds")
        axes.set_ylabel("answers")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))

    return _svg(draw, name=name, height=2.5)


def _mark(axes: Axes, threshold: float | None) -> None:
    if threshold is None:
        return
    axes.axvline(threshold, color=_INK, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.annotate(
        f"threshold {threshold:.2g}",
        (threshold, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="left" if threshold < 0.15 else "right" if threshold > 0.85 else "center",
        color=_INK,
    )


def _short(label: str) -> str:
    return label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL - 1]}…"


@contextmanager
def _styled() -> Generator[None]:
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # The page's font has letters that matplotlib's lacks.
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        yield


def _svg(draw: Callable[[Axes], None], *, name: str, height: float) -> str:
    """An ``svg`` element to stand in a page; ``name`` keeps its ids apart from other plots'."""
    with _styled():
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        draw(figure.add_subplot())
        written = io.StringIO()
        figure.savefig(
            written,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = written.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r" font-family: [^;\"]+;", "", text)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r' xmlns(?::xlink)?="[^"]*"| version="1.1"', "", text)
    # What it shows is in the table beside it.
    return text.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1).strip()
