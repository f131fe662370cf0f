"""Slides of Project Lantern: a steering meeting, with build-ups and a repeated agenda."""

from collections.abc import Sequence
from pathlib import Path

from samples import charts
from samples.charts import Box
from samples.draw import WHITE, Canvas, rgb

WIDTH, HEIGHT = 960.0, 540.0
NIGHT, AMBER, PAPER, INK = rgb("1d2b3a"), rgb("e8a33d"), rgb("fbf8f2"), rgb("222a33")
SLATE, TEAL, ROSE, MUTED = rgb("5b6b7b"), rgb("2e8b84"), rgb("b5495b"), rgb("737d87")
AGENDA = (
    "Why we have to move now",
    "What we found in the depots",
    "Choosing the pilot depot",
    "Cost, benefit and timetable",
    "Risks and decisions for today",
)


class Deck:
    """Slides on one canvas, each with title, foot and number."""

    def __init__(self) -> None:
        self.canvas = Canvas(WIDTH, HEIGHT)

    def slide(self, title: str) -> Box:
        """Start a slide; return the space below its title."""
        canvas = self.canvas
        canvas.new_page()
        canvas.rect(0, 0, WIDTH, HEIGHT, fill=PAPER)
        canvas.rect(0, 0, 14, HEIGHT, fill=AMBER)
        canvas.text(60, 76, title, "hebo", 29, NIGHT)
        canvas.line((60, 94), (900, 94), AMBER, 1.5)
        canvas.text(
            60, 516, "Project Lantern   |   Steering group, 12 June 2025", "helv", 10, MUTED
        )
        canvas.text(900, 516, str(canvas.page_count), "hebo", 11, NIGHT, "right")
        return Box(60, 116, 900, 490)

    def bullets(self, title: str, items: Sequence[tuple[str, str]]) -> None:
        """One slide of bullets, each a bold line and a sentence."""
        y = self.slide(title).y0 + 12
        for head, words in items:
            self.canvas.circle((72, y + 16), 6, fill=AMBER)
            self.canvas.text(94, y + 24, head, "hebo", 23, INK)
            y = self.canvas.lines(94, y + 33, 790, words, "helv", 19, SLATE) + 15

    def build_up(self, title: str, items: Sequence[tuple[str, str]]) -> None:
        """The same slide again and again, with one bullet more each time."""
        for shown in range(1, len(items) + 1):
            self.bullets(title, items[:shown])

    def agenda(self) -> None:
        """The agenda slide, the same at each place (its number stands in the foot only)."""
        y = self.slide("Agenda").y0 + 14
        for number, item in enumerate(AGENDA, start=1):
            self.canvas.rect(72, y, 112, y + 40, fill=NIGHT, radius=0.2)
            self.canvas.text(92, y + 28, str(number), "hebo", 21, AMBER, "center")
            self.canvas.text(132, y + 28, item, "helv", 22, INK)
            y += 66

    def grid(
        self,
        title: str,
        head: Sequence[str],
        rows: Sequence[Sequence[str]],
        widths: Sequence[float],
    ) -> None:
        """One slide with a table; ``widths`` are points."""
        box = self.slide(title)
        canvas, y, tall = self.canvas, box.y0 + 8, min(40.0, 330 / (len(rows) + 1))
        canvas.rect(box.x0, y, box.x1, y + tall, fill=NIGHT)
        for nth, cells in enumerate([head, *rows]):
            if nth and nth % 2 == 0:
                canvas.rect(box.x0, y, box.x1, y + tall, fill=rgb("f0e9dc"))
            x = box.x0
            for cell, width in zip(cells, widths, strict=True):
                canvas.text(
                    x + 10,
                    y + tall * 0.66,
                    cell,
                    "helv" if nth else "hebo",
                    15,
                    INK if nth else WHITE,
                )
                x += width
            y += tall


