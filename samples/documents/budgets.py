"""Two editions of the budget of Brackwater, 2023 and 2024: one layout, different figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from samples import charts
from samples.charts import Box
from samples.covers import cover
from samples.draw import Canvas, Color, rgb
from samples.flow import Block, Column, Flow, Look

PALETTE = [
    rgb(code) for code in ("7a2e3a", "c07a4b", "4f6d7a", "8a9a5b", "b9a44c", "6b5876", "999999")
]


@dataclass(frozen=True, slots=True)
class Service:
    """One service of the town: its lines in thousand crowns and what is new."""

    name: str
    lines: Mapping[str, int]
    text: str

    @property
    def total(self) -> int:
        """Add up the lines."""
        return sum(self.lines.values())


@dataclass(frozen=True, slots=True)
class Budget:
    """The figures of one edition, in thousand crowns."""

    year: int
    accent: Color
    income: Mapping[str, float]
    services: tuple[Service, ...]
    capital: Mapping[str, int]
    debt: tuple[float, ...]  # million crowns at the end of five years, this one last
    wishes: Mapping[str, float]  # per cent of the residents who answered


BUDGET_2023 = Budget(
    2023,
    rgb("7a2e3a"),
    {
        "Town rate": 9840,
        "State grant": 7310,
        "Fees and fines": 2960,
        "Rents": 1420,
        "Harbour": 880,
        "Other": 610,
    },
    (
        Service(
            "Streets and lighting",
            {
                "Repair of carriageways": 1640,
                "Winter maintenance": 385,
                "Street lamps": 720,
                "Cleaning": 905,
                "Signs and markings": 140,
            },
            "Lamps in side streets are dark between one and five. Winter maintenance pays for "
            "420 tonnes of salt and two drivers on call. The sweeper of 2008 has to do one "
            "more year; its brushes were made by the prison workshop.",
        ),
        Service(
            "Parks and cemeteries",
            {"Care of parks": 1180, "Playgrounds": 260, "Trees": 310, "Cemeteries": 395},
            "Four gardeners' posts stay empty until the summer. The rose garden is looked "
            "after by volunteers, who ask for a shed and will get one. Playgrounds receive "
            "new ropes and no new towers.",
        ),
        Service(
            "Library and archive",
            {"Staff": 940, "Books and media": 175, "Building": 228, "Archive": 164},
            "The book fund is kept at its level of last year. Heating is set to nineteen "
            "degrees, and blankets with the town's arms can be borrowed at the desk. The "
            "reading room closes at seven instead of eight.",
        ),
        Service(
            "Youth and sport",
            {
                "Youth houses": 690,
                "Sports grounds": 455,
                "Swimming baths": 1120,
                "Grants to clubs": 185,
            },
            "Both youth houses stay open on five evenings. The baths lower the water by one "
            "degree, which saves 38 thousand crowns. The rowing club's lease is renewed for "
            "twelve years.",
        ),
        Service(
            "Harbour and flood defence",
            {"Dredging": 410, "Gates and walls": 345, "Harbour staff": 380, "River watch": 95},
            "Dredging is done every second year and falls due in 2023. The watch on the river "
            "gets a second gauge above the weir, so that warning comes forty minutes "
            "earlier.",
        ),
        Service(
            "Administration",
            {
                "Council and elections": 410,
                "Finance and cash desk": 870,
                "Buildings": 1310,
                "Information technology": 640,
            },
            "The cash desk moves to the ground floor. Telephones that nobody had used for a "
            "year were found to cost eleven thousand crowns, and have been given up.",
        ),
    ),
    {
        "Sea gate at Lower Quay": 1450,
        "Roof of the fire station": 320,
        "Path along the canal": 210,
        "Boiler of the youth house": 95,
        "Electric vans (3)": 174,
    },
    (13.8, 13.1, 12.4, 11.6, 10.9),
    {"Parks and playgrounds": 41, "Library": 22, "Baths": 17, "Streets": 12, "Harbour": 8},
)

BUDGET_2024 = Budget(
    2024,
    rgb("2c4a6e"),
    {
        "Town rate": 10150,
        "State grant": 8120,
        "Fees and fines": 3040,
        "Rents": 1485,
        "Harbour": 845,
        "Other": 560,
    },
    (
        Service(
            "Streets and lighting",
            {
                "Repair of carriageways": 1720,
                "Winter maintenance": 430,
                "Street lamps": 515,
                "Cleaning": 935,
                "Signs and markings": 165,
            },
            "All lamps burn again through the night. Winter maintenance pays for 450 tonnes of "
            "salt, thirty-two grit bins and three drivers on call. A new sweeper arrives in "
            "May and is electric, quiet and, as the crew has asked, heated.",
        ),
        Service(
            "Parks and cemeteries",
            {"Care of parks": 1365, "Playgrounds": 285, "Trees": 390, "Cemeteries": 402},
            "Four gardeners start in March. The sum for trees includes the measuring of soil "
            "moisture by the institute. The lower cemetery will have a field of wild flowers "
            "and a second tap.",
        ),
        Service(
            "Library and archive",
            {"Staff": 985, "Books and media": 190, "Building": 196, "Archive": 171},
            "The book fund grows for the first time in six years. The reading room is open "
            "until eight again. New windows on the street side save heating, and keep out the "
            "sound of the accordion.",
        ),
        Service(
            "Youth and sport",
            {
                "Youth houses": 715,
                "Sports grounds": 470,
                "Swimming baths": 1085,
                "Grants to clubs": 205,
            },
            "A third evening for girls is added in the youth house at Canal Row. The baths "
            "report on their heating in the autumn. Clubs that share their halls receive a "
            "tenth more.",
        ),
        Service(
            "Harbour and flood defence",
            {"Dredging": 60, "Gates and walls": 420, "Harbour staff": 395, "River watch": 130},
            "No dredging is due, and only soundings are paid for. Rubber seals of the gates "
            "are tested one by one. The watch on the river may send messages to telephones "
            "from the autumn.",
        ),
        Service(
            "Administration",
            {
                "Council and elections": 385,
                "Finance": 760,
                "Buildings": 1240,
                "Information technology": 715,
            },
            "The closing of the cash desk saves 96 thousand crowns a year. Bills can be paid "
            "at the library and in eleven shops. The town's web pages will be written anew by "
            "people who have to read them.",
        ),
    ),
    {
        "Guildhall roof, north slope": 640,
        "Skate park": 310,
        "Second footbridge, stage one": 890,
        "Sea gate at Lower Quay, last part": 230,
        "School crossing lights": 75,
        "Sweeper": 260,
    },
    (13.1, 12.4, 11.6, 10.9, 12.3),
    {"Parks and playgrounds": 33, "Baths": 27, "Library": 19, "Streets": 13, "Harbour": 8},
)


def _cover(flow: Flow, budget: Budget) -> None:
    def town(canvas: Canvas, box: Box) -> None:
        canvas.rect(box.x0, box.y0, box.x1, box.y1, fill=rgb("efe3d0"))
        for nth, height in enumerate((70, 120, 95, 190, 110, 84, 140, 100, 76)):
            x = 20 + nth * 63
            canvas.rect(
                x, box.y1 - 40 - height, x + 55, box.y1 - 40, fill=PALETTE[(nth + budget.year) % 6]
            )
            roof = [
                (x - 4, box.y1 - 40 - height),
                (x + 27, box.y1 - 78 - height),
                (x + 59, box.y1 - 40 - height),
            ]
            canvas.path(roof, stroke=None, fill=budget.accent, closed=True)
            for row in range(int(height // 36)):
                canvas.rect(
                    x + 20,
                    box.y1 - 68 - 34 * row,
                    x + 34,
                    box.y1 - 50 - 34 * row,
                    fill=rgb("f7d98b"),
                )
        canvas.rect(0, box.y1 - 40, box.x1, box.y1, fill=rgb("7fa3ad"))

    cover(
        flow,
        f"Budget {budget.year}",
        "Town of Brackwater",
        ["Income, spending and building programme", "Published by the treasurer's office"],
        town,
    )


def _amount(value: float) -> str:
    return f"{value:,.0f}"


def _income(flow: Flow, budget: Budget) -> None:
    flow.figure(
        80,
        lambda c, b: charts.share(c, b, budget.income, PALETTE),
        f"Income of Brackwater in {budget.year} by source",
    )


def _income_table(flow: Flow, budget: Budget) -> None:
    rows = [[name, _amount(value)] for name, value in budget.income.items()]
    rows.append(["*All income", _amount(sum(budget.income.values()))])
    flow.table(
        ["Source", f"{budget.year}, thousand crowns"],
        rows,
        [Column(60), Column(30, "right")],
        f"Income {budget.year}",
    )


def _spending(flow: Flow, budget: Budget) -> None:
    totals = {service.name: float(service.total) for service in budget.services}
    flow.figure(
        170,
        lambda c, b: charts.rows(c, b, totals, budget.accent),
        f"Spending of Brackwater in {budget.year} by service, in thousand crowns",
    )


def _services(flow: Flow, budget: Budget) -> None:
    for service in budget.services:
        flow.section(service.name)
        flow.paragraph(service.text)
        rows = [[name, _amount(value)] for name, value in service.lines.items()]
        flow.table(
            [service.name, f"{budget.year}, thousand crowns"],
            [*rows, ["*Together", _amount(service.total)]],
            [Column(60), Column(30, "right")],
        )


def _capital(flow: Flow, budget: Budget) -> None:
    rows = [[name, _amount(value)] for name, value in budget.capital.items()]
    rows.append(["*Together", _amount(sum(budget.capital.values()))])
    flow.table(
        ["Project", f"{budget.year}, thousand crowns"],
        rows,
        [Column(60), Column(30, "right")],
        f"Building programme {budget.year}",
    )


def _debt(flow: Flow, budget: Budget) -> None:
    years = [str(budget.year - 4 + nth) for nth in range(5)]
    flow.figure(
        160,
        lambda c, b: charts.bars(
            c, b, years, {"Debt": budget.debt}, [budget.accent], "million crowns"
        ),
        "Debt at the end of the year, in million crowns",
    )


def _survey(flow: Flow, budget: Budget) -> None:
    flow.figure(
        130,
        lambda c, b: charts.rows(c, b, budget.wishes, budget.accent, lambda value: f"{value:.0f}%"),
        f"What residents named first in the questionnaire for {budget.year}",
    )


def _make(path: Path, budget: Budget) -> None:
    look = Look(
        running="Town of Brackwater",
        foot=f"Budget {budget.year}",
        accent=budget.accent,
        tint=rgb("f0ece6"),
        size=11,
        leading=1.5,
        margin=(80, 84, 80, 78),
    )
    drawn = {
        "cover": _cover,
        "income": _income,
        "income_table": _income_table,
        "spending": _spending,
        "services": _services,
        "capital": _capital,
        "debt": _debt,
        "survey": _survey,
    }
    blocks: dict[str, Block] = {name: partial(draw, budget=budget) for name, draw in drawn.items()}
    flow = Flow(look)
    flow.pour(f"budget_{budget.year}.md", blocks)
    flow.finish(path, f"Budget {budget.year}", "Town of Brackwater")


def make_2023(path: Path) -> None:
    """Draw the document and save it as ``path``."""
    _make(path, BUDGET_2023)


def make_2024(path: Path) -> None:
    """Draw the document and save it as ``path``."""
    _make(path, BUDGET_2024)
