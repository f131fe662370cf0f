"""Annual report of the ferry company Skerrin Line for 2024."""

# ruff: noqa: E501 - a row of a table stands on one line
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from samples import charts
from samples.charts import Box
from samples.covers import cover, mix
from samples.draw import WHITE, Canvas, rgb
from samples.flow import Block, Column, Flow, Look

LOOK = Look(
    running="Skerrin Line plc",
    foot="Annual report and accounts 2024",
    accent=rgb("12405f"),
    tint=rgb("e6eef4"),
    size=11,
    leading=1.52,
    margin=(78, 82, 78, 76),
    roman=4,
)
BLUE, TEAL, SAND, RUST, GREY = (
    rgb(code) for code in ("12405f", "2a8c95", "d6a449", "b4532f", "7d8b96")
)
YEARS = ["2018", "2019", "2020", "2021", "2022", "2023", "2024"]
PASSENGERS = [2410.0, 2468, 1205, 1730, 2190, 2443, 2544]  # thousand
ROUTES = {
    "Maren": 1114.0,
    "Strom and Lowland": 518,
    "Hest": 402,
    "Carrick": 346,
    "Northern routes": 164,
}
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]

# name, kind, built, metres, passengers, cars, lane metres, held, base, next docking
FLEET = """
Alder Pilot|Launch|2011|14|12|-|-|Owned|Port Alder|Apr 2026
Brae of Alder|Ferry|1988|86|480|76|410|Owned|Carrick|Nov 2025
Brannoch|Ferry|1994|92|620|104|560|Owned|Maren|Feb 2026
Brannoch Bay|Ferry|1996|92|620|102|560|Owned|Relief|Jan 2027
Cormorant|Tug|2003|26|-|-|-|Owned|Port Alder|Mar 2026
Dunlin|Ferry|2007|48|199|22|110|Owned|Lowland|Oct 2026
Eider|Ferry|2007|48|199|22|110|Owned|Lowland|Feb 2027
Fulmar|Freight|1999|104|12|-|980|Owned|Hest, Strom|Nov 2026
Gannet|Ferry|2001|41|150|14|70|Owned|Gannet Holm|Mar 2025
Goosander|Barge|1985|32|-|-|140|Owned|Strom|May 2027
Harrier's Rock|Freight|1992|98|12|-|870|Chartered|Strom|Oct 2025
Hest Harbour|Launch|2009|13|24|-|-|Owned|Hest|Apr 2027
Kestrel of Ness|Ferry|1998|39|120|11|60|Owned|Ness|Nov 2025
Kittiwake|Ferry|2012|54|250|30|150|Owned|Lowland|Jan 2026
Lady Faul|Ferry|1990|38|110|10|52|Owned|Faul|Feb 2025
Lanner|Ferry|2024|96|700|118|640|Owned|Maren|May 2029
Lapwing|Workboat|2005|18|8|-|-|Owned|Port Alder|Jun 2025
Little Auk|Launch|2016|12|20|-|-|Owned|Gannet Holm|Apr 2025
Maren Trader|Freight|2006|88|12|-|640|Chartered|Maren|Dec 2025
Mudlark|Dredger|1983|44|-|-|-|Owned|Carrick|Jul 2026
Northern Diver|Tug|1997|24|-|-|-|Owned|Carrick|Sep 2025
Oystercatcher|Ferry|2014|54|250|31|150|Owned|Strom|Mar 2027
Petrel|Ferry|2003|45|180|18|90|Chartered|Relief|Oct 2026
Plover|Barge|1991|36|-|-|160|Owned|Hest|May 2026
Port Alder Star|Ferry|1986|78|400|58|300|Owned|Relief|Jan 2025
Redshank|Workboat|2013|17|6|-|-|Owned|Maren|Jun 2027
Sanderling|Launch|2018|12|20|-|-|Owned|Ness|Apr 2026
Scoter|Tug|2010|27|-|-|-|Owned|Hest|Feb 2026
Skua|Ferry|2009|118|860|156|890|Owned|Hest|Nov 2026
Solan|Ferry|1995|43|160|16|80|Owned|Gannet Holm|Dec 2026
Storm Petrel|Ferry|2016|112|790|138|810|Owned|Hest|Mar 2026
Strom Carrier|Freight|2002|90|12|-|720|Chartered|Strom|Aug 2026
Tern|Launch|1994|11|16|-|-|Owned|Faul|May 2025
Torrin|Ferry|1993|84|450|70|380|Owned|Carrick|Feb 2027
Turnstone|Workboat|2020|19|8|-|-|Owned|Hest|Jun 2026
Wester Lass|Ferry|1987|36|96|8|44|Owned|Ness|Jan 2027
Wester Maid|Ferry|1979|34|90|7|38|Owned|Faul|Nov 2028
Whimbrel|Barge|2008|40|-|-|190|Chartered|Carrick|Sep 2027
"""

