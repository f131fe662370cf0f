"""Operations handbook of the water company Calder Vale Water, fourth edition."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from samples import charts
from samples.charts import Box
from samples.covers import cover, mix
from samples.draw import WHITE, Canvas, rgb
from samples.flow import Block, Column, Flow, Look

LOOK = Look(
    running="Calder Vale Water",
    foot="Operations handbook, fourth edition",
    accent=rgb("0f5c6e"),
    tint=rgb("e4f1f3"),
    size=11.2,
    leading=1.56,
    margin=(82, 88, 82, 84),
    roman=3,
)
TEAL, DEEP, CLAY, MOSS = rgb("2f9aa8"), rgb("0f5c6e"), rgb("b0744c"), rgb("7c9152")


@dataclass(frozen=True, slots=True)
class Station:
    """A pumping station: the particulars of its sheet and what to know about it."""

    name: str
    built: str
    feeds: str
    pumps: str
    flow: str
    head: str
    power: str
    start: str
    generator: str
    key: str
    text: str


STATIONS = (
    Station(
        "Ashby End",
        "1974",
        "Ashby Top reservoir",
        "2, one on duty",
        "38 litres a second",
        "64 m",
        "2 x 45 kW",
        "3.1 m falling",
        "None, socket for mobile set",
        "K7",
        "The clay of the brickworks moves. Check the two plumb lines in the well each quarter "
        "and write down the reading. The door sticks in wet weather; lift, then pull.",
    ),
    Station(
        "Beacon Lane",
        "1988",
        "Beacon tower",
        "3, two on duty",
        "52 litres a second",
        "81 m",
        "3 x 37 kW",
        "4.4 m falling",
        "160 kVA in the yard",
        "K2",
        "Neighbours hear pump 3. Between eleven at night and six in the morning it stays off "
        "unless the tower falls below three metres. The silencer was ordered in spring.",
    ),
    Station(
        "Cobden Street",
        "1931",
        "Hilltop district",
        "2, one on duty",
        "17 litres a second",
        "46 m",
        "2 x 15 kW",
        "pressure below 2.8 bar",
        "None",
        "K2",
        "The building is listed. Nothing may be fixed to the tiles. The brass gauges are for "
        "visitors; read the transmitter. The well floods when the canal is high, and a float "
        "switch stops both pumps before their motors get wet.",
    ),
    Station(
        "Drover's Gate",
        "2003",
        "Moor farms",
        "2, one on duty",
        "6 litres a second",
        "118 m",
        "2 x 11 kW",
        "2.0 m falling",
        "None",
        "K5",
        "A line of nine kilometres with eleven air valves. If the pressure swings, an air "
        "valve is stuck, most often the one by the cairn. Cattle rub against the kiosk; keep "
        "the fence whole.",
    ),
    Station(
        "Fellgate",
        "1962",
        "Blea Moss reservoir",
        "4, three on duty",
        "310 litres a second",
        "72 m",
        "4 x 132 kW",
        "by the control room",
        "900 kVA, automatic",
        "K1",
        "The heart of the system. Never run four pumps: the delivery main stands it and the "
        "suction does not. Two surge vessels of 18 cubic metres each. A fitter stays on site "
        "during thunderstorms, since lightning has struck the mast three times.",
    ),
    Station(
        "Harrow Low Lift",
        "1904",
        "Fellgate works",
        "3, two on duty",
        "280 litres a second",
        "14 m",
        "3 x 55 kW",
        "by the works",
        "From Fellgate",
        "K1",
        "Only needed when the tarn stands more than nine metres below the crest. Run each "
        "pump for twenty minutes a month in wet years, so that the seals stay supple. The "
        "steam engine in the next room belongs to the museum.",
    ),
    Station(
        "Kiln Bank",
        "1996",
        "Kiln Bank reservoir",
        "2, one on duty",
        "24 litres a second",
        "55 m",
        "2 x 22 kW",
        "2.7 m falling",
        "None, socket for mobile set",
        "K3",
        "Starts and stops more often than any other station because the reservoir is too "
        "small. More than eight starts an hour overheat the motors; widen the band before "
        "holidays.",
    ),
    Station(
        "Mosser",
        "1958",
        "Southern districts",
        "5, three on duty",
        "127 litres a second",
        "88 m",
        "5 x 75 kW",
        "by the works",
        "500 kVA, by hand",
        "K4",
        "Hard water leaves scale on everything that is warm. Seal water is softened by the "
        "blue cartridge; change it when the ring turns white. The generator takes four "
        "minutes and two people.",
    ),
    Station(
        "Netherwick",
        "1969",
        "Netherwick reservoir",
        "2, one on duty",
        "19 litres a second",
        "39 m",
        "2 x 15 kW",
        "2.2 m falling",
        "None",
        "K3",
        "Stands in a meadow that floods. When the river gauge shows 3.4 metres, switch to the "
        "link from Kiln Bank and take the loggers up to the loft. There is a boat.",
    ),
    Station(
        "Silverbeck",
        "1977",
        "Fellgate works",
        "2, both on duty",
        "95 litres a second",
        "21 m",
        "2 x 30 kW",
        "by turbidity",
        "None",
        "K1",
        "Draws from the stream. Leaves block the strainers in October, when they are cleaned "
        "twice a day. Trout that come through the screen go into the bucket and back.",
    ),
    Station(
        "Weaver's Bridge",
        "2014",
        "Town ring",
        "3, two on duty",
        "66 litres a second",
        "42 m",
        "3 x 30 kW",
        "pressure below 3.5 bar",
        "250 kVA, automatic",
        "K6",
        "Below the control room. Badge and key are both needed. The drives share a harmonic "
        "filter; if it trips, run two pumps direct and call the electrician in the morning.",
    ),
)


def _cover(flow: Flow) -> None:
    def hills(canvas: Canvas, box: Box) -> None:
        canvas.rect(box.x0, box.y0, box.x1, box.y1, fill=rgb("d9ecef"))
        for nth in range(5):
            base = 150 + 70 * nth
            ridge = [
                (
                    x,
                    base
                    + 42 * math.sin(x / (90 + 17 * nth) + 2.1 * nth)
                    + 9 * math.sin(x / 31 + nth),
                )
                for x in range(0, 601, 6)
            ]
            shade = mix(rgb("9cc8c4"), LOOK.accent, nth / 4)
            canvas.path([*ridge, (600, box.y1), (0, box.y1)], stroke=None, fill=shade, closed=True)
        river = [
            (260.0, 300.0),
            (300, 350),
            (240, 410),
            (330, box.y1),
            (420, box.y1),
            (290, 410),
            (325, 350),
            (268, 300),
        ]
        canvas.path(river, stroke=None, fill=rgb("d9ecef"), closed=True)

    cover(
        flow,
        "Operations handbook",
        "Calder Vale Water",
        ["Sources, works, pumping stations, mains and quality", "Fourth edition, January 2025"],
        hills,
    )


def _boxes(flow: Flow, rows: Sequence[Sequence[str]], caption: str) -> None:
    """Draw rows of boxes joined by arrows from left to right."""

    def draw(canvas: Canvas, box: Box) -> None:
        for line, names in enumerate(rows):
            gap = 20.0
            wide = (box.width - gap * (len(names) - 1)) / len(names)
            y = box.y0 + 66 * line
            for nth, name in enumerate(names):
                x = box.x0 + (wide + gap) * nth
                canvas.rect(x, y, x + wide, y + 46, fill=TEAL if line % 2 else DEEP, radius=0.15)
                canvas.lines(
                    x + 4,
                    y + (12 if " " in name else 17),
                    wide - 8,
                    name,
                    "hebo",
                    8.5,
                    WHITE,
                    "center",
                )
                if nth + 1 < len(names):
                    canvas.arrow((x + wide + 2, y + 23), (x + wide + gap - 2, y + 23), DEEP)

    flow.figure(66 * len(rows) - 14, draw, caption)


def _stations(flow: Flow) -> None:
    flow.break_page()
    for nth, station in enumerate(STATIONS):
        if nth % 2 == 0:
            flow.break_page()
        flow.section(f"{station.name} pumping station")
        flow.table(
            ["Item", "Value", "Item", "Value"],
            [
                ["Built", station.built, "Feeds", station.feeds],
                ["Pumps", station.pumps, "Motors", station.power],
                ["Duty flow", station.flow, "Head", station.head],
                ["Starts at", station.start, "Generator", station.generator],
                ["Key", station.key, "Visit", "weekly"],
            ],
            [Column(16), Column(30), Column(16), Column(34)],
            f"Sheet: {station.name}",
        )
        flow.paragraph(station.text)
        if nth % 2 == 0:
            flow.space(30)


def _table(head: list[str], rows: str, weights: Sequence[int], caption: str = "") -> Block:
    """Make a table block; a negative weight sets a column to the right."""
    body = [line.split("|") for line in rows.strip().split("\n")]
    columns = [Column(abs(weight), "right" if weight < 0 else "left") for weight in weights]
    return lambda flow: flow.table(head, body, columns, caption)


def _bursts(flow: Flow) -> None:
    months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
    bursts = [58.0, 44, 27, 19, 16, 18, 25, 33, 37, 24, 29, 46]
    flow.figure(
        170,
        lambda c, b: charts.bars(c, b, months, {"Bursts": bursts}, [CLAY], "bursts"),
        "Bursts by month, mean of the years 2015 to 2024",
    )


def _leakage(flow: Flow) -> None:
    years = ["2014", "2016", "2018", "2020", "2022", "2024"]
    flow.figure(
        160,
        lambda c, b: charts.lines(
            c, b, years, {"Loss": [24.0, 23, 21.5, 20, 18.2, 17]}, [TEAL], "per cent", 10
        ),
        "Water lost, as a share of what left the works, in per cent",
    )


BLOCKS: dict[str, Block] = {
    "cover": _cover,
    "contents": lambda flow: flow.contents(levels=1),
    "stations": _stations,
    "bursts": _bursts,
    "leakage": _leakage,
    "system": partial(
        _boxes,
        rows=[
            ["Harrow Tarn", "Fellgate works", "Blea Moss", "Valley districts"],
            ["Mosser boreholes", "Mosser works", "Kiln Bank", "Southern districts"],
            ["Silverbeck intake", "Fellgate works", "Beacon tower", "Eastern villages"],
        ],
        caption="The three ways of the water from source to tap",
    ),
    "process": partial(
        _boxes,
        rows=[
            ["Flash mixer", "Floc tanks", "Lamellae", "Contact filters"],
            ["Ultra-violet", "Chlorine", "Clear-water tank", "Outlet valve"],
        ],
        caption="Treatment at Fellgate in order",
    ),
    "reservoirs": _table(
        ["Reservoir", "Volume (m³)", "Top water (m)", "Keep above (m)", "Roof cleaned"],
        """
