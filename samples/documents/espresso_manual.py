"""Service manual of an espresso machine, as a scan without a text layer."""

from pathlib import Path

from samples.charts import Box
from samples.draw import BLACK, WHITE, Canvas, rgb
from samples.flow import Block, Flow, Look
from samples.scan import scanned

LOOK = Look(
    running="Corvina Duo 2",
    foot="Service manual, edition of May 2016",
    accent=rgb("222222"),
    tint=rgb("e4e4e4"),
    body="helv",
    bold="hebo",
    italic="heit",
    size=12,
    leading=1.5,
    width=460,
    height=660,
    margin=(56, 78, 56, 64),
)


def _cover(flow: Flow) -> None:
    canvas = flow.canvas
    canvas.text(56, 110, "Corvina Duo 2", "hebo", 40)
    canvas.text(56, 142, "Espresso machine with two groups", "helv", 18)
    canvas.text(56, 168, "Service manual", "helv", 18)
    _machine(canvas, Box(80, 210, 380, 490))
    canvas.text(56, 544, "Corvina Officine, edition of May 2016", "helv", 13)
    canvas.text(56, 564, "Keep this book with the machine.", "helv", 13)
    flow.new_page()


def _machine(canvas: Canvas, box: Box) -> None:
    """The front of the machine: body, two groups, wands, gauges and tray."""
    body, tray = rgb("c9c9c9"), rgb("8c8c8c")
    canvas.rect(box.x0, box.y0 + 40, box.x1, box.y0 + 140, fill=body, stroke=BLACK, width=1.4)
    canvas.rect(box.x0 + 20, box.y0, box.x1 - 20, box.y0 + 40, fill=WHITE, stroke=BLACK)
    canvas.rect(box.x0 + 10, box.y1 - 50, box.x1 - 10, box.y1, fill=tray, stroke=BLACK, width=1.4)
    canvas.rect(box.x0 + 60, box.y0 + 140, box.x1 - 60, box.y1 - 50, fill=WHITE, stroke=BLACK)
    for x in (box.x0 + 110, box.x1 - 110):
        canvas.rect(x - 34, box.y0 + 140, x + 34, box.y0 + 172, fill=tray, stroke=BLACK)
        canvas.rect(x - 8, box.y0 + 172, x + 8, box.y0 + 232, fill=BLACK)
        canvas.circle((x, box.y0 + 88), 20, fill=WHITE, stroke=BLACK)
        canvas.line((x, box.y0 + 88), (x + 11, box.y0 + 76), width=1.6)
    for x, lean in ((box.x0 + 26, -12), (box.x1 - 26, 12)):
        canvas.line((x, box.y0 + 140), (x + lean, box.y1 - 60), width=4)


def _group(flow: Flow) -> None:
    def draw(canvas: Canvas, box: Box) -> None:
        middle = (box.x0 + box.x1) / 2
        parts = [
            ("Group head, four bolts", 96, 30, "b0b0b0"),
            ("Gasket", 62, 12, "404040"),
            ("Shower screen", 52, 9, "d8d8d8"),
            ("Screw", 8, 18, "707070"),
        ]
        y = box.y0
        for name, half, height, shade in parts:
            canvas.rect(
                middle - half - 60, y, middle + half - 60, y + height, fill=rgb(shade), stroke=BLACK
            )
            canvas.line((middle + half - 56, y + height / 2), (middle + 50, y + height / 2))
            canvas.text(middle + 54, y + height / 2 + 4, name, "helv", 11)
            y += height + 14

    flow.figure(130, draw, "Figure 1. Order of the parts of the group")


def _pump(flow: Flow) -> None:
    def draw(canvas: Canvas, box: Box) -> None:
        y = box.y0 + 60
        canvas.circle((box.x0 + 90, y), 46, fill=rgb("c9c9c9"), stroke=BLACK, width=1.4)
        canvas.rect(box.x0 + 136, y - 26, box.x0 + 230, y + 26, fill=rgb("a0a0a0"), stroke=BLACK)
        canvas.rect(box.x0 + 230, y - 10, box.x0 + 252, y + 10, fill=rgb("606060"))
        canvas.rect(box.x0 + 252, y - 5, box.x0 + 290, y + 5, fill=rgb("404040"))
        canvas.text(box.x0 + 90, y + 4, "Motor", "helv", 11, align="center")
        canvas.text(box.x0 + 183, y + 4, "Pump", "helv", 11, align="center")
        canvas.text(box.x0 + 236, y + 40, "Lock nut", "helv", 11, align="center")
        canvas.text(box.x0 + 240, y - 20, "Screw: + clockwise", "helv", 11)

    flow.figure(120, draw, "Figure 2. Pump with its pressure screw")


BLOCKS: dict[str, Block] = {"cover": _cover, "group": _group, "pump": _pump}


def make(path: Path) -> None:
    """Draw the document and save it as ``path``."""
    flow = Flow(LOOK)
    flow.pour("espresso_manual.md", BLOCKS)
    flow.furnish()
    scanned(flow.canvas).save(path, "Corvina Duo 2: service manual (scan)", "Corvina Officine")
