"""One inspection form, filled in twice: the overhead cranes of bay 3 and bay 5."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from samples.draw import Canvas, rgb

ACCENT = rgb("8a5a00")
TINT = rgb("f6efe0")
TYPED = rgb("1b2a6b")
LEFT, RIGHT = 52.0, 543.0

CHECKS = (
    "Bridge beams, welds and bolts",
    "End stops and buffers",
    "Wheels and rail",
    "Trolley frame",
    "Hoist gearbox, oil level",
    "Wire rope, outside wires",
    "Rope end and wedge socket",
    "Hook, safety latch",
    "Hook throat opening",
    "Hoist brake",
    "Travel brake",
    "Upper limit switch",
    "Overload switch",
    "Pendant and cable",
    "Emergency stop",
    "Horn and lamp",
    "Marking of safe load",
    "Access ladder and rail",
)


@dataclass(frozen=True, slots=True)
class Inspection:
    """What one inspector wrote into the form."""

    bay: str
    crane: str
    maker: str
    built: str
    load: str
    date: str
    inspector: str
    badge: str
    last: str
    hours: str
    findings: Sequence[str]  # one of ok, note, fail for each check
    readings: Sequence[tuple[str, str, str]]  # what, reading, limit
    remarks: str
    result: str
    due: str


BAY_3 = Inspection(
    "Bay 3, rolling shop",
    "OC-3117",
    "Drummond Hoists",
    "2006",
    "10 t",
    "14 March 2024",
    "Wilhelmina Darke",
    "LE-208",
    "12 September 2023",
    "8,412",
    [
        "ok",
        "ok",
        "note",
        "ok",
        "ok",
        "ok",
        "ok",
        "ok",
        "ok",
        "ok",
        "ok",
        "ok",
        "ok",
        "note",
        "ok",
        "ok",
        "ok",
        "ok",
    ],
    [
        ("Wire rope diameter", "15.6 mm", "at least 14.4 mm"),
        ("Hook throat opening", "51.2 mm", "at most 53.0 mm"),
        ("Brake slip at full load", "38 mm", "at most 60 mm"),
        ("Test load lifted", "12.5 t", "12.5 t"),
        ("Deflection at mid span", "9.4 mm", "at most 14.0 mm"),
        ("Insulation of hoist motor", "48 megohm", "at least 2 megohm"),
        ("Noise at the pendant", "71 dB", "at most 85 dB"),
    ],
    "North wheel shows slight wear of the flange; measure again in six months. Sheath of the "
    "pendant cable chafed near the plug, taped, new cable ordered from stores. Rail joint 4 was "
    "reground since the last visit and runs quietly.",
    "Safe to use",
    "14 September 2024",
)

BAY_5 = Inspection(
    "Bay 5, dispatch hall",
    "OC-3142",
    "Drummond Hoists",
    "2011",
    "16 t",
    "19 September 2024",
    "Cassius Oyelaran",
    "LE-231",
    "21 March 2024",
    "11,067",
    [
        "ok",
        "ok",
        "ok",
        "ok",
        "note",
        "ok",
        "ok",
        "fail",
        "ok",
        "note",
        "ok",
        "ok",
        "ok",
        "ok",
        "ok",
        "ok",
        "note",
        "ok",
    ],
    [
        ("Wire rope diameter", "17.1 mm", "at least 16.2 mm"),
        ("Hook throat opening", "66.8 mm", "at most 68.0 mm"),
        ("Brake slip at full load", "57 mm", "at most 60 mm"),
        ("Test load lifted", "20.0 t", "20.0 t"),
        ("Deflection at mid span", "12.1 mm", "at most 16.0 mm"),
        ("Insulation of hoist motor", "31 megohm", "at least 2 megohm"),
        ("Noise at the pendant", "78 dB", "at most 85 dB"),
    ],
    "Spring of the safety latch on the hook is broken: crane taken out of use until "
    "it is replaced. "
    "Brake linings close to the limit, to be adjusted at the same time. Gearbox oil was 0.8 litres "
    "low. The painted figure for the safe load can no longer be read from the floor.",
    "Not to be used until the latch is replaced",
    "19 March 2025",
)


def _frame(canvas: Canvas, page: int) -> None:
    canvas.new_page()
    canvas.rect(LEFT, 40, RIGHT, 82, fill=ACCENT)
    white = rgb("ffffff")
    canvas.text(LEFT + 12, 66, "Periodic inspection of overhead crane", "hebo", 16, white)
    canvas.text(RIGHT - 12, 60, "Form CR-7", "hebo", 11, white, "right")
    canvas.text(RIGHT - 12, 73, "Hallbeck Steelworks", "helv", 9, white, "right")
    canvas.text(LEFT, 816, "CR-7, edition 4. Keep for ten years.", "helv", 8)
    canvas.text(RIGHT, 816, f"Page {page} of 2", "helv", 8, align="right")


def _field(canvas: Canvas, x: float, y: float, width: float, name: str, value: str) -> None:
    canvas.rect(x, y, x + width, y + 34, fill=TINT, stroke=ACCENT, width=0.5)
    canvas.text(x + 6, y + 11, name, "helv", 7.5, ACCENT)
    canvas.text(x + 6, y + 27, value, "cour", 11, TYPED)


def _section(canvas: Canvas, y: float, title: str) -> float:
    canvas.text(LEFT, y, title, "hebo", 11, ACCENT)
    canvas.line((LEFT, y + 5), (RIGHT, y + 5), ACCENT)
    return y + 16


def _first_page(canvas: Canvas, form: Inspection) -> None:
    _frame(canvas, 1)
    half = (RIGHT - LEFT - 10) / 2
    pairs = [
        ("Place", form.bay),
        ("Crane number", form.crane),
        ("Maker", form.maker),
        ("Year built", form.built),
        ("Safe working load", form.load),
        ("Date of inspection", form.date),
        ("Inspector", form.inspector),
        ("Badge", form.badge),
        ("Last inspection", form.last),
        ("Hours on the meter", form.hours),
    ]
    y = _section(canvas, 108, "A  Crane and inspection")
    for nth, (name, value) in enumerate(pairs):
        x = LEFT + (half + 10) * (nth % 2)
        _field(canvas, x, y + 40 * (nth // 2), half, name, value)
    y = _section(canvas, y + 224, "B  Checks")
    canvas.text(LEFT + 4, y + 4, "No.", "hebo", 8)
    canvas.text(LEFT + 34, y + 4, "Part", "hebo", 8)
    for nth, head in enumerate(("in order", "note", "fault")):
        canvas.text(RIGHT - 150 + 55 * nth, y + 4, head, "hebo", 8, align="center")
    y += 10
    for nth, (part, finding) in enumerate(zip(CHECKS, form.findings, strict=True)):
        if nth % 2 == 0:
            canvas.rect(LEFT, y, RIGHT, y + 22, fill=TINT)
        canvas.text(LEFT + 4, y + 15, str(nth + 1), "helv", 9)
        canvas.text(LEFT + 34, y + 15, part, "helv", 9.5)
        for box, answer in enumerate(("ok", "note", "fail")):
            x = RIGHT - 155 + 55 * box
            canvas.rect(x, y + 6, x + 10, y + 16, stroke=ACCENT)
            if finding == answer:
                canvas.text(x + 5, y + 15, "X", "cobo", 12, TYPED, "center")
        y += 22


def _second_page(canvas: Canvas, form: Inspection) -> None:
    _frame(canvas, 2)
    y = _section(canvas, 108, "C  Readings")
    _field(canvas, LEFT, y, 160, "Crane number", form.crane)
    _field(canvas, LEFT + 170, y, 160, "Date of inspection", form.date)
    _field(canvas, LEFT + 340, y, RIGHT - LEFT - 340, "Place", form.bay)
    y += 52
    for head, x in (("What", 4), ("Reading", 210), ("Limit", 340)):
        canvas.text(LEFT + x, y + 4, head, "hebo", 8)
    y += 10
    for nth, (what, reading, limit) in enumerate(form.readings):
        if nth % 2 == 0:
            canvas.rect(LEFT, y, RIGHT, y + 24, fill=TINT)
        canvas.text(LEFT + 4, y + 16, what, "helv", 9.5)
        canvas.text(LEFT + 210, y + 16, reading, "cour", 11, TYPED)
        canvas.text(LEFT + 340, y + 16, limit, "helv", 9.5)
        y += 24
    y = _section(canvas, y + 28, "D  Remarks")
    canvas.rect(LEFT, y - 2, RIGHT, y + 132, stroke=ACCENT, width=0.5)
    canvas.lines(LEFT + 8, y + 6, RIGHT - LEFT - 16, form.remarks, "cour", 10.5, TYPED, leading=1.6)
    y = _section(canvas, y + 162, "E  Result")
    _field(canvas, LEFT, y, RIGHT - LEFT, "The crane is", form.result)
    _field(canvas, LEFT, y + 42, 240, "Next inspection due", form.due)
    _field(canvas, LEFT + 250, y + 42, RIGHT - LEFT - 250, "Signed", form.inspector)


def _make(path: Path, form: Inspection) -> None:
    canvas = Canvas(595, 842)
    _first_page(canvas, form)
    _second_page(canvas, form)
    canvas.save(path, f"Inspection of crane {form.crane}, {form.date}", form.inspector)


def make_bay_3(path: Path) -> None:
    """Draw the document and save it as ``path``."""
    _make(path, BAY_3)


def make_bay_5(path: Path) -> None:
    """Draw the document and save it as ``path``."""
    _make(path, BAY_5)