Ashby Top|4,200|5.1|2.0|2022
Beacon tower|900|6.0|3.0|2023
Blea Moss|31,000|6.4|3.2|2021
Cold Edge|2,600|4.0|1.8|2020
Hilltop|1,150|3.6|1.6|2024
Kiln Bank|1,800|3.9|2.1|2023
Moor farms tank|240|2.5|1.2|2022
Netherwick|2,100|4.2|1.9|2020
Scarside|5,400|5.0|2.2|2024
Town ring, east cell|7,800|5.5|2.6|2021
Town ring, west cell|7,800|5.5|2.6|2022
""",
        [26, -14, -15, -16, -15],
        "Service reservoirs",
    ),
    "boreholes": _table(
        ["Borehole", "Depth (m)", "Yield (litres/s)", "Nitrate (mg/litre)", "State"],
        """
1|85|21|31|In use
2|92|24|33|In use
3|110|26|28|In use
4|104|22|47|Closed
5|141|30|19|In use
6|160|31|17|In use
7|155|28|18|Pump renewed 2023
""",
        [12, -14, -18, -20, 22],
        "The boreholes at Mosser",
    ),
    "coagulant": _table(
        ["Colour of raw water", "Dose (mg/litre)", "pH in the mixer"],
        """
below 20|1.1|6.4
20 to 40|1.6|6.3
40 to 60|2.3|6.1
60 to 90|3.1|6.0
above 90|call the chemist|5.9
""",
        [34, -24, -24],
        "First dose of coagulant",
    ),
    "filters": _table(
        ["Filter", "Area (m²)", "Sand renewed", "Remarks"],
        """
