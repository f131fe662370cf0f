"""Minutes of the town council of Brackwater for 2024, one volume."""

import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from samples.charts import Box
from samples.covers import cover
from samples.draw import Canvas, rgb
from samples.flow import Block, Column, Flow, Look

LOOK = Look(
    running="Town council of Brackwater",
    foot="Minutes 2024",
    accent=rgb("5a3d6b"),
    tint=rgb("f0ebf3"),
    size=11.4,
    leading=1.52,
    margin=(82, 86, 82, 80),
    roman=2,
)
MEMBERS = (
    "Beatty",
    "Carrow",
    "Dunmore",
    "Fairlie",
    "Hallam",
    "Ilves",
    "Jessop",
    "Lumley",
    "Marsden",
    "Okonjo",
    "Penrose",
    "Roe",
    "Stanescu",
    "Thripp",
    "Umber",
    "Whitlock",
    "Yardley",
)


def _cover(flow: Flow) -> None:
    def hall(canvas: Canvas, box: Box) -> None:
        canvas.rect(box.x0, box.y0, box.x1, box.y1, fill=rgb("e5d9ea"))
        canvas.rect(120, 230, 475, box.y1, fill=rgb("b99fc6"))
        canvas.path(
            [(100, 230), (298, 120), (495, 230)], stroke=None, fill=LOOK.accent, closed=True
        )
        for nth in range(6):
            x = 142 + 60 * nth
            canvas.rect(x, 258, x + 16, box.y1, fill=rgb("efe7f2"))
        canvas.circle((298, 188), 22, fill=rgb("efe7f2"), stroke=LOOK.accent, width=3)
        canvas.line((298, 188), (298, 174), LOOK.accent, 2)
        canvas.line((298, 188), (308, 194), LOOK.accent, 2)

    cover(
        flow,
        "Minutes of the town council",
        "Brackwater, 2024",
        ["Six meetings in the Guildhall", "Clerk to the council: Verity Langstaff"],
        hall,
    )


def _attend(flow: Flow, absent: Sequence[str], chair: str, until: str) -> None:
    """The line of those present, at the head of each meeting."""
    here = ", ".join(name for name in MEMBERS if name not in absent)
    flow.note(
        f"**In the chair:** Councillor {chair}. **Present:** Councillors {here}. "
        f"**Apologies:** {', '.join(absent) or 'none'}. The meeting began at 18:30 and ended "
        f"at {until}. The clerk, the treasurer and the head of streets attended."
    )


def _rows(text: str) -> list[list[str]]:
    return [line.split("|") for line in text.strip().split("\n")]


def _contents(flow: Flow) -> None:
    flow.contents(levels=2)


def _committees(flow: Flow) -> None:
    flow.table(
        ["Committee", "Chair", "Members", "Meets"],
        _rows("""
Planning|Hallam|9|First Tuesday
Streets|Stanescu|7|Second Thursday
Open spaces|Roe|7 and 2 young people|Last Monday
Finance|Whitlock|7|Third Wednesday
Harbour|Umber|5|Every second month
Personnel|Penrose|5|As needed
"""),
        [Column(24), Column(20), Column(26), Column(26)],
        "Committees from May 2024",
    )


REGISTER = """
24/01|16 January|Skate park in concrete at the old timber yard|Hallam|In hand
24/02|16 January|Winter market of eleven days, music until eight|Fairlie|Done
24/03|16 January|Full allotment plots divided as they fall free|Roe|In hand
24/04|16 January|Internal auditor appointed for three years|Whitlock|Done
24/05|12 March|Budget for 2024 adopted|Whitlock|Done
24/06|12 March|Message service for flood warnings|Umber|Done
24/07|12 March|Gate seven exercised each month|Umber|Running
24/08|12 March|North slope of the Guildhall roof renewed|Penrose|Done
24/09|12 March|Evening return trip on bus route 6|Stanescu|Running
24/10|12 March|Five street names at Tannery Fields|Jessop|Done
24/11|12 March|Dogs on leads in the cemetery, one more year|Roe|Running
24/12|14 May|Committees and chairs elected|Okonjo|Done
24/13|14 May|Condition on blasting hours sought|Ilves|With the county
24/14|14 May|Heat pump report brought forward|Lumley|Done
24/15|9 July|Heat pump ordered for the baths|Lumley|In hand
24/16|9 July|Reed bed planned at Jubilee Pond|Roe|In hand
24/17|9 July|Eighty-four dwellings approved with conditions|Hallam|Done
24/18|9 July|Cup of 1702 lent to the museum at Holme|Okonjo|Returned
24/19|17 September|Crossing warden at Canal Row, ten hours|Stanescu|Done
24/20|17 September|Raised crossing in the autumn holiday|Stanescu|Done
24/21|17 September|Larger tree pits in permits from January|Stanescu|In hand
24/22|17 September|Library open on Sundays, October to March|Dunmore|Running
24/23|17 September|Unpaid mooring fees billed|Umber|One boat left
24/24|17 September|Lanterns instead of fireworks, for one year|Marsden|In hand
24/25|19 November|Twin town: new oath by two schools|Dunmore|In hand
24/26|19 November|Free half hour on Market Hill until Easter|Stanescu|Running
24/27|19 November|Calendar of meetings for 2025|Okonjo|Done
"""