WHY_NOW = (
    ("The old system ends", "The maker of Stockmaster stops all support on 31 March 2026."),
    (
        "Errors are growing",
        "Wrong pallets cost us 2.1 million crowns last year, mostly in returns of chilled goods.",
    ),
    (
        "People leave",
        "One picker in three leaves within six months and names the handhelds as a reason.",
    ),
)
FINDINGS = (
    (
        "Three ways to count",
        "Each depot counts broken cases differently, so that totals never "
        "match at the month's end.",
    ),
    (
        "Paper fills the gaps",
        "We found 46 home-made forms; the best of them was drawn on the back of a banana box.",
    ),
    ("Radio shadows", "In the deep freeze at Pellworth one aisle in five has no signal."),
)
PILOT = (
    (
        "Tamsworth goes first",
        "One temperature zone, fourteen docks and the most stable crew of all depots.",
    ),
    (
        "Small enough to fail",
        "It ships nine per cent of the volume; Oakhaven can take over within two days.",
    ),
    (
        "Go-live on 6 October 2025",
        "After the harvest peak and six weeks before the Christmas orders begin.",
    ),
    ("Depot lead", "Yusra Fontaine runs the pilot, with two floor coaches from each shift."),
)
RISKS = (
    (
        "Master data",
        "Weights are missing for 3,400 articles. Two students measure 120 a day from July.",
    ),
    ("Labels", "The new scanner cannot read frosted labels; the supplier tests a heated window."),
    ("Holiday season", "Trainers are short in August, so the course is given twice in September."),
    (
        "Going back",
        "Stockmaster is kept warm for ninety days so that we can return within a night.",
    ),
)


def _title(deck: Deck) -> None:
    canvas = deck.canvas
    canvas.new_page()
    canvas.rect(0, 0, WIDTH, HEIGHT, fill=NIGHT)
    for radius, shade in ((190, "24364a"), (140, "3a4650"), (92, "7a6640"), (48, "e8a33d")):
        canvas.circle((740, 240), radius, fill=rgb(shade))
    canvas.text(80, 240, "Project Lantern", "hebo", 52, WHITE)
    canvas.text(80, 284, "One warehouse system for Oakhaven Foods", "helv", 22, AMBER)
    canvas.text(80, 440, "Steering group, 12 June 2025", "helv", 16, WHITE)
    canvas.text(80, 464, "Presented by Lorcan Abernethy, programme lead", "helv", 16, WHITE)


def _process(deck: Deck) -> None:
    box = deck.slide("How an order travels today")
    canvas = deck.canvas
    steps = [
        ("Order desk", "typed twice"),
        ("Stockmaster", "batch at 22:00"),
        ("Printer", "paper pick list"),
        ("Picker", "ticks by hand"),
        ("Checker", "types it again"),
        ("Truck", "leaves at 05:30"),
    ]
    for nth, (name, words) in enumerate(steps):
        x = box.x0 + 142 * nth
        canvas.rect(x, 210, x + 118, 300, fill=TEAL if nth % 2 else SLATE, radius=0.12)
        canvas.text(x + 59, 250, name, "hebo", 16, WHITE, "center")
        canvas.text(x + 59, 274, words, "helv", 12, WHITE, "center")
        if nth < 5:
            canvas.arrow((x + 120, 255), (x + 140, 255), INK, 2)
    canvas.text(
        box.x0,
        370,
        "The same line is typed three times. Each time one in 400 goes wrong.",
        "helv",
        20,
        ROSE,
    )


def _timeline(deck: Deck) -> None:
    box = deck.slide("Timetable to the last depot")
    canvas = deck.canvas
    bars = [
        ("Design", 0, 2, SLATE),
        ("Build and test", 1, 4, TEAL),
        ("Pilot", 4, 6, AMBER),
        ("Oakhaven", 6, 8, ROSE),
        ("Pellworth", 7, 9, ROSE),
        ("Holme and Carrow", 8, 10, ROSE),
    ]
    quarters = [
        "Q3 24",
        "Q4 24",
        "Q1 25",
        "Q2 25",
        "Q3 25",
        "Q4 25",
        "Q1 26",
        "Q2 26",
        "Q3 26",
        "Q4 26",
    ]
    step = (box.width - 170) / 10
    for nth, quarter in enumerate(quarters):
        x = box.x0 + 170 + step * nth
        canvas.line((x, 140), (x, 470), rgb("d8d2c4"))
        canvas.text(x + step / 2, 134, quarter, "helv", 11, MUTED, "center")
    for nth, (name, start, end, color) in enumerate(bars):
        y = 156 + 52 * nth
        canvas.text(box.x0, y + 23, name, "helv", 16, INK)
        canvas.rect(
            box.x0 + 170 + step * start,
            y,
            box.x0 + 170 + step * end,
            y + 34,
            fill=color,
            radius=0.25,
        )