1|42|2016|Slow inlet valve
2|42|2016|None
3|42|2018|Hollow at the north wall, watched
4|42|2018|None
5|42|2021|New nozzles after the breakage
6|48|2012|Renewal planned for 2026
7|48|2012|Renewal planned for 2026
8|48|2019|Used for trials with glass
""",
        [10, -14, -16, 44],
        "The filters at Fellgate",
    ),
    "mosser_limits": _table(
        ["Measured", "Normal", "Warn", "Stop"],
        """
Chlorine, mg/litre|0.35|0.25|0.15
Turbidity, units|0.08|0.25|0.60
Nitrate in the blend, mg/litre|27|40|46
Carbon dioxide, mg/litre|6|11|20
Conductivity, microsiemens|560|640|720
""",
        [40, -16, -16, -16],
        "Limits at the outlet of Mosser",
    ),
    "sampling": _table(
        ["Place", "What", "How often", "Round"],
        """
Fellgate outlet|Coliforms, turbidity, aluminium|Daily|1
Mosser outlet|Coliforms, nitrate, hardness|Daily|1
Blea Moss|Coliforms, chlorine|Weekly|2
Ashby Top|Coliforms, chlorine|Weekly|2
Beacon tower|Coliforms, chlorine, colour|Weekly|3
Hilltop|Coliforms, chlorine|Weekly|3
Kiln Bank|Coliforms, chlorine|Weekly|4
Netherwick|Coliforms, chlorine, iron|Weekly|4
Scarside|Coliforms, chlorine|Weekly|2
Customer taps, valley|Coliforms, lead, copper|22 a week|5
Customer taps, southern districts|Coliforms, nitrate|11 a week|6
Customer taps, villages|Coliforms, iron, taste|9 a week|7
Schools and homes|Lead, legionella|Each twice a year|8
Harrow Tarn, three depths|Algae, manganese|Fortnightly in summer|9
Silverbeck|Pesticides, ammonia|Monthly|9
""",
        [32, 36, 22, -8],
        "Sampling rounds",
    ),
    "limits": _table(
        ["Substance", "Limit", "Unit", "Highest in 2024"],
        """