def _register(flow: Flow) -> None:
    flow.paragraph(
        "The clerk keeps this register so that a decision does not get lost between "
        "two meetings. The last column shows where each stood on 31 December 2024."
    )
    flow.table(
        ["No.", "Date", "Decision", "Moved by", "State"],
        _rows(REGISTER),
        [Column(10), Column(20), Column(50), Column(16), Column(18)],
        "Resolutions of 2024",
    )


def _allowances(flow: Flow) -> None:
    """Attendance follows the apologies in the minutes; pay follows attendance."""
    flow.paragraph(
        "Members receive 95 crowns for a meeting of the council and 60 for one of a "
        "committee. The mayor and the chairs of committees receive a fixed sum on top. "
        "Councillors Roe and Ilves gave their allowances to the youth houses."
    )
    chance = random.Random(1702)
    absences = [name for absent, _, _ in MEETINGS.values() for name in absent]
    extra = {
        "Okonjo": 1800,
        "Whitlock": 1500,
        "Hallam": 900,
        "Stanescu": 900,
        "Roe": 900,
        "Umber": 700,
        "Penrose": 700,
    }
    rows: list[list[str]] = []
    for name in MEMBERS:
        council = 6 - absences.count(name)
        committee = chance.randint(7, 15)
        pay = council * 95 + committee * 60 + extra.get(name, 0)
        rows.append(
            [name, f"{council} of 6", str(committee), f"{extra.get(name, 0):,}", f"{pay:,}"]
        )
    flow.table(
        ["Councillor", "Council", "Committee meetings", "Fixed sum", "Paid, crowns"],
        rows,
        [Column(26), *[Column(20, "right")] * 4],
        "Attendance and allowances",
    )


def _planning(flow: Flow) -> None:
    """Draw up the list of applications from fixed lists, in an order given by a fixed seed."""
    flow.paragraph(
        "The planning committee decided the applications in this list under delegated "
        "powers. Applications that went to the full council are reported in the "
        "minutes. Plans can be seen at the town hall on weekday mornings."
    )
    chance = random.Random(1640)
    streets = [
        "Abbey Walk",
        "Canal Row",
        "Fuller's Yard",
        "Weir Lane",
        "Mill Street",
        "Market Hill",
        "Station Road",
        "Cooper's Piece",
        "Gas Lane",
        "Ropewalk",
        "Upper Pellworth",
        "Lower Quay",
        "Bridge Street",
        "Priory Close",
    ]
    works = [
        "Loft conversion with two dormers",
        "Single-storey extension at the rear",
        "Replacement of timber windows",
        "Garage turned into a workshop",
        "Shop front and awning",
        "Bicycle shed in the front garden",
        "Felling of one ash with decay",
        "Air-source heat pump",
        "Solar panels on the barn",
        "Change of use from office to flat",
        "Garden wall of 1.9 metres",
        "Conservatory at the side",
        "Sign with lettering on the gable",
        "Dropped kerb and parking space",
        "Rebuilding of a boat shed",
        "Porch in oak",
        "Roof terrace above the kitchen",
        "Subdivision into two flats",
    ]
    names = [
        "Adeyemi",
        "Barlow",
        "Castellan",
        "Dray",
        "Eastaugh",
        "Fennimore",
        "Goss",
        "Hartigan",
        "Imrie",
        "Jolliffe",
        "Kaminski",
        "Lorne",
        "Mostyn",
        "Nuttall",
        "Osgood",
        "Pargeter",
        "Quennell",
        "Rooke",
        "Sallow",
        "Trask",
    ]
    rows: list[list[str]] = []
    for number in range(84):
        month = 1 + number // 7
        decided = chance.choices(
            ["Approved", "With conditions", "Refused", "Withdrawn"], [50, 32, 12, 6]
        )[0]
        rows.append(
            [
                f"P/{2400 + 3 * number}",
                f"{chance.randint(1, 28)}.{month}.",
                f"{chance.randint(1, 96)} {chance.choice(streets)}",
                chance.choice(works),
                chance.choice(names),
                decided,
            ]
        )
    flow.table(
        ["Number", "Date", "Place", "Work", "Applicant", "Decision"],
        rows,
        [Column(13), Column(9), Column(24), Column(33), Column(17), Column(26)],
        "Applications decided in 2024",
    )


MEETINGS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "attend_jan": (("Ilves", "Yardley"), "Whitlock", "21:40"),
    "attend_mar": ((), "Whitlock", "21:55"),
    "attend_may": (("Carrow",), "Okonjo", "20:50"),
    "attend_jul": (("Beatty",), "Okonjo", "22:35"),
    "attend_sep": (("Jessop", "Umber"), "Okonjo", "21:20"),
    "attend_nov": (("Lumley",), "Okonjo", "21:05"),
}
BLOCKS: dict[str, Block] = {
    "cover": _cover,
    "contents": _contents,
    "committees": _committees,
    "register": _register,
    "allowances": _allowances,
    "planning": _planning,
} | {
    name: partial(_attend, absent=absent, chair=chair, until=until)
    for name, (absent, chair, until) in MEETINGS.items()
}


def make(path: Path) -> None:
    """Draw the document and save it as ``path``."""
    flow = Flow(LOOK)
    flow.pour("council_minutes.md", BLOCKS)
    flow.finish(path, "Minutes of the town council of Brackwater, 2024", "Verity Langstaff")