def _quote(deck: Deck) -> None:
    box = deck.slide("What pickers told us")
    quotes = [
        (
            "I walk eleven kilometres a night, and two of them are to the printer.",
            "Night shift, Pellworth",
        ),
        ("The gloves are warm or the buttons are small. Choose one.", "Deep freeze, Oakhaven"),
        ("If you ask us before you buy, we will tell you which one breaks.", "Returns, Holme"),
    ]
    y = box.y0 + 10
    for words, who in quotes:
        deck.canvas.rect(box.x0, y, box.x0 + 5, y + 82, fill=AMBER)
        deck.canvas.lines(box.x0 + 24, y + 4, 800, f"“{words}”", "tiit", 22, INK)
        deck.canvas.text(box.x0 + 24, y + 76, who, "helv", 14, MUTED)
        y += 118


def _draw(deck: Deck) -> None:
    _title(deck)
    deck.agenda()
    deck.build_up("Why we have to move now", WHY_NOW)
    _process(deck)
    deck.agenda()
    box = deck.slide("Picking errors per 1,000 lines, by depot")
    charts.bars(
        deck.canvas,
        box,
        ["Oakhaven", "Pellworth", "Holme", "Carrow", "Tamsworth"],
        {"2023": [3.1, 4.6, 2.8, 3.9, 2.2], "2024": [3.4, 5.7, 2.9, 4.4, 2.1]},
        [SLATE, AMBER],
        "errors per 1,000 lines",
        scale=1.8,
    )
    deck.build_up("What we found in the depots", FINDINGS)
    _quote(deck)
    deck.agenda()
    deck.grid(
        "Five depots compared",
        ["Depot", "Lines a day", "Docks", "Zones", "Leavers a year"],
        [
            ["Oakhaven", "41,200", "36", "4", "29%"],
            ["Pellworth", "28,900", "24", "3", "38%"],
            ["Holme", "16,400", "18", "2", "22%"],
            ["Carrow", "12,700", "12", "3", "31%"],
            ["Tamsworth", "9,800", "14", "1", "11%"],
        ],
        [220, 170, 130, 130, 190],
    )
    deck.build_up("The pilot depot", PILOT)
    deck.agenda()
    deck.grid(
        "What Lantern costs",
        ["Item", "Million crowns", "When"],
        [
            ["Licences and hosting, five years", "6.4", "yearly"],
            ["Handhelds, 620 pieces", "1.9", "2025 and 2026"],
            ["Radio in the deep freeze", "0.8", "before each start"],
            ["Integration and data", "3.2", "2025"],
            ["Training, 9,300 hours", "1.1", "2025 and 2026"],
            ["Reserve", "1.3", "if needed"],
            ["Together", "14.7", ""],
        ],
        [430, 200, 210],
    )
    box = deck.slide("Savings a year once all depots run, in million crowns")
    charts.rows(
        deck.canvas,
        box,
        {
            "Fewer returns": 1.7,
            "Less overtime": 1.2,
            "No paper and printers": 0.3,
            "Lower stocks": 0.9,
            "Stockmaster fees": 0.6,
        },
        TEAL,
        scale=1.8,
    )
    _timeline(deck)
    deck.agenda()
    deck.build_up("Main risks and what we do", RISKS)
    deck.bullets(
        "Decisions for today",
        (
            ("Release the second budget", "4.3 million crowns for handhelds and integration."),
            ("Confirm the pilot", "Depot and lead as proposed."),
            ("Name a sponsor", "One director who answers the telephone during the first nights."),
        ),
    )
    deck.grid(
        "Next steps",
        ["What", "Who", "Until"],
        [
            ["Contract for handhelds", "Lorcan Abernethy", "30 June"],
            ["Measure missing weights", "Solveig Marr", "15 August"],
            ["Radio survey of the freezers", "Benedikt Osei", "29 August"],
            ["Two courses for floor coaches", "Yusra Fontaine", "26 September"],
            ["Rehearsal with live trucks", "All leads", "27 September"],
        ],
        [390, 270, 180],
    )


def make(path: Path) -> None:
    """Draw the document and save it as ``path``."""
    deck = Deck()
    _draw(deck)
    deck.canvas.save(path, "Project Lantern: steering group, 12 June 2025", "Lorcan Abernethy")