ROUTE_FACTS = {
    "route_hest": [
        ("Distance", "38 nautical miles"),
        ("Crossing", "2 hours 35 minutes"),
        ("Departures a week, summer and winter", "28 and 12"),
        ("Car with driver, full fare", "386 crowns"),
        ("Residents' card, one person", "31 crowns"),
        ("Sailings cancelled for weather", "97"),
        ("Freight, thousand tonnes", "118"),
    ],
    "route_maren": [
        ("Distance", "11 nautical miles"),
        ("Crossing", "50 minutes"),
        ("Departures a week, summer and winter", "126 and 98"),
        ("Car with driver, full fare", "148 crowns"),
        ("Residents' card, one person", "14 crowns"),
        ("Sailings cancelled for weather", "41"),
        ("Freight, thousand tonnes", "164"),
    ],
    "route_carrick": [
        ("Distance", "24 nautical miles"),
        ("Crossing", "1 hour 45 minutes"),
        ("Departures a week, summer and winter", "35 and 21"),
        ("Car with driver, full fare", "262 crowns"),
        ("Residents' card, one person", "23 crowns"),
        ("Sailings cancelled for weather", "138"),
        ("Freight, thousand tonnes", "87"),
    ],
    "route_strom": [
        ("Distance to Strom and to Lowland", "9 and 4 nautical miles"),
        ("Crossing", "45 and 25 minutes"),
        ("Departures a week, summer and winter", "168 and 150"),
        ("Car with driver, full fare", "116 and 74 crowns"),
        ("Residents' card, one person", "12 and 8 crowns"),
        ("Sailings cancelled for weather", "19"),
        ("Freight, thousand tonnes", "203"),
    ],
    "route_north": [
        ("Islands served", "Gannet Holm, Faul, Ness"),
        ("Longest crossing", "1 hour 20 minutes"),
        ("Departures a week, summer and winter", "42 and 30"),
        ("Car with driver, full fare", "98 crowns"),
        ("Residents' card, one person", "6 crowns"),
        ("Sailings cancelled for weather", "226"),
        ("Freight, thousand tonnes", "21"),
    ],
}
ROUTE_YEARS = {
    "route_hest": [371.0, 388, 402],
    "route_maren": [918.0, 1058, 1114],
    "route_carrick": [322.0, 339, 346],
    "route_strom": [424.0, 500, 518],
    "route_north": [155.0, 158, 164],
}

MONEY = [Column(46), Column(12, "right"), Column(15, "right"), Column(15, "right")]
PAIR = [Column(50), Column(15, "right"), Column(15, "right")]


def _cover(flow: Flow) -> None:
    def sea(canvas: Canvas, box: Box) -> None:
        canvas.rect(box.x0, box.y0, box.x1, box.y1, fill=rgb("f2c88b"))
        canvas.circle((430, 150), 58, fill=rgb("f7e3bd"))
        for nth in range(6):
            base = 215 + 46 * nth
            wave = [(x, base + 11 * math.sin(x / (34 + 6 * nth) + nth)) for x in range(0, 601, 6)]
            shade = mix(rgb("7fb2bd"), LOOK.accent, nth / 5)
            canvas.path([*wave, (600, box.y1), (0, box.y1)], stroke=None, fill=shade, closed=True)
            if nth == 1:
                _ship(canvas, 150, 262)

    cover(
        flow,
        "Annual report and accounts 2024",
        "Skerrin Line plc",
        ["Eight routes, seven islands, one timetable", "Port Alder, March 2025"],
        sea,
    )


