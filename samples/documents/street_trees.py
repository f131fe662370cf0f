"""A study of street trees, set like a journal article in two columns."""

import math
import random
from pathlib import Path

from samples import charts
from samples.charts import Box
from samples.draw import Canvas, rgb
from samples.flow import Block, Column, Flow, Look

LOOK = Look(
    running="Lisle, Achebe-Wren and Tolland",
    foot="Reports of the Brackwater Institute for Town Climate, 9 (2024)",
    accent=rgb("3d5a2a"),
    tint=rgb("eef2e6"),
    size=10.8,
    leading=1.46,
    width=500,
    height=700,
    margin=(50, 72, 50, 64),
    columns=2,
    chapter_breaks=False,
    bare=0,
)
SMALL = 8.3  # size of type in tables
GREEN, BROWN, SKY = rgb("5b8c3e"), rgb("a8743a"), rgb("4a7fa5")


def _title(flow: Flow) -> None:
    box = flow.span(112)
    canvas = flow.canvas
    y = canvas.lines(
        box.x0,
        box.y0,
        box.width,
        "Room for roots: how the size of tree pits decides whether street trees cool in a drought",
        "tibo",
        21,
        LOOK.accent,
        leading=1.15,
    )
    y = canvas.lines(
        box.x0, y + 8, box.width, "Anneke Lisle, Ikenna Achebe-Wren and Judith Tolland", "tiro", 12
    )
    canvas.lines(
        box.x0,
        y + 3,
        box.width,
        "Brackwater Institute for Town Climate. Received 4 March 2024, accepted 27 June 2024.",
        "tiit",
        9.5,
        LOOK.muted,
    )
    canvas.line((box.x0, box.y1 + 4), (box.x1, box.y1 + 4), LOOK.accent)


def _cooling(flow: Flow) -> None:
    streets = {
        "Mill Street (e)": 3.4,
        "Canal Row (e)": 2.9,
        "Fuller's Yard (e)": 2.4,
        "Weir Lane (o)": 1.9,
        "Abbey Walk (o)": 1.6,
        "Station Road (o)": 1.3,
    }
    flow.figure(
        150,
        lambda c, b: charts.rows(c, b, streets, GREEN),
        "Figure 1. Cooling below the crowns in hot weeks, in degrees. Streets with "
        "enlarged pits are marked e, those with ordinary pits o.",
    )


def _moisture(flow: Flow) -> None:
    labels = ["Jun", "Jul 1", "Jul 2", "Aug 1", "Aug 2", "Sep"]
    series = {
        "Enlarged pits": [27.0, 23, 18, 13, 17, 21],
        "Ordinary pits": [24.0, 14, 9, 8, 12, 18],
    }
    flow.figure(
        165,
        lambda c, b: charts.lines(c, b, labels, series, [SKY, BROWN], "per cent"),
        "Figure 2. Soil moisture at a depth of 50 centimetres in summer 2022, in per cent "
        "by volume. The wilting point lies at 12 per cent.",
    )


def _comfort(flow: Flow) -> None:
    answers = {"Enlarged pits": 4.1, "Ordinary pits": 4.6, "In the open": 5.8}
    flow.figure(
        80,
        lambda c, b: charts.rows(c, b, answers, BROWN),
        "Figure 3. How warm passers-by felt, from 1 (cold) to 7 (hot).",
    )


def _rows(text: str) -> list[list[str]]:
    return [line.split("|") for line in text.strip().split("\n")]


def _site_table(flow: Flow) -> None:
    flow.table(
        ["Street", "Pits", "Width (m)", "Trees"],
        _rows("""
Mill Street|Enlarged|16|64
Canal Row|Enlarged|14|58
Fuller's Yard|Enlarged|12|34
Weir Lane|Ordinary|15|49
Abbey Walk|Ordinary|17|55
Station Road|Ordinary|22|52
*All|||312
"""),
        [Column(30), Column(22), Column(20, "right"), Column(14, "right")],
        "Table 1. The streets of the study",
        SMALL,
    )