Aluminium|200|µg/litre|74
Ammonia|0.5|mg/litre|0.08
Coliforms|0|in 100 ml|2
Colour|20|units|6
Copper|2.0|mg/litre|0.9
Fluoride|1.5|mg/litre|0.2
Iron|200|µg/litre|310
Lead|10|µg/litre|12
Manganese|50|µg/litre|38
Nitrate|50|mg/litre|39
Nickel|20|µg/litre|11
Pesticides, each|0.1|µg/litre|0.03
Sodium|200|mg/litre|24
Sulphate|250|mg/litre|61
Turbidity at the tap|4|units|2.7
""",
        [34, -14, 22, -24],
        "Limits and the highest values found",
    ),
    "alarms": _table(
        ["No.", "Alarm", "Class", "First thing to do"],
        """
101|Fellgate: outlet chlorine low|A|Watch the timer, call the shift chemist
102|Fellgate: outlet chlorine high|A|Stop the cells, take a sample by hand
103|Fellgate: turbidity after a filter|B|Take the filter out and wash it
104|Fellgate: ultraviolet dose low|A|Start the reserve reactor
105|Fellgate: clear-water tank low|B|Reduce the delivery by one pump
106|Fellgate: fans of the cells stopped|A|Confirm that the cells have stopped
110|Harrow Tarn: seepage above 2.0|A|Ring the reservoir engineer
111|Harrow Tarn: level sensor lost|C|Read the staff by eye on Monday
120|Mosser: nitrate in the blend|B|Change the mix of boreholes
121|Mosser: door of a borehole head|A|Send two people, stop that borehole
122|Mosser: stripper blower stopped|B|Start the other blower
201|Pumping station: power lost|B|See the sheet of the station
202|Pumping station: pump failed to start|B|Try the other pump once
203|Pumping station: sump flooded|B|Send a fitter with a float pump
204|Pumping station: intruder|A|Look at the camera, ring the police
205|Surge vessel: level out of range|B|Visit within two hours
301|Service reservoir: hatch open|A|Isolate the reservoir, take a sample
302|Service reservoir: level low|B|Look for a burst, then pump
303|Service reservoir: level high|C|Check the inlet valve
304|Service reservoir: level not moving|C|Suspect the sensor
401|District: night flow raised|C|Order a leakage search
402|District: pressure low|B|Look for a burst, ring the fire brigade
403|Trunk main: flow step|A|Close T14, see emergencies
501|Telemetry: station silent|C|Wait for thirty minutes, then visit
502|Telemetry: clock wrong|C|Set the clock, note the shift
""",
        [9, 44, 10, 44],
        "Alarms by number",
    ),
    "drought": _table(
        ["Step", "Tarn below crest", "What is done"],
        """
1 Watch|4 m|Weekly meetings, leakage teams doubled, Mosser at full yield
2 Ask|7 m|Public asked to save; parks and pitches no longer watered
3 Reduce|10 m|Hosepipes forbidden; mobile pumps to the lower basin
4 Ration|13 m|Pressure lowered at night; tankers stand by
""",
        [14, 20, 60],
        "The four steps of the drought plan",
    ),
    "calendar": _table(
        ["Month", "Works", "Stations and reservoirs", "Network"],
        """