def _ship(canvas: Canvas, x: float, y: float) -> None:
    hull = [(x, y), (x + 220, y), (x + 200, y + 34), (x + 22, y + 34)]
    canvas.path(hull, stroke=None, fill=rgb("b4532f"), closed=True)
    canvas.rect(x + 26, y - 26, x + 190, y, fill=WHITE)
    canvas.rect(x + 56, y - 48, x + 160, y - 26, fill=WHITE)
    canvas.rect(x + 118, y - 76, x + 142, y - 48, fill=rgb("12405f"))
    for nth in range(10):
        canvas.circle((x + 40 + 15 * nth, y - 13), 3.4, fill=rgb("12405f"))


def _highlights(flow: Flow) -> None:
    """Four tiles with the figures of the year."""
    tiles = [
        ("2.54 m", "passengers carried"),
        ("97.6%", "of sailings made"),
        ("82.9%", "of sailings on time"),
        ("6.6 crowns", "dividend a share"),
    ]
    canvas = flow.canvas
    wide = (flow.column_width - 30) / 4
    for nth, (figure, words) in enumerate(tiles):
        x = flow.left + (wide + 10) * nth
        canvas.rect(x, flow.y, x + wide, flow.y + 66, fill=LOOK.tint)
        canvas.text(x + wide / 2, flow.y + 32, figure, "hebo", 18, LOOK.accent, "center")
        canvas.text(x + wide / 2, flow.y + 50, words, "helv", 8, LOOK.muted, "center")
    flow.y += 84


def _fleet(flow: Flow) -> None:
    rows = [line.split("|") for line in FLEET.strip().split("\n")]
    flow.table(
        [
            "Name",
            "Kind",
            "Built",
            "Length (m)",
            "Persons",
            "Cars",
            "Lane metres",
            "Held",
            "Route or base",
            "Next docking",
        ],
        rows,
        [
            Column(19),
            Column(12),
            Column(8, "right"),
            Column(9, "right"),
            Column(10, "right"),
            Column(7, "right"),
            Column(9, "right"),
            Column(13),
            Column(14),
            Column(12),
        ],
        "Fleet register",
        7.9,
    )


def _months(flow: Flow) -> None:
    """Spread each route's year over the months by the seasons of that route."""
    seasons = {
        "Maren": 0.55,
        "Strom and Lowland": 0.16,
        "Hest": 0.62,
        "Carrick": 0.5,
        "Northern routes": 0.3,
    }
    shape = [-0.9, -0.85, -0.55, -0.05, 0.3, 0.75, 0.8, 1.1, 0.65, 0.2, -0.65, -0.8]
    rows: list[list[str]] = []
    for month, height in zip(MONTHS, shape, strict=True):
        cells = [ROUTES[name] / 12 * (1 + swing * height) for name, swing in seasons.items()]
        rows.append([month, *[f"{cell:.1f}" for cell in cells], f"{sum(cells):.1f}"])
    flow.table(
        ["2024", *seasons, "All"],
        rows,
        [Column(12), *[Column(18, "right")] * 6],
        "Passengers by month and route, in thousands",
    )


def _route(flow: Flow, name: str) -> None:
    flow.table(["The route in figures", "2024"], ROUTE_FACTS[name], [Column(60), Column(40)])
    flow.figure(
        120,
        lambda c, b: charts.bars(
            c,
            Box(b.x0 + 60, b.y0, b.x1 - 60, b.y1),
            ["2022", "2023", "2024"],
            {"Passengers": ROUTE_YEARS[name]},
            [TEAL],
            "thousand",
        ),
        "Passengers, in thousands",
    )


def _contents(flow: Flow) -> None:
    flow.contents(levels=1)