def _sapflow_table(flow: Flow) -> None:
    flow.table(
        ["Species", "Pit", "Jun", "Jul", "Aug"],
        _rows("""
Lime|Enlarged|94|66|58
Lime|Ordinary|71|19|14
Field maple|Enlarged|68|51|43
Field maple|Ordinary|57|24|20
Hornbeam|Enlarged|74|53|47
Hornbeam|Ordinary|60|22|17
Honey locust|Enlarged|49|42|38
Honey locust|Ordinary|43|28|25
"""),
        [Column(30), Column(22), *[Column(15, "right")] * 3],
        "Table 2. Sap flow at the end of the month in 2022, litres a day and tree",
        SMALL,
    )


def _cost_table(flow: Flow) -> None:
    flow.table(
        ["Item", "Crowns", "Life (years)"],
        _rows("""
Pit, during other works|5,400|40
Pit, on its own|11,200|40
Structural soil, 12 cubic metres|1,380|40
Watering by tanker, per summer|310|1
Moisture sensor|145|6
New tree, with three years' care|1,950|60
"""),
        [Column(48), Column(20, "right"), Column(22, "right")],
        "Table 3. Costs for one tree",
        SMALL,
    )


def _weekly(flow: Flow) -> None:
    """Weekly means that follow the course of the dry summer."""
    chance = random.Random(312)
    rows: list[list[str]] = []
    for week in range(20, 41):
        dry = math.exp(-(((week - 31) / 5.5) ** 2))
        hot = "h" if week in (25, 28, 29, 30, 31, 32, 33) else ""
        wet_e = 28 - 15.5 * dry + chance.uniform(-0.6, 0.6)
        wet_o = 25 - 17 * dry + chance.uniform(-0.6, 0.6)
        cool_e = 2.1 + 0.9 * dry + chance.uniform(-0.1, 0.1)
        cool_o = 1.9 - 0.5 * dry + chance.uniform(-0.1, 0.1)
        rows.append(
            [
                f"{week} {hot}".strip(),
                f"{cool_e:.2f}",
                f"{cool_o:.2f}",
                f"{wet_e:.1f}",
                f"{wet_o:.1f}",
            ]
        )
    flow.table(
        ["Week", "Cool e", "Cool o", "Soil e", "Soil o"],
        rows,
        [Column(22), *[Column(20, "right")] * 4],
        "Table 4. Weekly means in 2022: cooling in degrees and soil moisture in per cent, "
        "for enlarged (e) and ordinary (o) pits",
        SMALL,
    )


def _species_figure(flow: Flow) -> None:
    """Two pits in section: a small one and a large one with their roots."""

    def draw(canvas: Canvas, box: Box) -> None:
        ground = box.y0 + 92
        for middle, half, depth, name, crown in (
            (box.x0 + box.width * 0.25, 22, 34, "ordinary, 2 m³", 30),
            (box.x0 + box.width * 0.72, 46, 60, "enlarged, 12 m³", 44),
        ):
            canvas.rect(middle - half, ground, middle + half, ground + depth, fill=rgb("c9ad85"))
            canvas.rect(middle - 4, ground - 44, middle + 4, ground, fill=rgb("7a5a35"))
            canvas.circle((middle, ground - 52), crown * 0.8, fill=GREEN)
            for nth in range(-3, 4):
                tip = (middle + nth * half / 4, ground + depth - 6 - 4 * abs(nth))
                canvas.line((middle, ground), tip, rgb("7a5a35"), 1.2)
            canvas.text(middle, ground + 76, name, "helv", 8, align="center")
        canvas.line((box.x0, ground), (box.x1, ground), LOOK.muted, 1.2)

    flow.figure(
        175,
        draw,
        "An ordinary and an enlarged pit in section, with the "
        "root space that was found by digging.",
    )


BLOCKS: dict[str, Block] = {
    "title": _title,
    "site_table": _site_table,
    "cooling": _cooling,
    "moisture": _moisture,
    "sapflow_table": _sapflow_table,
    "comfort": _comfort,
    "cost_table": _cost_table,
    "weekly": _weekly,
    "species_figure": _species_figure,
}


def make(path: Path) -> None:
    """Draw the document and save it as ``path``."""
    flow = Flow(LOOK)
    flow.pour("street_trees.md", BLOCKS)
    flow.finish(path, "Room for roots", "Lisle, Achebe-Wren and Tolland")