January|Calibrate chlorine meters|Test mobile generators|Bleeders on frost nights
February|Clean the lamellae|Grease valves at Beacon Lane|Leakage search, valley
March|Inspect filters 1 to 4|Read plumb lines|Exercise valves above 300 mm
April|Renew jars and reagents|Clean Kiln Bank|Flush dead ends, villages
May|Service the press|Paint hatches|Check hydrants with the brigade
June|Change lamps, half|Clean Netherwick|Leakage search, south
July|Inspect filters 5 to 8|Check lightning rods|Survey of air valves
August|Middle draw-off only|Service surge vessels|Exercise valves above 300 mm
September|Change lamps, other half|Clean Cold Edge|Flush dead ends, valley
October|Clear screens twice a day|Test float switches|Insulate the six crossings
November|Test the generator on load|Service heaters|Check bleeders
December|Count spares|Winter oil in gearboxes|Standby list to all vans
""",
        [14, 32, 32, 34],
        "What is done when",
    ),
    "log": _table(
        ["Date", "Place", "What happened", "What we changed"],
        """
Nov 2009|Tinker's Beck|Chlorinated water let into the beck|Tankers have a check list and a lock
Dec 2010|Whole valley|118 bursts in one week after frost|Two more teams on call
Jun 2012|Blea Moss|Painter left a hatch open overnight|Hatches report to telemetry
Feb 2013|Beacon Lane|Pump ran dry for three hours|Flow switch added
Aug 2014|Harrow Tarn|Algae came through the upper draw-off|Middle draw-off from June
Jan 2016|Ashby district|Valve broken by turning it the wrong way|Yellow lids
May 2017|Mosser|Slurry spread in the inner zone|Signs and yearly visits to farms
Aug 2018|Harrow Tarn|Third step of the drought plan|Mobile pumps are now our own
Mar 2019|Mosser|Nitrate of borehole 4 above 47|Borehole closed
Oct 2020|Netherwick|Moles under the roof, boil notice|Roofs are walked each spring
Apr 2021|Fellgate|Broken nozzle in filter 5|Weekly look at one drained filter
Jul 2021|Kiln Bank|Motor burnt after 14 starts in an hour|Counter stops at eight
Feb 2022|Cobden Street|New main failed its test five times|Photographs of joints
Sep 2022|Weaver's Bridge|Harmonic filter tripped in a storm|Drives may run direct
Jan 2023|Scarside|Logger battery leaked into a chamber|Dry boxes
Jun 2023|Drover's Gate|Air valve jammed by a wasps' nest|Mesh over the vents
Nov 2023|Fellgate|Generator started after 41 seconds|New batteries every third year
Mar 2024|Town ring|Digger cut the 300 main at Fish Row|Cable and pipe plans on one sheet
Jul 2024|Hilltop|Taste of pears at forty houses|New paint cures for three weeks
Oct 2024|Silverbeck|Screens blocked by leaves in two hours|Rake and lamp kept in the hut
""",
        [12, 18, 38, 36],
        "Events worth remembering",
    ),
    "directory": _table(
        ["Who", "For what", "Extension"],
        """
Control room|Everything urgent, day and night|200
Shift chemist, Fellgate|Dosing, chlorine, filters|214
Mosser works|Boreholes, strippers|231
Reservoir engineer, Aurel Whitcombe|Dams and seepage|240
Duty scientist|Failed samples, boil notices|260
Laboratory reception|Bottles, rounds, results|263
Leakage desk, Priya Nordlund|Night flow, correlators|281
Fitters, team north|Villages, moor farms|301
Fitters, team east|Beacon Lane, Kiln Bank|302
Fitters, team south|Mosser side|303
Fitters, team town|Town ring, Cobden Street|304
Electricians|Drives, generators, telemetry|320
Stores|Clamps, pipes, bottled water|340
Safety adviser, Bertram Quill|Confined spaces, permits|355
Customer desk|Complaints, dialysis list|400
Press officer|Newspapers and radio|410
Handbook editor, Rosalind Tay|Mistakes in this book|477
""",
        [36, 42, -14],
        "Whom to ring",
    ),
}


def make(path: Path) -> None:
    """Draw the document and save it as ``path``."""
    flow = Flow(LOOK)
    flow.pour("water_handbook.md", BLOCKS)
    flow.finish(path, "Calder Vale Water: operations handbook, fourth edition", "Calder Vale Water")