def _by_decade() -> list[float]:
    """Count the fleet by decade of building, from the 1970s to the 2020s."""
    decades = [int(line.split("|")[2]) // 10 for line in FLEET.strip().split("\n")]
    return [float(decades.count(decade)) for decade in range(197, 203)]


def _chart(height: float, caption: str, draw: Callable[..., None], *values: Any) -> Block:
    """Make a block of one chart function and what it is given after canvas and box."""

    def block(flow: Flow) -> None:
        flow.figure(height, lambda canvas, box: draw(canvas, box, *values), caption)

    return block


def _table(head: list[str], rows: str, columns: list[Column], caption: str = "") -> Block:
    body = [line.split("|") for line in rows.strip().split("\n")]
    return lambda flow: flow.table(head, body, columns, caption)


def _years(rows: str, caption: str = "") -> Block:
    return _table(["Thousand crowns", "2024", "2023"], rows, PAIR, caption)


def _statement(rows: str) -> Block:
    return _table(["Thousand crowns", "Note", "2024", "2023"], rows, MONEY)


BLOCKS: dict[str, Block] = {
    "cover": _cover,
    "contents": _contents,
    "highlights": _highlights,
    "passengers": _chart(
        150,
        "Passengers carried by Skerrin Line in each year, in thousands",
        charts.lines,
        YEARS,
        {"Passengers": PASSENGERS},
        [BLUE],
        "thousand",
    ),
    "purpose": _chart(
        120,
        "Why people cross: share of journeys in the survey of February 2024, in per cent",
        charts.rows,
        {
            "Work and school": 38,
            "Visits and holidays": 31,
            "Shopping": 14,
            "Health": 9,
            "Sport and culture": 8,
        },
        TEAL,
        "{:.0f}%".format,
    ),
    "capex": _chart(
        150,
        "Capital spending by year and the plan for 2025, in million crowns",
        charts.bars,
        [*YEARS[1:], "2025 plan"],
        {"Spending": [18.2, 11.4, 13.9, 21.6, 26.3, 29.7, 41.0]},
        [SAND],
        "million crowns",
    ),
    "punctuality": _chart(
        190,
        "Share of sailings on time by month in 2024, in per cent",
        charts.lines,
        MONTHS,
        {"On time": [84, 71, 83, 88, 90, 86, 69, 78, 87, 88, 85, 86]},
        [BLUE],
        "per cent",
        50,
    ),
    "route_chart": _chart(
        140, "Passengers by route in 2024, in thousands", charts.rows, ROUTES, BLUE
    ),
    "fleet": _fleet,
    "fleet_age": _chart(
        150,
        "Number of vessels by decade of building",
        charts.bars,
        ["1970s", "1980s", "1990s", "2000s", "2010s", "2020s"],
        {"Vessels": _by_decade()},
        [TEAL],
        "vessels",
    ),
    "people": _chart(
        56,
        "Posts by place of work, yearly average",
        charts.share,
        {"At sea": 702, "Terminals and harbours": 268, "Workshop": 96, "Office": 71},
        [BLUE, TEAL, SAND, GREY],
    ),
    "injuries": _chart(
        160,
        "Injuries with lost time, by year",
        charts.bars,
        YEARS[1:],
        {"Injuries": [34, 18, 22, 29, 26, 19]},
        [RUST],
        "injuries",
    ),
    "emissions": _chart(
        140,
        "Emissions of carbon dioxide by year, in thousand tonnes",
        charts.bars,
        YEARS[1:],
        {"Emissions": [69.8, 48.1, 57.5, 63.9, 62.2, 58.4]},
        [TEAL],
        "thousand tonnes",
    ),
    "energy_mix": _chart(
        56,
        "Energy used on board in 2024, by source",
        charts.share,
        {"Marine diesel": 88, "Biodiesel": 5, "Shore power": 4, "Solar": 3},
        [BLUE, TEAL, SAND, GREY],
    ),
    "revenue_mix": _chart(
        56,
        "Revenue in 2024, by source",
        charts.share,
        {
            "Passenger fares": 88.41,
            "Freight": 41.26,
            "Lifeline contract": 36.7,
            "Catering and retail": 18.25,
        },
        [BLUE, TEAL, SAND, RUST],
    ),
    "debt": _chart(
        150,
        "Net debt at the end of the year, in million crowns",
        charts.bars,
        YEARS[2:],
        {"Net debt": [71.8, 66.0, 58.7, 56.3, 62.3]},
        [GREY],
        "million crowns",
    ),
    "fuel": _chart(
        170,
        "Price of marine diesel, crowns a litre: paid by Skerrin Line and market average",
        charts.lines,
        YEARS[2:],
        {"Paid": [4.92, 5.18, 6.95, 7.31, 6.84], "Market": [4.41, 5.02, 6.6, 6.72, 6.51]},
        [BLUE, RUST],
        "crowns a litre",
        4,
        "{:.2f}".format,
    ),
    "survey": _chart(
        150,
        "Marks out of ten in the passenger survey of October 2024",
        charts.rows,
        {
            "Crew on board": 8.9,
            "Safety": 8.8,
            "Punctuality": 7.6,
            "Seats and decks": 7.4,
            "Price": 7.1,
            "Food and drink": 6.9,
            "Information in delays": 5.8,
        },
        TEAL,
        "{:.1f}".format,
    ),
    "months": _months,
    "weekdays": _chart(
        170,
        "Passengers by day of the week, mean of all weeks in 2024, in thousands",
        charts.bars,
        ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"],
        {"Passengers": [6.6, 5.9, 6.1, 6.4, 8.3, 8.0, 7.4]},
        [SAND],
        "thousand",
    ),
    "suppliers": _chart(
        60,
        "Purchases other than fuel and vessels, by place of the supplier",
        charts.share,
        {"Islands": 38, "Port Alder and around": 34, "Rest of the country": 19, "Abroad": 9},
        [TEAL, BLUE, SAND, GREY],
    ),
    "energy_table": _table(
        ["Energy and gases", "Unit", "2024", "2023"],
        """
Marine diesel|tonnes|18,020|19,260
Biodiesel|tonnes|1,040|820
Electricity, shore power|MWh|3,910|2,480
Electricity, buildings|MWh|4,270|4,390
Heating oil and gas|MWh|1,860|2,050
Petrol and diesel for road vehicles|thousand litres|214|231
Direct emissions|tonnes|58,940|62,780
Emissions from bought electricity|tonnes|1,230|1,110
For each passenger mile|grams|171|187
""",
        [Column(44), Column(22), Column(14, "right"), Column(14, "right")],
        "Energy and greenhouse gases",
    ),
    "risks": _table(
        ["Risk", "How likely", "How grave", "What we do"],
        """
Loss of a large ferry in the summer|Low|Very high|Relief vessel held ready; charter options with two companies; monthly maintenance day
Failure of a linkspan or ramp|Medium|High|Six-monthly inspection of cables; spare hoist at Port Alder; drills with barges
Attack on the booking system|Medium|High|Paper tickets printed for three days; copies kept off line; yearly test by outsiders
Shortage of engineers|High|Medium|Own cadet scheme; shared posts with the pilots; retention payment in year three
Price of fuel|High|Medium|Forward purchase of 50 to 75 per cent; slower steaming
Fire in an electric or refrigerated vehicle|Low|Very high|Thermal cameras on car decks; separate lane; drencher drills
Insurance not to be had at fair prices|Medium|Medium|Mutual club with four island companies under discussion
Silting of Carrick harbour|High|Low|Dredging in August; soundings every fortnight
Delay of Merlin at the yard|Medium|Medium|Resident inspector; Brae of Alder certified until March 2026
Warmer seas and stronger storms|High|Medium|Weather window in timetable from October; study of breakwater at Ness
""",
        [Column(26), Column(11), Column(11), Column(46)],
        "Principal risks",
    ),
    "board": _table(
        ["Director", "Board (9)", "Audit (6)", "Pay (4)", "Safety (5)"],
        """
Marguerite Ashdown|9|-|4|5
Leif Anders Corrow|9|-|-|5
Hanneke Voss|9|6|-|-
Ingrid Solvay|8|-|4|-
Tobias Renn (from November)|2|-|1|-
Desmond Achterberg|9|6|-|-
Fiona Garrick-Lund|7|-|4|5
Rashid Belcourt|8|5|-|5
""",
        [
            Column(44),
            Column(13, "right"),
            Column(13, "right"),
            Column(13, "right"),
            Column(13, "right"),
        ],
        "Meetings attended in 2024",
    ),
    "pay": _table(
        ["Thousand crowns", "Salary or fee", "Bonus", "Pension", "Total 2024", "Total 2023"],
        """
Leif Anders Corrow|286|83|34|403|398
Hanneke Voss|214|62|26|302|297
Marguerite Ashdown|92|-|-|92|89
Ingrid Solvay|46|-|-|46|45
Tobias Renn|7|-|-|7|-
Desmond Achterberg|48|-|-|48|47
Fiona Garrick-Lund|41|-|-|41|40
Rashid Belcourt|41|-|-|41|40
*Total|775|145|60|980|956
""",
        [
            Column(34),
            Column(14, "right"),
            Column(11, "right"),
            Column(12, "right"),
            Column(13, "right"),
            Column(13, "right"),
        ],
        "Pay of the directors",
    ),
    "income_statement": _statement("""
Passenger fares||88,410|83,010
Freight||41,260|41,280
Lifeline contract||36,700|32,100
Catering and retail||18,250|15,550
*Revenue|2|184,620|171,940
Staff|3|(71,840)|(67,210)
Fuel||(31,020)|(32,480)
Harbour dues||(18,450)|(16,900)
Maintenance||(14,260)|(13,880)
Depreciation|7|(15,330)|(13,940)
Insurance||(5,120)|(4,480)
Other operating costs|4|(9,290)|(7,180)
*Operating profit||19,310|15,870
Finance costs|5|(2,870)|(2,640)
*Profit before tax||16,440|13,230
Tax|6|(3,620)|(2,910)
*Profit for the year||12,820|10,320
Earnings per share, crowns||15.17|12.21
"""),
    "balance_sheet": _statement("""
Vessels and equipment|7|168,900|156,700
Terminals and buildings|7|42,350|40,180
Software and rights||3,140|2,610
*Long-term assets||214,390|199,490
Spares and stores||4,280|4,510
Receivables|8|13,920|12,760
Cash||11,400|9,870
*Current assets||29,600|27,140
*Total assets||243,990|226,630
Share capital||8,450|8,450
Share premium||21,300|21,300
Retained earnings||93,880|86,210
*Equity||123,630|115,960
Loans|9|73,700|66,210
Deferred tax|6|9,860|9,240
Pensions|10|6,430|7,080
Provisions|11|1,750|980
Trade payables||21,380|20,460
Tickets sold in advance||7,240|6,700
*Liabilities||120,360|110,670
*Equity and liabilities||243,990|226,630
"""),
    "cash_flow": _statement("""
Profit before tax||16,440|13,230
Depreciation|7|15,330|13,940
Finance costs|5|2,870|2,640
Change in provisions|11|770|(120)
Payments to the pension scheme|10|(650)|(600)
Tax paid||(2,990)|(2,480)
Change in working capital||3,130|1,060
*Cash from operations||34,900|27,670
Capital spending|7|(29,700)|(26,300)
Sale of Kyle of Faul||620|-
*Cash used for investment||(29,080)|(26,300)
Loans drawn|9|12,000|11,000
Loans repaid|9|(4,510)|(4,200)
Lease payments|13|(3,840)|(3,410)
Interest paid|5|(2,790)|(2,590)
Dividends paid||(5,150)|(4,730)
*Cash used for finance||(4,290)|(3,930)
*Change in cash||1,530|(2,560)
"""),
    "equity": _table(
        ["Thousand crowns", "Share capital", "Premium", "Retained", "Total"],
        """
On 1 January 2023|8,450|21,300|80,620|110,370
Profit for 2023|-|-|10,320|10,320
Dividends|-|-|(4,730)|(4,730)
*On 31 December 2023|8,450|21,300|86,210|115,960
Profit for 2024|-|-|12,820|12,820
Dividends|-|-|(5,150)|(5,150)
*On 31 December 2024|8,450|21,300|93,880|123,630
""",
        [
            Column(36),
            Column(15, "right"),
            Column(15, "right"),
            Column(15, "right"),
            Column(15, "right"),
        ],
    ),
    "note_revenue": _years("""
Fares, residents' cards|21,640|17,730
Fares, all other passengers|66,770|65,280
Lorries and trailers|33,910|34,220
Livestock and loose freight|7,350|7,060
Seats offered under the lifeline contract|36,700|32,100
Catering|12,930|10,780
Shops and machines|5,320|4,770
*Revenue|184,620|171,940
"""),
    "note_staff": _years("""
Wages and salaries|57,960|53,720
Social security|8,410|8,630
Pensions|4,030|3,490
Training away from work|1,440|1,370
*Staff costs|71,840|67,210
"""),
    "note_auditor": _years("""
Audit of the accounts|312|298
Audit of the pension scheme|27|26
Services other than audit|58|-
*Paid to Pellham & Crake|397|324
"""),
    "note_tax": _years("""
Tax on the profit of the year|3,110|2,540
Correction for earlier years|(110)|60
Deferred tax|620|310
*Tax charge|3,620|2,910
"""),
    "note_vessels": _table(
        ["Thousand crowns", "Vessels", "Terminals", "Under construction", "Total"],
        """
Cost on 1 January 2024|301,400|78,220|24,100|403,720
Added|6,180|4,150|18,840|29,170
Lanner put into service|27,300|-|(27,300)|-
Sold or written off|(9,460)|(640)|-|(10,100)
*Cost on 31 December 2024|325,420|81,730|15,640|422,790
Written off until 1 January 2024|168,800|38,040|-|206,840
Charge for the year|12,420|1,980|-|14,400
On assets sold|(9,060)|(640)|-|(9,700)
*Book value on 31 December 2024|153,260|42,350|15,640|211,250
""",
        [
            Column(34),
            Column(14, "right"),
            Column(14, "right"),
            Column(18, "right"),
            Column(14, "right"),
        ],
    ),
    "note_receivables": _years("""
Freight customers|8,460|8,120
Ministry, lifeline contract|3,058|2,675
Prepaid harbour dues|1,242|1,105
Other|1,160|860
*Receivables|13,920|12,760
"""),
    "note_loans": _table(
        ["Loan", "Rate", "Ends", "2024", "2023"],
        """
Bank loan for Skua|2.9 per cent|2027|11,200|14,060
Bank loan for Storm Petrel|3.1 per cent|2031|23,900|25,550
Island bond|3.8 per cent|2029|26,600|26,600
Building loan for Lanner|Variable|2039|12,000|-
*Thousand crowns|||73,700|66,210
""",
        [Column(36), Column(16), Column(10, "right"), Column(13, "right"), Column(13, "right")],
    ),
    "note_pensions": _years("""
Pensions promised|61,840|63,190
Assets of the scheme|(55,410)|(56,110)
*Liability|6,430|7,080
"""),
    "note_provisions": _years("""
Sundhaven dispute|900|-
Oil in the soil at the old bunker station|610|740
Unused leave and claims|240|240
*Provisions|1,750|980
"""),
    "five_years": _table(
        ["", "2024", "2023", "2022", "2021", "2020"],
        """
Passengers (thousand)|2,544|2,443|2,190|1,730|1,205
Cars (thousand)|912|884|806|690|521
Lane metres sold (thousand)|1,684|1,697|1,650|1,588|1,402
Revenue (thousand crowns)|184,620|171,940|158,330|131,870|103,410
Operating profit (thousand crowns)|19,310|15,870|12,240|8,060|1,130
Profit for the year (thousand crowns)|12,820|10,320|7,950|4,780|(1,690)
Equity (thousand crowns)|123,630|115,960|110,370|106,490|102,550
Dividend (crowns a share)|6.6|5.6|5.0|3.0|-
Average crew and staff|1,137|1,112|1,084|1,041|1,066
""",
        [Column(38), *[Column(12, "right")] * 5],
    ),
    "terminals": _table(
        ["Terminal", "Address", "Harbour office", "Parking", "Telephone"],
        """
Port Alder, south quay|1 Custom House Quay|06:00 to 22:30|640 places|04 410 100
Port Alder, north quay|North Mole|05:30 to 21:00|210 places|04 410 120
Hest|Linkspan Road|One hour before sailing|95 places|04 417 301
Maren|Ferry Green 4|05:45 to 22:00|280 places|04 412 210
Carrick|The Basin|06:30 to 20:00|120 places|04 415 077
Strom|Feed Mill Wharf|06:00 to 19:00|60 places|04 413 450
Lowland|School Road|05:30 to 23:00|150 places|04 413 900
Gannet Holm|Pier House|With the boat|12 places|04 418 011
Faul|Shop and post office|09:00 to 16:00|None|04 418 042
Ness|Lighthouse Slip|With the boat|8 places|04 418 066
""",
        [Column(22), Column(20), Column(22), Column(13), Column(14)],
    ),
} | {name: partial(_route, name=name) for name in ROUTE_FACTS}


def _accounts(flow: Flow) -> None:
    flow.pour("annual_accounts.md", BLOCKS)


BLOCKS["accounts"] = _accounts


def make(path: Path) -> None:
    """Draw the document and save it as ``path``."""
    flow = Flow(LOOK)
    flow.pour("annual_report.md", BLOCKS)
    flow.finish(path, "Skerrin Line plc: annual report and accounts 2024", "Skerrin Line plc")
